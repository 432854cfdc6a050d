"""Signals and the portfolio's performance.

Windows are ``start <= date < end``. Averages and sums are computed from the stored decimals and rounded half-even to
the column's decimals, so that every database gives the same. No function commits.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import bulk, dialects
from traderrr_data.access.bars import deleted
from traderrr_data.access.window import as_read, if_said, last_days, whole, window
from traderrr_data.bulk import OnInvalid, Rows, UpsertResult
from traderrr_data.errors import ConfigurationError
from traderrr_data.models import PortfolioPerformance, SignalHistory
from traderrr_data.models.types import EXACT, ExactDecimal, Ratio

_DEDUPE = ("dedupe_key",)
_METRICS = ("portfolio_value", "daily_return", "volatility", "sharpe_ratio", "max_drawdown")
MOST_ROWS = 1000
"""The largest limit of a list."""


@dataclass(frozen=True)
class SignalStats:
    """What the stored signals amount to; the dates and the average are None where there are none.

    Attributes:
        count: all signals.
        tickers: how many tickers have one.
        by_type: how many of each signal type, by type.
        average_confidence: of the signals that have one.
        first: date of the oldest.
        last: date of the newest.
    """

    count: int
    tickers: int
    by_type: dict[str, int]
    average_confidence: Decimal | None
    first: dt.date | None
    last: dt.date | None


class Spread(NamedTuple):
    """The extent of one metric; None where no row has a value."""

    minimum: Decimal | None
    maximum: Decimal | None
    average: Decimal | None


@dataclass(frozen=True)
class PerformanceSummary:
    """How the portfolio did in a period; what no row tells is None.

    Attributes:
        count: runs in the period.
        first: date of the oldest run.
        last: date of the newest run.
        highest_value: the portfolio's.
        lowest_value: the portfolio's.
        opening_value: the oldest that is known.
        current_value: the newest that is known.
        period_return: (current - opening) / opening; None if opening is 0.
        average_return: mean of daily_return.
        average_volatility: mean of volatility.
        average_sharpe: mean of sharpe_ratio.
        lowest_volatility: smallest volatility.
        highest_volatility: largest volatility.
        worst_drawdown: the max_drawdown farthest from 0, under either sign convention.
        best_sharpe: largest sharpe_ratio.
    """

    count: int
    first: dt.date | None
    last: dt.date | None
    highest_value: Decimal | None
    lowest_value: Decimal | None
    opening_value: Decimal | None
    current_value: Decimal | None
    period_return: Decimal | None
    average_return: Decimal | None
    average_volatility: Decimal | None
    average_sharpe: Decimal | None
    lowest_volatility: Decimal | None
    highest_volatility: Decimal | None
    worst_drawdown: Decimal | None
    best_sharpe: Decimal | None


@dataclass(frozen=True)
class PerformanceSeries:
    """The runs of a period, oldest first, and the extent of each metric, rows without a value left out."""

    rows: Sequence[PortfolioPerformance]
    spreads: dict[str, Spread]


async def add_signal(session: AsyncSession, ticker: str, *, date: dt.date, signal_type: str, **values: Any) -> bool:
    """Store one signal and tell whether it is new: False if one with its dedupe_key, and equal, is stored.

    The caller commits.

    Args:
        session: an open session.
        ticker: as the bars have it.
        date: the exchange's session date that the signal is for.
        signal_type: BUY, SELL, HOLD, STRONG_BUY, STRONG_SELL, or a strategy's own.
        **values: other columns of SignalHistory; a `dedupe_key` makes the addition repeatable.

    Raises:
        InvalidRowError: a value cannot be stored exactly.
        DuplicateRowError: another signal is stored under the dedupe_key.
    """
    row = {"ticker": ticker, "date": date, "signal_type": signal_type, **values}
    return (await add_signals(session, [row])).inserted == 1


async def add_signals(session: AsyncSession, rows: Rows, *, on_invalid: OnInvalid = "raise") -> UpsertResult:
    """Store signals; a row whose dedupe_key is stored, and equal, counts as unchanged.

    The caller commits; a call that fails undoes itself alone.

    Args:
        session: an open session.
        rows: mappings, SignalHistory objects, or a frame.
        on_invalid: "raise" at the first invalid row, or "reject" it and go on.

    Raises:
        InvalidRowError: a row cannot be stored exactly; it names row, column and reason.
        DuplicateRowError: another signal is stored under a row's dedupe_key.
    """
    return await bulk.upsert(session, SignalHistory, rows, key=_DEDUPE, on_conflict="repeat", on_invalid=on_invalid)


async def list_signals(
    session: AsyncSession,
    ticker: str | None = None,
    *,
    start: dt.date | None = None,
    end: dt.date | None = None,
    signal_type: str | None = None,
    min_confidence: Decimal | float | None = None,
    limit: int | None = None,
) -> Sequence[SignalHistory]:
    """Return signals, the newest date first, then the latest id.

    Args:
        session: any open session; nothing is written.
        ticker: None for all.
        start: first date wanted; None for the earliest.
        end: first date NOT wanted; None for all up to the newest.
        signal_type: None for all.
        min_confidence: only those at least as sure.
        limit: at most so many, 1 to 1000; if None, 50 of one ticker and 100 of all.

    Raises:
        ConfigurationError: the limit is out of its range.
    """
    least = (
        None
        if min_confidence is None
        else as_read(
            SignalHistory.confidence, min_confidence, exact_decimals=dialects.for_session(session).exact_decimals
        )
    )
    if limit is None:
        limit = 100 if ticker is None else 50
    query = (
        sa.select(SignalHistory)
        .where(
            *window(SignalHistory.date, start, end),
            *if_said(SignalHistory.ticker, ticker),
            *if_said(SignalHistory.signal_type, signal_type),
            *([SignalHistory.confidence >= least] if least is not None else []),
        )
        .order_by(SignalHistory.date.desc(), SignalHistory.id.desc())
        .limit(checked_limit(limit))
    )
    return (await session.scalars(query, execution_options={"populate_existing": True})).all()


async def signal_stats(session: AsyncSession, ticker: str | None = None) -> SignalStats:
    """Return the statistics of all signals, or of one ticker's; nothing is written."""
    chosen = if_said(SignalHistory.ticker, ticker)
    overall = sa.select(
        sa.func.count(),
        sa.func.count(SignalHistory.ticker.distinct()),
        sa.func.min(SignalHistory.date),
        sa.func.max(SignalHistory.date),
    ).where(*chosen)
    count, tickers, first, last = (await session.execute(overall)).one()
    groups = (
        sa.select(SignalHistory.signal_type, SignalHistory.confidence, sa.func.count())
        .where(*chosen)
        .group_by(SignalHistory.signal_type, SignalHistory.confidence)
    )
    by_type: dict[str, int] = {}
    total, known = Decimal(0), 0
    for signal_type, confidence, number in await session.execute(groups):
        by_type[signal_type] = by_type.get(signal_type, 0) + number
        if confidence is not None:
            total = EXACT.add(total, EXACT.multiply(confidence, number))
            known += number
    average = Ratio().rounded(EXACT.divide(total, known)) if known else None
    return SignalStats(count, tickers, dict(sorted(by_type.items())), average, first, last)


