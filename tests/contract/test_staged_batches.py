"""A batch of any size goes to the database as text or packed, in pieces, and beside other writers; nothing shows it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.backends import Backend
from traderrr_data import (
    DailyData,
    DatabaseManager,
    DuplicateRowError,
    SignalHistory,
    UpsertResult,
    market_data,
    trading,
)

DAY = dt.date(2020, 1, 1)
ODD = [
    "back\\slash",
    "\\N",
    "\\",
    "\\\\'",
    "it's",
    '"quoted"',
    "tab\there",
    "two\nlines\r\nand\r",
    "NULL",
    "",
    " ",
    "blank at the end ",
    "),('",
    ";--",
    "%s%%",
    ":name",
    "日本語",
    "🚀",
    "\x1a\x08\x01",
    "a,b;c|d",
    "e" * 64,
]
WRITERS = 5


def bars(count: int, tickers: int = 10, **values: Any) -> list[dict[str, Any]]:
    """Bars of some tickers, in no order of keys."""
    prices = {"open": Decimal("10.5"), "high": Decimal(12), "low": Decimal(10), "close": Decimal("11.25")}
    return [
        {"ticker": f"T{n % tickers}", "date": DAY + dt.timedelta(days=n // tickers), **prices, **values}
        for n in range(count)
    ]


@pytest.fixture(params=["loading allowed", "loading forbidden"])
def ways(request: pytest.FixtureRequest, backend: Backend, database_url: str) -> Iterator[None]:
    """The ways that rows take to a server whose administrator allows everything, and to one whose does not."""
    if request.param == "loading allowed":
        yield
        return
    backend.run_sql(database_url, backend.forbid_loading)
    try:
        yield
    finally:
        backend.run_sql(database_url, backend.allow_loading)


@pytest.mark.parametrize("count", [len(ODD), 2_000])
@pytest.mark.usefixtures("ways")
async def test_odd_texts_come_back_as_they_went_in(session: AsyncSession, count: int) -> None:
    rows = [row | {"source": ODD[n % len(ODD)]} for n, row in enumerate(bars(count))]
    assert await market_data.upsert_daily(session, rows) == UpsertResult(inserted=count)
    assert await market_data.upsert_daily(session, rows) == UpsertResult(unchanged=count)
    stored = await session.execute(sa.select(DailyData.ticker, DailyData.date, DailyData.source))
    assert {(ticker, date): source for ticker, date, source in stored} == {
        (row["ticker"], row["date"]): row["source"] for row in rows
    }


@pytest.mark.parametrize("count", [6, 600, 2_600])
@pytest.mark.usefixtures("ways")
async def test_a_blank_at_the_end_of_a_text_is_a_difference(session: AsyncSession, count: int) -> None:
    await market_data.upsert_daily(session, bars(count, source="yahoo"))
    assert await market_data.upsert_daily(session, bars(count, source="yahoo ")) == UpsertResult(updated=count)
    assert await market_data.upsert_daily(session, bars(count, source="Yahoo ")) == UpsertResult(updated=count)


@pytest.mark.parametrize("count", [8, 800, 2_400])
@pytest.mark.usefixtures("ways")
async def test_small_and_negative_prices_come_back_exactly(session: AsyncSession, count: int) -> None:
    prices = [Decimal(text) for text in ("0.0000000001", "-0.0000001", "1e-7", "-37.63", "0", "99999.9999999999")]
    values = [prices[n % len(prices)] for n in range(count)]
    rows = [
        row | dict.fromkeys(("open", "high", "low", "close"), value)
        for row, value in zip(bars(count), values, strict=True)
    ]
    assert (await market_data.upsert_daily(session, rows)).inserted == count
    stored = await session.execute(sa.select(DailyData.ticker, DailyData.date, DailyData.close))
    assert {(ticker, date): close for ticker, date, close in stored} == {
        (row["ticker"], row["date"]): row["close"] for row in rows
    }


@pytest.mark.usefixtures("ways")
async def test_a_batch_of_several_pieces_is_counted_as_one(session: AsyncSession) -> None:
    first = bars(30_000, tickers=100)
    assert await market_data.upsert_daily(session, first) == UpsertResult(inserted=30_000)
    assert await market_data.upsert_daily(session, first) == UpsertResult(unchanged=30_000)
    mixed = [row | {"close": Decimal("11.5")} if n % 10 == 3 else row for n, row in enumerate(first)]
    mixed += bars(1_000, tickers=100, series="more")
    assert await market_data.upsert_daily(session, mixed) == UpsertResult(
        inserted=1_000, updated=3_000, unchanged=27_000
    )
    assert await market_data.upsert_daily(session, mixed, on_conflict="ignore") == UpsertResult(skipped=31_000)


@pytest.mark.parametrize("count", [5, 700, 2_700])
@pytest.mark.usefixtures("ways")
async def test_a_batch_that_failed_is_not_in_the_way_of_the_next(session: AsyncSession, count: int) -> None:
    signals: list[dict[str, Any]] = [
        {"ticker": "AAPL", "date": DAY, "signal_type": "BUY", "dedupe_key": f"key {n}"} for n in range(count)
    ]
    assert await trading.add_signals(session, signals) == UpsertResult(inserted=count)
    for _ in range(2):
        with pytest.raises(DuplicateRowError):
            await trading.add_signals(session, [*signals[:-1], signals[-1] | {"signal_type": "SELL"}])
        assert await trading.add_signals(session, signals) == UpsertResult(unchanged=count)
    assert await market_data.upsert_daily(session, bars(count)) == UpsertResult(inserted=count)


@pytest.mark.parametrize("count", [5, 700, 2_700])
@pytest.mark.usefixtures("ways")
async def test_additions_without_a_key_are_stored_in_their_order(session: AsyncSession, count: int) -> None:
    rows: list[dict[str, Any]] = [
        {"ticker": f"T{n}", "date": DAY, "signal_type": "HOLD", "dedupe_key": None} for n in range(count)
    ]
    assert await trading.add_signals(session, rows) == UpsertResult(inserted=count)
    assert await trading.add_signals(session, rows) == UpsertResult(inserted=count)
    ids = list(await session.execute(sa.select(SignalHistory.id, SignalHistory.ticker).order_by(SignalHistory.id)))
    assert [ticker for _, ticker in ids] == [row["ticker"] for row in rows] * 2
    assert ids[-1].id - ids[0].id == 2 * count - 1, "no number was left out"


@pytest.mark.parametrize("count", [100, 1_500, 4_500])
async def test_writers_of_the_same_new_bars_all_succeed_and_count_exactly(db: DatabaseManager, count: int) -> None:
    every = bars(count)

    async def write(number: int) -> UpsertResult:
        mine = [row for n, row in enumerate(every) if n % (WRITERS + 1) != number]
        async with db.session_context() as session:
            return await market_data.upsert_daily(session, mine)

    results = await asyncio.gather(*(write(number) for number in range(WRITERS)))
    assert sum(result.inserted for result in results) == count
    assert sum(result.updated for result in results) == 0
    async with db.session_context(read_only=True) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(DailyData)) == count


@pytest.mark.parametrize("count", [1, 300, 2_500])
async def test_the_last_date_and_instant_are_found_again_however_many_rows_came_with_them(
    db: DatabaseManager, count: int
) -> None:
    """PostgreSQL's driver takes them for infinity, which is not equal to them."""
    last = dt.datetime.max.replace(tzinfo=dt.UTC)
    batches = [
        bars(count),
        [*bars(count), {**bars(1)[0], "date": dt.date.max}],
        bars(count, observed_at=last),
    ]
    for rows in batches:
        async with db.session_context() as session:
            await market_data.upsert_daily(session, rows)
        async with db.session_context() as session:
            assert (await market_data.upsert_daily(session, rows)).unchanged == len(rows)
            assert (await market_data.upsert_daily(session, rows[-1:])).unchanged == 1
    async with db.session_context(read_only=True) as session:
        total = sa.select(sa.func.count()).select_from(DailyData)
        assert await session.scalar(total) == count + 1
        assert await session.scalar(total.where(DailyData.date == dt.date.max)) == 1
        assert await session.scalar(total.where(DailyData.observed_at == last)) == count
        frame = await market_data.daily_frame(session)
        assert frame["date"].to_pylist().count(dt.date.max) == 1
        assert frame["observed_at"].to_pylist().count(last) == count
