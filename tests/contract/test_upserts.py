"""What an upsert does to stored rows, and that its counts say so exactly, also beside other writers."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import random
import threading
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import DAY, OPENING, daily, days, intraday, minutes
from traderrr_data import (
    DailyData,
    DatabaseManager,
    DuplicateRowError,
    IntradayData,
    InvalidRowError,
    Metadata,
    PortfolioPosition,
    Rejection,
    ReplaceResult,
    SystemEvent,
    UpsertResult,
    bulk,
    market_data,
    portfolio,
    system,
    trading,
)

LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAILY_KEY = ("ticker", "series", "date")


def total(result: UpsertResult) -> int:
    counted = result.inserted + result.updated + result.unchanged + result.skipped + result.duplicates
    return counted + len(result.rejected)


async def count(session: AsyncSession, model: Any) -> int | None:
    return await session.scalar(sa.select(sa.func.count()).select_from(model))


async def only(session: AsyncSession, model: Any) -> Any:
    return (await session.scalars(sa.select(model), execution_options={"populate_existing": True})).one()


async def age(session: AsyncSession, model: Any = DailyData) -> None:
    """Let the stored rows have come and changed long ago."""
    await session.execute(sa.update(model).values(created_at=LONG_AGO, updated_at=LONG_AGO))


@contextlib.contextmanager
def statements_sent(db: DatabaseManager) -> Iterator[list[str]]:
    """Collect the first word of each statement."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement.split(maxsplit=1)[0].upper())

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(db.engine.sync_engine, "before_cursor_execute", note)


async def test_counts_say_what_became_of_every_row(session: AsyncSession) -> None:
    dates = days(4)
    stored = [daily(date=dates[0]), daily(date=dates[1]), daily(date=dates[2], is_final=True)]
    assert await market_data.upsert_daily(session, stored) == UpsertResult(inserted=3)
    batch = [
        daily(date=dates[0]),
        daily(date=dates[1], close=10),
        daily(date=dates[2], close=10),
        daily(date=dates[3], close=10),
        daily(date=dates[3]),
        daily(date=dates[3], volume=-1),
    ]
    result = await market_data.upsert_daily(session, batch, on_invalid="reject")
    assert result == UpsertResult(
        inserted=1,
        updated=1,
        unchanged=1,
        skipped=1,
        duplicates=1,
        rejected=(Rejection(5, "volume", "-1.00000000 is negative"),),
    )
    assert (total(result), result.written) == (len(batch), 2)
    bars = await market_data.list_daily(session, "AAPL")
    assert [bar.close for bar in bars] == [11, 10, 11, 11]


async def test_the_same_batch_again_changes_nothing(db: DatabaseManager) -> None:
    rows = [daily(ticker, date) for ticker in ("AAPL", "MSFT") for date in days(400)]
    async with db.session_context() as session:
        assert await market_data.upsert_daily(session, rows) == UpsertResult(inserted=800)
        await age(session)
    with statements_sent(db) as sent:
        async with db.session_context() as session:
            assert await market_data.upsert_daily(session, rows[::-1]) == UpsertResult(unchanged=800)
    assert not {"UPDATE", "DELETE", "REPLACE"} & set(sent)
    async with db.session_context() as session:
        for column in (DailyData.created_at, DailyData.updated_at):
            assert set((await session.scalars(sa.select(column))).all()) == {LONG_AGO}


@pytest.mark.parametrize(
    "same",
    [
        {"close": "11.00"},
        {"close": 11.0},
        {"volume": 100.0},
        {"date": "2025-01-02"},
        {"observed_at": OPENING.astimezone(dt.timezone(-5 * HOUR))},
        {"series": ""},
        {},
    ],
    ids=str,
)
async def test_a_row_that_reads_the_same_is_unchanged(session: AsyncSession, same: dict[str, Any]) -> None:
    await market_data.upsert_daily(session, [daily(observed_at=OPENING, source="x")])
    assert await market_data.upsert_daily(session, [daily(**same)]) == UpsertResult(unchanged=1)


