"""Twenty writers in each other's way, and five hundred tasks that are cancelled: nothing is lost, left or locked."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.backends import Backend
from tests.bars import daily, days, flat
from tests.contract.test_concurrency import without_garbage_collection
from traderrr_data import (
    DatabaseManager,
    Metadata,
    PortfolioPosition,
    Settings,
    TransactionConflictError,
    UpsertResult,
    market_data,
)

CANCELLED = 500
Work = Callable[[AsyncSession], Coroutine[Any, Any, object]]


def is_whole(db: DatabaseManager) -> bool:
    return db.engine.pool.checkedout() == 0  # type: ignore[attr-defined,no-any-return]


async def test_twenty_writers_with_the_same_keys_in_any_order_all_succeed(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    """Of each row one writer's version is there in the end, and the inserted ones are counted once."""
    dates = days(40)
    results: list[UpsertResult] = []

    async def write(number: int) -> None:
        generator = random.Random(number)  # noqa: S311 - only to shuffle
        for attempt in range(2):
            chosen = generator.sample(dates, 30)

            async def work(
                session: AsyncSession, chosen: list[Any] = chosen, attempt: int = attempt
            ) -> list[UpsertResult]:
                # Two batches in one transaction: in each its keys are in order, but not over both.
                price = 1 + number + attempt * 100
                halves = (chosen[:15], chosen[15:])
                return [
                    await market_data.upsert_daily(session, [daily(date=date, **flat(price)) for date in half])
                    for half in halves
                ]

            results.extend(await db.run(work, retries=100, idempotent=True))

    with without_garbage_collection():
        async with asyncio.timeout(100):
            await asyncio.gather(*(write(number) for number in range(20)))
    assert is_whole(db)
    rows = backend.run_sql(database_url, "SELECT date, count(*), min(open) = max(close) FROM daily_data GROUP BY date")
    assert [count for _, count, _ in rows] == ["1"] * len(rows)
    assert sum(result.inserted for result in results) == len(rows)
    assert sum(result.inserted + result.updated + result.unchanged for result in results) == 20 * 2 * 30


async def test_writers_that_wait_for_each_other_lose_no_update(db: DatabaseManager) -> None:
    """Ten pairs change the same rows in opposite orders, which is a deadlock wherever rows are locked one by one."""
    async with db.session_context() as session:
        session.add_all([PortfolioPosition(ticker=ticker, shares=0) for ticker in "ABCDEF"])
    conflicts = 0

    async def move(number: int) -> None:
        nonlocal conflicts
        for attempt in range(2):
            order = random.Random(100 * number + attempt).sample("ABCDEF", 6)  # noqa: S311 - only to shuffle

            async def work(session: AsyncSession, order: list[str] = order) -> None:
                nonlocal conflicts
                try:
                    for ticker in order:
                        where = PortfolioPosition.ticker == ticker
                        raised = PortfolioPosition.shares + 1
                        await session.execute(sa.update(PortfolioPosition).where(where).values(shares=raised))
                except TransactionConflictError:
                    conflicts += 1
                    raise

            await db.run(work, retries=200)

    async with asyncio.timeout(100):
        await asyncio.gather(*(move(number) for number in range(20)))
    assert is_whole(db)
    async with db.session_context(read_only=True) as session:
        assert set(await session.scalars(sa.select(PortfolioPosition.shares))) == {Decimal(40)}
    # Only where a writer keeps all others out there is none.
    assert bool(conflicts) == db.dialect.exact_decimals


async def test_a_reader_that_sees_one_snapshot_is_in_nobodys_way(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date, **flat(1)) for date in days(50)])
    stop = asyncio.Event()

    async def write() -> int:
        for number in range(2, 10_000):
            if stop.is_set():
                return number
            rows = [daily(date=date, **flat(number)) for date in days(50)]

            async def work(session: AsyncSession, rows: list[dict[str, Any]] = rows) -> None:
                await market_data.upsert_daily(session, rows)

            await db.run(work, retries=100)
        raise AssertionError("the readers did not end")

    async def read() -> None:
        for _ in range(15):
            async with db.session_context(read_only=True) as session:
                first = [bar.close for bar in await market_data.list_daily(session, "AAPL")]
                await asyncio.sleep(0)
                session.expire_all()
                again = [bar.close for bar in await market_data.list_daily(session, "AAPL")]
            assert len(set(first)) == 1
            assert first == again

    async with asyncio.timeout(60):
        writer = asyncio.create_task(write())
        await asyncio.gather(*(read() for _ in range(6)))
        stop.set()
        assert await writer > 3
    assert is_whole(db)


