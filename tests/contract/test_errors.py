"""The same mistake is the same error on every database, also inside of the block that made it."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal

import pytest
import sqlalchemy as sa

from tests.bars import daily
from traderrr_data import (
    ConstraintViolationError,
    DailyData,
    DatabaseManager,
    DuplicateRowError,
    InvalidRowError,
    Metadata,
    PortfolioPosition,
    RowNotFoundError,
    TraderrrDataError,
    TransactionConflictError,
    market_data,
)

TWICE = "INSERT INTO metadata (ticker) VALUES ('A'), ('A')"
REFUSED = {
    "a key twice": (TWICE, DuplicateRowError),
    "a primary key twice": ("INSERT INTO metadata (id, ticker) VALUES (1, 'A'), (1, 'B')", DuplicateRowError),
    "a missing value": ("INSERT INTO portfolio_positions (ticker) VALUES ('A')", ConstraintViolationError),
    "an explicit NULL": ("INSERT INTO metadata (ticker) VALUES (NULL)", ConstraintViolationError),
    "a CHECK": ("INSERT INTO metadata (ticker) VALUES ('')", ConstraintViolationError),
    "a negative volume": (
        "INSERT INTO daily_data (ticker, date, open, high, low, close, volume)"
        " VALUES ('A', '2025-01-02', 1, 1, 1, 1, -1)",
        ConstraintViolationError,
    ),
    "text for a number": ("INSERT INTO metadata (ticker, market_cap) VALUES ('A', 'much')", ConstraintViolationError),
    "text for a date": (
        "INSERT INTO portfolio_performance (date) VALUES ('not a date')",
        ConstraintViolationError,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_the_database_refuses_is_one_of_our_errors(db: DatabaseManager, case: str) -> None:
    statement, kind = REFUSED[case]
    with pytest.raises(TraderrrDataError) as caught:
        async with db.session_context() as session:
            await session.execute(sa.text(statement))
    assert type(caught.value) is kind
    assert caught.value.__cause__ is not None
    assert not caught.value.retryable


async def test_an_error_can_be_caught_inside_of_the_block(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
        await session.flush()
        caught = 0
        for _ in range(2):
            try:
                async with session.begin_nested():
                    await session.execute(sa.insert(Metadata).values(ticker="AAPL"))
            except DuplicateRowError:
                caught += 1
        assert caught == 2
        assert await session.scalar(sa.select(sa.func.count()).select_from(Metadata)) == 1


async def test_a_flush_that_finds_a_duplicate_says_so(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        session.add(PortfolioPosition(ticker="AAPL", shares=1))
    with pytest.raises(DuplicateRowError):
        async with db.session_context() as session:
            session.add(PortfolioPosition(ticker="AAPL", shares=2))
            await session.flush()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ticker", "x" * 65),
        ("ticker", ""),
        ("date", "2025-13-01"),
        ("date", dt.datetime(2025, 1, 2, 23, 59, tzinfo=dt.UTC)),
        ("date", 20250102),
        ("close", float("nan")),
        ("close", float("inf")),
        ("close", Decimal("1e20")),
        ("volume", 10**20),
        ("volume", True),
        ("observed_at", dt.datetime(2025, 1, 2)),  # noqa: DTZ001 - what the test is about
    ],
)
async def test_what_no_database_could_keep_is_refused_before_any_sql(
    db: DatabaseManager, column: str, value: object
) -> None:
    row = daily() | {column: value}
    with pytest.raises(InvalidRowError) as upserted:
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [row])
    assert (upserted.value.row, upserted.value.column) == (0, column)
    with pytest.raises(InvalidRowError) as assigned:
        DailyData(**row)
    assert assigned.value.column == column
    with pytest.raises(InvalidRowError):
        async with db.session_context() as session:
            await session.execute(sa.insert(DailyData).values(row))


async def test_a_row_that_is_not_there_is_a_lookup_error(db: DatabaseManager) -> None:
    async with db.session_context(read_only=True) as session:
        with pytest.raises(RowNotFoundError, match="NONE"):
            await market_data.get_metadata(session, "NONE")
        with pytest.raises(LookupError):
            await market_data.get_metadata(session, "NONE")


async def test_of_two_that_wait_for_each_other_one_gets_a_retryable_conflict(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        session.add_all([Metadata(ticker="A"), Metadata(ticker="B")])
    both_hold_one = asyncio.Barrier(2)
    attempts = 0

    async def change(tickers: tuple[str, str]) -> None:
        first = True

        async def work(session: object) -> None:
            nonlocal first, attempts
            attempts += 1
            for ticker in tickers:
                update = sa.update(Metadata).where(Metadata.ticker == ticker).values(sector="".join(tickers))
                await session.execute(update)  # type: ignore[attr-defined]
                if first:
                    first = False
                    try:  # where a writer keeps all others out, the second one never gets here
                        async with asyncio.timeout(0.5):
                            await both_hold_one.wait()
                    except (TimeoutError, asyncio.BrokenBarrierError):
                        pass

        await db.run(work)

    await asyncio.gather(change(("A", "B")), change(("B", "A")))
    async with db.session_context(read_only=True) as session:
        sectors = (await session.scalars(sa.select(Metadata.sector))).all()
    assert len(set(sectors)) == 1
    assert attempts == (3 if db.dialect.exact_decimals else 2)  # only where writers keep each other out there is none


async def test_a_unit_of_work_that_lost_a_deadlock_cannot_store_its_second_half(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        session.add_all([Metadata(ticker="A"), Metadata(ticker="B")])

    async def stubborn(first: str, second: str, mark: str) -> None:
        async with db.session_context() as session:
            for ticker in (first, second):
                try:
                    await session.execute(sa.update(Metadata).where(Metadata.ticker == ticker).values(sector=mark))
                    await asyncio.sleep(0.3)
                except TransactionConflictError:
                    continue
            await session.execute(sa.update(Metadata).where(Metadata.ticker == second).values(industry=mark))

    results = await asyncio.gather(stubborn("A", "B", "x"), stubborn("B", "A", "y"), return_exceptions=True)
    lost = {mark for mark, result in zip("xy", results, strict=True) if isinstance(result, Exception)}
    async with db.session_context(read_only=True) as session:
        marks = (await session.execute(sa.select(Metadata.sector, Metadata.industry))).all()
    assert not lost & {mark for row in marks for mark in row}