async def test_an_unchanged_row_keeps_its_updated_at_and_a_changed_one_moves_it(session: AsyncSession) -> None:
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=2)  # not every database keeps fractions of a second
    await market_data.upsert_daily(session, [daily(), daily("MSFT")])
    await market_data.upsert_metadata(session, [{"ticker": "AAPL", "sector": "Tech"}])
    await portfolio.upsert_position(session, "AAPL", 5)
    for model in (DailyData, Metadata, PortfolioPosition):
        await age(session, model)
    await market_data.upsert_daily(session, [daily(), daily("MSFT", close=10)])
    await market_data.upsert_metadata(session, [{"ticker": "AAPL", "sector": "Technology"}])
    await portfolio.upsert_position(session, "AAPL", 6)
    changed: list[Any] = [*await market_data.list_daily(session, "MSFT"), *await portfolio.list_positions(session)]
    for row in [*changed, await market_data.get_metadata(session, "AAPL")]:
        assert row.created_at == LONG_AGO
        assert before <= row.updated_at <= dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
    [unchanged] = await market_data.list_daily(session, "AAPL")
    assert (unchanged.created_at, unchanged.updated_at) == (LONG_AGO, LONG_AGO)


async def test_an_update_keeps_what_it_does_not_name(session: AsyncSession) -> None:
    # As REPLACE would not: it deletes the row and inserts another.
    await market_data.upsert_daily(session, [daily(dividends="0.24", source="x")])
    await market_data.upsert_metadata(session, [{"ticker": "AAPL", "company_name": "Apple", "market_cap": 5}])
    await age(session, Metadata)
    first_id = (await market_data.get_metadata(session, "AAPL")).id
    await market_data.upsert_daily(session, [daily(close=10)])
    await market_data.upsert_metadata(session, [{"ticker": "AAPL", "market_cap": 6}])
    bar = await only(session, DailyData)
    assert (bar.close, bar.dividends, bar.source) == (10, Decimal("0.24"), "x")
    about = await market_data.get_metadata(session, "AAPL")
    assert (about.id, about.created_at) == (first_id, LONG_AGO)
    assert (about.company_name, about.market_cap) == ("Apple", Decimal(6))


async def test_an_absent_column_keeps_what_is_stored_and_none_clears_it(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily(volume=5, dividends="0.24", source="x", is_final=False)])
    cleared = daily(dividends=None, is_final=None)
    del cleared["volume"]
    assert await market_data.upsert_daily(session, [cleared]) == UpsertResult(updated=1)
    bar = await only(session, DailyData)
    assert (bar.volume, bar.dividends, bar.source, bar.is_final) == (5, None, "x", None)


async def test_rows_of_one_batch_may_have_different_columns(session: AsyncSession) -> None:
    dates = days(4)
    await market_data.upsert_daily(session, [daily(date=date, source="old", dividends=1) for date in dates[:2]])
    batch = [
        daily(date=dates[0], source="new"),
        daily(date=dates[1], dividends=None),
        daily(date=dates[2], source="new"),
        daily(date=dates[3], dividends=2),
    ]
    assert await market_data.upsert_daily(session, batch) == UpsertResult(inserted=2, updated=2)
    bars = await market_data.list_daily(session, "AAPL")
    assert [(bar.source, bar.dividends) for bar in bars] == [("new", 1), ("old", None), ("new", None), (None, 2)]
    assert [bar.series for bar in bars] == [""] * 4


async def test_of_a_repeated_key_the_last_of_the_highest_finality_is_stored(session: AsyncSession) -> None:
    batch = [daily(close=10, is_final=True), daily(close=11, is_final=True), daily(close=12, is_final=False)]
    assert await market_data.upsert_daily(session, batch) == UpsertResult(inserted=1, duplicates=2)
    assert (await only(session, DailyData)).close == 11


RANKS: list[bool | None] = [False, None, True]


async def test_a_lower_finality_never_overwrites_a_higher_one(session: AsyncSession) -> None:
    for old, new in itertools.product(RANKS, RANKS):
        ticker = f"{old}-{new}"
        await market_data.upsert_daily(session, [daily(ticker, is_final=old)])
        result = await market_data.upsert_daily(session, [daily(ticker, close=10, is_final=new)])
        [bar] = await market_data.list_daily(session, ticker)
        if RANKS.index(new) < RANKS.index(old):
            assert (result, bar.close, bar.is_final) == (UpsertResult(skipped=1), Decimal(11), old)
        else:
            assert (result, bar.close, bar.is_final) == (UpsertResult(updated=1), Decimal(10), new)


