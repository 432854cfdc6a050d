"""What an engine sets on its connections, on every database."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import socket
import sqlite3
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from traderrr_data import (
    ConfigurationError,
    ConstraintViolationError,
    DatabaseManager,
    DatabaseUnavailableError,
    Metadata,
    Settings,
    TransactionConflictError,
)
from traderrr_data.engine import create_engine

PASSWORD = "p@ss:w/o?r%41d#+ä"  # noqa: S105 - every character that a URL or a driver may trip over
SECRET = "S3cret-Pa55word"  # noqa: S105 - what the tests look for
ENDLESS = "SELECT count(*) FROM {}".format(
    ", ".join(f"(SELECT 1 AS i{' UNION ALL SELECT 1' * 9}) AS t{n}" for n in range(9))
)
"""A query that takes far longer than any of these tests waits for it, and has one row."""

LOGINS = {
    "postgresql": (
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE {user} LOGIN PASSWORD '{password}';"
        "GRANT ALL ON DATABASE {database} TO {user};",
        "GRANT ALL ON SCHEMA public TO {user};",
        "DROP OWNED BY {user}; DROP ROLE {user};",
    ),
    "mysql": (
        "CREATE USER {user}@'127.0.0.1' IDENTIFIED BY '{password}'; GRANT ALL ON {database}.* TO {user}@'127.0.0.1';",
        "SELECT 1;",
        "DROP USER {user}@'127.0.0.1';",
    ),
}
LOGINS["mariadb"] = LOGINS["mysql"]
"""How an administrator makes a user, lets it into a database, and removes it."""

OTHERS = {
    "sqlite": "SELECT 1 WHERE 0;",
    "postgresql": "SELECT format('SELECT pg_terminate_backend(%s)', pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid();",
    "mysql": "SELECT concat('KILL ', id) FROM information_schema.processlist"
    " WHERE db = database() AND id <> connection_id();",
}
OTHERS["mariadb"] = OTHERS["mysql"]
"""The statements that end each other connection to a database."""


@pytest.fixture
def login(backend: Backend, empty_url: str) -> Iterator[dict[str, str]]:
    """The variables that describe a login with a hard password; for a database without users, its file."""
    url = sa.make_url(empty_url)
    if backend.server is None:
        yield {"DATABASE_TYPE": "sqlite", "DATABASE_PATH": str(url.database), "DB_PASSWORD": PASSWORD}
        return
    names = {"user": "trader", "password": PASSWORD, "database": str(url.database)}
    create, admit, drop = (part.format(**names) for part in LOGINS[backend.name])
    backend.server.run_sql(create)
    try:
        backend.run_sql(empty_url, admit)
        yield {
            "DATABASE_TYPE": backend.name,
            "DB_HOST": str(url.host),
            "DB_PORT": str(url.port),
            "DB_NAME": str(url.database),
            "DB_USER": "trader",
            "DB_PASSWORD": PASSWORD,
        }
    finally:
        backend.run_sql(empty_url, drop)


def with_settings(url: str, **values: object) -> Settings:
    return Settings(database_url=url, **values)


async def test_a_password_of_hard_characters_logs_in_and_migrates(
    login: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    async with DatabaseManager() as db:
        await db.ping()
        await db.init_db()
        assert PASSWORD not in str(await db.get_database_info())
    async with DatabaseManager(db.engine.url) as again:
        await again.ping()


@pytest.mark.unpooled("a pooler has one code for all that goes wrong, a refused login included")
async def test_a_refused_login_shows_no_secret_anywhere(
    backend: Backend, empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    right = sa.make_url(empty_url)
    shown: list[str] = []
    urls = [
        right.set(password=SECRET),
        right.set(password=None, query={"password": SECRET}),
        right.set(username="nobody", password=SECRET),
    ]
    for url in urls if backend.server is not None else []:
        async with DatabaseManager(url) as db:
            for action in (db.ping, db.init_db):
                with pytest.raises(ConfigurationError) as caught:
                    await action()
                shown += ["".join(traceback.format_exception(caught.value)), repr(caught.value)]
            info = await db.get_database_info()
            assert not info["is_connected"]
            shown += [str(info), repr(db), repr(db.engine), repr(db.settings), str(db.engine.url)]
    assert SECRET not in "\n".join([*shown, caplog.text])


async def test_nothing_secret_is_logged_while_all_goes_well(
    login: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, value in (login | {"SQL_ECHO": "true"}).items():
        monkeypatch.setenv(name, value)
    async with DatabaseManager() as db:
        await db.init_db()
        async with db.session_context() as session:
            session.add(Metadata(ticker="AAPL"))
        await db.get_database_info()
    assert "INSERT INTO metadata" in caplog.text
    assert PASSWORD not in caplog.text


@contextlib.contextmanager
def nobody_listening() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mariadb"])
async def test_a_server_that_is_not_there_is_unavailable_and_retryable(scheme: str) -> None:
    with nobody_listening() as port:
        async with DatabaseManager(f"{scheme}://u:{SECRET}@127.0.0.1:{port}/n") as db:
            with pytest.raises(DatabaseUnavailableError) as caught:
                await db.ping()
            info = await db.get_database_info()
    assert caught.value.retryable
    assert caught.value.__cause__ is not None
    assert (info["is_connected"], info["server_version"], info["tables"]) == (False, None, {})
    assert info["error"] is not None
    assert info["error"].startswith("DatabaseUnavailableError: ")
    assert SECRET not in str(info) + "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
async def test_a_server_that_never_answers_is_given_up_after_the_connect_time_out(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes the call, nobody ever answers
        url = f"{scheme}://u@127.0.0.1:{silent.getsockname()[1]}/n"
        async with DatabaseManager(with_settings(url, db_connect_timeout=0.3)) as db:
            with pytest.raises(DatabaseUnavailableError):
                await asyncio.wait_for(db.ping(), 3)


async def test_a_time_that_the_server_gives_is_utc_whatever_its_own_zone(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
    async with db.session_context(read_only=True) as session:
        stored = (await session.scalars(sa.select(Metadata))).one()
    assert abs(stored.created_at - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=5)
    assert stored.created_at.tzinfo is dt.UTC


async def test_what_does_not_fit_is_refused_whatever_mode_the_server_has(db: DatabaseManager) -> None:
    inserts = [
        "INSERT INTO portfolio_positions (ticker, shares) VALUES ('A', 'many')",
        "INSERT INTO portfolio_performance (date, portfolio_value) VALUES ('not a date', 1)",
        "INSERT INTO portfolio_positions (ticker) VALUES ('A')",
    ]
    for insert in inserts:
        with pytest.raises(ConstraintViolationError):
            async with db.session_context() as session:
                await session.execute(sa.text(insert))
    async with db.session_context(read_only=True) as session:
        assert await session.scalar(sa.text("SELECT count(*) FROM portfolio_positions")) == 0
        assert await session.scalar(sa.text("SELECT count(*) FROM portfolio_performance")) == 0


async def test_a_row_may_have_the_id_0(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await session.execute(sa.text("INSERT INTO metadata (id, ticker) VALUES (0, 'AAPL')"))
    async with db.session_context(read_only=True) as session:
        assert await session.scalar(sa.text("SELECT id FROM metadata")) == 0


async def test_foreign_keys_hold(db: DatabaseManager, empty_url: str) -> None:
    async with DatabaseManager(empty_url) as other:
        await other.init_db()
        async with other.engine.begin() as connection:
            await connection.execute(sa.text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
            await connection.execute(
                sa.text("CREATE TABLE child (parent INTEGER, FOREIGN KEY (parent) REFERENCES parent (id))")
            )
        with pytest.raises(ConstraintViolationError):
            async with other.session_context() as session:
                await session.execute(sa.text("INSERT INTO child VALUES (1)"))


async def test_two_databases_live_in_one_process(db: DatabaseManager, tmp_path: Path) -> None:
    async with DatabaseManager(f"sqlite:///{tmp_path}/other.db") as other, DatabaseManager("sqlite://") as memory:
        for manager in (other, memory):
            await manager.init_db()
        for manager in (db, other, memory):
            async with manager.session_context() as session:
                session.add(Metadata(ticker=str(manager.engine.url.database)[-8:]))
        for manager in (db, other, memory):
            async with manager.session_context(read_only=True) as session:
                tickers = (await session.scalars(sa.select(Metadata.ticker))).all()
                assert tickers == [str(manager.engine.url.database)[-8:]]


async def test_a_statement_that_takes_too_long_is_stopped(backend: Backend, database_url: str) -> None:
    seconds = 0.3
    async with DatabaseManager(with_settings(database_url, db_statement_timeout=seconds)) as db:
        if (
            backend.server is None
        ):  # it has no server that could stop a statement; the setting limits the wait for a lock
            other = sqlite3.connect(str(db.engine.url.database), isolation_level=None)
            with contextlib.closing(other):
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(TransactionConflictError):
                    async with db.session_context() as session:
                        await session.execute(sa.text("SELECT 1"))
            return
        with pytest.raises(DatabaseUnavailableError):
            async with asyncio.timeout(20), db.session_context() as session:
                await session.execute(sa.text(ENDLESS))
        await db.ping()


async def test_a_pool_that_stays_empty_says_which_settings_matter(database_url: str) -> None:
    settings = with_settings(database_url, db_pool_size=1, db_max_overflow=0, db_pool_timeout=0.2)
    async with DatabaseManager(settings) as db, db.session_context(read_only=True) as session:
        await session.execute(sa.text("SELECT 1"))
        with pytest.raises(DatabaseUnavailableError, match="DB_POOL_SIZE, DB_MAX_OVERFLOW, DB_POOL_TIMEOUT"):
            await db.ping()


async def test_a_connection_that_the_server_dropped_is_replaced_without_a_word(
    backend: Backend, database_url: str
) -> None:
    async with DatabaseManager(database_url) as db:
        await db.ping()
        throw_out_everybody(backend, database_url)
        await db.ping()
        async with db.session_context() as session:
            session.add(Metadata(ticker="AAPL"))
    assert backend.run_sql(database_url, "SELECT ticker FROM metadata") == [("AAPL",)]


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_session_that_was_not_committed_leaves_nothing_on_its_connection(
    backend: Backend, database_url: str, *, read_only: bool
) -> None:
    settings = Settings(database_url=database_url, db_pool_size=1, db_max_overflow=0)
    async with DatabaseManager(settings) as db:
        async with db.get_session(read_only=read_only) as session:
            await session.execute(sa.select(Metadata))
            if not read_only:
                await session.execute(sa.insert(Metadata).values(ticker="LOST"))
        await db.ping()  # on the same connection, without a commit of its own
        backend.run_sql(database_url, "INSERT INTO metadata (ticker) VALUES ('LOST')")  # it would wait for a lock
        async with db.session_context(read_only=True) as session:
            assert await session.scalar(sa.select(sa.func.count()).select_from(Metadata)) == 1


async def test_a_connection_lost_in_the_middle_is_unavailable_and_the_next_one_works(
    backend: Backend, database_url: str
) -> None:
    async with DatabaseManager(database_url) as db:
        if backend.server is not None:
            with pytest.raises(DatabaseUnavailableError):
                async with db.session_context() as session:
                    await session.execute(sa.insert(Metadata).values(ticker="LOST"))
                    throw_out_everybody(backend, database_url)
                    await session.execute(sa.insert(Metadata).values(ticker="LOST2"))
        await db.ping()
    assert backend.run_sql(database_url, "SELECT ticker FROM metadata") == []


def throw_out_everybody(backend: Backend, url: str) -> None:
    """End all other connections to a database; one in a file has none that anybody could end."""
    for (ending,) in backend.run_sql(url, OTHERS[backend.name]):
        backend.run_sql(url, f"{ending};")


async def test_a_statement_prepared_before_a_migration_is_a_conflict_that_a_retry_heals(
    backend: Backend, database_url: str, empty_url: str
) -> None:
    settings = with_settings(empty_url, db_pool_size=1, db_max_overflow=0)
    async with DatabaseManager(settings) as db:
        await db.init_db()
        backend.run_sql(empty_url, "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1);")

        async def read(session: object) -> object:
            return (await session.execute(sa.text("SELECT * FROM t"))).one()[0]  # type: ignore[attr-defined]

        assert await db.run(read) == 1
        backend.run_sql(empty_url, "ALTER TABLE t ADD COLUMN b INTEGER;")
        assert await db.run(read) == 1


async def test_the_engine_says_when_it_is_used_in_a_second_event_loop(database_url: str) -> None:
    engine = create_engine(database_url)

    async def use() -> None:
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))

    await use()
    with pytest.raises(ConfigurationError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, use())
    await engine.dispose()
    await use()
    await engine.dispose()