async def delete_signals(
    session: AsyncSession,
    ticker: str | None = None,
    *,
    start: dt.date | None = None,
    end: dt.date | None = None,
) -> int:
    """Delete signals of a window and return how many. The caller commits.

    Raises:
        ConfigurationError: neither a ticker nor a limit is said.
    """
    if ticker is None and start is None and end is None:
        raise ConfigurationError("this would delete every signal: say a ticker, start or end")
    conditions = [
        *window(SignalHistory.date, start, end),
        *if_said(SignalHistory.ticker, ticker),
    ]
    return await deleted(session, sa.delete(SignalHistory).where(*conditions))


async def add_performance(session: AsyncSession, *, date: dt.date, **values: Any) -> bool:
    """Store one run of the portfolio and tell whether it is new: False if an equal one has its dedupe_key.

    The caller commits.

    Args:
        session: an open session.
        date: of the run; several a date are normal.
        **values: other columns of PortfolioPerformance; a `dedupe_key` makes the addition repeatable.

    Raises:
        InvalidRowError: a value cannot be stored exactly.
        DuplicateRowError: another run is stored under the dedupe_key.
    """
    rows = [{"date": date, **values}]
    result = await bulk.upsert(session, PortfolioPerformance, rows, key=_DEDUPE, on_conflict="repeat")
    return result.inserted == 1


