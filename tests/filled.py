"""A database with rows in every table, and in them the values that databases are known to change."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import DAY, OPENING, daily, days, flat, intraday
from traderrr_data import (
    BarRevision,
    DailyData,
    DatabaseManager,
    IntradayData,
    Metadata,
    PortfolioPerformance,
    PortfolioPosition,
    SignalHistory,
    SystemEvent,
    market_data,
)

PRICES: Final = [
    Decimal(text)
    for text in (
        *("-37.63", "0", "0.0000000001", "0.00000123", "0.1", "0.3", "9.5", "9.51", "100", "149.99", "153.3"),
        *("123456.7890123456", "628500.005", "99999999.9999999", "9999999999.99999"),
    )
]
QUANTITIES: Final = [
    Decimal(text)
    for text in (
        *("0", "0.00000001", "0.12345678", "1.7", "12345678.12345678", "4000000000", "27871099501"),
        *("9007199254740993", "9999999999999999"),
    )
]
MONEY: Final = [Decimal(text) for text in ("0", "0.000001", "3500000000000", "1234567890.123456", "99999999999.99")]
INSTANTS: Final = [
    dt.datetime(1000, 1, 1, tzinfo=dt.UTC),
    dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC),
    dt.datetime(2025, 1, 2, 14, 30, 0, 1, dt.UTC),
    dt.datetime(2025, 1, 2, 14, 30, 1, tzinfo=dt.UTC),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999, dt.UTC),
]
TEXTS: Final = [
    *("", "a", "a ", "A", "Société Générale", "任天堂株式会社", "🚀 'GmbH' \"%s\" :name \\", "x" * 255),
    *("tab\tand\nline\r\nends", "\\N", "NULL", "0", "\x01\x7f"),
]
SYMBOLS: Final = ["AAPL", "AAPL.XNAS", "BACPL", "BACpL", "BRKb.N^A1534", "BTC/USDT", "BÉ", "aapl", "東京", "🎉", "🚀"]
LONG: Final = "RSI<30, MACD cross 🚀, " * 3_500


async def fill(db: DatabaseManager, *, bars: int = 0) -> None:
    """Store rows in every table, one with the id 0, and `bars` ordinary bars besides."""
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [*_daily_bars(), *many_bars(bars)])
        await market_data.upsert_intraday(session, _intraday_bars(), timeframe="1m")
        session.add_all(_objects())
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("BACpL", **flat("7.125"))])  # its first version is kept
        await _store_as_it_is(session)


def many_bars(count: int) -> list[dict[str, Any]]:
    """Return ordinary bars."""
    a_ticker = 1_000
    dates = days(a_ticker, dt.date(2020, 1, 1))
    return [
        daily(f"M{number // a_ticker:03}", dates[number % a_ticker], **flat(Decimal(number) / 100))
        for number in range(count)
    ]


def _daily_bars() -> list[dict[str, Any]]:
    bars = [daily(f"P{n:02}", **flat(price)) for n, price in enumerate(PRICES)]
    bars += [daily(f"Q{n:02}", volume=quantity) for n, quantity in enumerate([*QUANTITIES, None])]
    bars += [daily(symbol) for symbol in SYMBOLS]
    bars += [daily("DATES", date) for date in (dt.date(1000, 1, 1), dt.date(1969, 7, 20), dt.date(9999, 12, 31))]
    bars += [
        daily("FLAGS", date, is_final=flag, source=source, price_basis=basis, observed_at=instant)
        for date, flag, source, basis, instant in zip(
            days(5),
            (True, False, None, None, True),
            (None, "", "a b", "a ", "é"),
            (None, "raw", "split", "all", None),
            INSTANTS,
            strict=True,
        )
    ]
    bars += [daily("AAPL", series="bid", dividends="0.24", stock_splits=4), daily("AAPL", series="ask", dividends=0)]
    return bars


def _intraday_bars() -> list[dict[str, Any]]:
    return [intraday(symbol, instant) for symbol in SYMBOLS[:3] for instant in INSTANTS]


def _objects() -> list[Any]:
    signal: dict[str, Any] = {"ticker": "AAPL", "date": DAY, "signal_type": "STRONG_BUY"}
    return [
        *(Metadata(ticker=f"T{n}", company_name=text) for n, text in enumerate(TEXTS)),
        *(Metadata(ticker=f"C{n}", market_cap=cap, last_updated=OPENING) for n, cap in enumerate(MONEY)),
        *(PortfolioPosition(ticker=f"Q{n}", shares=quantity) for n, quantity in enumerate(QUANTITIES)),
        PortfolioPosition(ticker="SHORT", shares=Decimal("-0.5")),
        SignalHistory(**signal, reasons=LONG, signal_value="-0.3333333333", confidence="0.87", entry_price="149.99"),
        *(SignalHistory(**signal, reasons=text, dedupe_key=f"signal {n}") for n, text in enumerate(TEXTS)),
        SignalHistory(**signal),
        SignalHistory(**signal),  # twice the same
        *(PortfolioPerformance(date=DAY, portfolio_value=value, daily_return="-0.0376") for value in MONEY),
        PortfolioPerformance(date=DAY),
        *(SystemEvent(event_type="tick", description=text, details=text, severity="INFO") for text in TEXTS),
        SystemEvent(event_type="tick", description=LONG, details=None, severity="ERROR", dedupe_key="once"),
    ]


async def _store_as_it_is(session: AsyncSession) -> None:
    """Store ids and timestamps that only a copy keeps: an id of 0, gaps between ids, timestamps of long ago."""
    past = dt.datetime(2001, 2, 3, 4, 5, 6, 789, dt.UTC)
    for model, values in (
        (SystemEvent, {"event_type": "first", "description": "", "severity": "INFO"}),
        (SignalHistory, {"ticker": "AAPL", "date": DAY, "signal_type": "HOLD"}),
    ):
        for number in (0, 1_000_000):
            stamps = {"created_at": past, "updated_at": past + dt.timedelta(days=number % 7)}
            await session.execute(sa.insert(model).values(id=number, **values, **stamps))
    await session.execute(
        sa.update(DailyData).where(DailyData.ticker == "P00").values(created_at=past, updated_at=past)
    )
    await session.execute(sa.update(IntradayData).where(IntradayData.ticker == "AAPL").values(created_at=INSTANTS[1]))
    await session.execute(sa.update(BarRevision).values(known_from=past))