async def test_an_older_observation_never_overwrites_a_newer_one(session: AsyncSession) -> None:
    async def given(close: int, observed_at: dt.datetime | None) -> UpsertResult:
        return await market_data.upsert_daily(session, [daily(close=close, observed_at=observed_at)])

    await given(10, OPENING)
    assert await given(11, OPENING - HOUR) == UpsertResult(skipped=1)
    assert await given(11, OPENING) == UpsertResult(updated=1)
    assert await given(11, OPENING + HOUR) == UpsertResult(updated=1), "the newer observation must be remembered"
    assert await given(12, OPENING) == UpsertResult(skipped=1)
    assert await given(12, None) == UpsertResult(updated=1), "only where both say when, one is older"


async def test_on_conflict_says_what_to_do_with_a_stored_row(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily()])
    batch = [daily(close=10), daily("MSFT")]
    assert await market_data.upsert_daily(session, batch, on_conflict="ignore") == UpsertResult(inserted=1, skipped=1)
    assert [bar.close for bar in await market_data.list_daily(session, "AAPL")] == [11]
    with pytest.raises(DuplicateRowError, match="ticker=AAPL, series=, date=2025-01-02"):
        await market_data.upsert_daily(session, [daily("NEW"), daily()], on_conflict="error")
    assert await market_data.list_daily(session, "NEW") == []
    assert await market_data.upsert_daily(session, batch, on_conflict="update") == UpsertResult(updated=1, unchanged=1)


async def test_an_invalid_row_stops_the_batch_before_anything_is_written(session: AsyncSession) -> None:
    with pytest.raises(InvalidRowError) as refused:
        await market_data.upsert_daily(session, [daily(), daily("MSFT", close="many")])
    assert (refused.value.row, refused.value.column) == (1, "close")
    assert str(refused.value) == "row 1, column 'close': 'many' is not a number"
    assert await count(session, DailyData) == 0


async def test_rejected_rows_are_named_and_the_others_are_stored(session: AsyncSession) -> None:
    batch = [daily(""), daily("A"), daily("B", volume=-1), daily("C", close=99), daily("D")]
    result = await market_data.upsert_daily(session, batch, on_invalid="reject")
    assert result == UpsertResult(
        inserted=2,
        rejected=(
            Rejection(0, "ticker", "it is empty"),
            Rejection(2, "volume", "-1.00000000 is negative"),
            Rejection(3, "close", "99.0000000000 is not between low 9.0000000000 and high 12.0000000000"),
        ),
    )


async def test_prices_out_of_order_are_stored_as_sent_if_the_caller_says_so(session: AsyncSession) -> None:
    with pytest.raises(InvalidRowError, match="is not between"):
        await market_data.upsert_daily(session, [daily(close=99)])
    await market_data.upsert_daily(session, [daily(close=99)], allow_inconsistent=True)
    await market_data.upsert_intraday(session, [intraday(low=50)], timeframe="1m", allow_inconsistent=True)
    assert (await only(session, DailyData)).close == 99
    assert (await only(session, IntradayData)).low == 50


@pytest.mark.parametrize("given", [None, "AAPL", daily(), 5], ids=lambda value: type(value).__name__)
async def test_what_is_no_batch_is_refused_clearly(session: AsyncSession, given: Any) -> None:
    with pytest.raises(InvalidRowError, match="a batch is a list of rows or a frame, not one"):
        await market_data.upsert_daily(session, given)


async def test_an_empty_batch_is_no_mistake(session: AsyncSession) -> None:
    batches: list[Any] = [[], iter(()), pa.table({}), pd.DataFrame()]
    for empty in batches:
        assert await market_data.upsert_daily(session, empty) == UpsertResult()
    assert await market_data.upsert_metadata(session, []) == UpsertResult()
    assert await trading.add_signals(session, []) == UpsertResult()


async def test_a_generator_is_read_once_and_to_its_end(session: AsyncSession) -> None:
    rows = (daily(date=date) for date in days(700))
    assert await market_data.upsert_daily(session, rows) == UpsertResult(inserted=700)
    assert await count(session, DailyData) == 700


async def test_a_row_may_not_bring_its_id_or_timestamps(session: AsyncSession) -> None:
    for own in ({"id": 5}, {"created_at": OPENING}, {"updated_at": OPENING}):
        with pytest.raises(InvalidRowError, match="is set by the database"):
            await market_data.upsert_metadata(session, [{"ticker": "AAPL"} | own])


