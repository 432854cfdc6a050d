"""Positions, and what they are worth. No function commits."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import bulk
from traderrr_data.access import market_data
from traderrr_data.access.bars import deleted
from traderrr_data.access.window import same
from traderrr_data.bulk import UpsertResult
from traderrr_data.models import DailyData, PortfolioPosition
from traderrr_data.models.types import EXACT, Money, Ratio


@dataclass(frozen=True)
class PositionValue:
    """One position at its latest close.

    Attributes:
        ticker: the symbol.
        shares: held.
        price: the latest close.
        price_date: the session date of that close.
        currency: in which the price is quoted; None if metadata does not say.
        market_value: shares times price, rounded half-even to 6 decimals.
        weight: its part of the total in its own currency, rounded half-even to 10 decimals; None if that is 0.
    """

    ticker: str
    shares: Decimal
    price: Decimal
    price_date: dt.date
    currency: str | None
    market_value: Decimal
    weight: Decimal | None


@dataclass(frozen=True)
class Valuation:
    """What the portfolio is worth.

    Attributes:
        positions: those that have a price, by ticker.
        totals: market value per currency, None for an unknown one; amounts of two currencies are never added.
        unpriced: tickers of positions without any stored close.
    """

    positions: tuple[PositionValue, ...]
    totals: dict[str | None, Decimal]
    unpriced: tuple[str, ...]


async def upsert_position(session: AsyncSession, ticker: str, shares: Decimal | str | float) -> UpsertResult:
    """Set how many shares of a ticker are held; 0 is kept as a position of 0. The caller commits.

    Raises:
        InvalidRowError: the ticker or the number cannot be stored exactly.
    """
    return await bulk.upsert(session, PortfolioPosition, [{"ticker": ticker, "shares": shares}], key=("ticker",))


async def find_position(session: AsyncSession, ticker: str) -> PortfolioPosition | None:
    """Return the position in a ticker, or None if there is none, which means 0 shares."""
    query = sa.select(PortfolioPosition).where(same(PortfolioPosition.ticker, ticker))
    return (await session.scalars(query, execution_options={"populate_existing": True})).one_or_none()


async def list_positions(session: AsyncSession) -> Sequence[PortfolioPosition]:
    """Return all positions, by ticker."""
    query = sa.select(PortfolioPosition).order_by(PortfolioPosition.ticker)
    return (await session.scalars(query, execution_options={"populate_existing": True})).all()


async def delete_position(session: AsyncSession, ticker: str) -> int:
    """Delete the position in a ticker and return how many were there, 1 or 0. The caller commits."""
    return await deleted(session, sa.delete(PortfolioPosition).where(same(PortfolioPosition.ticker, ticker)))


async def valuation(session: AsyncSession, *, series: str = "") -> Valuation:
    """Return what every position is worth at its latest close; nothing is written.

    Args:
        session: any open session; ``read_only`` makes positions and prices one snapshot.
        series: the line of bars that the prices are from.
    """
    positions = await list_positions(session)
    tickers = [position.ticker for position in positions]
    closes = await market_data.latest_daily(session, tickers, series=series)
    currencies = {about.ticker: about.currency for about in await market_data.list_metadata(session, tickers)}
    with decimal.localcontext(EXACT):
        return _valued(positions, closes, currencies)


def _valued(
    positions: Sequence[PortfolioPosition], closes: Mapping[str, DailyData], currencies: Mapping[str, str | None]
) -> Valuation:
    exact: dict[str | None, Decimal] = {}
    for position in positions:
        if (bar := closes.get(position.ticker)) is not None:
            currency = currencies.get(position.ticker)
            exact[currency] = exact.get(currency, Decimal(0)) + position.shares * bar.close

    def value(position: PortfolioPosition) -> PositionValue:
        bar, currency = closes[position.ticker], currencies.get(position.ticker)
        worth, total = position.shares * bar.close, exact[currency]
        return PositionValue(
            ticker=position.ticker,
            shares=position.shares,
            price=bar.close,
            price_date=bar.date,
            currency=currency,
            market_value=Money().rounded(worth),
            weight=Ratio().rounded(worth / total) if total else None,
        )

    return Valuation(
        positions=tuple(value(position) for position in positions if position.ticker in closes),
        totals={currency: Money().rounded(total) for currency, total in exact.items()},
        unpriced=tuple(position.ticker for position in positions if position.ticker not in closes),
    )
