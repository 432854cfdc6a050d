"""Bars and the instruments that they belong to."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from traderrr_data.models.base import Base, TimestampMixin
from traderrr_data.models.types import (
    BigId,
    ByteText,
    Flag,
    Money,
    Price,
    PriceBasis,
    Quantity,
    Ratio,
    SeriesName,
    SessionDate,
    Ticker,
    Timeframe,
    UtcDateTime,
    storage_checks,
    table_options,
    utc_now,
)

_PRICES = ("open", "high", "low", "close")


class _Bar(TimestampMixin):
    """What daily and intraday bars share; columns that the legacy files do not have stand behind theirs."""

    open: Mapped[Decimal] = mapped_column(Price, sort_order=3)
    high: Mapped[Decimal] = mapped_column(Price, sort_order=4)
    low: Mapped[Decimal] = mapped_column(Price, sort_order=5)
    close: Mapped[Decimal] = mapped_column(Price, sort_order=6)
    volume: Mapped[Decimal | None] = mapped_column(Quantity, sort_order=7)
    """Units traded; None where the market has no volume or it is not known."""
    updated_at: Mapped[dt.datetime] = mapped_column(
        UtcDateTime, server_default=utc_now(), onupdate=utc_now(), sort_order=100
    )
    series: Mapped[str] = mapped_column(SeriesName, primary_key=True, server_default="", sort_order=103)
    """Which line of bars; '' is the one that everybody means."""
    source: Mapped[str | None] = mapped_column(ByteText(64), sort_order=105)
    """Provider of this row."""
    price_basis: Mapped[str | None] = mapped_column(PriceBasis, sort_order=106)
    """'raw', 'split' or 'all': what the provider had already adjusted; None if not known."""
    is_final: Mapped[bool | None] = mapped_column(Flag, sort_order=107)
    """False while the bar's period runs; None if not known."""
    observed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime, sort_order=108)
    """When the provider was asked."""


def _bar_checks() -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint("ticker <> ''", name="ticker_is_not_empty"),
        sa.CheckConstraint("volume >= 0", name="volume_is_not_negative"),
    ]


class DailyData(_Bar, Base):
    """One bar of one exchange session."""

    __tablename__ = "daily_data"
    __table_args__ = (
        sa.PrimaryKeyConstraint("ticker", "series", "date"),
        *_bar_checks(),
        *storage_checks(numbers=(*_PRICES, "volume", "dividends", "stock_splits"), dates=("date",)),
        table_options(clustered_by_key=True),
    )

    ticker: Mapped[str] = mapped_column(Ticker, primary_key=True, sort_order=1)
    date: Mapped[dt.date] = mapped_column(SessionDate, primary_key=True, sort_order=2)
    """The exchange's session date."""
    dividends: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=8)
    """Cash per share on this ex-date, in the instrument's currency; 0 or None for none."""
    stock_splits: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=9)
    """New shares for one old one on this date; 0 or None for none."""


class IntradayData(_Bar, Base):
    """One bar within a session, labelled by its start."""

    __tablename__ = "intraday_data"
    __table_args__ = (
        sa.PrimaryKeyConstraint("ticker", "series", "timeframe", "datetime"),
        *_bar_checks(),
        *storage_checks(numbers=(*_PRICES, "volume"), instants=("datetime",)),
        table_options(clustered_by_key=True),
    )

    ticker: Mapped[str] = mapped_column(Ticker, primary_key=True, sort_order=1)
    datetime: Mapped[dt.datetime] = mapped_column(UtcDateTime, primary_key=True, sort_order=2)
    """The bar's first instant, in UTC."""
    timeframe: Mapped[str] = mapped_column(Timeframe, primary_key=True, server_default="unknown", sort_order=104)
    """The bar's length, such as 1m; 'unknown' in rows of the legacy application."""


class BarRevision(Base):
    """One version of a bar that was overwritten or deleted, as it stood from `known_from` until `known_until`."""

    __tablename__ = "bar_revisions"
    __table_args__ = (sa.Index(None, "ticker", "known_until"), sa.Index(None, "known_until"), table_options())

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    table_name: Mapped[str] = mapped_column(ByteText(32))
    """The table that the bar was in."""
    change: Mapped[str] = mapped_column(ByteText(8))
    """What ended this version: 'update' or 'delete'."""
    known_from: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    """The bar's updated_at."""
    known_until: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    """When it was changed, which is the updated_at of the version that followed, or deleted."""
    ticker: Mapped[str] = mapped_column(Ticker)
    series: Mapped[str] = mapped_column(SeriesName)
    timeframe: Mapped[str | None] = mapped_column(Timeframe)
    """None for a daily bar."""
    date: Mapped[dt.date | None] = mapped_column(SessionDate)
    """None for an intraday bar."""
    datetime: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    """None for a daily bar."""
    open: Mapped[Decimal] = mapped_column(Price)
    high: Mapped[Decimal] = mapped_column(Price)
    low: Mapped[Decimal] = mapped_column(Price)
    close: Mapped[Decimal] = mapped_column(Price)
    volume: Mapped[Decimal | None] = mapped_column(Quantity)
    dividends: Mapped[Decimal | None] = mapped_column(Ratio)
    stock_splits: Mapped[Decimal | None] = mapped_column(Ratio)
    source: Mapped[str | None] = mapped_column(ByteText(64))
    price_basis: Mapped[str | None] = mapped_column(PriceBasis)
    is_final: Mapped[bool | None] = mapped_column(Flag)
    observed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    """The bar's."""


class Metadata(TimestampMixin, Base):
    """What is known of an instrument."""

    __tablename__ = "metadata"
    __table_args__ = (
        sa.UniqueConstraint("ticker"),
        sa.CheckConstraint("ticker <> ''", name="ticker_is_not_empty"),
        *storage_checks(numbers=("market_cap",), instants=("last_updated",)),
        table_options(),
    )

    ticker: Mapped[str] = mapped_column(Ticker, sort_order=1)
    company_name: Mapped[str | None] = mapped_column(ByteText(255), sort_order=2)
    sector: Mapped[str | None] = mapped_column(ByteText(128), sort_order=3)
    industry: Mapped[str | None] = mapped_column(ByteText(128), sort_order=4)
    market_cap: Mapped[Decimal | None] = mapped_column(Money, sort_order=5)
    last_updated: Mapped[dt.datetime | None] = mapped_column(UtcDateTime, sort_order=6)
    """When the provider was asked."""
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True, sort_order=7)
    currency: Mapped[str | None] = mapped_column(ByteText(16), sort_order=103)
    """In which prices are quoted: ISO 4217, or a crypto asset's code."""
    mic: Mapped[str | None] = mapped_column(ByteText(8), sort_order=104)
    """The exchange's code (ISO 10383)."""
