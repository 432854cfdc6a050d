"""A large batch goes another way, as columns, and comes to the same as the same rows one by one."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import (
    DailyData,
    DatabaseManager,
    DuplicateRowError,
    IntradayData,
    InvalidRowError,
    Settings,
    UpsertResult,
    market_data,
    trading,
)
from traderrr_data.bulk import columns
from traderrr_data.bulk.rows import check, shape_of
from traderrr_data.models import BarRevision

DAY = dt.date(2020, 1, 1)
KEY = ("ticker", "series", "date")
SHAPE = shape_of(DailyData, KEY)
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


def bars(count: int = 1_500, seed: int = 0) -> list[dict[str, Any]]:
    """Bars of three tickers, not in the order of their keys."""
    source = random.Random(seed)  # noqa: S311 - test data
    rows = []
    for number in range(count):
        low = Decimal(source.randint(100, 99_999)) / 100
        rows.append(
            {
                "ticker": ("AAPL", "aapl", "BRK.A")[number % 3],
                "date": DAY + dt.timedelta(days=number // 3),
                "open": low + 1,
                "high": low + 2,
                "low": low,
                "close": low + Decimal("0.5"),
                "volume": Decimal(source.randint(0, 10**10)),
                "dividends": None if number % 5 else Decimal("0.25"),
                "is_final": (True, None, False)[number % 7 % 3],
                "observed_at": None if number % 4 else NOON,
                "source": "test",
            }
        )
    source.shuffle(rows)
    return rows


def changed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some rows differ, in price, finality or time of observation; some are new, some come twice."""
    again = [dict(row) for row in rows]
    for row in again[::10]:
        row["close"] = row["low"]
    for row in again[::11]:
        row["is_final"] = None
    for row in again[::13]:
        row["observed_at"] = NOON - dt.timedelta(hours=1)
        row["volume"] = None
    for row in again[::17]:
        row["date"] += dt.timedelta(days=10_000)
    return again + [dict(row, open=row["low"]) for row in again[::50]]