async def test_repeating_an_upsert_burns_no_ids(session: AsyncSession) -> None:
    for _ in range(3):
        await market_data.upsert_metadata(session, [{"ticker": "AAPL"}, {"ticker": "MSFT"}])
    await market_data.upsert_metadata(session, [{"ticker": "NVDA"}])
    ids = [row.id for row in await market_data.list_metadata(session)]
    assert ids == [ids[0], ids[0] + 1, ids[0] + 2]


async def test_model_objects_are_rows_and_stay_the_callers(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        given = [DailyData(**daily()), DailyData(**daily("MSFT"))]
        assert await market_data.upsert_daily(session, given) == UpsertResult(inserted=2)
        assert not session.new
        stored = await market_data.list_daily(session, "AAPL")
        again = await market_data.upsert_daily(session, stored)
        assert again == UpsertResult(unchanged=1), "what was read is a row, too"


async def test_objects_that_wait_in_the_session_count_as_stored(session: AsyncSession) -> None:
    session.add(DailyData(**daily()))
    assert await market_data.upsert_daily(session, [daily(close=10)]) == UpsertResult(updated=1)
    assert [bar.close for bar in await market_data.list_daily(session, "AAPL")] == [10]


async def test_series_lie_beside_each_other(session: AsyncSession) -> None:
    for series, close in (("", 11), ("adjusted", 10), ("Adjusted", 12)):
        result = await market_data.upsert_daily(session, [daily(close=close)], series=series)
        assert result == UpsertResult(inserted=1)
    assert [bar.close for bar in await market_data.list_daily(session, "AAPL")] == [11]
    assert [bar.close for bar in await market_data.list_daily(session, "AAPL", series="adjusted")] == [10]
    with pytest.raises(InvalidRowError, match="'bid' is not the 'adjusted' of this call"):
        await market_data.upsert_daily(session, [daily(series="bid")], series="adjusted")
    assert await market_data.upsert_daily(session, [daily(series="bid")]) == UpsertResult(inserted=1)


async def test_timeframes_lie_beside_each_other_in_one_spelling(session: AsyncSession) -> None:
    for timeframe in ("1m", "5m", "60m"):
        result = await market_data.upsert_intraday(session, [intraday()], timeframe=timeframe)
        assert result == UpsertResult(inserted=1)
    assert await market_data.upsert_intraday(session, [intraday()], timeframe="1h") == UpsertResult(unchanged=1)
    assert await market_data.upsert_intraday(session, [intraday(timeframe="3600s")]) == UpsertResult(unchanged=1)
    stored = await session.scalars(sa.select(IntradayData.timeframe).order_by(IntradayData.timeframe))
    assert stored.all() == ["1h", "1m", "5m"]
    assert len(await market_data.list_intraday(session, "AAPL", timeframe="60m")) == 1
    with pytest.raises(InvalidRowError, match="column 'timeframe': is missing"):
        await market_data.upsert_intraday(session, [intraday()])
    with pytest.raises(InvalidRowError, match="is not a timeframe"):
        await market_data.upsert_intraday(session, [intraday()], timeframe="1 minute")


def frame_columns(**values: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {"ticker": ["AAPL"] * 3, "date": days(3)}
    columns |= {name: [10.0, 11.5, float("nan")] for name in ("open", "high", "low", "close")}
    return columns | {"volume": [5, 6, 0], "dividends": [float("nan"), 0.24, float("nan")]} | values


@pytest.mark.parametrize(
    "frame",
    [
        pa.table(frame_columns()),
        pa.table(frame_columns(close=pa.array([10.0, 11.5, float("nan")], pa.float32()))),
        pd.DataFrame(frame_columns()),
        pd.DataFrame(frame_columns()).set_index("date"),
        pd.DataFrame(frame_columns(date=pd.DatetimeIndex(days(3)).tz_localize("Asia/Tokyo").as_unit("ns"))),
        pd.concat([pd.DataFrame(frame_columns(ticker=t)) for t in ("SKIP", "AAPL")]).query("ticker == 'AAPL'"),
        pl.DataFrame(frame_columns()),
    ],
    ids=["arrow", "float32", "pandas", "indexed", "ns timestamps", "filtered", "polars"],
)
async def test_frames_of_floats_just_work(session: AsyncSession, frame: Any) -> None:
    result = await market_data.upsert_daily(session, frame)
    assert result == UpsertResult(inserted=2, skipped=1), "a row without any price is no bar"
    bars = await market_data.list_daily(session, "AAPL")
    assert [(bar.date, bar.close, bar.volume, bar.dividends) for bar in bars] == [
        (days(2)[0], Decimal(10), Decimal(5), None),
        (days(2)[1], Decimal("11.5"), Decimal(6), Decimal("0.24")),
    ]
    assert await market_data.upsert_daily(session, frame) == UpsertResult(unchanged=2, skipped=1)


async def test_what_was_read_as_a_frame_may_be_stored_as_one(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily(is_final=True, observed_at=OPENING), daily("MSFT", dividends="0.1")])
    for exact in (True, False):
        frame = await market_data.daily_frame(session, exact=exact)
        assert await market_data.upsert_daily(session, frame) == UpsertResult(unchanged=2)


async def test_a_batch_of_unknown_or_large_size_is_checked_beside_the_event_loop(session: AsyncSession) -> None:
    threads = set()

    class Noted(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            threads.add(threading.current_thread())
            return super().__iter__()

    rows = Noted(intraday(datetime=minute) for minute in minutes(3_000))
    assert await market_data.upsert_intraday(session, rows, timeframe="1m") == UpsertResult(inserted=3_000)
    few = (row for rows in [Noted(rows[:5])] for row in rows)
    assert await market_data.upsert_intraday(session, few, timeframe="1m") == UpsertResult(unchanged=5)
    assert threads
    assert threading.current_thread() not in threads


# Replacing a window


async def test_a_replaced_window_holds_exactly_the_rows_given(session: AsyncSession) -> None:
    dates = days(5)
    await market_data.upsert_daily(session, [daily(date=date, is_final=True, source="x") for date in dates])
    await market_data.upsert_daily(session, [daily(date=dates[2])], series="bid")
    await market_data.upsert_daily(session, [daily("MSFT", dates[2])])
    rows = [daily(date=dates[1], is_final=True, source="x"), daily(date=dates[3], close=10)]
    result = await market_data.replace_daily(session, "AAPL", rows, start=dates[1], end=dates[4])
    assert result == ReplaceResult(updated=1, unchanged=1, deleted=1)
    bars = await market_data.list_daily(session, "AAPL")
    assert [bar.date for bar in bars] == [dates[0], dates[1], dates[3], dates[4]]
    assert (bars[2].close, bars[2].is_final, bars[2].source) == (Decimal(10), None, None), "what is absent is cleared"
    assert len(await market_data.list_daily(session, "AAPL", series="bid")) == 1
    assert len(await market_data.list_daily(session, "MSFT")) == 1
    again = await market_data.replace_daily(session, "AAPL", rows, start=dates[1], end=dates[4])
    assert again == ReplaceResult(unchanged=2)


async def test_a_window_may_be_emptied_and_open_at_both_ends(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily(date=date) for date in days(3)])
    assert await market_data.replace_daily(session, "AAPL", [daily()]) == ReplaceResult(unchanged=1, deleted=2)
    assert await market_data.replace_daily(session, "AAPL", []) == ReplaceResult(deleted=1)


@pytest.mark.parametrize(
    "outside",
    [{"date": days(4)[3]}, {"date": DAY - dt.timedelta(days=1)}, {"ticker": "MSFT"}, {"series": "bid"}],
    ids=str,
)
async def test_a_row_outside_of_the_window_is_refused_and_nothing_changes(
    session: AsyncSession, outside: dict[str, Any]
) -> None:
    await market_data.upsert_daily(session, [daily(date=date) for date in days(3)])
    with pytest.raises(InvalidRowError) as refused:
        await market_data.replace_daily(session, "AAPL", [daily(), daily(**outside)], start=DAY, end=days(4)[3])
    assert (refused.value.row, refused.value.column) == (1, "date" if outside.get("series") else next(iter(outside)))
    assert [bar.date for bar in await market_data.list_daily(session, "AAPL")] == days(3)


async def test_an_intraday_window_is_replaced_for_one_timeframe(session: AsyncSession) -> None:
    times = minutes(3)
    for timeframe in ("1m", "60m"):
        await market_data.upsert_intraday(session, [intraday(datetime=time) for time in times], timeframe=timeframe)
    result = await market_data.replace_intraday(
        session, "AAPL", [intraday(datetime=times[1], close=10)], timeframe="3600s", start=times[1], end=times[2]
    )
    assert result == ReplaceResult(updated=1)
    result = await market_data.replace_intraday(session, "AAPL", [], timeframe="1h", start=times[1])
    assert result == ReplaceResult(deleted=2)
    assert len(await market_data.list_intraday(session, "AAPL", timeframe="1m")) == 3
    assert [bar.datetime for bar in await market_data.list_intraday(session, "AAPL", timeframe="1h")] == times[:1]


# Transactions


async def test_a_failed_upsert_undoes_itself_alone_and_the_transaction_goes_on(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
        # Two chunks: the first is written before the second fails.
        rows = [daily("A", date) for date in days(600)] + [daily()]
        with pytest.raises(DuplicateRowError):
            await market_data.upsert_daily(session, rows, on_conflict="error")
        await market_data.upsert_daily(session, [daily("MSFT")])
    async with db.session_context(read_only=True) as session:
        assert [(row.ticker, row.rows) for row in await market_data.coverage(session)] == [("AAPL", 1), ("MSFT", 1)]
        [bar] = await market_data.list_daily(session, "AAPL")
        assert bar.close == 11


@pytest.mark.parametrize("savepoint", [True, False])
async def test_an_upsert_is_part_of_its_transaction_with_and_without_a_savepoint(
    db: DatabaseManager, *, savepoint: bool
) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with db.session_context() as session:
            await bulk.upsert(session, DailyData, [daily()], key=DAILY_KEY, fixed={"series": ""}, savepoint=savepoint)
            1 / 0  # noqa: B018 - an error of the caller's own
    async with db.session_context(read_only=True) as session:
        assert await count(session, DailyData) == 0


async def test_a_rollback_leaves_nothing(db: DatabaseManager) -> None:
    async def fail() -> None:
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [daily()])
            await market_data.replace_daily(session, "MSFT", [daily("MSFT")])
            await system.add_event(session, "TEST", "it happened")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with db.session_context(read_only=True) as session:
        assert [await count(session, model) for model in (DailyData, SystemEvent)] == [0, 0]


# Additions that may be repeated


async def test_an_addition_with_a_dedupe_key_may_be_repeated(session: AsyncSession) -> None:
    signal: dict[str, Any] = {"date": DAY, "signal_type": "BUY", "confidence": 0.7, "dedupe_key": "run 1"}
    assert await trading.add_signal(session, "AAPL", **signal)
    assert not await trading.add_signal(session, "AAPL", **signal)
    with pytest.raises(DuplicateRowError, match="run 1"):
        await trading.add_signal(session, "AAPL", **signal | {"confidence": 0.8})
    assert len(await trading.list_signals(session)) == 1
    del signal["dedupe_key"]
    assert [await trading.add_signal(session, "AAPL", **signal) for _ in range(2)] == [True, True]
    assert await trading.add_performance(session, date=DAY, portfolio_value=5, dedupe_key="run 1")
    assert not await trading.add_performance(session, date=DAY, portfolio_value="5.00", dedupe_key="run 1")
    assert await system.add_event(session, "START", "up", dedupe_key="run 1")
    assert not await system.add_event(session, "START", "up", dedupe_key="run 1")


async def test_a_dedupe_key_is_told_by_its_bytes(session: AsyncSession) -> None:
    for key in ("Run", "run", "rün"):
        assert await system.add_event(session, "START", "up", dedupe_key=key)
    for key in ("", "run ", " run", "run\n"):  # MySQL would take "run " for "run"
        with pytest.raises(InvalidRowError):
            await system.add_event(session, "START", "up", dedupe_key=key)


async def test_many_signals_are_added_in_one_call(session: AsyncSession) -> None:
    rows = [{"ticker": "AAPL", "date": DAY, "signal_type": kind, "dedupe_key": kind} for kind in ("BUY", "SELL")]
    rows += [{"ticker": "AAPL", "date": DAY, "signal_type": "HOLD"}, {"ticker": "", "date": DAY, "signal_type": "HOLD"}]
    result = await trading.add_signals(session, rows, on_invalid="reject")
    assert result == UpsertResult(inserted=3, rejected=(Rejection(3, "ticker", "it is empty"),))
    result = await trading.add_signals(session, rows[:3] + rows[:1])
    assert result == UpsertResult(inserted=1, unchanged=2, duplicates=1)


# Writers beside each other


async def test_five_writers_at_once_count_every_row_once(db: DatabaseManager) -> None:
    async def write(ticker: str, writer: int) -> UpsertResult:
        # Overlapping days in any order; on every third the writers disagree.
        rows = [daily(ticker, date, volume=writer if at % 3 == 0 else 7) for at, date in enumerate(days(60))]
        rows = random.Random(writer).sample(rows[writer * 5 : writer * 5 + 40], 20)  # noqa: S311 - not a secret
        result = await db.run(lambda session: market_data.upsert_daily(session, rows), retries=10)
        assert total(result) == 20
        return result

    for ticker in ("ROUND 1", "ROUND 2", "ROUND 3", "ROUND 4"):
        results = await asyncio.gather(*(write(ticker, writer) for writer in range(5)))
        async with db.session_context(read_only=True) as session:
            stored = await market_data.list_daily(session, ticker)
        assert sum(result.inserted for result in results) == len(stored)
        assert sum(result.written + result.unchanged for result in results) == 100


async def test_writers_that_change_the_same_rows_in_any_order_wait_for_each_other(db: DatabaseManager) -> None:
    dates = days(40)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date) for date in dates])

    async def write(writer: int, volume: int) -> UpsertResult:
        rows = [daily(date=date, volume=volume) for date in random.Random(writer).sample(dates, 40)]  # noqa: S311
        # No second attempt: a deadlock would fail the test.
        return await db.run(lambda session: market_data.upsert_daily(session, rows), retries=0)

    for number in range(4):
        results = await asyncio.gather(*(write(writer, 1 + number * 5 + writer) for writer in range(5)))
        assert results == [UpsertResult(updated=40)] * 5


