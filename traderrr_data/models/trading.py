"""Signals that a strategy gave, and how the portfolio did."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from traderrr_data.models.base import Base, TimestampMixin
from traderrr_data.models.types import (
    BigId,
    ByteText,
    DedupeKey,
    LongText,
    Money,
    Price,
    Ratio,
    SessionDate,
    Ticker,
    storage_checks,
    table_options,
)


class SignalHistory(TimestampMixin, Base):
    """One signal for one ticker on one date; several a day are normal."""

    __tablename__ = "signal_history"
    __table_args__ = (
        sa.UniqueConstraint("dedupe_key"),
        sa.CheckConstraint("ticker <> ''", name="ticker_is_not_empty"),
        *storage_checks(
            numbers=("signal_value", "confidence", "entry_price", "target_price", "stop_loss"), dates=("date",)
        ),
        table_options(),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True, sort_order=0)
    ticker: Mapped[str] = mapped_column(Ticker, sort_order=1)
    date: Mapped[dt.date] = mapped_column(SessionDate, sort_order=2)
    signal_type: Mapped[str] = mapped_column(ByteText(32), sort_order=3)
    """BUY, SELL, HOLD, STRONG_BUY, STRONG_SELL, or a strategy's own."""
    signal_value: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=4)
    confidence: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=5)
    entry_price: Mapped[Decimal | None] = mapped_column(Price, sort_order=6)
    target_price: Mapped[Decimal | None] = mapped_column(Price, sort_order=7)
    stop_loss: Mapped[Decimal | None] = mapped_column(Price, sort_order=8)
    regime: Mapped[str | None] = mapped_column(ByteText(32), sort_order=9)
    reasons: Mapped[str | None] = mapped_column(LongText, sort_order=10)
    dedupe_key: Mapped[str | None] = mapped_column(DedupeKey, sort_order=103)
    """The caller's own key of this addition; a second one with the same key stores nothing."""


sa.Index("idx_signal_history_ticker_date", SignalHistory.ticker, SignalHistory.date.desc())


class PortfolioPerformance(TimestampMixin, Base):
    """The portfolio's value and measures at one run; several a date are normal."""

    __tablename__ = "portfolio_performance"
    __table_args__ = (
        sa.UniqueConstraint("dedupe_key"),
        sa.Index(None, "date"),
        *storage_checks(
            numbers=("portfolio_value", "daily_return", "volatility", "sharpe_ratio", "max_drawdown"), dates=("date",)
        ),
        table_options(),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True, sort_order=0)
    date: Mapped[dt.date] = mapped_column(SessionDate, sort_order=1)
    portfolio_value: Mapped[Decimal | None] = mapped_column(Money, sort_order=2)
    daily_return: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=3)
    volatility: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=4)
    sharpe_ratio: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=5)
    max_drawdown: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=6)
    dedupe_key: Mapped[str | None] = mapped_column(DedupeKey, sort_order=103)
    """The caller's own key of this addition; a second one with the same key stores nothing."""
