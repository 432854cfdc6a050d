"""DatabaseManager: it brings a database up, tells about it, and takes its tables away again, on every database."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

import traderrr_data
from tests.backends import Backend
from tests.bars import daily
from traderrr_data import (
    ConfigurationError,
    ConstraintViolationError,
    DatabaseManager,
    Metadata,
    SchemaMismatchError,
    Settings,
    market_data,
    schema,
)
from traderrr_data.models import Base

OURS = sorted(Base.metadata.tables)
ROOT = Path(traderrr_data.__file__).parents[1]
FOREIGN = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name VARCHAR(40));
INSERT INTO users VALUES (1, 'Ada');
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('abc123');
"""


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(empty_url) as manager:
        yield manager


async def tables(db: DatabaseManager) -> list[str]:
    async with db.engine.connect() as connection:
        return sorted(await connection.run_sync(lambda c: sa.inspect(c).get_table_names()))


async def test_the_constructor_connects_to_nothing(backend: Backend, tmp_path: Path) -> None:
    manager = DatabaseManager(f"{backend.scheme}:///{tmp_path}/none.db")
    assert manager.engine.pool.checkedin() == 0  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


async def test_init_db_in_a_running_loop_makes_all_tables_and_a_second_one_changes_nothing(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    await empty.init_db()
    assert await tables(empty) == sorted([*OURS, "traderrr_data_version"])
    async with empty.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
    await empty.init_db()
    await empty.init_db(upgrade=True)
    assert backend.run_sql(empty_url, "SELECT version_num FROM traderrr_data_version") == [(schema.head(),)]
    assert backend.run_sql(empty_url, "SELECT ticker FROM metadata") == [("AAPL",)]


async def test_what_others_keep_in_the_same_database_is_left_alone(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    backend.run_sql(empty_url, FOREIGN)
    await empty.init_db()
    assert await schema.check(empty.engine) == []
    await empty.drop_db(yes=True)
    assert await tables(empty) == ["alembic_version", "users"]
    rows = backend.run_sql(empty_url, "SELECT version_num FROM alembic_version; SELECT name FROM users")
    assert rows == [("abc123",), ("Ada",)]


async def test_a_name_that_somebody_elses_table_has_is_refused_and_nothing_is_changed(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    backend.run_sql(
        empty_url, "CREATE TABLE metadata (k VARCHAR(9), v VARCHAR(9)); INSERT INTO metadata VALUES ('a', 'b');"
    )
    for action in (
        empty.init_db(),
        empty.init_db(upgrade=True),
        empty.drop_db(yes=True),
        schema.upgrade(empty.engine),
    ):
        with pytest.raises(SchemaMismatchError, match=r"metadata.*adopt"):
            await action
    assert await tables(empty) == ["metadata"]
    assert backend.run_sql(empty_url, "SELECT k, v FROM metadata") == [("a", "b")]


async def test_a_newer_schema_that_this_code_may_use_is_a_warning(
    backend: Backend, empty: DatabaseManager, empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await empty.init_db()
    backend.run_sql(empty_url, "UPDATE traderrr_data_version SET version_num = '999';")
    caplog.clear()
    await empty.init_db()
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "999" in record.getMessage()
    async with empty.session_context() as session:
        session.add(Metadata(ticker="AAPL"))


async def test_a_newer_schema_that_this_code_may_not_use_is_refused(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    await empty.init_db()
    backend.run_sql(
        empty_url,
        "UPDATE traderrr_data_version SET version_num = '999';"
        "UPDATE traderrr_data_compat SET oldest_code_revision = '999';",
    )
    for action in (empty.init_db(), empty.init_db(upgrade=True)):
        with pytest.raises(SchemaMismatchError, match="install a newer traderrr-data"):
            await action
    with pytest.raises(SchemaMismatchError):
        await empty.drop_db(yes=True)
    assert set(OURS) <= set(await tables(empty))


async def test_a_version_table_of_an_unknown_revision_without_our_tables_is_refused(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    backend.run_sql(
        empty_url,
        "CREATE TABLE traderrr_data_version (version_num VARCHAR(32) NOT NULL);"
        "INSERT INTO traderrr_data_version VALUES ('999');",
    )
    with pytest.raises(SchemaMismatchError, match="999"):
        await empty.init_db()


async def test_drop_db_wants_a_yes(db: DatabaseManager) -> None:
    for answer in ({}, {"yes": False}, {"yes": 1}):
        with pytest.raises(ConfigurationError, match="yes=True"):
            await db.drop_db(**answer)
    assert set(OURS) <= set(await tables(db))


async def test_drop_db_leaves_nothing_of_ours_and_init_db_starts_again(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    await empty.init_db()
    async with empty.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
    await empty.drop_db(yes=True)
    assert await tables(empty) == []
    await empty.drop_db(yes=True)
    await empty.init_db()
    assert set(OURS) <= set(await tables(empty))
    assert backend.run_sql(empty_url, "SELECT count(*) FROM daily_data") == [("0",)]


async def test_the_information_tells_what_is_there(db: DatabaseManager, database_url: str) -> None:
    async with db.session_context() as session:
        dates = [dt.date(2025, 1, 2), dt.date(2025, 1, 3), dt.date(2025, 2, 3)]
        await market_data.upsert_daily(session, [daily(date=date) for date in dates])
        session.add(Metadata(ticker="AAPL"))
    info = await db.get_database_info()
    assert info["is_connected"]
    assert info["error"] is None
    assert info["dialect"] == sa.make_url(database_url).get_backend_name()
    assert info["driver"] == sa.make_url(database_url).get_driver_name()
    assert info["tables"] == {
        "bar_revisions": 0,
        "daily_data": 3,
        "intraday_data": 0,
        "metadata": 1,
        "portfolio_performance": 0,
        "portfolio_positions": 0,
        "signal_history": 0,
        "system_events": 0,
    }
    assert (info["first_date"], info["last_date"]) == (dt.date(2025, 1, 2), dt.date(2025, 2, 3))
    assert info["schema_revision"] == info["schema_head"] == schema.head()
    assert (info["size_bytes"] or 0) > 10_000
    assert (info["server_version"] or "")[0].isdigit()


async def test_the_information_of_an_empty_database_says_that_it_is_empty(empty: DatabaseManager) -> None:
    info = await empty.get_database_info()
    assert info["is_connected"]
    assert (info["tables"], info["schema_revision"], info["first_date"]) == ({}, None, None)


async def test_ping_and_information_work_beside_a_writer(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
        await session.flush()
        async with asyncio.timeout(5):
            info = await db.get_database_info()
        assert info["is_connected"]
        assert info["tables"]["metadata"] == 0


async def test_the_process_has_one_manager_and_forgets_it_when_it_is_closed(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="init_db_manager"):
        traderrr_data.get_db_manager()
    with pytest.raises(ConfigurationError, match="init_db_manager"):
        traderrr_data.get_session()
    manager = await traderrr_data.init_db_manager(database_url)
    try:
        assert traderrr_data.get_db_manager() is manager
        assert await traderrr_data.init_db_manager(database_url) is manager
        assert await traderrr_data.init_db_manager() is manager
        async with traderrr_data.get_session() as session:
            session.add(Metadata(ticker="AAPL"))
            await session.commit()
        async with traderrr_data.get_session(read_only=True) as session:
            assert await session.scalar(sa.select(Metadata.ticker)) == "AAPL"
        with pytest.raises(ConfigurationError, match="another database"):
            await traderrr_data.init_db_manager("sqlite:///other.db")
        assert traderrr_data.get_db_manager() is manager
    finally:
        await traderrr_data.close_db_manager()
    with pytest.raises(ConfigurationError, match="init_db_manager"):
        traderrr_data.get_db_manager()
    await traderrr_data.close_db_manager()


async def test_tasks_that_make_the_process_wide_manager_at_once_get_the_same_one(database_url: str) -> None:
    try:
        managers = await asyncio.gather(*(traderrr_data.init_db_manager(database_url) for _ in range(4)))
        assert all(manager is traderrr_data.get_db_manager() for manager in managers)
    finally:
        await traderrr_data.close_db_manager()


async def test_a_process_wide_manager_that_cannot_come_up_is_none(backend: Backend, empty_url: str) -> None:
    backend.run_sql(empty_url, "CREATE TABLE metadata (k INTEGER);")
    with pytest.raises(SchemaMismatchError):
        await traderrr_data.init_db_manager(empty_url)
    with pytest.raises(ConfigurationError, match="init_db_manager"):
        traderrr_data.get_db_manager()


def test_one_manager_serves_three_event_loops_in_a_row_when_each_one_closes_it(database_url: str) -> None:
    db = DatabaseManager(database_url)

    async def use(ticker: str) -> int:
        async with db, db.session_context() as session:
            session.add(Metadata(ticker=ticker))
            await session.flush()
            return int(await session.scalar(sa.select(sa.func.count()).select_from(Metadata)) or 0)

    assert [asyncio.run(use(ticker)) for ticker in ("A", "B", "C")] == [1, 2, 3]


def test_a_manager_that_a_loop_left_open_says_so_in_the_next_one(database_url: str) -> None:
    db = DatabaseManager(database_url)
    with asyncio.Runner() as first:
        first.run(db.ping())
        for _ in range(3):
            with pytest.raises(ConfigurationError, match="another event loop"), asyncio.Runner() as other:
                other.run(db.ping())
        first.run(db.ping())
        first.run(db.close())


def test_a_program_that_never_closes_its_manager_ends_at_once(database_url: str) -> None:
    script = f"""
import asyncio
from traderrr_data import DatabaseManager

async def main():
    global db
    db = DatabaseManager({database_url!r})
    await db.ping()

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False
    )
    assert done.returncode == 0


def test_a_program_that_closes_its_manager_ends_without_a_word(database_url: str) -> None:
    script = f"""
import asyncio
from traderrr_data import DatabaseManager, Metadata

async def main():
    async with DatabaseManager({database_url!r}) as db:
        async with db.session_context() as session:
            session.add(Metadata(ticker="AAPL"))
        await asyncio.gather(*(db.ping() for _ in range(5)))

asyncio.run(main())
"""
    command = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_hundred_requests_need_no_more_connections_than_the_pool_has(
    backend: Backend, database_url: str
) -> None:
    try:
        await traderrr_data.init_db_manager(Settings(database_url=database_url, db_pool_size=2, db_max_overflow=1))

        async def request(number: int) -> None:
            db = await traderrr_data.init_db_manager()
            async with db.session_context() as session:
                session.add(Metadata(ticker=f"T{number}"))

        await asyncio.gather(*(request(number) for number in range(100)))
        pool = traderrr_data.get_db_manager().engine.pool
        assert pool.checkedin() <= 3  # type: ignore[attr-defined]
        assert pool.checkedout() == 0  # type: ignore[attr-defined]
    finally:
        await traderrr_data.close_db_manager()
    assert backend.run_sql(database_url, "SELECT count(*) FROM metadata") == [("100",)]


# --- One schema among others ------------------------------------------------------------------------------------------

BESIDE_US = {
    "sqlite": "CREATE TABLE theirs (k INTEGER);",
    "postgresql": "CREATE TABLE public.metadata (k INTEGER);"
    "CREATE VIEW public.theirs AS SELECT * FROM public.metadata;",
    "mysql": "CREATE TABLE theirs (k INTEGER);",
}
PLACE_OF_OURS = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'theirs' AND name NOT LIKE 'sqlite%';",
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'Market';",
    "mysql": "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = database() AND table_name <> 'theirs';",
}
"""By database: what somebody else has there, and where our tables are with DB_SCHEMA; only PostgreSQL has schemas."""
for _of in (BESIDE_US, PLACE_OF_OURS):
    _of["mariadb"] = _of["mysql"]


async def test_db_schema_holds_our_tables_and_leaves_the_others_untouched(backend: Backend, empty_url: str) -> None:
    backend.run_sql(empty_url, BESIDE_US[backend.name] + "INSERT INTO theirs VALUES (7);")
    async with DatabaseManager(Settings(database_url=empty_url, db_schema="Market")) as db:
        before = await db.get_database_info()
        assert (before["is_connected"], before["tables"], before["schema_revision"]) == (True, {}, None)
        await db.init_db()
        await db.init_db()
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [daily(close=Decimal("10.5"))])
        assert await schema.check(db.engine) == []
        info = await db.get_database_info()
        assert (info["tables"]["daily_data"], info["schema_revision"]) == (1, schema.head())
        places = backend.run_sql(empty_url, PLACE_OF_OURS[backend.name])
        assert sorted(str(name) for (name,) in places) == sorted([*OURS, "traderrr_data_version"])
        await db.drop_db(yes=True)
    assert backend.run_sql(empty_url, PLACE_OF_OURS[backend.name]) == []
    assert backend.run_sql(empty_url, "SELECT k FROM theirs") == [("7",)]


# --- A file: SQLite ---------------------------------------------------------------------------------------------------


def journal_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


@pytest.mark.parametrize(("setting", "found"), [("wal", "wal"), ("delete", "delete"), ("truncate", "delete")])
async def test_a_file_that_we_create_gets_the_journal_of_the_settings(tmp_path: Path, setting: str, found: str) -> None:
    path = tmp_path / "new.db"
    async with DatabaseManager(Settings(database_path=str(path), db_sqlite_journal=setting)) as db:
        await db.init_db()
    assert journal_of(path) == found


@pytest.mark.parametrize(("existing", "setting"), [("delete", "wal"), ("wal", "delete")])
async def test_a_file_that_exists_keeps_its_journal(tmp_path: Path, existing: str, setting: str) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={existing}")
        connection.execute("CREATE TABLE theirs (a INTEGER)")
    async with DatabaseManager(Settings(database_path=str(path), db_sqlite_journal=setting)) as db:
        await db.init_db()
        async with db.session_context() as session:
            session.add(Metadata(ticker="AAPL"))
    assert journal_of(path) == existing


async def test_a_file_that_its_manager_has_closed_is_complete_by_itself(tmp_path: Path) -> None:
    """Whoever copies the one file then has all rows: none are left in the log beside it."""
    async with DatabaseManager(f"sqlite:///{tmp_path}/bars.db") as db:
        await db.init_db()
        async with db.session_context() as session:
            session.add(Metadata(ticker="AAPL"))
    shutil.copy2(tmp_path / "bars.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("SELECT ticker FROM metadata").fetchall() == [("AAPL",)]


def test_five_processes_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys, time
from traderrr_data import DatabaseManager, Metadata

async def main():
    time.sleep(max(0, float(sys.argv[2]) - time.time()))
    async with DatabaseManager("sqlite:///{tmp_path}/shared.db") as db:
        await db.init_db()
        async with db.session_context() as session:
            session.add(Metadata(ticker=sys.argv[1]))

asyncio.run(main())
"""
    start = str(time.time() + 4)
    processes = [
        subprocess.Popen([sys.executable, "-c", script, f"T{n}", start], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for n in range(5)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == [""] * 5
    with closing(sqlite3.connect(tmp_path / "shared.db")) as connection:
        assert connection.execute("SELECT count(*) FROM metadata").fetchone() == (5,)


async def test_a_database_in_memory_lives_as_long_as_its_manager_and_sessions_take_turns() -> None:
    async with DatabaseManager("sqlite://") as db:
        await db.init_db()

        async def add(number: int) -> None:
            async with db.session_context() as session:
                session.add(Metadata(ticker=f"T{number}"))
                await session.flush()
                await asyncio.sleep(0)
                if number % 2:
                    raise ConstraintViolationError("wanted")

        results = await asyncio.gather(*(add(number) for number in range(10)), return_exceptions=True)
        assert sum(isinstance(result, ConstraintViolationError) for result in results) == 5
        async with db.session_context(read_only=True) as session:
            assert await session.scalar(sa.select(sa.func.count()).select_from(Metadata)) == 5


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is a diary, not a database " * 100, encoding="utf-8")
    async with DatabaseManager(f"sqlite:///{tmp_path}/text.db") as db:
        with pytest.raises(ConfigurationError):
            await db.init_db()
        info = await db.get_database_info()
    assert not info["is_connected"]
    assert (tmp_path / "text.db").read_text(encoding="utf-8").startswith("this is a diary")
