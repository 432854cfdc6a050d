"""Many tasks, cancelled ones among them: no update is lost, no lock and no connection stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sqlite3
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.backends import Backend
from tests.contract.test_engine import ENDLESS, OTHERS
from traderrr_data import DatabaseManager, Metadata, PortfolioPosition, Settings, TraderrrDataError

COUNT = sa.select(sa.func.count()).select_from(Metadata)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """What is given back only when the collector comes by may be held for minutes."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_no_update_is_lost_between_many_writers(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        session.add(PortfolioPosition(ticker="COUNTER", shares=0))

    async def count_up() -> None:
        async def work(session: AsyncSession) -> None:
            query = sa.select(PortfolioPosition).with_for_update()
            position = (await session.scalars(query)).one()
            await asyncio.sleep(0)
            position.shares += 1

        for _ in range(5):
            await db.run(work, retries=10)

    await asyncio.gather(*(count_up() for _ in range(8)))
    async with db.session_context(read_only=True) as session:
        assert await session.scalar(sa.select(PortfolioPosition.shares)) == 40


async def test_sessions_of_one_manager_have_transactions_of_their_own(db: DatabaseManager) -> None:
    """What one rolls back or has not committed is neither stored nor seen by another."""
    async with db.get_session() as one, db.get_session(read_only=True) as other:
        one.add(Metadata(ticker="ONE"))
        await one.flush()
        assert await other.scalar(COUNT) == 0
        await other.rollback()
        await one.commit()
    with pytest.raises(KeyError):
        async with db.session_context() as one:
            one.add(Metadata(ticker="UNDONE"))
            await one.flush()
            async with db.session_context(read_only=True) as other:
                assert await other.scalar(COUNT) == 1
            raise KeyError("of the caller")
    async with db.session_context(read_only=True) as other:
        assert (await other.scalars(sa.select(Metadata.ticker))).all() == ["ONE"]


async def test_of_twenty_writers_the_ten_that_fail_take_nothing_with_them(db: DatabaseManager) -> None:
    async def write(number: int) -> None:
        async with db.session_context() as session:
            session.add(Metadata(ticker=f"T{number:02}"))
            await session.flush()
            await asyncio.sleep(0)
            if number % 2:
                raise KeyError("of the caller")

    results = await asyncio.gather(*(write(number) for number in range(20)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), KeyError] * 10
    async with db.session_context(read_only=True) as session:
        tickers = (await session.scalars(sa.select(Metadata.ticker).order_by(Metadata.ticker))).all()
    assert tickers == [f"T{number:02}" for number in range(0, 20, 2)]


async def test_many_more_tasks_than_connections_all_get_their_turn(database_url: str) -> None:
    settings = Settings(database_url=database_url, db_pool_size=2, db_max_overflow=1)
    async with DatabaseManager(settings) as db:

        async def read() -> int:
            async with db.session_context(read_only=True) as session:
                return int(await session.scalar(COUNT) or 0)

        assert await asyncio.gather(*(read() for _ in range(60))) == [0] * 60


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.1, 0.3])
async def test_a_task_cancelled_in_a_statement_leaves_no_lock_behind(
    backend: Backend, db: DatabaseManager, database_url: str, delay: float
) -> None:
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
    writing = asyncio.Event()

    async def work() -> None:
        async with db.session_context() as session:
            await session.execute(sa.update(Metadata).values(sector="cancelled"))
            writing.set()
            await session.execute(sa.text(ENDLESS))

    with without_garbage_collection():
        task = asyncio.create_task(work())
        await writing.wait()
        await asyncio.sleep(delay)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        patient = db.settings.model_copy(update={"db_statement_timeout": 5})
        async with DatabaseManager(patient) as other, other.session_context() as session:
            await session.execute(sa.update(Metadata).values(industry="free"))
        assert time.monotonic() - began < 3
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert backend.run_sql(database_url, "SELECT sector, industry FROM metadata") == [(None, "free")]