@pytest.mark.parametrize("size", [1, 500, 3_000])
async def test_rows_that_another_writer_deletes_meanwhile_are_inserted(db: DatabaseManager, size: int) -> None:
    dates = days(size)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date) for date in dates])

    async def change(session: AsyncSession) -> UpsertResult:
        changed = [daily(date=date, volume=7) for date in dates]
        return await market_data.upsert_daily(session, changed, verdicts=True)

    async with db.session_context() as session:
        assert await market_data.delete_daily(session, "AAPL") == size
        writing = asyncio.create_task(db.run(change))
        await asyncio.sleep(0.3)  # it waits for the rows
    result = await writing
    assert (result.inserted, result.verdicts) == (size, ("inserted",) * size)
    async with db.session_context(read_only=True) as session:
        assert await count(session, DailyData) == size


@pytest.mark.parametrize("size", [2, 3_000])
async def test_bars_kept_back_count_once_where_another_writer_was_in_the_way(db: DatabaseManager, size: int) -> None:
    *final, last = days(size)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date, is_final=True) for date in final])

    async def write(session: AsyncSession) -> UpsertResult:
        return await market_data.upsert_daily(session, [daily(date=date, volume=7) for date in (*final, last)])

    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=last)])
        writing = asyncio.create_task(db.run(write))
        await asyncio.sleep(0.3)  # it waits for the last row
    assert await writing == UpsertResult(updated=1, skipped=size - 1)


