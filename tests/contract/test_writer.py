"""The writer for live feeds: many callers, few transactions, and everyone's own outcome."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa

from tests.bars import DAY, OPENING, daily, days, flat, intraday, minutes
from traderrr_data import (
    CommitOutcomeUnknownError,
    ConfigurationError,
    DatabaseManager,
    DuplicateRowError,
    IntradayData,
    InvalidRowError,
    market_data,
)
from traderrr_data.ingest import BarWriter, SpillError, UnwrittenRowsError, bar_writer

HOUR = 3600.0
Keep: TypeAlias = Callable[..., Awaitable[BarWriter]]


async def closes(db: DatabaseManager, ticker: str = "AAPL") -> list[Decimal]:
    async with db.session_context(read_only=True) as session:
        return [bar.close for bar in await market_data.list_daily(session, ticker)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what the writer does shows in its counters only
            await asyncio.sleep(0.002)


@contextlib.contextmanager
def counted_commits(db: DatabaseManager) -> Iterator[list[int]]:
    """Count the transactions that are committed."""
    commits: list[int] = []

    def note(_connection: sa.Connection) -> None:
        commits.append(len(commits))

    sa.event.listen(db.engine.sync_engine, "commit", note)
    try:
        yield commits
    finally:
        sa.event.remove(db.engine.sync_engine, "commit", note)


@contextlib.asynccontextmanager
async def locked(db: DatabaseManager, ticker: str = "HELD") -> AsyncIterator[None]:
    """Hold the lock of one bar, so that a transaction that writes it does not come to its end."""
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(ticker, close=10)])
        yield


@pytest.fixture
async def impatient(db: DatabaseManager) -> AsyncIterator[DatabaseManager]:
    """A manager for which the database is away as long as somebody holds a lock."""
    async with DatabaseManager(db.settings.model_copy(update={"db_statement_timeout": 0.2})) as manager:
        yield manager


@pytest.fixture
async def one_source_a_bar(db: DatabaseManager) -> AsyncIterator[None]:
    """Something that the database refuses and no check knows of; 'TAKEN' is taken."""
    async with db.engine.begin() as connection:
        await connection.execute(sa.text("CREATE UNIQUE INDEX one_source_a_bar ON daily_data (source)"))
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("OWNER", source="TAKEN")])
    yield
    index = sa.Index("one_source_a_bar", sa.Table("daily_data", sa.MetaData(), sa.Column("source")).c.source)
    async with db.engine.begin() as connection:
        await connection.execute(sa.schema.DropIndex(index))


async def test_a_row_with_an_instant_is_intraday_and_any_other_daily(db: DatabaseManager) -> None:
    async with bar_writer(db, timeframe="1m", series="feed") as writer:
        await writer.put(daily())
        await writer.put(intraday())
        await writer.put(IntradayData(**intraday(datetime=minutes(2)[1])))
        for row in (intraday(timeframe="5m"), daily(series="other")):
            with pytest.raises(InvalidRowError):
                await writer.put(row)
    async with bar_writer(db) as writer:
        await writer.put(intraday(timeframe="5m", series="other"))
    async with db.session_context(read_only=True) as session:
        assert [(c.series, c.timeframe, c.rows) for c in await market_data.coverage(session)] == [
            ("feed", None, 1),
            ("feed", "1m", 2),
            ("other", "5m", 1),
        ]


async def test_a_bar_that_another_writer_deletes_meanwhile_is_stored(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        assert await writer.write(daily()) == "inserted"
        async with db.session_context() as session:
            await market_data.delete_daily(session, "AAPL")
            writing = asyncio.create_task(writer.write(daily(close="11.5")))
            await asyncio.sleep(0.3)  # it waits for the row
        assert await writing == "inserted"
    assert await closes(db) == [Decimal("11.5")]


async def test_write_tells_each_caller_what_became_of_the_row(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        assert await writer.write(daily()) == "inserted"
        assert await writer.write(daily()) == "unchanged"
        assert await writer.write(daily(is_final=True)) == "updated"
        assert await writer.write(daily(is_final=False, close=12)) == "skipped"
        rows = [daily(close=12, is_final=True), daily("NEW"), daily(is_final=False), daily("NEW", close=12)]
        assert await asyncio.gather(*map(writer.write, rows)) == ["updated", "inserted", "skipped", "updated"]
    assert await closes(db) == [12]


async def test_a_row_is_in_the_database_when_write_returns(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        await writer.write(daily())
        assert await closes(db) == [11]


async def test_a_hundred_callers_at_once_share_a_transaction(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        with counted_commits(db) as commits:
            outcomes = await asyncio.gather(*(writer.write(daily(f"T{n}")) for n in range(100)))
        assert outcomes == ["inserted"] * 100
        assert len(commits) == 1


async def test_callers_that_come_while_a_transaction_runs_go_together_into_the_next(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        async with locked(db):
            first = asyncio.create_task(writer.write(daily("HELD")))
            await until(lambda: writer.status.pending == 1)
            others = [asyncio.create_task(writer.write(daily(f"T{n}"))) for n in range(50)]
            await until(lambda: writer.status.pending == 51)
            assert not any(task.done() for task in (first, *others))
        with counted_commits(db) as commits:
            assert await asyncio.gather(first, *others) == ["updated", *["inserted"] * 50]
        assert len(commits) == 2


async def test_rows_that_go_in_different_transactions_by_their_number(db: DatabaseManager) -> None:
    async with bar_writer(db, max_rows=10) as writer:
        with counted_commits(db) as commits:
            await asyncio.gather(*(writer.write(daily(f"T{n}")) for n in range(35)))
        assert len(commits) == 4


async def test_an_invalid_row_is_refused_before_it_is_accepted(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        for row in (daily(close="much"), daily(close=13), intraday(), {"ticker": "AAPL"}, daily(datetime=OPENING)):
            with pytest.raises(InvalidRowError):
                await writer.put(row)
            with pytest.raises(InvalidRowError):
                await writer.write(row)
        assert writer.status.accepted == 0
    async with bar_writer(db, allow_inconsistent=True) as writer:
        assert await writer.write(daily(close=13)) == "inserted"


async def test_a_row_that_the_database_refuses_fails_its_caller_alone(
    db: DatabaseManager, one_source_a_bar: None
) -> None:
    async with bar_writer(db) as writer:
        rows = [daily(f"T{n}", source="TAKEN" if n == 13 else f"S{n}") for n in range(30)]
        outcomes = await asyncio.gather(*map(writer.write, rows), return_exceptions=True)
        refused = outcomes.pop(13)
        assert outcomes == ["inserted"] * 29
        assert isinstance(refused, DuplicateRowError)
        assert writer.status.rejected == 1
        assert writer.status.last_error is refused
        await writer.flush()
    assert await closes(db, "T29") == [11]
    assert await closes(db, "T13") == []


async def test_a_refused_row_of_put_is_counted_told_by_flush_and_takes_nobody_with_it(
    db: DatabaseManager, one_source_a_bar: None
) -> None:
    async with bar_writer(db) as writer:
        for source in ("A", "TAKEN", "B"):
            await writer.put(daily(f"OF-{source}", source=source))
        with pytest.raises(DuplicateRowError) as caught:
            await writer.flush()
        assert "OF-TAKEN" in "".join(caught.value.__notes__)
        status = writer.status
        assert (status.accepted, status.written, status.rejected, status.pending) == (3, 2, 1, 0)
        assert status.last_error is caught.value
        await writer.flush()
    assert await closes(db, "OF-B") == [11]


async def test_the_end_of_the_block_tells_of_a_refused_row(db: DatabaseManager, one_source_a_bar: None) -> None:
    with pytest.raises(DuplicateRowError):
        async with bar_writer(db) as writer:
            await writer.put(daily(source="TAKEN"))


async def test_rows_are_written_when_there_are_enough_of_them(db: DatabaseManager) -> None:
    async with bar_writer(db, max_delay=HOUR, max_rows=3) as writer:
        await writer.put(daily(date=days(4)[0]))
        await writer.put(daily(date=days(4)[1]))
        assert writer.status.pending == 2
        await writer.put(daily(date=days(4)[2]))
        await until(lambda: writer.status.pending == 0)
        await writer.put(daily(date=days(4)[3]))
        assert len(await closes(db)) == 3
        assert writer.status.pending == 1


async def test_rows_are_written_after_a_while(db: DatabaseManager) -> None:
    async with bar_writer(db, max_delay=0.05) as writer:
        await writer.put(daily())
        assert writer.status.pending == 1
        await until(lambda: writer.status.pending == 0)
        assert await closes(db) == [11]


async def test_flush_waits_for_everything_that_was_accepted_before(db: DatabaseManager) -> None:
    async with bar_writer(db, max_delay=HOUR, max_rows=7) as writer:
        await writer.flush()
        for date in days(50):
            await writer.put(daily(date=date))
        await writer.flush()
        assert writer.status.pending == 0
        assert len(await closes(db)) == 50


async def test_put_waits_while_too_many_rows_are_unwritten(db: DatabaseManager) -> None:
    async with bar_writer(db, max_pending=3, max_delay=HOUR) as writer:
        async with locked(db):
            for row in (daily("HELD"), daily("B"), daily("C")):
                await writer.put(row)
            waiting = [asyncio.create_task(writer.put(daily(f"T{n}"))) for n in range(5)]
            given_up = asyncio.create_task(writer.put(daily("GIVEN-UP")))
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in (*waiting, given_up))
            assert writer.status.accepted == 3
            given_up.cancel()
        await asyncio.gather(*waiting)
        await writer.flush()
        assert writer.status.accepted == writer.status.written == 8
    assert await closes(db, "GIVEN-UP") == []
    assert await closes(db, "T4") == [11]


async def test_the_end_of_the_block_writes_what_was_accepted(db: DatabaseManager) -> None:
    async with bar_writer(db, max_delay=HOUR, max_rows=2) as writer:
        for date in days(5):
            await writer.put(daily(date=date))
    assert len(await closes(db)) == 5
    assert writer.status.pending == 0
    assert writer.unwritten == ()


async def test_an_error_in_the_block_goes_on_after_the_rows_are_written(db: DatabaseManager) -> None:
    with pytest.raises(KeyError):
        async with bar_writer(db, max_delay=HOUR) as writer:
            await writer.put(daily())
            raise KeyError("of the caller")
    assert await closes(db) == [11]


async def test_a_cancelled_feed_writes_what_it_had_accepted(db: DatabaseManager) -> None:
    accepted = asyncio.Event()

    async def feed() -> None:
        async with bar_writer(db, max_delay=HOUR) as writer:
            for date in days(20):
                await writer.put(daily(date=date))
            accepted.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(feed())
    await accepted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await closes(db)) == 20


async def test_rows_are_written_although_somebody_cancels_every_task(db: DatabaseManager) -> None:
    before = asyncio.all_tasks()
    async with bar_writer(db, max_delay=HOUR) as writer:
        await writer.put(daily())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.sleep(0.01)
    assert await closes(db) == [11]


async def test_the_newest_of_several_rows_with_one_key_is_stored(db: DatabaseManager) -> None:
    async with bar_writer(db, max_delay=HOUR) as writer:
        for close in (10, 11, 12):
            await writer.put(daily(close=close))
        await writer.flush()
        assert await closes(db) == [12]
        assert (writer.status.written, writer.status.duplicates) == (1, 2)


async def test_each_of_several_callers_with_one_key_gets_an_outcome_of_its_own(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        writes = [writer.write(daily(close=close)) for close in (10, 11, 11, 12)]
        assert await asyncio.gather(*writes) == ["inserted", "updated", "unchanged", "updated"]
    assert await closes(db) == [12]


async def test_a_later_row_with_fewer_columns_leaves_what_the_earlier_one_said(db: DatabaseManager) -> None:
    async with bar_writer(db, max_delay=HOUR) as writer:
        await writer.put(daily(source="first", dividends=1))
        await writer.put(daily(close=12))
        await writer.put(daily(close=12, observed_at=OPENING))
    async with db.session_context(read_only=True) as session:
        [bar] = await market_data.list_daily(session, "AAPL")
    assert (bar.source, bar.observed_at) == ("first", OPENING)
    assert (bar.dividends, bar.close) == (Decimal(1), Decimal(12))


async def test_a_row_observed_earlier_does_not_overwrite_a_later_one(db: DatabaseManager) -> None:
    async with bar_writer(db, max_delay=HOUR) as writer:
        await writer.put(daily(close=12, observed_at=OPENING))
        await writer.put(daily(close=10, observed_at=OPENING - dt.timedelta(seconds=1)))
        await writer.flush()
        assert await writer.write(daily(close=10, observed_at=OPENING - dt.timedelta(seconds=1))) == "skipped"
    assert await closes(db) == [12]


async def test_the_counters_add_up(db: DatabaseManager, one_source_a_bar: None) -> None:
    async with bar_writer(db, max_delay=HOUR) as writer:
        await writer.write(daily("A", is_final=True))
        for row in (daily("A", is_final=True), daily("A", is_final=False), daily("B"), daily("B", close=12)):
            await writer.put(row)
            await writer.put(daily("C", source="TAKEN"))
        with pytest.raises(DuplicateRowError) as caught:
            await writer.flush()
        assert "3 further rows" in "".join(caught.value.__notes__)
        await writer.put(daily("D"))
        status = writer.status
        counts = (status.written, status.unchanged, status.skipped, status.duplicates, status.rejected, status.pending)
        assert sum(counts) == status.accepted == 10
        assert status.rejected == 4
        assert status.pending == 1
    assert writer.status.pending == 0


async def test_a_cancelled_write_keeps_nobody_waiting(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        async with locked(db):
            write = asyncio.create_task(writer.write(daily("HELD", close=12)))
            await until(lambda: writer.status.pending == 1)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
        assert await writer.write(daily()) == "inserted"
    assert await closes(db, "HELD") == [12]


async def test_a_writer_takes_rows_only_inside_of_its_block(db: DatabaseManager) -> None:
    writer = bar_writer(db)
    with pytest.raises(ConfigurationError):
        await writer.put(daily())
    async with writer:
        pass
    for use in (writer.put(daily()), writer.write(daily())):
        with pytest.raises(ConfigurationError):
            await use
    with pytest.raises(ConfigurationError):
        async with writer:
            pass


async def test_a_caller_without_room_is_told_when_the_writer_closes(
    db: DatabaseManager, impatient: DatabaseManager
) -> None:
    async with locked(db):
        with pytest.raises(UnwrittenRowsError):
            async with bar_writer(impatient, max_pending=1, drain_timeout=0.05) as writer:
                await writer.put(daily("HELD"))
                waiting = [asyncio.create_task(writer.put(daily(f"T{n}"))) for n in range(3)]
                await asyncio.sleep(0)
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, ConfigurationError)


@pytest.mark.parametrize("limit", ["max_delay", "max_rows", "max_pending"])
async def test_a_limit_that_would_let_nothing_through_is_refused(db: DatabaseManager, limit: str) -> None:
    with pytest.raises(ConfigurationError, match=limit):
        bar_writer(db, **{limit: 0})  # type: ignore[arg-type]
    with pytest.raises(InvalidRowError):
        bar_writer(db, timeframe="1 minute")


async def test_without_a_spill_the_rows_that_could_not_be_written_are_handed_back(
    db: DatabaseManager, impatient: DatabaseManager
) -> None:
    async with locked(db):
        with pytest.raises(UnwrittenRowsError) as caught:
            async with bar_writer(impatient, drain_timeout=0.05) as writer:
                await writer.put(daily("HELD", close=12))
                write = asyncio.create_task(writer.write(daily("NEXT")))
                await until(lambda: writer.status.pending == 2)
        with pytest.raises(UnwrittenRowsError):
            await write
        with pytest.raises(KeyError) as other:
            async with bar_writer(impatient, drain_timeout=0.05) as writer:
                await writer.put(daily("HELD", close=12))
                raise KeyError("of the caller")
    assert [row["ticker"] for row in caught.value.rows] == ["HELD", "NEXT"]
    assert "1 accepted row" in "".join(other.value.__notes__)
    assert [row["ticker"] for row in writer.unwritten] == ["HELD"]
    async with db.session_context() as session:
        assert (await market_data.upsert_daily(session, caught.value.rows)).written == 2


async def test_the_database_being_busy_for_long_is_waited_out(db: DatabaseManager, impatient: DatabaseManager) -> None:
    async with bar_writer(impatient) as writer:
        async with locked(db):
            write = asyncio.create_task(writer.write(daily("HELD", close=12)))
            await until(lambda: writer.status.last_error is not None)
            assert not write.done()
        assert await write == "updated"
        assert writer.status.pending == 0


async def test_an_error_that_neither_passes_nor_is_one_rows_fault_stops_the_writer(db: DatabaseManager) -> None:
    async with db.engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE daily_data RENAME TO elsewhere"))
    try:
        with pytest.raises(UnwrittenRowsError) as caught:
            async with bar_writer(db) as writer:
                await writer.put(daily("PUT"))
                with pytest.raises(Exception, match="the writer has stopped"):
                    await writer.write(daily("WRITTEN"))
                with pytest.raises(Exception, match="the writer has stopped"):
                    await writer.put(daily("LATE"))
                with pytest.raises(Exception, match="the writer has stopped"):
                    await writer.flush()
    finally:
        async with db.engine.begin() as connection:
            await connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO daily_data"))
    assert [row["ticker"] for row in caught.value.rows] == ["PUT", "WRITTEN"]


class TestSpill:
    """Rows that memory has no room for, and durable ones."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "feed.spill"

    @staticmethod
    def lines(path: Path) -> int:
        return len(path.read_bytes().splitlines())

    @pytest.fixture
    def keep(self, db: DatabaseManager, impatient: DatabaseManager, path: Path) -> Keep:
        """Leave rows in the spill."""

        async def keep(*rows: dict[str, object], **options: Any) -> BarWriter:
            async with locked(db, "HELD"), bar_writer(impatient, spill=path, **options) as writer:
                await writer.put(daily("HELD", close=12))
                for row in rows:
                    await writer.put(row)
            return writer

        return keep

    async def test_rows_without_room_go_to_the_file_and_then_to_the_database(
        self, db: DatabaseManager, path: Path
    ) -> None:
        async with bar_writer(db, spill=path, max_pending=2, max_rows=7) as writer:
            async with locked(db), asyncio.timeout(10):
                await writer.put(daily("HELD"))
                for number, date in enumerate(days(30)):
                    await writer.put(daily(date=date, **flat(number)))
                assert writer.status.pending == 31
                assert self.lines(path) == 32
            await writer.flush()
            assert writer.status.written == 31
            assert await closes(db) == list(map(Decimal, range(30)))
            assert self.lines(path) == 1
            assert await writer.write(daily()) == "updated"

    async def test_outcomes_of_callers_whose_rows_went_through_the_file(self, db: DatabaseManager, path: Path) -> None:
        async with bar_writer(db, spill=path, max_pending=1) as writer:
            async with locked(db):
                tasks = []
                for close in (10, 11, 11, 12):
                    tasks.append(asyncio.create_task(writer.write(daily("HELD", close=close))))
                    await until(lambda: writer.status.accepted == len(tasks))
            assert await asyncio.gather(*tasks) == ["unchanged", "updated", "unchanged", "updated"]

    async def test_a_durable_row_is_in_the_file_when_put_returns(self, db: DatabaseManager, path: Path) -> None:
        async with bar_writer(db, spill=path, max_delay=HOUR) as writer:
            async with locked(db):
                await writer.put(daily("HELD", close=12))
                await writer.put(daily("DURABLE"), durable=True)
                assert b"DURABLE" in path.read_bytes()
            await writer.flush()
            assert self.lines(path) == 1
        assert await closes(db, "DURABLE") == [11]
        async with bar_writer(db) as writer:
            with pytest.raises(ConfigurationError, match="spill"):
                await writer.put(daily(), durable=True)

    async def test_durable_rows_of_many_callers_keep_each_ones_order(self, db: DatabaseManager, path: Path) -> None:
        async def feed(writer: BarWriter, ticker: str) -> None:
            for close in range(20):
                await writer.put(daily(ticker, **flat(close)), durable=close % 3 == 0)

        async with bar_writer(db, spill=path, max_delay=0.001, max_rows=5) as writer:
            await asyncio.gather(*(feed(writer, f"T{n}") for n in range(10)))
            await writer.flush()
            for number in range(10):
                assert await closes(db, f"T{number}") == [19]
            assert writer.status.accepted == 200
            assert self.lines(path) == 1

    async def test_what_is_left_at_the_end_is_written_by_the_next_writer(
        self, db: DatabaseManager, path: Path, keep: Keep
    ) -> None:
        values = daily("KEPT", DAY, open="0.0000000001", low="0.0000000001", source="é\n", is_final=True, volume=None)
        minute = intraday("KEPT", OPENING.replace(microsecond=123456), timeframe="1m", observed_at=OPENING)
        writer = await keep(values, minute)
        assert writer.status.pending == 3
        assert writer.unwritten == ()
        async with bar_writer(db, spill=path) as writer:
            assert writer.status.accepted == 3
            await writer.flush()
            assert writer.status.written == 3
        assert self.lines(path) == 1
        async with db.session_context(read_only=True) as session:
            [bar] = await market_data.list_daily(session, "KEPT")
            [bar_of_a_minute] = await market_data.list_intraday(session, "KEPT", timeframe="1m")
        assert {name: getattr(bar, name) for name in values} == {**values, **flat_prices(values)}
        assert bar_of_a_minute.datetime == minute["datetime"]
        assert bar_of_a_minute.observed_at == OPENING

    async def test_rows_of_the_file_are_written_before_new_ones(
        self, db: DatabaseManager, path: Path, keep: Keep
    ) -> None:
        await keep(*(daily(close=close) for close in (10, 11)))
        async with bar_writer(db, spill=path) as writer:
            assert await writer.write(daily(close=12)) == "updated"
        assert await closes(db) == [12]

    async def test_a_file_that_is_read_again_ends_as_it_did(self, db: DatabaseManager, path: Path, keep: Keep) -> None:
        """As after a crash between the COMMIT and the note of it in the file."""
        await keep(*(daily(close=close) for close in (10, 11, 12)))
        before = path.read_bytes()
        for _ in range(2):
            path.write_bytes(before)
            async with bar_writer(db, spill=path, max_rows=1) as writer:
                await writer.flush()
            assert await closes(db) == [12]

    async def test_a_caller_learns_that_the_row_is_in_the_file(
        self, db: DatabaseManager, impatient: DatabaseManager, path: Path
    ) -> None:
        async with locked(db):
            async with bar_writer(impatient, spill=path) as writer:
                write = asyncio.create_task(writer.write(daily("HELD", close=12)))
                await until(lambda: writer.status.pending == 1)
            with pytest.raises(CommitOutcomeUnknownError):
                await write
        async with bar_writer(db, spill=path):
            pass
        assert await closes(db, "HELD") == [12]

    async def test_a_cancelled_feed_leaves_its_rows_in_the_file(
        self, db: DatabaseManager, impatient: DatabaseManager, path: Path
    ) -> None:
        accepted = asyncio.Event()

        async def feed() -> None:
            async with bar_writer(impatient, spill=path) as writer:
                for number, date in enumerate(days(20)):
                    await writer.put(daily("HELD", date, **flat(number)))
                accepted.set()
                await asyncio.Event().wait()

        async with locked(db):
            task = asyncio.create_task(feed())
            await accepted.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert self.lines(path) == 21
        async with bar_writer(db, spill=path):
            pass
        assert len(await closes(db, "HELD")) == 20

    async def test_a_file_has_one_owner(self, db: DatabaseManager, path: Path) -> None:
        async with bar_writer(db, spill=path):
            with pytest.raises(ConfigurationError, match="another writer"):
                async with bar_writer(db, spill=path):
                    pass
        async with bar_writer(db, spill=path):
            pass

    async def test_a_row_that_the_database_refuses_is_set_aside_with_its_reason(
        self, db: DatabaseManager, path: Path, keep: Keep, one_source_a_bar: None
    ) -> None:
        await keep(daily("A", source="A"), daily("B", source="TAKEN"), daily("C", source="C"))
        async with bar_writer(db, spill=path) as writer:
            with pytest.raises(DuplicateRowError):
                await writer.flush()
            assert (writer.status.written, writer.status.rejected) == (3, 1)
        assert self.lines(path) == 1
        [line] = (path.parent / "feed.spill.rejected").read_text().splitlines()
        poisoned = json.loads(line)
        assert poisoned["table"] == "daily_data"
        assert poisoned["row"]["ticker"] == "B"
        assert "source" in poisoned["reason"]

    async def test_a_row_that_the_rules_no_longer_allow_is_set_aside(
        self, db: DatabaseManager, path: Path, keep: Keep
    ) -> None:
        await keep(daily("ODD", close=13), daily("GOOD"), allow_inconsistent=True)
        async with bar_writer(db, spill=path) as writer:
            with pytest.raises(InvalidRowError, match="between low"):
                await writer.flush()
        assert await closes(db, "GOOD") == [11]
        assert "ODD" in (path.parent / "feed.spill.rejected").read_text()

    async def test_a_damaged_file_is_refused_and_left_alone(self, db: DatabaseManager, path: Path, keep: Keep) -> None:
        await keep(daily("A"), daily("B"))
        damaged = path.read_bytes().replace(b'"A"', b'"Z"')
        path.write_bytes(damaged)
        with pytest.raises(SpillError, match="damaged at byte"):
            async with bar_writer(db, spill=path):
                pass
        assert path.read_bytes() == damaged


def flat_prices(values: dict[str, object]) -> dict[str, Decimal]:
    """Return the prices of a row as decimals."""
    return {name: Decimal(str(values[name])) for name in ("open", "high", "low", "close")}
