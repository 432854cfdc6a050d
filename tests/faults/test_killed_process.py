"""A process that is killed with -9 in the middle of its work leaves nothing of it, and nothing locked."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import subprocess
import sys

import pytest

from tests.project import ROOT
from traderrr_data import DatabaseManager, UpsertResult, market_data

BARS = 2_000
WRITER = f"""
import asyncio, datetime as dt, sys
from traderrr_data import DatabaseManager, market_data

async def main():
    async with DatabaseManager(sys.argv[1]) as db:
        async with db.session_context() as session:
            days = [dt.date(2020, 1, 1) + dt.timedelta(days=n) for n in range({BARS})]
            rows = [dict(ticker="KILLED", date=day, open=1, high=1, low=1, close=1) for day in days]
            await market_data.upsert_daily(session, rows[:int(sys.argv[2])])
            print("written", flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""


def write_and_be_killed(database_url: str, rows: int) -> None:
    command = [sys.executable, "-c", WRITER, database_url, str(rows)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.kill()


@pytest.mark.parametrize("rows", [1, BARS])
async def test_a_writer_killed_before_its_commit_leaves_nothing_and_holds_nothing(
    db: DatabaseManager, database_url: str, rows: int
) -> None:
    await asyncio.to_thread(write_and_be_killed, database_url, rows)
    bar = {"ticker": "KILLED", "date": dt.date(2020, 1, 1), "open": 2, "high": 2, "low": 2, "close": 2}
    async with asyncio.timeout(10), db.session_context() as session:
        assert await market_data.coverage(session) == []
        assert await market_data.upsert_daily(session, [bar]) == UpsertResult(inserted=1)
