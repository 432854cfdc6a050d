"""A program that ends as programs do: without a word to its manager, by Ctrl-C, by SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.backends import Backend
from tests.bars import daily
from tests.project import ROOT
from traderrr_data import DatabaseManager, UpsertResult, market_data

LEAVER = """
import asyncio, datetime as dt, sys
from traderrr_data import DatabaseManager, market_data

left_open = []

def bar(ticker, price):
    return dict.fromkeys(("open", "high", "low", "close"), price) | {"ticker": ticker, "date": dt.date(2025, 1, 2)}

async def change(db, *, then):
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [bar("KEPT", 2), bar("LOST", 1)])
        await then()

async def main(way):
    db = DatabaseManager(sys.argv[1])
    left_open.append(db)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [bar("KEPT", 1), bar("READ", 1)])
    if way == "a session is open":
        session = db.get_session()
        left_open.append(session)
        await market_data.upsert_daily(await session.__aenter__(), [bar("KEPT", 2), bar("LOST", 1)])
    elif way == "a stream is half read":
        session = db.get_session(read_only=True)
        stream = market_data.stream_daily(await session.__aenter__(), batch_rows=1)
        left_open.extend([session, stream, await anext(stream)])
    elif way == "a task is at work":
        left_open.append(asyncio.create_task(change(db, then=asyncio.Event().wait)))
        await asyncio.sleep(0.3)
    elif way == "it exits in a unit of work":
        async def leave():
            raise SystemExit(0)
        await change(db, then=leave)

asyncio.run(main(sys.argv[2]))
print("ended")
"""

FEED = """
import asyncio, datetime as dt, signal, sys
from traderrr_data import DatabaseManager
from traderrr_data.ingest import bar_writer

async def main():
    task = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with DatabaseManager(sys.argv[1]) as db, bar_writer(db, spill=sys.argv[2], max_delay=60) as writer:
        for number in range(1_000_000):
            day = dt.date(2025, 1, 2) + dt.timedelta(days=number)
            bar = dict.fromkeys(("open", "high", "low", "close"), number) | {"ticker": "FEED", "date": day}
            await writer.put(bar)
            print(number, flush=True)
            await asyncio.sleep(0.001)

asyncio.run(main())
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "way",
    [
        "nothing is closed",
        "a session is open",
        "a stream is half read",
        "a task is at work",
        "it exits in a unit of work",
    ],
)
async def test_a_program_that_ends_without_closing_leaves_what_it_committed_and_no_lock(
    backend: Backend, db: DatabaseManager, database_url: str, way: str
) -> None:
    with start(LEAVER, database_url, way) as program:
        _, complaints = await asyncio.to_thread(program.communicate, timeout=20)
    assert program.returncode == 0
    assert "Traceback" not in complaints
    async with asyncio.timeout(10), db.session_context() as session:
        assert await market_data.upsert_daily(session, [daily("KEPT"), daily("READ")]) == UpsertResult(updated=2)
    assert backend.run_sql(database_url, "SELECT ticker FROM daily_data ORDER BY ticker") == [("KEPT",), ("READ",)]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
async def test_an_ingestor_that_is_told_to_end_writes_what_its_writer_accepted(
    db: DatabaseManager, database_url: str, tmp_path: Path, ending: signal.Signals
) -> None:
    """Its rows were in memory only: `max_delay` is a minute."""
    with start(FEED, database_url, tmp_path / "spill") as feed:
        assert feed.stdout is not None
        for _ in range(20):
            assert await asyncio.to_thread(feed.stdout.readline)
        feed.send_signal(ending)
        rest, _ = await asyncio.to_thread(feed.communicate, timeout=20)
    accepted = 20 + len(rest.splitlines())
    async with db.session_context(read_only=True) as session:
        stored = [bar.close for bar in await market_data.list_daily(session, "FEED")]
    # A row may be accepted in the moment in which nobody is told any more.
    assert stored in (list(map(Decimal, range(accepted))), list(map(Decimal, range(accepted + 1))))
