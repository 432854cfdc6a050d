"""What is measured: the public functions of traderrr_data, called as their users call them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from benchmarks.crowd import Call, crowd
from benchmarks.data import Given, Row
from benchmarks.feed import LISTED, Feed, trading_day
from benchmarks.race import OURS, Act, Contestant, Open
from traderrr_data import DatabaseManager, Settings, ingest, market_data


@contextlib.asynccontextmanager
async def connected(url: str | Settings) -> AsyncIterator[DatabaseManager]:
    """Give a manager that has connected once for reading, and once for writing."""
    async with DatabaseManager(url) as db:
        await db.ping()
        async with db.session_context() as session:
            await market_data.latest_daily(session, ["none"])
        yield db


@contextlib.asynccontextmanager
async def _upserting(url: str | Settings) -> AsyncIterator[Act]:
    async with connected(url) as db:

        async def act(given: Given) -> None:
            async with db.session_context() as session:
                await market_data.upsert_daily(session, given)

        yield act


def _upserting_without_history(url: str) -> contextlib.AbstractAsyncContextManager[Act]:
    return _upserting(Settings(database_url=url, db_revisions_daily=False))


@contextlib.asynccontextmanager
async def _framing(url: str) -> AsyncIterator[Act]:
    async with connected(url) as db:

        async def act(tickers: Sequence[str | None]) -> list[Any]:
            frames = []
            for ticker in tickers:
                async with db.session_context(read_only=True) as session:
                    frames.append(await market_data.daily_frame(session, None if ticker is None else [ticker]))
            return frames

        yield act


@contextlib.asynccontextmanager
async def _asking_for_the_latest(url: str) -> AsyncIterator[Act]:
    async with connected(url) as db:

        async def act(tickers: Sequence[str]) -> list[tuple[Any, ...]]:
            async with db.session_context(read_only=True) as session:
                found = await market_data.latest_daily(session, tickers)
            return [(ticker, bar.date, bar.close) for ticker, bar in found.items()]

        yield act


def latest_on(url: str) -> Open:
    """Ask another database than the heat's, that of a URL."""
    return lambda _: _asking_for_the_latest(url)


@contextlib.asynccontextmanager
async def _writing_one_by_one(url: str) -> AsyncIterator[Call]:
    async with connected(url) as db:

        async def call(row: Any) -> int:
            async with db.session_context() as session:
                await market_data.upsert_daily(session, [row])
            return 1

        yield call


@contextlib.asynccontextmanager
async def _writing_together(url: str) -> AsyncIterator[Call]:
    async with connected(url) as db, ingest.bar_writer(db) as writer:

        async def call(row: Any) -> int:
            await writer.write(row)
            return 1

        yield call


@contextlib.asynccontextmanager
async def _reading_one_by_one(url: str) -> AsyncIterator[Call]:
    async with connected(url) as db:

        async def call(question: Any) -> int:
            ticker, start = question
            async with db.session_context(read_only=True) as session:
                if start is None:
                    return len(await market_data.latest_daily(session, [ticker]))
                return len(await market_data.list_daily(session, ticker, start=start))

        yield call


@contextlib.asynccontextmanager
async def _reading_together(url: str) -> AsyncIterator[Call]:
    async with connected(url) as db, ingest.reader(db) as reader:

        async def call(question: Any) -> int:
            ticker, start = question
            if start is None:
                return len(await reader.latest_daily([ticker]))
            return len(await reader.list_daily(ticker, start=start))

        yield call


@contextlib.asynccontextmanager
async def _feeding(url: str) -> AsyncIterator[Feed]:
    async with connected(url) as db, ingest.reader(db) as reader:

        async def write(rows: Sequence[Row]) -> None:
            async with db.session_context() as session:
                await market_data.upsert_intraday(session, rows, timeframe="1m")

        yield Feed(write, _last_minutes(reader))


@contextlib.asynccontextmanager
async def _feeding_through_writer(url: str) -> AsyncIterator[Feed]:
    async with (
        connected(url) as db,
        ingest.bar_writer(db, timeframe="1m") as writer,
        ingest.reader(db) as reader,
    ):

        async def write(rows: Sequence[Row]) -> None:
            for row in rows:
                await writer.put(row)
            await writer.flush()

        yield Feed(write, _last_minutes(reader))


def _last_minutes(reader: ingest.Reader) -> Callable[[str], Awaitable[Any]]:
    async def read(ticker: str) -> Any:
        return await reader.list_intraday(ticker, timeframe="1m", last=LISTED)

    return read


_MOST_CALLS: Final = 1_000

UPSERT: Final = Contestant(OURS, "ours", _upserting)
UPSERT_WITHOUT_HISTORY: Final = Contestant(f"{OURS}, no history", "without history", _upserting_without_history)
FRAME: Final = Contestant(OURS, "ours", _framing)
LATEST: Final = Contestant(OURS, "ours", _asking_for_the_latest)
FEEDS: Final = (
    Contestant(OURS, "ours", trading_day(_feeding)),
    Contestant(f"{OURS}, bar_writer", "writer", trading_day(_feeding_through_writer)),
)
WRITES: Final = (
    Contestant(f"{OURS}, bar_writer", "ours", crowd(_writing_together)),
    Contestant(f"{OURS}, a session a call", "plain", crowd(_writing_one_by_one), most_rows=_MOST_CALLS),
)
READS: Final = (
    Contestant(f"{OURS}, reader", "ours", crowd(_reading_together)),
    Contestant(f"{OURS}, a session a call", "plain", crowd(_reading_one_by_one), most_rows=_MOST_CALLS),
)
