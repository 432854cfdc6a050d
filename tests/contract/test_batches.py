"""An async iterator of batches is stored in bounded memory, and counts as one batch."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests import bars
from traderrr_data import (
    DatabaseManager,
    DuplicateRowError,
    InvalidRowError,
    UpsertResult,
    market_data,
)
from traderrr_data.bulk import arrow


def rows(count: int, first: int = 0, **values: Any) -> list[dict[str, Any]]:
    """Return bars of consecutive days."""
    start = bars.DAY + dt.timedelta(days=first)
    return [bars.daily(date=day, **{"volume": Decimal(100), **values}) for day in bars.days(count, start)]


def record_batch(given: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(given)


async def each(*batches: Any) -> AsyncIterator[Any]:
    for batch in batches:
        await asyncio.sleep(0)
        yield batch


class Failed(Exception):  # noqa: N818 - what an iterator may raise
    """The source of the batches is gone."""


async def failing(*batches: Any) -> AsyncIterator[Any]:
    for batch in batches:
        yield batch
    raise Failed


async def stored(session: AsyncSession) -> int:
    return sum(line.rows for line in await market_data.coverage(session))


async def kinds_of(*batches: Any, most: int = 1_000) -> list[tuple[str, int]]:
    """Return what comes of joining: the kind and length of each batch."""
    return [(type(batch).__name__, len(batch)) async for batch in arrow.joined(each(*batches), rows=most)]


async def test_small_record_batches_are_joined_up_to_a_limit() -> None:
    ten = record_batch(rows(10))
    assert await kinds_of(ten, ten, ten, most=25) == [("Table", 20), ("Table", 10)]
    assert await kinds_of(ten, ten, most=0) == [("Table", 10), ("Table", 10)]
    assert await kinds_of() == []


async def test_batches_of_other_kinds_and_columns_keep_their_place() -> None:
    ten, other = record_batch(rows(10)), record_batch(rows(5, source="me"))
    marked = ten.replace_schema_metadata({"who": "me"})
    batches = [ten, other, rows(3), other, pa.table(other), ten, marked]
    assert [length for _, length in await kinds_of(*batches)] == [10, 5, 3, 5, 5, 10, 10]


@pytest.mark.parametrize("size", [7, 400, 2_500])
async def test_record_batches_of_any_size_are_stored_as_one_batch(session: AsyncSession, size: int) -> None:
    table = pa.Table.from_pylist(rows(3_000))
    batches = table.to_batches(max_chunksize=size)
    assert await market_data.upsert_daily(session, each(*batches)) == UpsertResult(inserted=3_000)
    assert await market_data.upsert_daily(session, each(*batches)) == UpsertResult(unchanged=3_000)
    assert (await market_data.daily_frame(session, ["AAPL"])).num_rows == 3_000


async def test_batches_of_all_kinds_may_follow_each_other(session: AsyncSession) -> None:
    given = each(
        rows(2),
        record_batch(rows(2_000, 10)),
        pd.DataFrame(rows(3, 3_000)).astype(dict.fromkeys(("open", "high", "low", "close", "volume"), float)),
        record_batch(rows(4, 4_000, source="me")),
        pa.Table.from_pylist(rows(5, 5_000)),
        (row for row in rows(6, 6_000)),
        [],
        record_batch(rows(1)).slice(0, 0),
    )
    assert await market_data.upsert_daily(session, given) == UpsertResult(inserted=2_020)


async def test_intraday_batches_are_stored_alike(session: AsyncSession) -> None:
    minutes = [bars.intraday(datetime=time, volume=Decimal(1)) for time in bars.minutes(2_000)]
    batches = [record_batch(minutes[:1_500]), minutes[1_500:]]
    for expected in (UpsertResult(inserted=2_000), UpsertResult(unchanged=2_000)):
        assert await market_data.upsert_intraday(session, each(*batches), timeframe="1m") == expected


@pytest.mark.parametrize("verdicts", [False, True])
async def test_an_iterator_without_a_batch_stores_nothing(session: AsyncSession, *, verdicts: bool) -> None:
    result = await market_data.upsert_daily(session, each(), verdicts=verdicts)
    assert result == UpsertResult(verdicts=() if verdicts else None)


async def test_a_row_instead_of_a_batch_is_refused(session: AsyncSession) -> None:
    with pytest.raises(InvalidRowError, match="not one dict"):
        await market_data.upsert_daily(session, each(*rows(2)))
    assert await stored(session) == 0


async def test_an_iterator_that_raises_leaves_nothing_and_the_transaction_goes_on(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, rows(1, 5_000))
        with pytest.raises(Failed):
            await market_data.upsert_daily(session, failing(record_batch(rows(1_500)), rows(2, 2_000)))
        await market_data.upsert_daily(session, rows(1, 6_000))
    async with db.session_context(read_only=True) as session:
        assert await stored(session) == 2


@pytest.mark.parametrize("count", [10, 1_500])
async def test_a_bad_row_is_named_by_its_place_in_all_batches(db: DatabaseManager, count: int) -> None:
    bad = rows(count, 4_000)
    bad[7] = bad[7] | {"high": Decimal(1)}
    batches = [record_batch(rows(count)), rows(3, 3_000), record_batch(bad), record_batch(rows(count, 8_000))]
    async with db.session_context() as session:
        await market_data.upsert_daily(session, rows(1, 20_000))
        with pytest.raises(InvalidRowError) as refused:
            await market_data.upsert_daily(session, each(*batches))
        assert (refused.value.row, refused.value.column) == (count + 3 + 7, "open")
        assert await stored(session) == 1
        result = await market_data.upsert_daily(session, each(*batches), on_invalid="reject")
        assert (result.inserted, [(r.row, r.column) for r in result.rejected]) == (
            3 * count + 2,
            [(count + 10, "open")],
        )
        assert result.given == 3 * count + 3


async def test_rejected_rows_of_several_batches_keep_their_places(session: AsyncSession) -> None:
    def with_bad(first: int, at: int) -> list[dict[str, Any]]:
        given = rows(1_200, first)
        given[at] = given[at] | {"volume": Decimal(-1)}
        return given

    batches = [record_batch(with_bad(0, 5)), with_bad(2_000, 6), record_batch(with_bad(4_000, 7))]
    result = await market_data.upsert_daily(session, each(*batches), on_invalid="reject")
    assert [bad.row for bad in result.rejected] == [5, 1_206, 2_407]
    assert result.inserted == 3_597


async def test_a_cancelled_iterator_leaves_nothing(db: DatabaseManager) -> None:
    waiting, closed = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[Any]:
        try:
            yield rows(1_500)
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def work() -> None:
        async with db.session_context() as session:
            await market_data.upsert_daily(session, endless())

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
    async with db.session_context(read_only=True) as session:
        assert await stored(session) == 0


async def test_an_iterator_is_closed_when_a_batch_fails(session: AsyncSession) -> None:
    closed = asyncio.Event()

    async def batches() -> AsyncIterator[Any]:
        try:
            yield rows(2)
            yield [{"ticker": "AAPL"}]
            yield rows(2)
        finally:
            closed.set()

    with pytest.raises(InvalidRowError):
        await market_data.upsert_daily(session, batches())
    assert closed.is_set()


@pytest.mark.parametrize("as_columns", [False, True])
async def test_a_key_that_comes_again_has_the_last_word(session: AsyncSession, *, as_columns: bool) -> None:
    first, second = rows(1_200), rows(1_200, close=Decimal("9.5"))
    batches = [record_batch(first), record_batch(second)] if as_columns else [first, second]
    result = await market_data.upsert_daily(session, each(*batches))
    assert (result.inserted, result.duplicates + result.updated) == (1_200, 1_200)
    assert {bar.close for bar in await market_data.list_daily(session, "AAPL")} == {Decimal("9.5")}


@pytest.mark.parametrize("as_columns", [False, True])
async def test_where_stored_bars_are_ignored_the_first_batch_wins(session: AsyncSession, *, as_columns: bool) -> None:
    first, second = rows(1_200), rows(1_200, close=Decimal("9.5"))
    batches = [record_batch(first), record_batch(second)] if as_columns else [first, second]
    result = await market_data.upsert_daily(session, each(*batches), on_conflict="ignore")
    assert result == UpsertResult(inserted=1_200, skipped=1_200)
    assert {bar.close for bar in await market_data.list_daily(session, "AAPL")} == {Decimal(11)}


async def test_a_key_of_an_earlier_batch_is_an_error_where_stored_bars_are(session: AsyncSession) -> None:
    with pytest.raises(DuplicateRowError):
        await market_data.upsert_daily(
            session, each(record_batch(rows(10)), record_batch(rows(1))), on_conflict="error"
        )
    assert await stored(session) == 0


@pytest.mark.parametrize("as_columns", [False, True])
async def test_a_final_bar_of_an_earlier_batch_stays(session: AsyncSession, *, as_columns: bool) -> None:
    final, preliminary = rows(1_200, is_final=True), rows(1_200, is_final=False, close=Decimal("9.5"))
    batches = [record_batch(final), record_batch(preliminary)] if as_columns else [final, preliminary]
    result = await market_data.upsert_daily(session, each(*batches))
    assert (result.inserted, result.duplicates + result.skipped) == (1_200, 1_200)
    assert {(bar.close, bar.is_final) for bar in await market_data.list_daily(session, "AAPL")} == {(Decimal(11), True)}


async def test_verdicts_are_in_the_order_of_all_batches(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, rows(2))
    bad = rows(1, 9_000, volume=Decimal(-1))
    batches = [rows(3), record_batch(rows(1_200, 100)), bad, rows(1, 1, close=Decimal("9.5"))]
    result = await market_data.upsert_daily(session, each(*batches), on_invalid="reject", verdicts=True)
    assert result.verdicts == ("unchanged", "unchanged", "inserted", *["inserted"] * 1_200, "rejected", "updated")