async def test_five_writers_of_positions_and_additions_count_every_row_once(db: DatabaseManager) -> None:
    async def write(writer: int) -> tuple[int, int]:
        async def work(session: AsyncSession) -> tuple[int, int]:
            rows = [{"ticker": f"T{at}", "market_cap": writer} for at in range(writer, writer + 30)]
            about = await market_data.upsert_metadata(session, rows[:: -1 if writer % 2 else 1])
            new = [await system.add_event(session, "RUN", "up", dedupe_key=f"run {at}") for at in range(4)]
            return about.inserted, sum(new)

        return await db.run(work, retries=10)

    results = await asyncio.gather(*(write(writer) for writer in range(5)))
    async with db.session_context(read_only=True) as session:
        assert sum(inserted for inserted, _ in results) == await count(session, Metadata) == 34
        assert sum(new for _, new in results) == await count(session, SystemEvent) == 4


# Any sequence of batches

KEYS = [(ticker, date) for ticker in ("A", "a", "B") for date in days(2)]
GIVEN = st.fixed_dictionaries(
    {"key": st.sampled_from(KEYS), "close": st.sampled_from([Decimal(10), Decimal("10.0000000001"), 10.5])},
    optional={
        "volume": st.sampled_from([None, 0, Decimal("0.00000001")]),
        "is_final": st.sampled_from(RANKS),
        "observed_at": st.sampled_from([None, OPENING, OPENING + HOUR]),
    },
)
BATCHES = st.lists(
    st.tuples(st.lists(GIVEN, max_size=6), st.sampled_from(["update", "update", "ignore"])), min_size=1, max_size=5
)