async def test_a_thousand_tasks_share_three_connections_and_some_give_up_waiting(
    backend: Backend, database_url: str
) -> None:
    """Each gets its turn, or ends in its own time with nothing done."""
    settings = Settings(database_url=database_url, db_pool_size=2, db_max_overflow=1, db_pool_timeout=60)
    acknowledged: set[str] = set()
    given_up: set[str] = set()
    most = 0
    async with DatabaseManager(settings) as db:

        async def add(number: int) -> None:
            nonlocal most
            ticker = f"T{number:04}"
            try:
                async with asyncio.timeout(0.05 if number % 4 == 3 else None), db.session_context() as session:
                    session.add(Metadata(ticker=ticker))
                    await session.flush()
                    most = max(most, db.engine.pool.checkedout())  # type: ignore[attr-defined]
                acknowledged.add(ticker)
            except TimeoutError:
                given_up.add(ticker)

        with without_garbage_collection():
            async with asyncio.timeout(60):
                await asyncio.gather(*(add(number) for number in range(1_000)))
            assert is_whole(db)
            async with asyncio.timeout(5):
                await db.ping()
    assert most <= 3
    stored = {str(ticker) for (ticker,) in backend.run_sql(database_url, "SELECT ticker FROM metadata")}
    assert acknowledged <= stored <= acknowledged | given_up  # whose COMMIT was under way
    assert len(stored - acknowledged) <= 3
    assert len(given_up) > 100


async def test_a_stream_that_nobody_reads_on_is_in_nobodys_way(db: DatabaseManager) -> None:
    """Left after one batch, by a slow reader and by one that never comes back; nothing is closed by the collector."""
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("STORED", date) for date in days(300)])

    async def change(price: int) -> None:
        async with asyncio.timeout(10), db.session_context() as session:
            await market_data.upsert_daily(session, [daily("STORED", date, **flat(price)) for date in days(300)])

    with without_garbage_collection():
        async with db.session_context(read_only=True) as session:
            slow = market_data.stream_daily(session, ["STORED"], batch_rows=50)
            first = await anext(slow)
            await change(7)
            assert await session.scalar(sa.text("SELECT 1")) == 1  # between its batches a session is free
            rest = [batch async for batch in slow]
        prices = {price for batch in (first, *rest) for price in batch["close"].to_pylist()}
        assert len(prices) == 1, "two versions in one stream"
        async with db.session_context(read_only=True) as session:
            left = market_data.stream_daily(session, ["STORED"], batch_rows=50)
            await anext(left)
        assert is_whole(db)
        await change(8)
        async with db.session_context(read_only=True) as session:
            assert {bar.close for bar in await market_data.list_daily(session, "STORED")} == {Decimal(8)}
    assert is_whole(db)


# --- cancellation -----------------------------------------------------------------------------------------------------


async def read(session: AsyncSession) -> None:
    await market_data.list_daily(session, "STORED")


async def stream(session: AsyncSession) -> None:
    async for _ in market_data.stream_daily(session, ["STORED"], batch_rows=50):
        pass


def works(number: int) -> tuple[str, Work]:
    """Return one of the ways of working with a database, and what it stores."""
    ticker = f"T{number:03}"

    async def add(session: AsyncSession) -> None:
        session.add(Metadata(ticker=ticker))
        await session.flush()

    async def upsert(session: AsyncSession) -> None:
        await market_data.upsert_daily(session, [daily(ticker), daily(ticker, days(2)[1])])

    async def load(session: AsyncSession) -> None:
        await market_data.upsert_daily(session, [daily(ticker, date) for date in days(1_500)])

    async def change(session: AsyncSession) -> None:
        await session.execute(sa.update(PortfolioPosition).values(shares=PortfolioPosition.shares + 1))
        await market_data.upsert_daily(session, [daily(ticker)])

    async def savepoint(session: AsyncSession) -> None:
        async with session.begin_nested():
            await market_data.upsert_daily(session, [daily(ticker)])
        await session.execute(sa.text("SELECT 1"))

    ways: list[tuple[str, Work]] = [(ticker, way) for way in (add, upsert, load, change, savepoint)]
    ways += [("", read), ("", stream)]
    return ways[number % len(ways)]


