"""What a process does first with many rows loads pyarrow and numpy, and the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from tests.bars import daily, days
from tests.project import ROOT
from traderrr_data import DatabaseManager, market_data

BLOCKED = 0.05  # seconds
TRIES = 10  # on a busy machine a process waits for a processor

PROGRAM = """
import asyncio, datetime as dt, gc, os, sys, time
import polars as pl
from traderrr_data import DatabaseManager, market_data

DAY = dt.date(2000, 1, 3)
ROW = {"ticker": "NEW", "date": DAY, "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0}
FRAME = pl.DataFrame([ROW])


async def frame(session):
    assert (await market_data.daily_frame(session)).num_rows == 300


async def stream(session):
    assert sum([batch.num_rows async for batch in market_data.stream_daily(session)]) == 300


async def as_of(session):
    assert (await market_data.daily_frame(session, as_of=dt.datetime.now(dt.UTC))).num_rows <= 300


async def upsert_of_a_frame(session):
    assert (await market_data.upsert_daily(session, FRAME)).inserted == 1


async def upsert_of_an_async_iterator(session):
    async def batches():
        yield [ROW]

    assert (await market_data.upsert_daily(session, batches())).inserted == 1


async def upsert_of_a_list(session):
    assert (await market_data.upsert_daily(session, [ROW])).inserted == 1


async def main(work):
    async with DatabaseManager(os.environ["URL"]) as db:
        async with db.session_context() as session:
            await market_data.list_daily(session, "AAPL")  # what a first statement takes is none of this
            longest, done = 0.0, False

            async def beat():
                nonlocal longest
                before = time.perf_counter(), time.process_time()
                while not done:
                    await asyncio.sleep(0.001)
                    now = time.perf_counter(), time.process_time()
                    # A process that waits for its turn on a busy machine has no time of its own meanwhile.
                    longest = max(longest, min(now[0] - before[0], now[1] - before[1]))
                    before = now

            beating = asyncio.create_task(beat())
            await asyncio.sleep(0.01)
            assert "pyarrow" not in sys.modules
            await work(session)
            assert "pyarrow" in sys.modules
            await asyncio.sleep(0.01)
            done = True
            await beating
    print(longest)


gc.collect()
gc.freeze()  # the collector looks at all that a process has when that has grown by a quarter, whoever made it grow
asyncio.run(main(globals()[sys.argv[1]]))
"""


def longest_block(url: str, first: str) -> float:
    """Return the longest time for which the loop of a new process did not turn."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, first],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize(
    "first",
    ["frame", "stream", "as_of", "upsert_of_a_frame", "upsert_of_an_async_iterator", "upsert_of_a_list"],
)
async def test_what_comes_first_does_not_hold_up_the_event_loop(
    db: DatabaseManager, database_url: str, first: str
) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date) for date in days(300)])
    blocks: list[float] = []
    while len(blocks) < TRIES and min(blocks, default=1.0) >= BLOCKED:
        async with db.session_context() as session:
            await market_data.delete_daily(session, "NEW")
        blocks.append(await asyncio.to_thread(longest_block, database_url, first))
    assert min(blocks) < BLOCKED, blocks
