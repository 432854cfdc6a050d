"""The writer while the database is away, and after its own process was killed: what was accepted is written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import pytest
from sqlalchemy import make_url

from tests.backends import Backend
from tests.bars import daily, days, flat
from tests.project import ROOT
from traderrr_data import DatabaseManager, UpsertResult, market_data
from traderrr_data.ingest import bar_writer

Outage: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]

FEED = """
import asyncio, datetime as dt, sys
from traderrr_data import DatabaseManager, Settings
from traderrr_data.ingest import bar_writer

async def main():
    settings = Settings(database_url=sys.argv[1], db_statement_timeout=0.2)
    async with DatabaseManager(settings) as db, bar_writer(db, spill=sys.argv[2], max_rows=7) as writer:
        for number in range(int(sys.argv[3])):
            day = dt.date(2025, 1, 2) + dt.timedelta(days=number // 2)
            bar = dict.fromkeys(("open", "high", "low", "close"), number) | {"ticker": "FEED", "date": day}
            await writer.put(bar, durable=True)
            print(number, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def outage(backend: Backend, database_url: str) -> Outage:
    """Take the database away: its server is killed, or its file belongs to somebody who does not let go."""
    server = backend.server

    @contextlib.asynccontextmanager
    async def away() -> AsyncIterator[None]:
        if server is None:
            with contextlib.closing(sqlite3.connect(make_url(database_url).database or "")) as holder:
                holder.execute("BEGIN EXCLUSIVE")
                yield
            return
        server.kill()
        try:
            yield
        finally:
            server.start()  # not in a thread: the kernel would end the server together with that

    return away


@pytest.fixture
async def impatient(db: DatabaseManager) -> AsyncIterator[DatabaseManager]:
    """A manager that finds out soon."""
    async with DatabaseManager(db.settings.model_copy(update={"db_statement_timeout": 0.2})) as manager:
        yield manager


async def closes(db: DatabaseManager, ticker: str) -> list[Decimal]:
    async with db.session_context(read_only=True) as session:
        return [bar.close for bar in await market_data.list_daily(session, ticker)]


@pytest.mark.parametrize("max_pending", [1_000, 3])
async def test_rows_that_come_during_an_outage_are_written_after_it(
    db: DatabaseManager, impatient: DatabaseManager, outage: Outage, tmp_path: Path, max_pending: int
) -> None:
    async with bar_writer(impatient, max_pending=max_pending, spill=tmp_path / "spill", max_delay=0.01) as writer:
        assert await writer.write(daily("BEFORE")) == "inserted"
        async with outage():
            for number, date in enumerate(days(25)):
                await writer.put(daily("FEED", date, **flat(number)))
            write = asyncio.create_task(writer.write(daily("CALLER")))
            async with asyncio.timeout(20):
                while writer.status.last_error is None or writer.status.pending < 26:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            assert not write.done()
        async with asyncio.timeout(30):
            assert await write == "inserted"
            await writer.flush()
        assert (writer.status.written, writer.status.pending) == (27, 0)
    assert await closes(db, "FEED") == list(map(Decimal, range(25)))


async def test_without_a_spill_callers_wait_until_there_is_room_again(
    db: DatabaseManager, impatient: DatabaseManager, outage: Outage
) -> None:
    async with bar_writer(impatient, max_pending=5, max_delay=0.01) as writer:

        async def feed() -> None:
            for number, date in enumerate(days(20)):
                await writer.put(daily("FEED", date, **flat(number)))

        async with outage():
            feeding = asyncio.create_task(feed())
            async with asyncio.timeout(20):
                while writer.status.last_error is None:  # noqa: ASYNC110 - it shows in the counters only
                    await asyncio.sleep(0.01)
            assert writer.status.accepted == 5
            assert not feeding.done()
        async with asyncio.timeout(30):
            await feeding
    assert await closes(db, "FEED") == list(map(Decimal, range(20)))


async def test_a_writer_that_ends_during_an_outage_leaves_its_rows_to_the_next(
    db: DatabaseManager, impatient: DatabaseManager, outage: Outage, tmp_path: Path
) -> None:
    async with outage(), asyncio.timeout(20):
        async with bar_writer(impatient, spill=tmp_path / "spill") as writer:
            for number, date in enumerate(days(25)):
                await writer.put(daily("FEED", date, **flat(number)))
        assert writer.status.pending == 25
    async with bar_writer(impatient, spill=tmp_path / "spill") as writer, asyncio.timeout(30):
        await writer.put(daily("FEED", days(25)[-1], **flat(99)))
        await writer.flush()
    assert await closes(db, "FEED") == [*map(Decimal, range(24)), Decimal(99)]


async def run_feed_and_kill(database_url: str, spill: Path, rows: int, after: int) -> int:
    """Run a feed of durable rows, kill it with -9 after so many, and return how many it was told are safe."""

    def run() -> int:
        command = [sys.executable, "-c", FEED, database_url, str(spill), str(rows)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as feed:
            assert feed.stdout is not None
            for _ in range(after):
                assert feed.stdout.readline()
            feed.kill()
            return after + len(feed.stdout.readlines())

    return await asyncio.to_thread(run)


async def test_durable_rows_of_a_killed_process_are_written_once_by_the_next(
    db: DatabaseManager, database_url: str, outage: Outage, tmp_path: Path
) -> None:
    async with outage():
        assert await run_feed_and_kill(database_url, tmp_path / "spill", rows=40, after=40) == 40
    async with bar_writer(db, spill=tmp_path / "spill") as writer:
        await writer.flush()
        assert (writer.status.accepted, writer.status.pending, writer.status.rejected) == (40, 0, 0)
    # Two rows a day: the newer one is what is left, and reads as such when it comes again.
    assert await closes(db, "FEED") == list(map(Decimal, range(1, 40, 2)))
    async with db.session_context() as session:
        last = daily("FEED", days(20)[-1], **flat(39))
        del last["volume"]
        assert await market_data.upsert_daily(session, [last]) == UpsertResult(unchanged=1)


@pytest.mark.parametrize("after", [3, 50, 111])
async def test_a_process_killed_in_the_middle_of_writing_loses_no_durable_row(
    db: DatabaseManager, database_url: str, tmp_path: Path, after: int
) -> None:
    safe = await run_feed_and_kill(database_url, tmp_path / "spill", rows=2_000, after=after)
    async with bar_writer(db, spill=tmp_path / "spill"):
        pass
    stored = await closes(db, "FEED")
    # What was being put when the process was killed may be there, too.
    assert len(stored) in {(safe + 1) // 2, (safe + 2) // 2}
    assert stored[:-1] == list(map(Decimal, range(1, 2 * len(stored) - 1, 2)))
    assert stored[-1] >= safe - 1