async def test_a_task_cancelled_at_any_turn_of_connecting_is_cancelled(db: DatabaseManager) -> None:
    """One that goes on all the same would never end, where it works until it is cancelled."""
    for _ in range(5):
        for turns in range(40):
            await db.close()
            task = asyncio.create_task(db.ping())
            for _ in range(turns):
                await asyncio.sleep(0)
            was_cancelled = task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() == was_cancelled
    assert is_whole(db)


async def by_cancel(work: Coroutine[Any, Any, None], delay: float) -> None:
    task = asyncio.create_task(work)
    await asyncio.sleep(delay)
    task.cancel()
    await task


async def by_timeout(work: Coroutine[Any, Any, None], delay: float) -> None:
    async with asyncio.timeout(delay):
        await work


async def by_wait_for(work: Coroutine[Any, Any, None], delay: float) -> None:
    await asyncio.wait_for(work, delay)


async def by_group(work: Coroutine[Any, Any, None], delay: float) -> None:
    async def fail() -> None:
        await asyncio.sleep(delay)
        raise KeyError("of a sibling")

    async with asyncio.TaskGroup() as group:
        group.create_task(work)
        group.create_task(fail())


WAYS = [by_cancel, by_timeout, by_wait_for, by_group]


async def test_five_hundred_tasks_cancelled_anywhere_leave_all_of_their_work_or_nothing(
    backend: Backend, database_url: str
) -> None:
    generator = random.Random(2026)  # noqa: S311 - only to vary when a task is cancelled
    acknowledged: set[str] = set()
    tried: Counter[str] = Counter()
    positions = 0
    settings = Settings(database_url=database_url, db_pool_size=4, db_max_overflow=0)
    async with DatabaseManager(settings) as db:
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [daily("STORED", date) for date in days(300)])
            session.add(PortfolioPosition(ticker="COUNTER", shares=0))

        async def unit(number: int) -> None:
            nonlocal positions
            ticker, work = works(number)
            tried[work.__name__] += 1
            async with db.session_context(read_only=not ticker) as session:
                await work(session)
            acknowledged.add(ticker)
            positions += work.__name__ == "change"

        usual: dict[int, float] = {}
        for number in range(7):
            await db.close()  # after a cancellation there is a new connection to make
            began = time.monotonic()
            await unit(number)
            usual[number] = time.monotonic() - began

        async def cancelled(number: int) -> None:
            delay = generator.random() * 3 * usual[number % 7]  # four at once take longer than one
            with contextlib.suppress(asyncio.CancelledError, TimeoutError, ExceptionGroup):
                await WAYS[number // 7 % len(WAYS)](unit(number), delay)

        with without_garbage_collection():
            for start in range(7, CANCELLED, 4):
                async with asyncio.timeout(30):
                    await asyncio.gather(*(cancelled(number) for number in range(start, min(start + 4, CANCELLED))))
            began = time.monotonic()
            patient = db.settings.model_copy(update={"db_statement_timeout": 10})
            async with DatabaseManager(patient) as other, other.session_context() as session:
                await session.execute(sa.text("UPDATE portfolio_positions SET shares = shares"))
            assert time.monotonic() - began < 5
            assert is_whole(db)
            async with asyncio.timeout(20):
                await asyncio.gather(*(db.run(read) for _ in range(8)))
        assert is_whole(db)
    counts = {
        str(ticker): int(count or 0)
        for ticker, count in backend.run_sql(
            database_url,
            "SELECT ticker, count(*) FROM daily_data GROUP BY ticker UNION ALL"
            " SELECT ticker, count(*) FROM metadata GROUP BY ticker",
        )
    }
    assert counts.pop("STORED") == 300
    wanted = {"add": 1, "upsert": 2, "load": 1_500, "change": 1, "savepoint": 1}
    for ticker, count in counts.items():
        assert count == wanted[works(int(ticker[1:]))[1].__name__], ticker
    assert acknowledged - {""} <= set(counts)
    ((shares,),) = backend.run_sql(database_url, "SELECT shares FROM portfolio_positions")
    changed = sum(works(int(ticker[1:]))[1].__name__ == "change" for ticker in counts)
    assert positions <= float(shares or 0) == changed
    assert 25 < len(acknowledged) < CANCELLED - 100
    assert min(tried.values()) > 20