async def list_performance(
    session: AsyncSession, *, start: dt.date | None = None, end: dt.date | None = None, limit: int = MOST_ROWS
) -> Sequence[PortfolioPerformance]:
    """Return runs, the newest date first, then the latest id.

    Args:
        session: any open session; nothing is written.
        start: first date wanted; None for the earliest.
        end: first date NOT wanted; None for all up to the newest.
        limit: at most so many, 1 to 1000.

    Raises:
        ConfigurationError: the limit is out of its range.
    """
    query = (
        sa.select(PortfolioPerformance)
        .where(*window(PortfolioPerformance.date, start, end))
        .order_by(PortfolioPerformance.date.desc(), PortfolioPerformance.id.desc())
        .limit(checked_limit(limit))
    )
    return (await session.scalars(query, execution_options={"populate_existing": True})).all()


async def find_latest_performance(session: AsyncSession) -> PortfolioPerformance | None:
    """Return the run of the newest date, of several the last that was stored; None if there is none."""
    found = await list_performance(session, limit=1)
    return found[0] if found else None


async def performance_summary(
    session: AsyncSession, *, days: int = 30, today: dt.date | None = None
) -> PerformanceSummary:
    """Return how the portfolio did in the last days.

    Args:
        session: any open session; nothing is written.
        days: 1 to 365; the period begins so many days before today.
        today: UTC's date if None; runs after it count, too.

    Raises:
        ConfigurationError: `days` is out of its range.
    """
    rows = await _period(session, days, today)
    values = _known(rows, "portfolio_value")
    spreads = {metric: _spread(rows, metric) for metric in _METRICS}
    opening, current = (values[0], values[-1]) if values else (None, None)
    grew = EXACT.divide(EXACT.subtract(current, opening), opening) if opening and current is not None else None
    return PerformanceSummary(
        count=len(rows),
        first=rows[0].date if rows else None,
        last=rows[-1].date if rows else None,
        highest_value=spreads["portfolio_value"].maximum,
        lowest_value=spreads["portfolio_value"].minimum,
        opening_value=opening,
        current_value=current,
        period_return=None if grew is None else Ratio().rounded(grew),
        average_return=spreads["daily_return"].average,
        average_volatility=spreads["volatility"].average,
        average_sharpe=spreads["sharpe_ratio"].average,
        lowest_volatility=spreads["volatility"].minimum,
        highest_volatility=spreads["volatility"].maximum,
        worst_drawdown=max(_known(rows, "max_drawdown"), key=abs, default=None),
        best_sharpe=spreads["sharpe_ratio"].maximum,
    )


async def performance_series(
    session: AsyncSession, *, days: int = 90, today: dt.date | None = None
) -> PerformanceSeries:
    """Return the runs of the last days, oldest first, with the extent of each metric; as `performance_summary`."""
    rows = await _period(session, days, today)
    return PerformanceSeries(rows, {metric: _spread(rows, metric) for metric in _METRICS})


def checked_limit(limit: int) -> int:
    """Return a limit of rows; ConfigurationError if it is not 1 to 1000."""
    return whole("limit", limit, 1, MOST_ROWS)


async def _period(session: AsyncSession, days: int, today: dt.date | None) -> Sequence[PortfolioPerformance]:
    days = whole("days", days, 1, 365)
    query = (
        sa.select(PortfolioPerformance)
        .where(PortfolioPerformance.date >= last_days(days, today))
        .order_by(PortfolioPerformance.date, PortfolioPerformance.id)
    )
    return (await session.scalars(query, execution_options={"populate_existing": True})).all()


def _known(rows: Iterable[PortfolioPerformance], metric: str) -> list[Decimal]:
    return [value for row in rows if (value := getattr(row, metric)) is not None]


def _spread(rows: Iterable[PortfolioPerformance], metric: str) -> Spread:
    values = _known(rows, metric)
    if not values:
        return Spread(None, None, None)
    column_type = PortfolioPerformance.__table__.c[metric].type
    assert isinstance(column_type, ExactDecimal)  # noqa: S101 - every metric is one
    with decimal.localcontext(EXACT):
        return Spread(min(values), max(values), column_type.rounded(sum(values, Decimal(0)) / len(values)))
