"""A copy is of one moment, and holds up nobody who goes on writing."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.bars import daily
from tests.filled import fill
from traderrr_data import DailyData, DatabaseManager, Settings, SystemEvent, market_data, system, transfer
from traderrr_data.transfer import CopyProgress

PATIENCE = 30.0  # seconds
WHILE_COPYING = 3
FIRST = dt.date(2025, 1, 1)


class Writer:
    """Another program: each of its transactions stores one bar, moves another and tells of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._moved = threading.Condition()
        self.count = 0

    def run(self) -> None:
        asyncio.run(self._write())

    async def _write(self) -> None:
        async with DatabaseManager(self._settings) as db:
            while not self._stop.is_set():
                async with db.session_context() as session:
                    date = FIRST + dt.timedelta(days=self.count)
                    await market_data.upsert_daily(session, [daily("WRITTEN", date), daily("AAAA", volume=self.count)])
                    await system.add_event(session, "written", str(self.count))
                with self._moved:
                    self.count += 1
                    self._moved.notify_all()

    def wait_for(self, transactions: int) -> None:
        """Wait until it has committed so many more."""
        with self._moved:
            goal = self.count + transactions
            assert self._moved.wait_for(lambda: self.count >= goal, PATIENCE), "the writer is held up"

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def writing(settings: Settings) -> Iterator[Writer]:
    writer = Writer(settings)
    thread = threading.Thread(target=writer.run)
    thread.start()
    try:
        writer.wait_for(1)
        yield writer
    finally:
        writer.stop()
        thread.join()


@pytest.mark.parametrize("journal", ["wal", "delete"])  # a server has no such thing, and must not mind
async def test_a_writer_goes_on_and_is_seen_whole_or_not_at_all(empty_url: str, backend: Backend, journal: str) -> None:
    settings = Settings.of(empty_url).model_copy(update={"db_sqlite_journal": journal})
    async with DatabaseManager(settings) as db:
        await db.init_db()
        await fill(db, bars=300)
    target_url = backend.create_database()
    with writing(settings) as writer:
        batches = 0

        def let_it_write(at: CopyProgress) -> None:
            nonlocal batches
            batches += 1
            if at.phase == "copying" and batches % 10 == 1:
                writer.wait_for(WHILE_COPYING)

        before = writer.count
        result = await transfer.copy(settings, target_url, batch_rows=20, progress=let_it_write)
        after = writer.count
    assert after >= before + 2 * WHILE_COPYING
    async with DatabaseManager(target_url) as db, db.session_context(read_only=True) as session:
        bars = await session.scalar(sa.select(sa.func.count()).where(DailyData.ticker == "WRITTEN"))
        told = await session.scalar(sa.select(sa.func.count()).where(SystemEvent.event_type == "written"))
        [moved] = await market_data.list_daily(session, "AAAA")
        assert bars is not None
        assert bars == told == (moved.volume or 0) + 1
        assert before <= bars <= after
        newest = await session.scalar(sa.select(sa.func.max(SystemEvent.created_at)))
        assert newest is not None
        assert newest <= result.snapshot_at
    backend.drop_database(target_url)