def outranks(stored: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    ours, theirs = RANKS.index(stored.get("is_final")), RANKS.index(row.get("is_final"))
    then, now = stored.get("observed_at"), row.get("observed_at")
    return ours > theirs or (ours == theirs and then is not None and now is not None and then > now)


def model_of_an_upsert(table: dict[Any, dict[str, Any]], rows: list[dict[str, Any]], on_conflict: str) -> UpsertResult:
    """Do to a dict what an upsert does to a table."""
    counts: dict[str, Any] = {"inserted": 0, "updated": 0, "unchanged": 0, "skipped": 0}
    chosen: dict[Any, dict[str, Any]] = {}
    for row in rows:
        if row["key"] not in chosen or not outranks(chosen[row["key"]], row):
            chosen[row["key"]] = row
    for key, row in chosen.items():
        old = table.get(key)
        if old is None:
            counts["inserted"] += 1
            table[key] = dict(row)
        elif on_conflict == "ignore":
            counts["skipped"] += 1
        elif all(old.get(name) == value for name, value in row.items()):
            counts["unchanged"] += 1
        elif outranks(old, row):
            counts["skipped"] += 1
        else:
            counts["updated"] += 1
            old |= row
    return UpsertResult(**counts, duplicates=len(rows) - len(chosen))


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=BATCHES)
def test_any_sequence_of_batches_does_what_it_would_do_to_a_dict(database_url: str, batches: list[Any]) -> None:
    async def play() -> None:
        table: dict[Any, dict[str, Any]] = {}
        async with DatabaseManager(database_url) as db:
            async with db.session_context() as session:
                await session.execute(sa.delete(DailyData))
            for rows, on_conflict in batches:
                given = [
                    {"ticker": row["key"][0], "date": row["key"][1], "open": 10, "high": 11, "low": 10}
                    | {name: value for name, value in row.items() if name != "key"}
                    for row in rows
                ]
                async with db.session_context() as session:
                    result = await market_data.upsert_daily(session, given, on_conflict=on_conflict)
                assert result == model_of_an_upsert(table, rows, on_conflict)
            async with db.session_context(read_only=True) as session:
                stored = (await session.scalars(sa.select(DailyData))).all()
            names = ("close", "volume", "is_final", "observed_at")
            assert {(bar.ticker, bar.date): [getattr(bar, name) for name in names] for bar in stored} == {
                key: [row.get(name) for name in names] for key, row in table.items()
            }

    asyncio.run(play())


