"""Positions, and what they are worth."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import DAY, daily, days, flat
from traderrr_data import DatabaseManager, InvalidRowError, UpsertResult, market_data, portfolio
from traderrr_data.access.portfolio import PositionValue, Valuation


async def test_positions_are_set_found_listed_and_deleted(session: AsyncSession) -> None:
    assert await portfolio.list_positions(session) == []
    assert await portfolio.find_position(session, "AAPL") is None
    for ticker, shares in (("MSFT", 5), ("AAPL", 2.5), ("aapl", "0.12345678"), ("BRK.B", Decimal(0))):
        assert await portfolio.upsert_position(session, ticker, shares) == UpsertResult(inserted=1)
    held = await portfolio.list_positions(session)
    assert [(position.ticker, position.shares) for position in held] == [
        ("AAPL", Decimal("2.5")),
        ("BRK.B", Decimal(0)),
        ("MSFT", Decimal(5)),
        ("aapl", Decimal("0.12345678")),
    ]
    assert await portfolio.upsert_position(session, "AAPL", "2.50") == UpsertResult(unchanged=1)
    assert await portfolio.upsert_position(session, "AAPL", -3) == UpsertResult(updated=1)
    apple = await portfolio.find_position(session, "AAPL")
    assert apple is not None
    assert apple.shares == -3
    assert [await portfolio.delete_position(session, ticker) for ticker in ("AAPL", "AAPL", "NONE")] == [1, 0, 0]
    assert await portfolio.find_position(session, "AAPL") is None
    assert len(await portfolio.list_positions(session)) == 3


@pytest.mark.parametrize(
    ("ticker", "shares"), [("", 1), (" AAPL", 1), ("AAPL", "many"), ("AAPL", float("nan")), ("AAPL", "0.123456789")]
)
async def test_a_position_that_cannot_be_stored_is_refused(session: AsyncSession, ticker: str, shares: float) -> None:
    with pytest.raises(InvalidRowError):
        await portfolio.upsert_position(session, ticker, shares)


async def test_a_valuation_takes_the_latest_closes_and_never_adds_two_currencies(session: AsyncSession) -> None:
    for ticker, shares in (("AAPL", 2), ("MSFT", "0.5"), ("SAP", 10), ("7203", 1), ("NOPRICE", 7), ("GONE", 0)):
        await portfolio.upsert_position(session, ticker, shares)
    await market_data.upsert_metadata(
        session,
        [
            {"ticker": "AAPL", "currency": "USD"},
            {"ticker": "MSFT", "currency": "USD"},
            {"ticker": "SAP", "currency": "EUR"},
            {"ticker": "7203"},
            {"ticker": "NOPRICE", "currency": "USD"},
        ],
    )
    dates = days(3)
    await market_data.upsert_daily(session, [daily("AAPL", date, **flat(10 + at)) for at, date in enumerate(dates)])
    await market_data.upsert_daily(session, [daily("MSFT", DAY, **flat("24")), daily("SAP", DAY, **flat("0.0000001"))])
    await market_data.upsert_daily(session, [daily("7203", DAY, **flat(-37.63)), daily("GONE", DAY)])
    await market_data.upsert_daily(session, [daily("AAPL", dates[2], **flat(99))], series="adjusted")
    value = await portfolio.valuation(session)
    assert value == Valuation(
        positions=(
            PositionValue("7203", Decimal(1), Decimal("-37.63"), DAY, None, Decimal("-37.63"), Decimal(1)),
            PositionValue("AAPL", Decimal(2), Decimal(12), dates[2], "USD", Decimal(24), Decimal("0.6666666667")),
            PositionValue("GONE", Decimal(0), Decimal(11), DAY, None, Decimal(0), Decimal(0)),
            PositionValue("MSFT", Decimal("0.5"), Decimal(24), DAY, "USD", Decimal(12), Decimal("0.3333333333")),
            PositionValue("SAP", Decimal(10), Decimal("0.0000001"), DAY, "EUR", Decimal("0.000001"), Decimal(1)),
        ),
        totals={None: Decimal("-37.63"), "USD": Decimal(36), "EUR": Decimal("0.000001")},
        unpriced=("NOPRICE",),
    )
    adjusted = await portfolio.valuation(session, series="adjusted")
    assert [(position.ticker, position.price) for position in adjusted.positions] == [("AAPL", Decimal(99))]
    assert adjusted.unpriced == ("7203", "GONE", "MSFT", "NOPRICE", "SAP")


async def test_a_total_of_nothing_has_no_weights(session: AsyncSession) -> None:
    assert await portfolio.valuation(session) == Valuation((), {}, ())
    for ticker, shares in (("LONG", 1), ("SHORT", -1)):
        await portfolio.upsert_position(session, ticker, shares)
        await market_data.upsert_daily(session, [daily(ticker)])
    value = await portfolio.valuation(session)
    assert [position.weight for position in value.positions] == [None, None]
    assert value.totals == {None: 0}


async def test_positions_stay_readable_after_their_session(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await portfolio.upsert_position(session, "AAPL", 5)
        held = await portfolio.find_position(session, "AAPL")
    assert held is not None
    assert (held.ticker, held.shares) == ("AAPL", Decimal(5))
    assert held.created_at <= held.updated_at