async def test_a_cancelled_task_frees_a_file_at_once(db: DatabaseManager, tmp_path: object) -> None:
    """Of a database in a file, somebody else's connection that does not wait at all gets the lock."""
    async with DatabaseManager(f"sqlite:///{tmp_path}/own.db") as file:
        await file.init_db()
        writing = asyncio.Event()

        async def work() -> None:
            async with file.session_context() as session:
                await session.execute(sa.text("SELECT 1"))
                writing.set()
                await session.execute(sa.text(ENDLESS))

        with without_garbage_collection():
            task = asyncio.create_task(work())
            await writing.wait()
            await asyncio.sleep(0.05)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 1
            await asyncio.sleep(0.1)
            with contextlib.closing(sqlite3.connect(f"{tmp_path}/own.db", timeout=0, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")


async def test_a_time_out_of_the_caller_bites(db: DatabaseManager) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), db.session_context(read_only=True) as session:
            await session.execute(sa.text(ENDLESS))
    assert time.monotonic() - began < 2
    await db.ping()


async def test_a_cancelled_statement_does_not_go_on_running(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    async def work() -> None:
        async with db.session_context(read_only=True) as session:
            await session.execute(sa.text(ENDLESS))

    task = asyncio.create_task(work())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await db.engine.dispose()
    for _ in range(30):
        if not (others := await asyncio.to_thread(backend.run_sql, database_url, OTHERS[backend.name])):
            break
        await asyncio.sleep(0.1)
    assert others == []


async def test_a_cancelled_commit_is_stored_or_not_but_never_unknown_or_left_open(
    backend: Backend, database_url: str
) -> None:
    generator = random.Random(20260101)  # noqa: S311 - only to vary where the cancellation hits
    outcomes: dict[str, str] = {}
    async with DatabaseManager(Settings(database_url=database_url, db_pool_size=2, db_max_overflow=0)) as db:

        async def work(ticker: str, at_commit: asyncio.Event) -> None:
            async with db.get_session() as session:
                session.add(Metadata(ticker=ticker))
                await session.flush()
                at_commit.set()
                await session.commit()
                outcomes[ticker] = "committed"

        with without_garbage_collection():
            for number in range(40):
                at_commit = asyncio.Event()
                task = asyncio.create_task(work(f"T{number:02}", at_commit))
                await at_commit.wait()
                for _ in range(generator.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
            async with asyncio.timeout(5), db.session_context() as session:
                session.add(Metadata(ticker="AFTER"))
    stored = {ticker for (ticker,) in backend.run_sql(database_url, "SELECT ticker FROM metadata")}
    assert stored >= {"AFTER", *outcomes}


async def test_a_commit_that_had_begun_when_its_task_was_cancelled_is_waited_for(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    """Whoever catches the cancellation finds the outcome settled, and the row stored."""
    for number in range(20):
        begun = asyncio.Event()

        @sa.event.listens_for(db.engine.sync_engine, "commit", once=True)
        def notice(_connection: sa.Connection, begun: asyncio.Event = begun) -> None:
            begun.set()

        async def work(ticker: str = f"T{number:02}") -> None:
            async with db.session_context() as session:
                session.add(Metadata(ticker=ticker))

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        async with db.session_context(read_only=True) as session:
            assert await session.scalar(COUNT) == number + 1
    assert backend.run_sql(database_url, "SELECT count(*) FROM metadata") == [("20",)]


async def test_cancelled_tasks_in_a_small_pool_leave_right_answers_and_no_leak(database_url: str) -> None:
    generator = random.Random(7)  # noqa: S311 - only to vary who is cancelled
    async with DatabaseManager(Settings(database_url=database_url, db_pool_size=3, db_max_overflow=0)) as db:

        async def ask(number: int) -> int:
            async with db.session_context(read_only=True) as session:
                return int(await session.scalar(sa.text(f"SELECT {number}")))

        tasks = [asyncio.create_task(ask(number)) for number in range(60)]
        for task in generator.sample(tasks, 36):
            await asyncio.sleep(generator.random() / 500)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        answers = {number: result for number, result in enumerate(results) if isinstance(result, int)}
        assert all(number == answer for number, answer in answers.items())
        assert len(answers) >= 24
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_cancelling_still_frees_the_lock_after_the_manager_was_closed_once(db: DatabaseManager) -> None:
    await db.close()
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))

    async def work() -> None:
        async with db.session_context() as session:
            await session.execute(sa.update(Metadata).values(sector="cancelled"))
            await session.execute(sa.text(ENDLESS))

    with without_garbage_collection():
        task = asyncio.create_task(work())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(3), db.session_context() as session:
            await session.execute(sa.update(Metadata).values(industry="free"))


async def test_waiting_too_long_for_somebodys_lock_is_a_retryable_error(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
    impatient = db.settings.model_copy(update={"db_statement_timeout": 0.3})
    async with DatabaseManager(impatient) as other, db.session_context() as holder:
        await holder.execute(sa.update(Metadata).values(sector="held"))
        with pytest.raises(TraderrrDataError) as caught:
            async with other.session_context() as session:
                await session.execute(sa.update(Metadata).values(sector="late"))
        assert caught.value.retryable
