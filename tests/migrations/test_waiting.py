"""Whom a migration waits for, for how long, and what it says when it gives up."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.project import ROOT, Project, copy_to
from traderrr_data import ConfigurationError, DatabaseManager, Metadata, Settings, TransactionConflictError, schema
from traderrr_data.engine import waits_of
from traderrr_data.models import Base

HERE = Project(ROOT)
TABLES = Base.metadata.sorted_tables
SOMEBODY = re.compile(r"process \d+, user \w+|connection \d+, user \w+|\.db ")
"""The other session where the server knows it, else the file."""


@contextlib.asynccontextmanager
async def migrating(db: DatabaseManager, *, has_begun: bool = True) -> AsyncIterator[None]:
    """Be in the middle of a migration that does not end."""
    async with db.engine.connect() as connection:
        lock = contextlib.ExitStack()

        def begin(sync: sa.Connection) -> None:
            lock.enter_context(db.dialect.migrating(sync, waits_of(db.settings)))
            if has_begun:
                sync.begin()

        await connection.run_sync(begin)
        try:
            yield
        finally:
            await connection.run_sync(lambda _: lock.close())


async def test_a_migration_waits_its_turn_and_says_who_is_in_the_way_when_it_gives_up(
    db: DatabaseManager, database_url: str
) -> None:
    async with DatabaseManager(database_url) as other, asyncio.timeout(20):
        async with migrating(db):
            with pytest.raises(TransactionConflictError, match=SOMEBODY) as caught:
                await schema.downgrade(other.engine, "base", lock_timeout=0.5)
            assert "nothing was changed" in str(caught.value)
            assert "--lock-timeout" in str(caught.value)
            waiting = asyncio.create_task(schema.downgrade(other.engine, "base", lock_timeout=15))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        await waiting
        assert (await schema.status(db.engine)).state is schema.State.EMPTY


async def test_a_connection_is_as_it_was_after_a_migration_and_after_one_that_gave_up(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    settings = Settings(database_url=database_url, db_pool_size=1, db_max_overflow=0, db_statement_timeout=7)

    async def limits(other: DatabaseManager) -> list[tuple[Any, ...]]:
        async with other.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(sa.text(backend.session_limits))]

    async with DatabaseManager(settings) as other:
        before = await limits(other)
        async with migrating(db):
            with pytest.raises(TransactionConflictError):
                await schema.upgrade(other.engine, lock_timeout=0.3)
        assert await limits(other) == before
        await schema.downgrade(other.engine, "001")
        await schema.upgrade(other.engine)
        assert await limits(other) == before


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        (("-m", "alembic", "-x", "lock_timeout=0.5", "downgrade", "base"), {}),
        (("-m", "alembic", "downgrade", "base"), {"DB_LOCK_TIMEOUT": "0.5"}),
        (("-m", "traderrr_data", "downgrade", "base", "--yes", "--lock-timeout", "0.5"), {}),
        (("-m", "traderrr_data", "downgrade", "base", "--yes"), {"DB_LOCK_TIMEOUT": "0.5"}),
    ],
)
async def test_every_command_may_be_told_how_long_to_wait(
    db: DatabaseManager, database_url: str, command: tuple[str, ...], variables: dict[str, str]
) -> None:
    async with migrating(db):
        before = time.monotonic()
        done = await asyncio.to_thread(HERE.run, *command, **{"DATABASE_URL": database_url, **variables})
        assert time.monotonic() - before < 20
    assert done.returncode == 1
    assert SOMEBODY.search(done.stderr), done.stderr
    assert "nothing was changed" in done.stderr
    assert (await schema.status(db.engine)).state is schema.State.CURRENT


@pytest.mark.parametrize("argument", ["lock_timout=1", "lock_timeout=soon", "ddl_timeout=0"])
def test_what_alembic_cannot_be_told_is_refused(database_url: str, argument: str) -> None:
    done = HERE.run("-m", "alembic", "-x", argument, "upgrade", "head", DATABASE_URL=database_url)
    assert done.returncode == 1
    assert "ConfigurationError" in done.stderr
    assert argument.partition("=")[0].removeprefix("db_") in done.stderr.lower()


async def test_without_the_lock_nobody_is_waited_for(db: DatabaseManager, database_url: str) -> None:
    """What a proxy needs that gives every transaction another connection; SQLite's lock is the file's own."""
    settings = Settings(database_url=database_url, db_migration_lock=False, db_lock_timeout=0.2)
    async with migrating(db, has_begun=False), DatabaseManager(settings) as other:
        await schema.upgrade(other.engine)
        await schema.downgrade(other.engine, "001")
        done = await asyncio.to_thread(
            HERE.run, "-m", "alembic", "-x", "migration_lock=off", "upgrade", "head", DATABASE_URL=database_url
        )
        assert done.returncode == 0, done.stderr
        done = await asyncio.to_thread(
            HERE.run, "-m", "traderrr_data", "upgrade", "--no-lock", DATABASE_URL=database_url
        )
        assert done.returncode == 0, done.stderr


async def test_a_migration_gives_up_behind_a_transaction_that_does_not_end_and_says_whose_it_is(
    db: DatabaseManager, database_url: str
) -> None:
    async with db.session_context() as holder:
        for table in TABLES:
            await holder.execute(sa.select(table).limit(1))
        holder.add(Metadata(ticker="HELD"))
        await holder.flush()
        async with DatabaseManager(database_url) as other, asyncio.timeout(20):
            before = time.monotonic()
            with pytest.raises(TransactionConflictError, match=SOMEBODY) as caught:
                await schema.downgrade(other.engine, "base", lock_timeout=1, ddl_timeout=1)
            assert time.monotonic() - before < 10
            assert "DB_DDL_TIMEOUT" in str(caught.value)
    async with db.engine.connect() as connection:
        found = await connection.run_sync(lambda c: sa.inspect(c).get_table_names())
    assert {table.name for table in TABLES} <= set(found)


async def test_readers_behind_a_statement_that_waits_are_held_up_no_longer_than_it_may_wait(
    db: DatabaseManager, database_url: str
) -> None:
    look = sa.select(Metadata.ticker)

    def alter(sync: sa.Connection) -> None:
        with db.dialect.migrating(sync, replace(waits_of(db.settings), ddl_timeout=1)), sync.begin():
            sync.exec_driver_sql("ALTER TABLE metadata ADD COLUMN added INTEGER")
            sync.rollback()

    async def migrate() -> None:
        async with other.engine.connect() as connection:
            with contextlib.suppress(TransactionConflictError):  # not where readers are in nobody's way
                await connection.run_sync(alter)

    limit = asyncio.timeout(30)
    async with limit, DatabaseManager(database_url) as other, db.session_context(read_only=True) as idle:
        await idle.execute(look)
        migration = asyncio.create_task(migrate())
        longest = 0.0
        while not migration.done():
            before = time.monotonic()
            async with db.session_context(read_only=True) as reader:
                await reader.execute(look)
            longest = max(longest, time.monotonic() - before)
        await migration
    assert longest < 4


async def test_a_migration_of_the_same_process_is_waited_for_no_longer_either(
    db: DatabaseManager, database_url: str
) -> None:
    async with DatabaseManager(database_url) as other, migrating(db):
        first = asyncio.create_task(schema.upgrade(other.engine, lock_timeout=3))
        await asyncio.sleep(0.5)
        before = time.monotonic()
        with pytest.raises(TransactionConflictError, match="another migration of this process"):
            await schema.upgrade(other.engine, lock_timeout=0.2)
        assert time.monotonic() - before < 2
        with pytest.raises(TransactionConflictError):
            await first


async def test_the_sql_of_an_upgrade_does_not_break_one_that_is_under_way(
    backend: Backend, empty_url: str, db: DatabaseManager
) -> None:
    async with DatabaseManager(empty_url) as other:
        seen: list[Any] = []

        @sa.event.listens_for(other.engine.sync_engine, "before_cursor_execute")
        def write_sql(*arguments: Any) -> None:
            if not arguments[2].lstrip().startswith("CREATE TABLE metadata"):
                return
            with pytest.raises(ConfigurationError, match="await its end"):
                schema.sql(sa.make_url(empty_url))
            thread = threading.Thread(target=lambda: seen.append(schema.sql(sa.make_url(empty_url))))
            thread.start()
            seen.append(thread)

        await schema.upgrade(other.engine)
        assert await schema.check(other.engine) == []
    _thread, text = await asyncio.to_thread(lambda: (seen[0].join(), seen)[1])
    assert "CREATE TABLE daily_data" in text
    assert schema.sql(sa.make_url(empty_url)) == text


async def test_a_cancelled_migration_leaves_nothing_or_goes_on_and_frees_its_lock(
    backend: Backend, empty_url: str
) -> None:
    """Cancelled while it waits for each of its statements in turn."""
    point = 0
    ended = False
    while not ended:
        point += 3
        async with DatabaseManager(empty_url) as db:
            passed = 0
            task = asyncio.create_task(schema.upgrade(db.engine))

            @sa.event.listens_for(db.engine.sync_engine, "before_cursor_execute")
            def cancel(*_arguments: Any, task: asyncio.Task[None] = task, at: int = point) -> None:
                nonlocal passed
                passed += 1
                if passed == at:
                    task.cancel()

            try:
                await task
            except asyncio.CancelledError:
                pass
            else:
                ended = passed < point
            async with asyncio.timeout(20), DatabaseManager(empty_url) as other:
                await schema.upgrade(other.engine, lock_timeout=10)
                assert await schema.check(other.engine) == []
                await other.drop_db(yes=True)


def test_a_percent_sign_in_the_projects_path_is_no_obstacle(empty_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "100%(here)s %d"
    folder.mkdir()
    project = copy_to(folder)
    assert "(head)" in project.alembic(empty_url, "history")
    project.alembic(empty_url, "upgrade", "head")
    done = project.run("-c", "from traderrr_data import schema; print(schema.head())")
    assert done.stdout == f"{schema.head()}\n", done.stderr
    elsewhere = Project(tmp_path).run(
        "-m",
        "alembic",
        "-c",
        str(folder / "alembic.ini"),
        "check",
        DATABASE_URL=empty_url,
        PYTHONPATH=str(folder),
    )
    assert elsewhere.returncode == 0, elsewhere.stderr