def one_by_one(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same rows as an iterator, which is never taken as columns."""
    yield from rows


async def stored(session: AsyncSession, series: str) -> list[tuple[Any, ...]]:
    table = DailyData.__table__
    wanted = [c for c in table.c if c.name not in ("series", "created_at", "updated_at")]
    query = sa.select(*wanted).where(table.c.series == series).order_by(table.c.ticker, table.c.date)
    return [tuple(row) for row in await session.execute(query)]


def test_a_large_batch_of_mappings_is_checked_as_columns() -> None:
    batch = columns.check(bars(), SHAPE, fixed={"series": ""}, exact_decimals=False, on_invalid="raise")
    assert batch.columns is not None
    assert batch.columns.num_rows == 1_500


@pytest.mark.parametrize("frame", ["mappings", "arrow", "pandas"])
async def test_columns_and_rows_come_to_the_same(db: DatabaseManager, frame: str) -> None:
    def framed(rows: list[dict[str, Any]]) -> Any:
        if frame == "mappings":
            return rows
        table = pa.Table.from_pylist(rows)
        return table if frame == "arrow" else pd.DataFrame(rows).astype({"observed_at": "datetime64[us, UTC]"})

    first = bars()
    for batch in (first, first, changed(first), first):
        async with db.session_context() as session:
            as_columns = await market_data.upsert_daily(session, framed(batch), series="columns")
            as_rows = await market_data.upsert_daily(session, one_by_one(batch), series="rows")
            assert as_columns == as_rows
            assert await stored(session, "columns") == await stored(session, "rows")


@pytest.mark.parametrize("on_conflict", ["update", "ignore"])
async def test_the_counts_add_up_for_a_mixed_batch(db: DatabaseManager, on_conflict: Any) -> None:
    first = bars()
    async with db.session_context() as session:
        await market_data.upsert_daily(session, first, series="columns")
        await market_data.upsert_daily(session, first, series="rows")
        mixed = changed(first)
        result = await market_data.upsert_daily(session, mixed, series="columns", on_conflict=on_conflict)
        expected = await market_data.upsert_daily(session, one_by_one(mixed), series="rows", on_conflict=on_conflict)
        assert result == expected
        counts = (result.inserted, result.updated, result.unchanged, result.skipped, result.duplicates)
        assert sum(counts) == len(mixed)


async def test_floats_of_a_large_frame_are_taken_by_their_shortest_form(session: AsyncSession) -> None:
    source = random.Random(7)  # noqa: S311 - test data
    close = [
        round(source.uniform(1, 900), 2) if n % 2 else float(f"{source.uniform(1, 900):.9g}") for n in range(1_200)
    ]
    days = [DAY + dt.timedelta(days=n) for n in range(1_200)]
    frame = pd.DataFrame({"ticker": "AAPL", "date": days, "volume": 1e6})
    for name in ("open", "high", "low", "close"):
        frame[name] = close
    frame.loc[5, "volume"] = float("nan")
    frame.loc[6, ["open", "high", "low", "close"]] = float("nan")
    result = await market_data.upsert_daily(session, frame)
    assert result == UpsertResult(inserted=1_199, skipped=1)
    found = {bar.date: bar for bar in await market_data.list_daily(session, "AAPL")}
    assert all(found[day].close == Decimal(repr(price)) for day, price in zip(days, close, strict=True) if day in found)
    assert days[6] not in found
    assert found[days[5]].volume is None


async def test_a_large_frame_without_any_price_is_skipped_as_a_whole(session: AsyncSession) -> None:
    days = [DAY + dt.timedelta(days=n) for n in range(1_200)]
    nothing = pd.DataFrame(
        {"ticker": "AAPL", "date": days} | dict.fromkeys(("open", "high", "low", "close"), float("nan"))
    )
    assert await market_data.upsert_daily(session, nothing) == UpsertResult(skipped=1_200)


async def test_a_large_table_in_many_chunks_is_stored_as_a_whole(session: AsyncSession) -> None:
    rows = bars()
    whole = pa.Table.from_pylist(rows)
    chunks = pa.concat_tables(whole.slice(at, 100) for at in range(0, len(rows), 100))
    assert await market_data.upsert_daily(session, chunks) == UpsertResult(inserted=1_500)
    assert await market_data.upsert_daily(session, one_by_one(rows)) == UpsertResult(unchanged=1_500)


async def test_a_bad_row_of_a_large_batch_is_named_and_nothing_is_stored(session: AsyncSession) -> None:
    rows = bars()
    rows[700]["high"] = rows[700]["low"] - 1
    rows[900]["volume"] = Decimal(-1)
    with pytest.raises(InvalidRowError) as refused:
        await market_data.upsert_daily(session, rows)
    assert (refused.value.row, refused.value.column) == (700, "open")
    assert await market_data.coverage(session) == []
    result = await market_data.upsert_daily(session, rows, on_invalid="reject")
    assert result.inserted == 1_498
    assert [(bad.row, bad.column) for bad in result.rejected] == [(700, "open"), (900, "volume")]


async def test_an_unchanged_row_of_a_large_batch_keeps_its_updated_at(db: DatabaseManager) -> None:
    rows = bars()
    past = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, rows)
        await session.execute(sa.update(DailyData).values(updated_at=past))
    rows[0]["source"] = "corrected"
    async with db.session_context() as session:
        assert await market_data.upsert_daily(session, rows) == UpsertResult(updated=1, unchanged=1_499)
        moved = await session.scalars(sa.select(DailyData.source).where(DailyData.updated_at > past))
        assert moved.all() == ["corrected"]


async def test_a_large_batch_that_fails_undoes_itself_alone(db: DatabaseManager) -> None:
    rows = bars()
    async with db.session_context() as session:
        await market_data.upsert_daily(session, rows[:10])
        with pytest.raises(InvalidRowError):
            await market_data.upsert_daily(session, [*rows, {**rows[0], "close": "x"}])
        await market_data.upsert_daily(session, rows[10:20])
    async with db.session_context(read_only=True) as session:
        assert sum(line.rows for line in await market_data.coverage(session)) == 20


async def test_a_rollback_leaves_nothing_of_two_large_batches(db: DatabaseManager) -> None:
    class StopError(Exception):
        pass

    with pytest.raises(StopError):
        async with db.session_context() as session:
            await market_data.upsert_daily(session, bars())
            await market_data.upsert_daily(session, bars(seed=1))
            raise StopError
    async with db.session_context(read_only=True) as session:
        assert await market_data.coverage(session) == []


async def test_intraday_bars_in_two_zones_are_the_same_instants(session: AsyncSession) -> None:
    tokyo = dt.timezone(dt.timedelta(hours=9))
    starts = [NOON + dt.timedelta(minutes=n) for n in range(1_100)]
    prices = {"open": 1, "high": 2, "low": 1, "close": 2}
    rows: list[dict[str, Any]] = [{"ticker": "7203.T", "datetime": start, **prices} for start in starts]
    assert (await market_data.upsert_intraday(session, rows, timeframe="60s")).inserted == 1_100
    moved = [{**row, "datetime": row["datetime"].astimezone(tokyo)} for row in rows]
    assert await market_data.upsert_intraday(session, moved, timeframe="1m") == UpsertResult(unchanged=1_100)
    assert [bar.datetime for bar in await market_data.list_intraday(session, "7203.T", timeframe="1m")] == starts
    assert await session.scalar(sa.select(sa.func.count()).select_from(IntradayData)) == 1_100


async def test_a_stored_double_that_reads_as_the_same_decimal_is_unchanged(db: DatabaseManager) -> None:
    rows = bars()
    async with db.session_context() as session:
        await market_data.upsert_daily(session, rows)
        if_inexact = DailyData.__table__.c.close if not db.dialect.exact_decimals else None
        if if_inexact is not None:  # what the legacy application's arithmetic leaves behind
            await session.execute(sa.text("UPDATE daily_data SET close = close * 1.0000000000000002"))
    async with db.session_context() as session:
        assert await market_data.upsert_daily(session, rows) == UpsertResult(unchanged=1_500)


@pytest.mark.parametrize("seed", range(5))
def test_columns_accept_nothing_that_rows_refuse_or_read_otherwise(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311 - test data

    def price() -> float:
        return source.choice(
            [
                round(source.uniform(0, 1000), 2),
                source.uniform(0, 1000),
                float(pd.Series([source.uniform(0, 500)], dtype="float32").iloc[0]),
                round(source.uniform(0, 10), 11),
                (source.randint(0, 10**12) * 2 + 1) / 2e10,
                source.uniform(0, 1e-9),
                source.uniform(0, 9e8),
            ]
        )

    days = [DAY + dt.timedelta(days=n) for n in range(2_000)]
    rows = [{"ticker": "A", "date": day, "open": p, "high": p, "low": p, "close": p} for day in days for p in [price()]]
    rules: dict[str, Any] = {"fixed": {"series": ""}, "exact_decimals": seed % 2 == 0, "on_invalid": "reject"}
    expected = check(rows, SHAPE, **rules)
    most_in_doubt, columns._MOST_IN_DOUBT = columns._MOST_IN_DOUBT, 1.0
    try:
        found = columns.check(rows, SHAPE, **rules)
    finally:
        columns._MOST_IN_DOUBT = most_in_doubt
    assert found.columns is not None
    assert found.columns.select(list(expected.rows[0])).to_pylist() == expected.rows
    assert found.rejected == expected.rejected


async def test_the_verdicts_of_rows_stand_in_the_order_given(db: DatabaseManager) -> None:
    rows = bars(6)
    later = [*rows[:4], {**rows[4], "close": rows[4]["low"]}, {**rows[5], "high": rows[5]["low"] - 1}]
    final = dict.fromkeys(("is_final", "observed_at"))
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [{**row, **final} for row in rows[1:]])
        given = [{**row, **final} for row in (*later, later[0])]
        result = await market_data.upsert_daily(session, given, on_invalid="reject", verdicts=True)
    assert result.verdicts == ("duplicate", "unchanged", "unchanged", "unchanged", "updated", "rejected", "inserted")
    assert result.given == len(given)


async def test_verdicts_tell_what_finality_kept_back(session: AsyncSession) -> None:
    row = {**bars(1)[0], "is_final": True, "observed_at": None}
    await market_data.upsert_daily(session, [row])
    again = {**row, "is_final": None, "close": row["low"]}
    for rows in ([again], one_by_one([again])):
        result = await market_data.upsert_daily(session, rows, verdicts=True)
        assert (result.verdicts, result.skipped) == (("skipped",), 1)


async def test_each_of_many_large_batches_on_one_connection_is_told_apart(session: AsyncSession) -> None:
    # From a connection's sixth time on PostgreSQL may run a statement by a plan that does not know the values.
    rows = [{**row, "is_final": None, "observed_at": None} for row in bars(2_400)]
    await market_data.upsert_daily(session, rows)
    for times in range(1, 9):
        for row in rows[times::10]:
            row["volume"] += 1
        new = {**rows[0], "ticker": f"NEW{times}"}
        result = await market_data.upsert_daily(session, [*rows, new])
        assert result == UpsertResult(inserted=1, updated=240, unchanged=2_160)


@pytest.mark.parametrize("count", [5, 1_500])
async def test_a_first_column_that_is_stored_as_null_is_no_sign_of_an_absent_row(
    session: AsyncSession, count: int
) -> None:
    rows = [{"dividends": None, "volume": None, **row, "is_final": None, "observed_at": None} for row in bars(count)]
    for row in rows:
        row["dividends"] = None
    assert (await market_data.upsert_daily(session, rows)).inserted == count
    for row in rows:
        row["dividends"] = Decimal("0.5")
    assert await market_data.upsert_daily(session, rows) == UpsertResult(updated=count)


@pytest.mark.parametrize("count", [5, 1_500])
async def test_signals_may_be_repeated_in_batches_of_any_size(session: AsyncSession, count: int) -> None:
    signals: list[dict[str, Any]] = [
        {"ticker": "AAPL", "date": DAY, "signal_type": "BUY", "confidence": "0.5", "dedupe_key": f"{number:05}"}
        for number in range(count)
    ]
    without_key = [{**signal, "dedupe_key": None} for signal in signals]
    assert await trading.add_signals(session, signals) == UpsertResult(inserted=count)
    assert await trading.add_signals(session, signals) == UpsertResult(unchanged=count)
    assert await trading.add_signals(session, without_key) == UpsertResult(inserted=count)
    assert await trading.add_signals(session, without_key) == UpsertResult(inserted=count)
    with pytest.raises(DuplicateRowError, match=f"dedupe_key={count - 2:05}"):
        await trading.add_signals(session, [*signals[:-2], {**signals[-2], "confidence": "0.6"}, signals[-1]])
    assert (await trading.signal_stats(session)).count == 3 * count


async def test_instruments_go_as_columns_and_burn_no_ids(session: AsyncSession) -> None:
    rows = [{"sector": None, "ticker": f"T{number:04}", "market_cap": number} for number in range(1_500)]
    assert await market_data.upsert_metadata(session, rows) == UpsertResult(inserted=1_500)
    for row in rows[::2]:
        row["sector"] = "Technology"
    assert await market_data.upsert_metadata(session, rows) == UpsertResult(updated=750, unchanged=750)
    await market_data.upsert_metadata(session, [{"ticker": "NEW"}])
    ids = [row.id for row in await market_data.list_metadata(session)]
    assert max(ids) - min(ids) == 1_500


async def test_a_decimal_longer_than_fifteen_digits_is_stored_exactly_or_refused(db: DatabaseManager) -> None:
    prices = [Decimal(f"12345678.{number:07}9") for number in range(0, 10_000_000, 4_321)]
    days = [DAY + dt.timedelta(days=n) for n in range(len(prices))]
    rows: list[dict[str, Any]] = [
        {"ticker": "A", "date": day, "open": p, "high": p, "low": p, "close": p}
        for day, p in zip(days, prices, strict=True)
    ]
    async with db.session_context() as session:
        result = await market_data.upsert_daily(session, rows, on_invalid="reject")
        found = {bar.date: bar.close for bar in await market_data.list_daily(session, "A")}
    assert result.inserted == len(found)
    assert all(found[row["date"]] == row["close"] for row in rows if row["date"] in found)
    assert len(found) == len(rows) or not db.dialect.exact_decimals


@pytest.mark.parametrize("count", [3, 2_500])
async def test_a_changed_bar_leaves_its_old_version_until_the_instant_of_the_new_one(
    db: DatabaseManager, count: int
) -> None:
    rows = [{**row, "is_final": None, "observed_at": None} for row in bars(count)]
    async with db.session_context() as session:
        await market_data.upsert_daily(session, rows)
    old = rows[0]["close"]
    rows[0] = {**rows[0], "close": rows[0]["low"]}
    async with db.session_context() as session:
        assert await market_data.upsert_daily(session, rows) == UpsertResult(updated=1, unchanged=count - 1)
        kept = (await session.scalars(sa.select(BarRevision))).one()
        now = (await session.scalars(sa.select(DailyData).where(DailyData.updated_at == kept.known_until))).one()
    assert (kept.table_name, kept.change, kept.close, kept.known_from) == ("daily_data", "update", old, now.created_at)
    assert (now.close, now.ticker, now.date) == (rows[0]["close"], kept.ticker, kept.date)


async def test_nothing_is_kept_of_a_table_whose_revisions_are_switched_off(database_url: str) -> None:
    settings = Settings(database_url=SecretStr(database_url), db_revisions_daily=False)
    async with DatabaseManager(settings) as db:
        for close in (11, 12):
            rows = [{**row, "high": 2_000, "low": 1, "close": close} for row in bars(5)]
            async with db.session_context() as session:
                await market_data.upsert_daily(session, rows[1:], series="columns")
                await market_data.upsert_daily(session, one_by_one(rows), series="rows")
        async with db.session_context() as session:
            assert await market_data.delete_daily(session, "AAPL") == 3
        async with db.session_context() as session:
            assert (await session.scalars(sa.select(BarRevision))).all() == []
