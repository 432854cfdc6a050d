"""What this code may use: `check` says it by its exit code, `init_db` and the first session refuse the rest."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.project import ROOT, Project
from traderrr_data import DatabaseManager, Metadata, SchemaMismatchError, market_data, schema

HERE: Final = Project(ROOT)
NEWER: Final = "UPDATE traderrr_data_version SET version_num = '999';"
TOO_NEW: Final = f"{NEWER} UPDATE traderrr_data_compat SET oldest_code_revision = '999';"
THEIRS: Final = "CREATE TABLE metadata (k INTEGER);"


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(empty_url) as manager:
        yield manager


async def bring_to(backend: Backend, db: DatabaseManager, url: str, state: str) -> None:
    """Give a new database the tables of a state."""
    if state == "foreign":
        backend.run_sql(url, THEIRS)
    elif state != "empty":
        await schema.upgrade(db.engine, "001" if state == "behind" else "head")
        backend.run_sql(url, {"ahead": NEWER, "incompatible": TOO_NEW}.get(state, "SELECT 1;"))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("empty", (4, "run `traderrr-data upgrade`")),
        ("behind", (4, "run `traderrr-data upgrade`")),
        ("current", (0, "")),
        ("ahead", (5, "this version may still use it")),
        ("incompatible", (6, "install a newer traderrr-data")),
        ("foreign", (7, "not made by our migrations")),
    ],
)
async def test_check_says_by_its_exit_code_how_the_database_stands(
    backend: Backend, empty: DatabaseManager, empty_url: str, state: str, said: tuple[int, str]
) -> None:
    code, words = said
    await bring_to(backend, empty, empty_url, state)
    for options in ((), ("--json",)):
        done = await asyncio.to_thread(HERE.run, "-m", "traderrr_data", *options, "check", DATABASE_URL=empty_url)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == bool(words)
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["head"], answer["differences"]) == (state, schema.head(), [])


async def test_an_older_release_that_is_deployed_again_leaves_a_newer_schema_as_it_is(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    await bring_to(backend, empty, empty_url, "ahead")
    done = await asyncio.to_thread(HERE.run, "-m", "traderrr_data", "upgrade", DATABASE_URL=empty_url)
    assert done.returncode == 0, done.stderr
    assert "this version may still use it" in done.stderr
    backend.run_sql(empty_url, TOO_NEW)
    done = await asyncio.to_thread(HERE.run, "-m", "traderrr_data", "upgrade", DATABASE_URL=empty_url)
    assert done.returncode == 1
    assert "install a newer traderrr-data" in done.stderr
    assert backend.run_sql(empty_url, "SELECT version_num FROM traderrr_data_version") == [("999",)]


async def test_a_version_table_with_two_revisions_is_refused_in_a_sentence(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    await schema.upgrade(empty.engine)
    backend.run_sql(empty_url, "INSERT INTO traderrr_data_version VALUES ('001');")
    with pytest.raises(SchemaMismatchError, match="more than one row"):
        await schema.status(empty.engine)


@pytest.mark.parametrize("state", ["empty", "behind", "incompatible", "foreign"])
async def test_the_first_session_refuses_what_is_not_usable_and_nothing_is_written(
    backend: Backend, empty: DatabaseManager, empty_url: str, state: str
) -> None:
    await bring_to(backend, empty, empty_url, state)
    for read_only in (True, False, True):
        with pytest.raises(SchemaMismatchError):
            async with empty.session_context(read_only=read_only) as session:
                await session.execute(sa.text("SELECT 1"))
    with pytest.raises(SchemaMismatchError):
        await empty.run(market_data.list_metadata)
    if state != "empty":
        with pytest.raises(SchemaMismatchError):
            await empty.init_db()
    if state in ("empty", "behind"):
        await empty.init_db(upgrade=True)
        async with empty.session_context() as session:
            session.add(Metadata(ticker="AAPL"))


async def test_the_first_session_of_an_older_program_warns_once_and_works(
    backend: Backend, empty: DatabaseManager, empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await bring_to(backend, empty, empty_url, "ahead")
    caplog.clear()
    for ticker in ("AAPL", "MSFT"):
        async with empty.session_context() as session:
            session.add(Metadata(ticker=ticker))
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "999" in record.getMessage()


async def test_only_the_first_session_looks_also_where_many_come_at_once(db: DatabaseManager) -> None:
    looks = 0

    @sa.event.listens_for(db.engine.sync_engine, "before_cursor_execute")
    def count(*arguments: Any) -> None:
        nonlocal looks
        looks += "SELECT traderrr_data_version.version_num" in arguments[2]

    async def use() -> None:
        async with db.session_context(read_only=True) as session:
            await session.execute(sa.text("SELECT 1"))

    await asyncio.gather(*(use() for _ in range(20)))
    await use()
    assert looks == 1
    await db.close()
    await use()
    assert looks == 2


async def test_a_database_that_could_not_be_asked_is_asked_again(db: DatabaseManager) -> None:
    @sa.event.listens_for(db.engine.sync_engine, "before_cursor_execute", once=True)
    def cancel(*_arguments: Any) -> None:
        task.cancel()

    async def use() -> None:
        async with db.session_context() as session:
            session.add(Metadata(ticker="AAPL"))

    task = asyncio.create_task(use())
    with pytest.raises(asyncio.CancelledError):
        await task
    await use()
