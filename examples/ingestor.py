"""An ingestor: asks a source for its newest bars again and again, and stores them.

    python examples/ingestor.py https://bars.example/1m.json --timeframe 1m --every 60

The source answers with JSON: a list of bars under our own column names, such as
``{"ticker": "AAPL", "datetime": "2026-11-20T14:30:00Z", "open": "272.10", ...}``. Prices may be text or numbers.

Every poll may bring bars that are stored already; an upsert writes only what is new or differs. So a poll that failed
needs no repair, the next one brings its bars, and the program may be stopped and started at any time. SIGTERM and
Ctrl-C end it after the poll under way, and nothing is left half stored.

Needs httpx: pip install httpx
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import DatabaseManager, TraderrrDataError, UpsertResult, market_data

logger = logging.getLogger("ingestor")

FETCH_SECONDS = 10.0


class SourceError(Exception):
    """The source did not answer, or not with bars."""


@dataclass(frozen=True)
class Source:
    """Where the bars come from."""

    url: str
    timeframe: str
    client: httpx.AsyncClient

    async def fetch(self) -> list[dict[str, Any]]:
        """Return the source's bars, each with where it is from."""
        try:
            response = await self.client.get(self.url)
            response.raise_for_status()
            # A price of 269.28 stays 269.28: the ordinary reader would make a double of it.
            bars = json.loads(response.text, parse_float=Decimal)
        except (httpx.HTTPError, ValueError) as error:
            raise SourceError(str(error) or type(error).__name__) from error
        if not isinstance(bars, list) or not all(isinstance(bar, dict) for bar in bars):
            raise SourceError("the answer is no list of bars")
        # Not `observed_at`: it would differ at every poll, and a bar that differs is written again. It is for those who
        # may hand over an older answer after a newer one.
        return [{"source": httpx.URL(self.url).host} | bar for bar in bars]


async def poll(db: DatabaseManager, source: Source) -> UpsertResult:
    """Store what the source has now; a deadlock or a lost connection is tried again."""
    bars = await source.fetch()

    async def store(session: AsyncSession) -> UpsertResult:
        return await market_data.upsert_intraday(session, bars, timeframe=source.timeframe, on_invalid="reject")

    result = await db.run(store, retries=5, idempotent=True)
    for row, column, reason in result.rejected:
        logger.warning("bar %d was not stored: %s: %s", row, column, reason)
    return result


async def poll_until(stop: asyncio.Event, db: DatabaseManager, source: Source, every: float) -> None:
    """Poll at regular intervals; a poll that fails is reported, and the next one is tried."""
    while not stop.is_set():
        try:
            result = await poll(db, source)
            logger.info("%d new, %d changed, %d unchanged", result.inserted, result.updated, result.unchanged)
        except SourceError as error:
            logger.error("the source failed: %s", error)
        except TraderrrDataError as error:
            if not error.retryable:
                raise
            logger.error("the database failed: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every)


async def ingest(url: str, timeframe: str, every: float) -> None:
    """Open the database, poll until a signal comes, and close it."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with DatabaseManager() as db, httpx.AsyncClient(timeout=FETCH_SECONDS) as client:
        await db.init_db()
        logger.info("storing into %s", db.database_url)
        await poll_until(stop, db, Source(url, timeframe, client), every)
    logger.info("stopped")


def main() -> None:
    """Read the command line and ingest."""
    parser = argparse.ArgumentParser(description="Store a source's bars again and again.")
    parser.add_argument("url", help="where the source answers with JSON")
    parser.add_argument("--timeframe", required=True, help="the bars' length, such as 1m")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two polls")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        asyncio.run(ingest(given.url, given.timeframe, given.every))
    except TraderrrDataError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
