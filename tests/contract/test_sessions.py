"""One unit of work: stored as a whole or not at all, readable afterwards, and of one task, on every database."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import logging
import time
from decimal import Decimal

import pytest
import sqlalchemy as sa
import stamina
from sqlalchemy.ext.asyncio import AsyncSession

from tests.backends import Backend
from tests.bars import daily, days
from traderrr_data import (
    CommitOutcomeUnknownError,
    ConfigurationError,
    DailyData,
    DatabaseManager,
    DatabaseUnavailableError,
    DuplicateRowError,
    InvalidRowError,
    Metadata,
    PortfolioPosition,
    SystemEvent,
    TransactionConflictError,
    market_data,
)
from traderrr_data.models import Base


def stored(backend: Backend, url: str) -> list[str | None]:
    return [ticker for (ticker,) in backend.run_sql(url, "SELECT ticker FROM metadata ORDER BY ticker")]


async def test_a_block_that_ends_well_is_stored(backend: Backend, db: DatabaseManager, database_url: str) -> None:
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
        assert stored(backend, database_url) == []
    assert stored(backend, database_url) == ["AAPL"]


async def test_an_error_in_a_block_undoes_all_of_it(backend: Backend, db: DatabaseManager, database_url: str) -> None:
    with pytest.raises(KeyError):
        async with db.session_context() as session:
            session.add(Metadata(ticker="AAPL"))
            await session.flush()
            await market_data.upsert_daily(session, [daily()])
            raise KeyError("of the caller")
    assert stored(backend, database_url) == []
    assert backend.run_sql(database_url, "SELECT count(*) FROM daily_data") == [("0",)]


async def test_a_savepoint_that_is_rolled_back_takes_only_its_own_with_it(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    async with db.session_context() as session:
        session.add(Metadata(ticker="KEPT"))
        await session.flush()
        with pytest.raises(DuplicateRowError):
            async with session.begin_nested():
                await session.execute(sa.text("INSERT INTO metadata (ticker) VALUES ('GONE')"))
                await session.execute(sa.text("INSERT INTO metadata (ticker) VALUES ('KEPT')"))
        session.add(Metadata(ticker="LATER"))
    assert stored(backend, database_url) == ["KEPT", "LATER"]


async def test_a_savepoint_ends_with_the_transaction_around_it(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    with pytest.raises(KeyError):
        async with db.session_context() as session:
            async with session.begin_nested():
                await session.execute(sa.text("INSERT INTO metadata (ticker) VALUES ('AAPL')"))
            raise KeyError("of the caller")
    assert stored(backend, database_url) == []


async def test_a_transaction_with_a_failed_statement_is_refused_instead_of_half_stored(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    with pytest.raises(ConfigurationError, match="begin_nested"):
        async with db.session_context() as session:
            await session.execute(sa.text("INSERT INTO metadata (ticker) VALUES ('FIRST')"))
            with pytest.raises(DuplicateRowError):
                await session.execute(sa.text("INSERT INTO metadata (ticker) VALUES ('FIRST')"))
    assert stored(backend, database_url) == []
    async with db.session_context() as session:
        session.add(Metadata(ticker="NEXT"))
    assert stored(backend, database_url) == ["NEXT"]


async def test_a_lock_that_is_not_given_undoes_what_came_before_it(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    async with db.session_context() as session:
        session.add_all([Metadata(ticker="A"), Metadata(ticker="B")])
    settings = db.settings.model_copy(update={"db_statement_timeout": 0.3})
    update = sa.text("UPDATE metadata SET sector = 'late' WHERE ticker = :ticker")
    async with DatabaseManager(settings) as impatient, db.session_context() as holder:
        await holder.execute(sa.text("UPDATE metadata SET sector = 'held' WHERE ticker = 'B'"))
        with pytest.raises((TransactionConflictError, DatabaseUnavailableError, ConfigurationError)):
            async with impatient.session_context() as session:
                await session.execute(update, {"ticker": "A"})
                with contextlib.suppress(TransactionConflictError, DatabaseUnavailableError):
                    await session.execute(update, {"ticker": "B"})
    rows = backend.run_sql(database_url, "SELECT ticker, sector FROM metadata ORDER BY ticker")
    assert rows == [("A", None), ("B", "held")]


async def test_objects_stay_readable_after_the_session(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        about = Metadata(ticker="AAPL", company_name="Apple")
        event = SystemEvent(event_type="start", description="up", severity="INFO")
        session.add_all([about, event])
    for row in (about, event):
        for column in type(row).__table__.columns:
            getattr(row, column.name)
    assert about.id is not None
    assert about.created_at.tzinfo is not None
    async with db.session_context() as session:
        about = (await session.scalars(sa.select(Metadata))).one()
        about.sector = "Technology"
        before = about.updated_at
    assert (about.sector, about.company_name) == ("Technology", "Apple")
    assert about.updated_at >= before


async def test_objects_stay_readable_after_an_error(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date) for date in days(3)])
    with pytest.raises(KeyError):
        async with db.session_context() as session:
            bars = await market_data.list_daily(session, "AAPL")
            raise KeyError("of the caller")
    assert [bar.date for bar in bars] == days(3)
    assert {bar.created_at.tzinfo for bar in bars} == {bar.updated_at.tzinfo for bar in bars} == {dt.UTC}


async def test_what_an_object_says_after_the_commit_is_what_is_stored(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        position = PortfolioPosition(ticker="AAPL", shares="0.5")
        session.add(position)
    async with db.session_context(read_only=True) as session:
        found = (await session.scalars(sa.select(PortfolioPosition))).one()
    names = [column.name for column in PortfolioPosition.__table__.columns]
    assert [getattr(position, name) for name in names] == [getattr(found, name) for name in names]


async def test_a_reading_session_is_refused_a_write_by_the_database(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    writes = [
        "INSERT INTO metadata (ticker) VALUES ('AAPL')",
        "UPDATE metadata SET ticker = 'AAPL'",
        "DELETE FROM metadata",
    ]
    for write in writes:
        with pytest.raises(ConfigurationError):
            async with db.session_context(read_only=True) as session:
                await session.execute(sa.text(write))
    with pytest.raises(ConfigurationError):
        async with db.session_context(read_only=True) as session:
            session.add(Metadata(ticker="AAPL"))
    assert stored(backend, database_url) == []
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
    assert stored(backend, database_url) == ["AAPL"]


async def test_a_reading_session_sees_one_snapshot(db: DatabaseManager) -> None:
    count = sa.select(sa.func.count()).select_from(Metadata)
    async with db.session_context(read_only=True) as reader:
        assert await reader.scalar(count) == 0
        async with asyncio.timeout(5), db.session_context() as writer:
            writer.add(Metadata(ticker="AAPL"))
        assert await reader.scalar(count) == 0
        assert await reader.scalar(sa.select(sa.func.count()).select_from(DailyData)) == 0
    async with db.session_context(read_only=True) as reader:
        assert await reader.scalar(count) == 1


async def test_readers_neither_wait_for_each_other_nor_for_a_writer(db: DatabaseManager) -> None:
    count = sa.select(sa.func.count()).select_from(Metadata)
    async with db.session_context(read_only=True) as one, db.session_context(read_only=True) as other:
        assert await one.scalar(count) == await other.scalar(count) == 0
        async with asyncio.timeout(5), db.session_context() as writer:
            writer.add(Metadata(ticker="AAPL"))
            await writer.flush()
            assert await one.scalar(count) == 0


async def test_a_writing_session_sees_what_others_committed_meanwhile_or_keeps_them_out(db: DatabaseManager) -> None:
    """A value that was read in a unit of work and one that is changed in it are never of two different times."""
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL", market_cap=1))

    async def raise_it() -> None:
        async with db.session_context() as session:
            await session.execute(sa.update(Metadata).values(market_cap=Metadata.market_cap + 1))

    async with db.session_context() as session:
        first = (await session.scalar(sa.select(Metadata.market_cap))) or 0
        other = asyncio.create_task(raise_it())
        await asyncio.wait([other], timeout=0.3)
        expected = first + 1 if other.done() else first
        assert await session.scalar(sa.select(Metadata.market_cap)) == expected
        await session.execute(sa.update(Metadata).values(market_cap=Metadata.market_cap + 10))
        session.expire_all()
        assert await session.scalar(sa.select(Metadata.market_cap)) == expected + 10
    await other
    async with db.session_context(read_only=True) as session:
        assert await session.scalar(sa.select(Metadata.market_cap)) == 12


async def test_a_session_of_the_caller_own_commits_when_told(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    async with db.get_session() as session:
        session.add(Metadata(ticker="FORGOTTEN"))
        await session.flush()
    async with db.get_session() as session:
        session.add(Metadata(ticker="STORED"))
        await session.commit()
        session.add(Metadata(ticker="STORED2"))
        await session.commit()
        session.add(Metadata(ticker="UNDONE"))
        await session.flush()
        await session.rollback()
    assert stored(backend, database_url) == ["STORED", "STORED2"]


async def test_a_session_that_three_tasks_share_is_refused_and_nothing_is_lost_in_silence(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    async def add(session: AsyncSession, ticker: str) -> str:
        session.add(Metadata(ticker=ticker))
        await session.flush()
        await asyncio.sleep(0.01)
        await session.commit()
        return ticker

    session = db.get_session()
    results = await asyncio.gather(*(add(session, ticker) for ticker in ("A", "B", "C")), return_exceptions=True)
    await session.close()
    refusals = [result for result in results if isinstance(result, BaseException)]
    assert refusals
    assert any(isinstance(refusal, ConfigurationError) and "another task" in str(refusal) for refusal in refusals)
    said_to_be_stored = {result for result in results if isinstance(result, str)}
    assert said_to_be_stored <= set(stored(backend, database_url))


async def test_a_statement_of_another_task_in_an_open_transaction_is_refused(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await session.execute(sa.text("SELECT 1"))

        async def meddle(action: str) -> None:
            if action == "execute":
                await session.execute(sa.text("SELECT 1"))
            elif action == "rollback":
                await session.rollback()
            else:
                await session.commit()

        for action in ("execute", "commit", "rollback"):
            with pytest.raises(ConfigurationError, match="one session for each task"):
                await asyncio.create_task(meddle(action))


async def test_a_session_may_pass_from_one_task_to_the_next_between_transactions(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    async with db.get_session() as session:
        for ticker in ("A", "B"):

            async def add(ticker: str = ticker) -> None:
                session.add(Metadata(ticker=ticker))
                await session.commit()

            await asyncio.create_task(add())
    assert stored(backend, database_url) == ["A", "B"]


async def test_a_session_that_was_never_closed_gives_its_connection_back_when_its_task_is_cancelled(
    db: DatabaseManager,
) -> None:
    async def work() -> None:
        async with db.session_context() as session:
            await session.execute(sa.text("SELECT 1"))
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_long_write_is_warned_about_where_it_stops_all_others(
    db: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()
    began = time.monotonic()
    async with db.session_context() as session:
        session.add(Metadata(ticker="AAPL"))
        await session.flush()
        await asyncio.sleep(1.05)
    seconds = time.monotonic() - began
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "write" in r.getMessage()]
    assert seconds > 1
    assert len(warnings) == (not db.dialect.exact_decimals)  # the database without a server is the one without decimals


# --- run: a unit of work that is repeated -----------------------------------------------------------------------------


async def test_run_gives_the_result_and_commits(backend: Backend, db: DatabaseManager, database_url: str) -> None:
    async def work(session: AsyncSession) -> str:
        session.add(Metadata(ticker="AAPL"))
        return "done"

    assert await db.run(work) == "done"
    assert stored(backend, database_url) == ["AAPL"]


@pytest.mark.parametrize("kind", [TransactionConflictError, DatabaseUnavailableError])
async def test_run_repeats_a_passing_failure_from_an_empty_transaction(
    backend: Backend, db: DatabaseManager, database_url: str, kind: type[Exception]
) -> None:
    sessions: list[AsyncSession] = []

    async def work(session: AsyncSession) -> int:
        session.add(Metadata(ticker=f"T{len(sessions)}"))
        await session.flush()
        sessions.append(session)
        if len(sessions) < 3:
            raise kind("passes")
        return len(sessions)

    with stamina.set_testing(True, attempts=10, cap=True):
        assert await db.run(work, retries=3) == 3
    assert len(set(map(id, sessions))) == 3
    assert stored(backend, database_url) == ["T2"]


async def test_run_gives_up_with_the_last_error(db: DatabaseManager) -> None:
    attempts = 0

    async def work(_session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        raise TransactionConflictError(f"number {attempts}")

    with stamina.set_testing(True, attempts=10, cap=True), pytest.raises(TransactionConflictError, match="number 3"):
        await db.run(work, retries=2)
    assert attempts == 3


@pytest.mark.parametrize(
    "error", [DuplicateRowError("x"), InvalidRowError("x"), KeyError("x"), ConfigurationError("x")]
)
async def test_run_does_not_repeat_what_would_fail_again(db: DatabaseManager, error: Exception) -> None:
    attempts = 0

    async def work(_session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        raise error

    with pytest.raises(type(error)):
        await db.run(work)
    assert attempts == 1


@pytest.mark.parametrize(("idempotent", "wanted"), [(False, 1), (True, 2)])
async def test_run_repeats_an_unknown_outcome_only_if_that_does_no_harm(
    db: DatabaseManager, idempotent: bool, wanted: int
) -> None:
    attempts = 0

    async def work(_session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise CommitOutcomeUnknownError("lost")

    with stamina.set_testing(True, attempts=10, cap=True):
        if idempotent:
            await db.run(work, idempotent=True)
        else:
            with pytest.raises(CommitOutcomeUnknownError):
                await db.run(work)
    assert attempts == wanted


async def test_every_attribute_of_every_model_can_be_read_after_a_flush(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        event = SystemEvent(event_type="a", description="b", severity="INFO")
        about = Metadata(ticker="AAPL")
        bar = DailyData(**daily())
        rows: list[Base] = [event, about, bar]
        session.add_all(rows)
        await session.flush()
        seen = [getattr(row, column.name) for row in rows for column in type(row).__table__.columns]
        event.severity, about.sector, bar.volume = "ERROR", "Technology", Decimal(5)
        await session.flush()
        again = [getattr(row, column.name) for row in rows for column in type(row).__table__.columns]
    assert len(seen) == len(again)
