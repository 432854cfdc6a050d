"""The roles that the package brings along: each may do what it is for, and nothing else."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.bars import daily
from tests.project import ROOT, Project
from traderrr_data import ConfigurationError, DatabaseManager, dialects, market_data, portfolio, schema, system, trading
from traderrr_data.models import Base

ROLES: Final = ("traderrr_owner", "traderrr_app", "traderrr_read")
MINUTES: Final = [dt.datetime(2025, 1, 2, tzinfo=dt.UTC) + dt.timedelta(minutes=n) for n in range(3_000)]
PRICES: Final = {"open": 1, "high": 1, "low": 1, "close": 1}
INTRADAY: Final = [{"ticker": "AAPL", "datetime": minute, **PRICES} for minute in MINUTES]

NOT_FOR_THE_APPLICATION: Final = [
    "CREATE TABLE theirs (a INTEGER)",
    "DROP TABLE metadata",
    "ALTER TABLE metadata ADD COLUMN a INTEGER",
    "CREATE INDEX idx_theirs ON metadata (sector)",
    "TRUNCATE TABLE metadata",
    "UPDATE traderrr_data_version SET version_num = '1'",
    "DELETE FROM traderrr_data_compat",
]
NOT_FOR_A_READER: Final = [
    *NOT_FOR_THE_APPLICATION,
    "INSERT INTO metadata (ticker) VALUES ('X')",
    "UPDATE metadata SET sector = 'X'",
    "DELETE FROM metadata",
]


@dataclass
class Accounts:
    """A database with an account of each role; the roles' names are this test's own."""

    backend: Backend
    url: str
    ending: str
    password: str

    def script(self, text: str) -> None:
        """Run a script of the package as an administrator."""
        for role in ROLES:
            text = text.replace(role, f"{role}_{self.ending}")
        self.backend.run_sql(self.url, text)

    def fill(self, statements: str, role: str) -> str:
        """Return statements for the account of a role."""
        parts = {"name": f"login_{role}_{self.ending}", "role": f"{role}_{self.ending}", "password": self.password}
        return statements.format(**parts)

    def url_of(self, role: str) -> sa.URL:
        """Return the URL by which a role logs in."""
        return sa.make_url(self.url).set(username=self.fill("{name}", role), password=self.password)


@pytest.fixture
def accounts(backend: Backend, empty_url: str) -> Iterator[Accounts]:
    made = Accounts(backend, empty_url, secrets.token_hex(3), secrets.token_hex(8))
    url = sa.make_url(empty_url)
    if dialects.by_name(url.get_backend_name()).scripts is None:
        yield made
        return
    made.script(schema.roles(url))
    made.script(schema.roles(url))
    for role in ROLES:
        backend.run_sql(empty_url, made.fill(backend.make_login, role))
    yield made
    for role in ROLES:
        backend.run_sql(empty_url, made.fill(backend.drop_login, role))


def knows_users(accounts: Accounts) -> bool:
    """Tell whether there are roles; where there are none, see that it is said."""
    url = sa.make_url(accounts.url)
    if dialects.by_name(url.get_backend_name()).scripts is not None:
        return True
    for script in (schema.roles, schema.grants):
        with pytest.raises(ConfigurationError, match="knows no users"):
            script(url)
    return False


async def refused(db: DatabaseManager, statements: list[str]) -> None:
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match=r"(?i)denied|must be owner"):
            async with db.engine.begin() as connection:
                await connection.execute(sa.text(statement))


async def test_each_role_may_do_what_it_is_for_and_nothing_else(accounts: Accounts) -> None:
    if not knows_users(accounts):
        return
    owner, app, reader = (accounts.url_of(role) for role in ROLES)
    async with DatabaseManager(owner) as db:
        await db.init_db()
        await schema.downgrade(db.engine, "001")
        await schema.upgrade(db.engine)
        assert await schema.check(db.engine) == []
    await asyncio.to_thread(accounts.script, schema.grants(owner))
    await asyncio.to_thread(accounts.script, schema.grants(owner))
    async with DatabaseManager(app) as db:
        await db.init_db()
        await db.run(system.purge)
        await db.run(write_everything)
        await db.run(read_everything)
        assert await schema.check(db.engine) == []
        await refused(db, NOT_FOR_THE_APPLICATION)
        async with db.session_context() as session:
            assert await market_data.delete_intraday(session, "AAPL", timeframe="1m") == len(MINUTES)
    async with DatabaseManager(reader) as db:
        async with db.session_context(read_only=True) as session:
            await read_everything(session)
        assert (await db.get_database_info())["error"] is None
        await refused(db, NOT_FOR_A_READER)
    async with DatabaseManager(owner) as db:
        await db.drop_db(yes=True)


async def write_everything(session: Any) -> None:
    for _ in range(2):
        await market_data.upsert_daily(session, [daily(), daily(close=daily()["close"] + 1)])
        await market_data.upsert_intraday(session, INTRADAY, timeframe="1m")
        await market_data.upsert_metadata(session, [{"ticker": "AAPL", "sector": "Technology"}])
        await portfolio.upsert_position(session, "AAPL", 3)
    await trading.add_signal(session, "AAPL", date=daily()["date"], signal_type="BUY")
    await trading.add_performance(session, date=daily()["date"], portfolio_value=1)
    await system.add_event(session, "start", "up")
    await market_data.delete_daily(session, "AAPL")
    await market_data.upsert_daily(session, [daily()])


async def read_everything(session: Any) -> None:
    assert len(await market_data.list_daily(session, "AAPL")) == 1
    assert len(await market_data.intraday_frame(session, timeframe="1m")) in (0, len(MINUTES))
    assert len(await market_data.coverage(session)) >= 1
    assert len(await trading.list_signals(session, "AAPL")) == 1
    assert len(await portfolio.list_positions(session)) == 1


def test_no_table_is_forgotten_in_the_grants() -> None:
    for path in (ROOT / "traderrr_data/dialects").glob("*/grants.sql"):
        text = path.read_text(encoding="utf-8")
        tables = [name for name in Base.metadata.tables if not name.startswith("traderrr_data")]
        assert [name for name in tables if text.count(f" {name}") < 2] == []  # for those who write, for those who read


def test_the_command_prints_them(accounts: Accounts, tmp_path: Path) -> None:
    project = Project(ROOT)
    code = 0 if knows_users(accounts) else 1
    for option in ("--roles", "--grants"):
        done = project.run("-m", "traderrr_data", "sql", option, DATABASE_URL=accounts.url)
        assert done.returncode == code, done.stderr
        assert ("GRANT" in done.stdout) is (code == 0)
    done = project.run("-m", "traderrr_data", "sql", "--roles", "--grants", DATABASE_URL=accounts.url)
    assert done.returncode == 2
