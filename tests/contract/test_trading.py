"""Signals and the portfolio's performance: order, limits, windows, and figures that are the same everywhere."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import DAY, days
from traderrr_data import ConfigurationError, DatabaseManager, InvalidRowError, UpsertResult, trading
from traderrr_data.access.trading import PerformanceSummary, SignalStats, Spread

TEN = days(10)


def signal(ticker: str = "AAPL", date: dt.date = DAY, signal_type: str = "BUY", **values: Any) -> dict[str, Any]:
    return {"ticker": ticker, "date": date, "signal_type": signal_type, **values}


async def test_signals_come_newest_first_and_then_by_the_latest_id(session: AsyncSession) -> None:
    dates = [TEN[1], TEN[3], TEN[1], TEN[2]]
    for number, date in enumerate(dates):
        assert await trading.add_signal(session, "AAPL", date=date, signal_type=f"S{number}")
    found = await trading.list_signals(session)
    assert [row.signal_type for row in found] == ["S1", "S3", "S2", "S0"]


async def test_a_signal_comes_back_whole(session: AsyncSession) -> None:
    given: dict[str, Any] = {
        "signal_value": Decimal("0.5"),
        "confidence": Decimal("0.73"),
        "entry_price": Decimal("150.01"),
        "target_price": Decimal(160),
        "stop_loss": Decimal("145.5"),
        "regime": "TRENDING_UP",
        "reasons": "RSI, MACD",
    }
    await trading.add_signal(session, "AAPL", date=DAY, signal_type="STRONG_BUY", **given)
    [row] = await trading.list_signals(session)
    assert {name: getattr(row, name) for name in given} == given
    await trading.add_signal(session, "BARE", date=DAY, signal_type="HOLD")
    [bare] = await trading.list_signals(session, "BARE")
    assert {name: getattr(bare, name) for name in given} == dict.fromkeys(given)


async def test_signals_are_filtered_by_ticker_window_type_and_confidence(session: AsyncSession) -> None:
    rows = [
        signal(ticker, date, kind, confidence=Decimal(confidence))
        for ticker, kind in (("AAPL", "BUY"), ("aapl", "SELL"))
        for date, confidence in zip(TEN[:4], ("0.1", "0.7", "0.9", "1"), strict=True)
    ]
    await trading.add_signals(session, rows)

    async def dates(ticker: str | None = None, **asked: Any) -> list[dt.date]:
        return [row.date for row in await trading.list_signals(session, ticker, **asked)]

    assert await dates("AAPL") == TEN[3::-1]
    assert await dates("aapl", signal_type="BUY") == []
    assert await dates(signal_type="SELL") == TEN[3::-1]
    assert await dates("AAPL", start=TEN[1], end=TEN[3]) == [TEN[2], TEN[1]]
    assert await dates("AAPL", min_confidence=0.7) == [TEN[3], TEN[2], TEN[1]]
    assert await dates("AAPL", min_confidence=Decimal("0.7000000001")) == [TEN[3], TEN[2]]
    assert await dates("AAPL", min_confidence=0, start=TEN[9]) == []


async def test_a_list_of_signals_is_limited(session: AsyncSession) -> None:
    rows = [signal(ticker) for ticker in ("AAPL", "MSFT") for _ in range(60)]
    assert await trading.add_signals(session, rows) == UpsertResult(inserted=120)
    assert len(await trading.list_signals(session)) == 100
    assert len(await trading.list_signals(session, "AAPL")) == 50
    assert len(await trading.list_signals(session, "AAPL", limit=1000)) == 60
    assert len(await trading.list_signals(session, limit=1)) == 1
    for limit in (0, -1, 1001):
        with pytest.raises(ConfigurationError, match="limit is 1 to 1000"):
            await trading.list_signals(session, limit=limit)


async def test_signal_statistics_count_every_type_and_average_known_confidences(session: AsyncSession) -> None:
    assert await trading.signal_stats(session) == SignalStats(0, 0, {}, None, None, None)
    await trading.add_signals(
        session,
        [
            signal("AAPL", TEN[3], "BUY", confidence=0.5),
            signal("AAPL", TEN[0], "BUY", confidence=0.5),
            signal("AAPL", TEN[1], "STRONG_BUY", confidence=1),
            signal("MSFT", TEN[9], "STRONG_SELL"),
            signal("MSFT", TEN[8], "HOLD", confidence=0),
            signal("aapl", TEN[2], "SELL", confidence="0.0000000001"),
        ],
    )
    assert await trading.signal_stats(session) == SignalStats(
        count=6,
        tickers=3,
        by_type={"BUY": 2, "HOLD": 1, "SELL": 1, "STRONG_BUY": 1, "STRONG_SELL": 1},
        average_confidence=Decimal("0.4000000000"),
        first=TEN[0],
        last=TEN[9],
    )
    assert await trading.signal_stats(session, "AAPL") == SignalStats(
        3, 1, {"BUY": 2, "STRONG_BUY": 1}, Decimal("0.6666666667"), TEN[0], TEN[3]
    )
    unknown = await trading.signal_stats(session, "NONE")
    assert (unknown.count, unknown.average_confidence) == (0, None)


async def test_averages_are_rounded_half_to_even_on_every_database(session: AsyncSession) -> None:
    rows = [("DOWN", "0.0000000001"), ("DOWN", "0.0000000000"), ("UP", "0.0000000001"), ("UP", "0.0000000002")]
    await trading.add_signals(session, [signal(ticker, confidence=confidence) for ticker, confidence in rows])
    assert (await trading.signal_stats(session, "DOWN")).average_confidence == 0
    assert (await trading.signal_stats(session, "UP")).average_confidence == Decimal("0.0000000002")


async def test_deleting_signals_counts_them(session: AsyncSession) -> None:
    await trading.add_signals(session, [signal(ticker, date) for ticker in ("AAPL", "MSFT") for date in TEN])
    assert await trading.delete_signals(session, "AAPL", start=TEN[1], end=TEN[3]) == 2
    assert await trading.delete_signals(session, end=TEN[1]) == 2
    assert await trading.delete_signals(session, "MSFT") == 9
    assert len(await trading.list_signals(session)) == 7
    with pytest.raises(ConfigurationError, match="would delete every signal"):
        await trading.delete_signals(session)


async def test_a_signal_must_be_of_a_ticker_and_a_date(session: AsyncSession) -> None:
    with pytest.raises(InvalidRowError, match="column 'ticker'"):
        await trading.add_signal(session, "", date=DAY, signal_type="BUY")
    with pytest.raises(InvalidRowError, match="column 'date'"):
        await trading.add_signal(session, "AAPL", date=dt.datetime(2025, 1, 2, 9, tzinfo=dt.UTC), signal_type="BUY")
    with pytest.raises(InvalidRowError, match="column 'mood': is no column"):
        await trading.add_signal(session, "AAPL", date=DAY, signal_type="BUY", mood="good")


# Performance


async def test_runs_come_newest_first_and_the_latest_is_the_last_of_its_date(session: AsyncSession) -> None:
    assert await trading.find_latest_performance(session) is None
    for date, value in ((TEN[0], 1), (TEN[2], 2), (TEN[2], 3), (TEN[1], 4)):
        assert await trading.add_performance(session, date=date, portfolio_value=value)
    assert [row.portfolio_value for row in await trading.list_performance(session)] == [3, 2, 4, 1]
    assert [row.portfolio_value for row in await trading.list_performance(session, limit=2)] == [3, 2]
    window = await trading.list_performance(session, start=TEN[0], end=TEN[2])
    assert [row.portfolio_value for row in window] == [4, 1]
    latest = await trading.find_latest_performance(session)
    assert latest is not None
    assert latest.portfolio_value == 3
    with pytest.raises(ConfigurationError, match="limit is 1 to 1000"):
        await trading.list_performance(session, limit=1001)


@pytest.mark.parametrize("sign", [-1, 1])
async def test_a_summary_tells_how_a_period_went(session: AsyncSession, sign: int) -> None:
    runs: list[dict[str, Any]] = [
        {"date": TEN[0], "portfolio_value": 5},  # before the period
        {"date": TEN[2]},
        {"date": TEN[3], "portfolio_value": 100, "daily_return": "0.01", "max_drawdown": sign * Decimal("0.2")},
        {"date": TEN[4], "portfolio_value": 90, "daily_return": "-0.1", "volatility": "0.2", "sharpe_ratio": "-1"},
        {"date": TEN[4], "portfolio_value": 130, "volatility": "0.3", "max_drawdown": sign * Decimal("0.3")},
        {"date": TEN[5], "portfolio_value": "110.5", "sharpe_ratio": 2, "max_drawdown": 0},
        {"date": TEN[6], "volatility": "0.3"},
    ]
    for run in runs:
        await trading.add_performance(session, **run)
    assert await trading.performance_summary(session, days=5, today=TEN[6]) == PerformanceSummary(
        count=6,
        first=TEN[2],
        last=TEN[6],
        highest_value=Decimal(130),
        lowest_value=Decimal(90),
        opening_value=Decimal(100),
        current_value=Decimal("110.5"),
        period_return=Decimal("0.105"),
        average_return=Decimal("-0.045"),
        average_volatility=Decimal("0.2666666667"),
        average_sharpe=Decimal("0.5"),
        lowest_volatility=Decimal("0.2"),
        highest_volatility=Decimal("0.3"),
        worst_drawdown=sign * Decimal("0.3"),
        best_sharpe=Decimal(2),
    )


async def test_a_summary_of_nothing_is_empty(session: AsyncSession) -> None:
    empty = await trading.performance_summary(session)
    assert empty.count == 0
    assert {name: value for name, value in vars(empty).items() if value is not None} == {"count": 0}
    await trading.add_performance(session, date=DAY, portfolio_value=0)
    await trading.add_performance(session, date=DAY, portfolio_value=5)
    assert (await trading.performance_summary(session, today=DAY)).period_return is None, "nothing grows from 0"


async def test_the_default_periods_end_today(session: AsyncSession) -> None:
    today = dt.datetime.now(dt.UTC).date()
    for age in (0, 29, 32, 89, 92, 400):
        await trading.add_performance(session, date=today - dt.timedelta(days=age), portfolio_value=age)
    assert (await trading.performance_summary(session)).count == 2
    assert (await trading.performance_summary(session, days=365)).count == 5
    assert [row.portfolio_value for row in (await trading.performance_series(session)).rows] == [89, 32, 29, 0]
    for days_asked in (0, 366, -1):
        with pytest.raises(ConfigurationError, match="days is 1 to 365"):
            await trading.performance_summary(session, days=days_asked)
        with pytest.raises(ConfigurationError, match="days is 1 to 365"):
            await trading.performance_series(session, days=days_asked)


async def test_a_series_is_oldest_first_with_the_spread_of_what_is_known(session: AsyncSession) -> None:
    await trading.add_performance(session, date=TEN[1], portfolio_value="100.000001", sharpe_ratio=1)
    await trading.add_performance(session, date=TEN[0], portfolio_value="100.000002")
    await trading.add_performance(session, date=TEN[1], portfolio_value=None, sharpe_ratio="-0.5")
    series = await trading.performance_series(session, days=90, today=TEN[1])
    assert [(row.date, row.sharpe_ratio) for row in series.rows] == [
        (TEN[0], None),
        (TEN[1], Decimal(1)),
        (TEN[1], Decimal("-0.5")),
    ]
    nothing = Spread(None, None, None)
    assert series.spreads == {
        "portfolio_value": Spread(Decimal("100.000001"), Decimal("100.000002"), Decimal("100.000002")),
        "daily_return": nothing,
        "volatility": nothing,
        "sharpe_ratio": Spread(Decimal("-0.5"), Decimal(1), Decimal("0.25")),
        "max_drawdown": nothing,
    }


async def test_what_was_listed_stays_readable_after_its_session(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await trading.add_signal(session, "AAPL", date=DAY, signal_type="BUY")
        await trading.add_performance(session, date=DAY)
        held = [*await trading.list_signals(session), *(await trading.performance_series(session, today=DAY)).rows]
    assert len(held) == 2
    for row in held:
        for column in row.__table__.columns:
            getattr(row, column.key)
