"""The value that went in comes back, on every database, whichever way it went in; what could not is refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import DAY, OPENING, daily, days, flat, intraday
from traderrr_data import (
    DailyData,
    DatabaseManager,
    IntradayData,
    InvalidRowError,
    Metadata,
    PortfolioPerformance,
    PortfolioPosition,
    SignalHistory,
    market_data,
    portfolio,
    trading,
)

Store = Callable[[AsyncSession, Any, Sequence[dict[str, Any]]], Awaitable[Any]]
EST = dt.timezone(-dt.timedelta(hours=5))


async def by_upsert(session: AsyncSession, model: Any, rows: Sequence[dict[str, Any]]) -> None:
    stores: dict[Any, Any] = {
        DailyData: market_data.upsert_daily,
        IntradayData: market_data.upsert_intraday,
        Metadata: market_data.upsert_metadata,
        SignalHistory: trading.add_signals,
    }
    await stores[model](session, rows)


async def by_objects(session: AsyncSession, model: Any, rows: Sequence[dict[str, Any]]) -> None:
    session.add_all([model(**row) for row in rows])
    await session.flush()


BOTH_WAYS = pytest.mark.parametrize("store", [by_upsert, by_objects])

PRICES = [
    Decimal(text)
    for text in (
        *("-37.63", "0", "0.0000000001", "0.00000123", "0.1", "0.3", "9.5", "9.51", "100", "149.99", "153.3", "153.87"),
        *("123456.7890123456", "628500.005", "99999999.9999999", "9999999999.99999"),
    )
]
QUANTITIES = [
    Decimal(text)
    for text in (
        *("0", "0.00000001", "0.12345678", "1.7", "12345678.12345678", "4000000000", "27871099501"),
        *("9007199254740993", "9999999999999999"),
    )
]


@BOTH_WAYS
async def test_prices_are_stored_found_ordered_and_added_exactly(db: DatabaseManager, store: Store) -> None:
    rows = [daily(f"T{number:02}", **flat(price)) for number, price in enumerate(PRICES)]
    async with db.session_context() as session:
        await store(session, DailyData, rows[::-1])
    async with db.session_context(read_only=True) as session:
        by_ticker = await session.scalars(sa.select(DailyData.close).order_by(DailyData.ticker))
        assert by_ticker.all() == PRICES
        assert (await session.scalars(sa.select(DailyData.close).order_by(DailyData.close))).all() == PRICES
        for number, price in enumerate(PRICES):
            found = await session.scalars(sa.select(DailyData.close).where(DailyData.close == price))
            assert found.all() == [price]
            above = sa.select(sa.func.count()).select_from(DailyData).where(DailyData.close > price)
            assert await session.scalar(above) == len(PRICES) - number - 1
        small = [price for price in PRICES if price < 200]
        total = sa.select(sa.func.sum(DailyData.close)).where(DailyData.close < 200)
        assert await session.scalar(total) == sum(small)
        assert await session.scalar(sa.select(sa.func.max(DailyData.close))) == PRICES[-1]


async def test_ten_dimes_are_a_dollar(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily(date=date, **flat("0.1")) for date in days(10)])
    assert await session.scalar(sa.select(sa.func.sum(DailyData.close))) == 1
    assert await session.scalar(sa.select(DailyData.close * 2).limit(1)) == Decimal("0.2")
    assert float(await session.scalar(sa.select(sa.func.avg(DailyData.close)))) == pytest.approx(0.1)  # type: ignore[arg-type]


async def test_more_than_a_double_holds_is_stored_or_refused_as_the_dialect_says(db: DatabaseManager) -> None:
    price = Decimal("9999999999.99999999")
    async with db.session_context() as session:
        if not db.dialect.exact_decimals:
            with pytest.raises(InvalidRowError, match=r"row 0, column 'open': .* more digits than the double"):
                await market_data.upsert_daily(session, [daily(**flat(price))])
            with pytest.raises(InvalidRowError, match="more digits than the double"):
                await session.scalars(sa.select(DailyData).where(DailyData.close == price))
            return
        await market_data.upsert_daily(session, [daily(**flat(price)), daily("B", **flat(10 - Decimal("1e-10")))])
    async with db.session_context() as session:
        [bar] = await market_data.list_daily(session, "AAPL")
        assert bar.close == price
        assert await session.scalar(sa.select(DailyData.ticker).where(DailyData.close == price)) == "AAPL"
        assert await session.scalar(sa.select(sa.func.sum(DailyData.close))) == price + 10 - Decimal("1e-10")


@BOTH_WAYS
async def test_volumes_and_shares_are_stored_found_ordered_and_added_exactly(db: DatabaseManager, store: Store) -> None:
    rows = [daily(f"T{number:02}", volume=volume) for number, volume in enumerate(QUANTITIES)]
    async with db.session_context() as session:
        await store(session, DailyData, rows[::-1])
        for ticker, shares in (("BTC", Decimal("0.12345678")), ("SHORT", Decimal("-37.63")), ("NONE", Decimal(0))):
            await portfolio.upsert_position(session, ticker, shares)
    async with db.session_context(read_only=True) as session:
        volume = DailyData.volume
        assert (await session.scalars(sa.select(volume).order_by(DailyData.ticker))).all() == QUANTITIES
        assert (await session.scalars(sa.select(volume).order_by(volume))).all() == QUANTITIES
        for quantity in QUANTITIES:
            assert (await session.scalars(sa.select(volume).where(volume == quantity))).all() == [quantity]
        whole = sa.select(sa.func.sum(volume)).where(volume.in_([4000000000, 27871099501]))
        assert await session.scalar(whole) == 31871099501
        held = await session.scalars(sa.select(PortfolioPosition.shares).order_by(PortfolioPosition.ticker))
        assert held.all() == [Decimal("0.12345678"), 0, Decimal("-37.63")]


async def test_money_and_ratios_come_back_exactly(db: DatabaseManager) -> None:
    caps = [Decimal(text) for text in ("0", "0.000001", "3500000000000", "1234567890.123456", "99999999999.99")]
    ratios = [Decimal(text) for text in ("-0.0376", "0", "0.0000000001", "0.3333333333", "20")]
    async with db.session_context() as session:
        await market_data.upsert_metadata(
            session, [{"ticker": f"T{number}", "market_cap": cap} for number, cap in enumerate(caps)]
        )
        for ratio in ratios:
            await trading.add_performance(session, date=DAY, daily_return=ratio, portfolio_value="100000.05")
        session.add(DailyData(**daily(dividends="0.24", stock_splits=4)))
    async with db.session_context(read_only=True) as session:
        assert [row.market_cap for row in await market_data.list_metadata(session)] == caps
        stored = await session.scalars(sa.select(PortfolioPerformance.daily_return).order_by(PortfolioPerformance.id))
        assert stored.all() == ratios
        total = await session.scalar(sa.select(sa.func.sum(PortfolioPerformance.portfolio_value)))
        assert total == Decimal("500000.25")
        [bar] = await market_data.list_daily(session, "AAPL")
        assert (bar.dividends, bar.stock_splits) == (Decimal("0.24"), Decimal(4))


FLOATS: list[tuple[object, str]] = [
    (153.3, "153.3"),
    (0.1 + 0.2, "0.3"),
    (1e-10, "0.0000000001"),
    (np.float64(149.99), "149.99"),
    (np.float32(269.28), "269.28"),
    (269.2799987792969, "269.2799987793"),
    (1234567.891, "1234567.891"),
    (99999.123456789, "99999.123456789"),
    (9999999999.5, "9999999999.5"),
    (-37.63, "-37.63"),
    (-0.0, "0"),
]


@BOTH_WAYS
async def test_floats_of_every_kind_are_stored_by_the_float_rule(db: DatabaseManager, store: Store) -> None:
    rows = [daily(f"T{number:02}", **flat(value)) for number, (value, _) in enumerate(FLOATS)]
    async with db.session_context() as session:
        await store(session, DailyData, rows)
    async with db.session_context(read_only=True) as session:
        stored = (await session.scalars(sa.select(DailyData.close).order_by(DailyData.ticker))).all()
        assert stored == [Decimal(text) for _, text in FLOATS]


INSTANTS = [
    dt.datetime(1000, 1, 1, tzinfo=dt.UTC),
    dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC),
    dt.datetime(2025, 1, 2, 9, 30, tzinfo=EST),
    dt.datetime(2025, 1, 2, 9, 30, 0, 1, EST),
    dt.datetime(2025, 1, 2, 9, 30, 0, 123456, EST),
    dt.datetime(2025, 1, 2, 9, 30, 1, tzinfo=EST),
    dt.datetime(2025, 11, 2, 1, 30, tzinfo=ZoneInfo("America/New_York")),  # the clock goes back: this hour comes twice
    dt.datetime(2025, 11, 2, 1, 30, tzinfo=ZoneInfo("America/New_York"), fold=1),
    dt.datetime(2025, 12, 25, tzinfo=ZoneInfo("Australia/Sydney")),
    pd.Timestamp("2026-01-02 14:30:00.000001", tz="Asia/Tokyo"),
    dt.datetime(2040, 2, 29, 12, tzinfo=dt.UTC),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999, dt.UTC),
]


@BOTH_WAYS
async def test_instants_come_back_in_utc_and_are_found_and_ordered(db: DatabaseManager, store: Store) -> None:
    rows = [intraday(datetime=instant, timeframe="1m", observed_at=instant) for instant in INSTANTS]
    async with db.session_context() as session:
        await store(session, IntradayData, rows[::-1])
    async with db.session_context(read_only=True) as session:
        bars = await market_data.list_intraday(session, "AAPL", timeframe="1m")
        in_utc = [instant.astimezone(dt.UTC) for instant in INSTANTS]
        assert [bar.datetime for bar in bars] == in_utc
        assert [bar.observed_at for bar in bars] == in_utc
        assert {bar.datetime.tzinfo for bar in bars} == {dt.UTC}
        for number, instant in enumerate(INSTANTS):
            at = sa.select(sa.func.count()).select_from(IntradayData)
            assert await session.scalar(at.where(IntradayData.observed_at == instant)) == 1
            assert await session.scalar(at.where(IntradayData.datetime >= instant)) == len(INSTANTS) - number


DATES: list[tuple[object, dt.date]] = [
    (dt.date(1000, 1, 1), dt.date(1000, 1, 1)),
    (dt.datetime(1969, 7, 20), dt.date(1969, 7, 20)),  # noqa: DTZ001 - a naive midnight is a date
    ("2025-01-02", dt.date(2025, 1, 2)),
    (dt.datetime(2025, 7, 1, tzinfo=ZoneInfo("Asia/Tokyo")), dt.date(2025, 7, 1)),
    (dt.datetime(2025, 7, 2, tzinfo=ZoneInfo("Australia/Sydney")), dt.date(2025, 7, 2)),
    (dt.datetime(2025, 7, 3, tzinfo=ZoneInfo("America/New_York")), dt.date(2025, 7, 3)),
    (pd.Timestamp("2025-07-04", tz="Asia/Tokyo"), dt.date(2025, 7, 4)),
    (pd.Timestamp("2025-07-05"), dt.date(2025, 7, 5)),
    (dt.date(2040, 2, 29), dt.date(2040, 2, 29)),
    (dt.date(9999, 12, 31), dt.date(9999, 12, 31)),
]


@BOTH_WAYS
async def test_a_session_date_is_never_shifted(db: DatabaseManager, store: Store) -> None:
    async with db.session_context() as session:
        await store(session, DailyData, [daily(date=given) for given, _ in reversed(DATES)])
    async with db.session_context(read_only=True) as session:
        bars = await market_data.list_daily(session, "AAPL")
        assert [bar.date for bar in bars] == [date for _, date in DATES]
        assert {type(bar.date) for bar in bars} == {dt.date}
        for given, date in DATES:
            found = await session.scalars(sa.select(DailyData.date).where(DailyData.date == given))
            assert found.all() == [date]


@BOTH_WAYS
async def test_tickers_are_opaque_bytes(db: DatabaseManager, store: Store) -> None:
    symbols = ["AAPL", "AAPL.XNAS", "AAPL250117C00150000", "BACPL", "BACpL", "BE", "BRKb.N^A1534", "BTC/USDT"]
    symbols += ["BÉ", "aapl", "東京", "🎉", "🚀"]
    async with db.session_context() as session:
        await store(session, DailyData, [daily(symbol) for symbol in reversed(symbols)])
    async with db.session_context(read_only=True) as session:
        in_order = await session.scalars(sa.select(DailyData.ticker).order_by(DailyData.ticker))
        assert in_order.all() == sorted(symbols, key=str.encode)
        for symbol in symbols:
            assert [bar.ticker for bar in await market_data.list_daily(session, symbol)] == [symbol]
        with pytest.raises(InvalidRowError, match="'AAPL ' has blanks around it"):  # MySQL would find AAPL
            await market_data.list_daily(session, "AAPL ")
        counts = sa.select(sa.func.count()).select_from(DailyData).group_by(DailyData.ticker)
        assert set((await session.scalars(counts)).all()) == {1}


@BOTH_WAYS
async def test_names_and_reasons_come_back_to_the_last_character(db: DatabaseManager, store: Store) -> None:
    names = ["", "Société Générale", "任天堂株式会社", "🚀 Rocket & Söhne 'GmbH' \"%s\" :name \\", "x" * 255, "a ", "a"]
    reasons = "RSI<30, MACD cross 🚀, " * 3_500
    assert len(reasons) > 70_000
    signal = {"ticker": "AAPL", "date": DAY, "signal_type": "STRONG_BUY"}
    async with db.session_context() as session:
        await store(session, Metadata, [{"ticker": f"T{n}", "company_name": name} for n, name in enumerate(names)])
        await store(session, SignalHistory, [signal | {"reasons": reasons}, signal | {"reasons": ""}])
    async with db.session_context(read_only=True) as session:
        assert [row.company_name for row in await market_data.list_metadata(session)] == names
        assert [row.reasons for row in await trading.list_signals(session)] == ["", reasons]


@BOTH_WAYS
async def test_absent_values_come_back_as_none_and_flags_as_flags(db: DatabaseManager, store: Store) -> None:
    rows = [daily(f"T{n}", is_final=flag, volume=None) for n, flag in enumerate((True, False, None))]
    async with db.session_context() as session:
        await store(session, DailyData, rows)
    async with db.session_context(read_only=True) as session:
        bars = (await session.scalars(sa.select(DailyData).order_by(DailyData.ticker))).all()
        assert [bar.is_final for bar in bars] == [True, False, None]
        assert [bar.volume for bar in bars] == [None] * 3
        assert {(bar.series, bar.source, bar.price_basis, bar.observed_at, bar.dividends) for bar in bars} == {
            ("", None, None, None, None)
        }


REFUSED: list[tuple[str, object]] = [
    *(("close", value) for value in ("0.00000000001", Decimal("1.00000000001"), 10**10, 4e-11, True, "many", b"1")),
    *(("close", float(text)) for text in ("nan", "inf", "-inf")),
    *(("volume", value) for value in ("0.123456789", 10**16, 2**63, True, float("nan"))),
    *(("date", value) for value in (dt.datetime(2025, 1, 2, 23, 59, tzinfo=dt.UTC), "2025-02-30", 20250102, "soon")),
    *(("observed_at", value) for value in (OPENING.replace(tzinfo=None), "2025-01-02 09:30", dt.date(2025, 1, 2))),
    *(("ticker", value) for value in ("", " AAPL", "AAPL\n", "A\x00", "A\ud800", "x" * 65, 12345)),
    *(("source", value) for value in ("a\x00b", "a\ud800b", "x" * 65)),
    *(("is_final", value) for value in (1, "true")),
]


async def test_what_would_not_come_back_is_refused_by_every_way_in(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        for column, value in REFUSED:
            with pytest.raises(InvalidRowError) as by_function:
                await market_data.upsert_daily(session, [daily(**{column: value})], allow_inconsistent=True)
            with pytest.raises(InvalidRowError) as by_object:
                DailyData(**daily(**{column: value}))
            with pytest.raises(InvalidRowError) as by_parameter:
                await session.execute(sa.insert(DailyData).values(daily(**{column: value})))
            with pytest.raises(InvalidRowError):
                await session.scalars(sa.select(DailyData).where(getattr(DailyData, column) == value))
            assert by_function.value.reason == by_object.value.reason == by_parameter.value.reason
            assert by_function.value.column == by_object.value.column == column
        assert await session.scalar(sa.select(sa.func.count()).select_from(DailyData)) == 0


async def test_an_object_says_before_the_flush_what_a_fresh_read_says(db: DatabaseManager) -> None:
    given = daily(date="2025-01-02", **flat(np.float32(269.28)), volume=np.int64(5), is_final=np.True_)
    given["observed_at"] = "2025-01-02T09:30:00-05:00"
    bar = DailyData(**given)
    said = {name: getattr(bar, name) for name in given}
    async with db.session_context() as session:
        session.add(bar)
    async with db.session_context(read_only=True) as session:
        [fresh] = await market_data.list_daily(session, "AAPL")
        assert {name: getattr(fresh, name) for name in given} == said