@pytest.mark.parametrize("form", [list, pa.Table.from_pylist, pd.DataFrame], ids=["rows", "arrow", "pandas"])
async def test_a_large_batch_does_what_it_would_do_to_a_dict(db: DatabaseManager, form: Any) -> None:
    seeded = random.Random(2025)  # noqa: S311 - not a secret
    values: dict[str, list[Any]] = {
        "close": [10.0, 10.5, 10.25],
        "volume": [0.0, 27871099501.0, 0.12345678],
        "is_final": RANKS,
        "observed_at": [None, OPENING, OPENING + HOUR],
        "source": [None, "a", "A"],
    }
    table: dict[Any, dict[str, Any]] = {}
    dates = days(900)
    for on_conflict in ("update", "update", "ignore"):
        rows = [
            {"key": ("A", seeded.choice(dates))} | {name: seeded.choice(cells) for name, cells in values.items()}
            for _ in range(1_200)
        ]
        batch = [
            {"ticker": ticker, "date": date, "open": 10.0, "high": 11.0, "low": 10.0} | cells
            for (ticker, date), cells in ((row["key"], {name: row[name] for name in values}) for row in rows)
        ]
        for row in rows:
            row["close"], row["volume"] = Decimal(str(row["close"])), Decimal(str(row["volume"]))
        async with db.session_context() as session:
            result = await market_data.upsert_daily(session, form(batch), on_conflict=on_conflict)
        assert result == model_of_an_upsert(table, rows, on_conflict)
    async with db.session_context(read_only=True) as session:
        stored = await market_data.list_daily(session, "A")
    assert {("A", bar.date): [getattr(bar, name) for name in values] for bar in stored} == {
        key: [row[name] for name in values] for key, row in table.items()
    }
