"""Frames of every make are stored as the same bars, few or many of them, at once or in parts."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import DAY
from traderrr_data import DailyData, InvalidRowError, Rejection, UpsertResult, market_data

SIZES = [5, 1_500]  # of which the second goes as columns
PRICES = ("open", "high", "low", "close")


def bars(count: int) -> list[dict[str, Any]]:
    tickers = ["AAPL", "BRK.A", "東京"]
    return [
        {
            "ticker": tickers[number % 3],
            "date": DAY + dt.timedelta(days=number // 3),
            **{
                name: Decimal(1_000 + number % 50 + more) / 100 for name, more in zip(PRICES, (1, 2, 0, 1), strict=True)
            },
            "volume": number,
            "source": ("x", None, "y")[number % 3],
        }
        for number in range(count)
    ]


def in_polars(rows: list[dict[str, Any]], **casts: Any) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema_overrides=dict.fromkeys(PRICES, pl.Decimal(20, 4)))
    return frame.with_columns(pl.col(name).cast(kind) for name, kind in casts.items())


def viewed(rows: list[dict[str, Any]]) -> pa.Table:
    """A table whose texts are dictionaries over views, a dictionary a chunk."""
    parts = []
    for start in range(0, len(rows), 400):
        table = pa.Table.from_pylist(rows[start : start + 400])
        for name in ("ticker", "source"):
            encoded = table[name].combine_chunks().dictionary_encode()
            views = pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.string_view()))
            table = table.set_column(table.column_names.index(name), name, views)
        parts.append(table)
    return pa.concat_tables(parts)


FRAMES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "polars": in_polars,
    "polars Categorical": lambda rows: in_polars(rows, ticker=pl.Categorical, source=pl.Categorical),
    "polars Enum": lambda rows: in_polars(rows, ticker=pl.Enum(["東京", "BRK.A", "AAPL"]), source=pl.Enum(["x", "y"])),
    "polars Datetime": lambda rows: in_polars(rows, date=pl.Datetime("ms"), volume=pl.UInt64),
    "dictionaries over views": viewed,
    "pandas category": lambda rows: pd.DataFrame(rows).astype({"ticker": "category", "source": "category"}),
    "pandas Timestamps in mappings": lambda rows: [row | {"date": pd.Timestamp(row["date"])} for row in rows],
    "objects": lambda rows: [DailyData(**row) for row in rows],
}


async def holds(session: AsyncSession, rows: list[dict[str, Any]]) -> bool:
    stored: list[dict[str, Any]] = (await market_data.daily_frame(session)).select(list(rows[0])).to_pylist()
    return stored == sorted(rows, key=lambda row: (row["ticker"], row["date"]))


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("make", FRAMES)
async def test_a_frame_of_any_make_is_stored(session: AsyncSession, make: str, count: int) -> None:
    rows = bars(count)
    assert await market_data.upsert_daily(session, FRAMES[make](rows)) == UpsertResult(inserted=count)
    assert await holds(session, rows)
    assert await market_data.upsert_daily(session, rows) == UpsertResult(unchanged=count)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("make", FRAMES)
async def test_an_async_iterator_may_give_frames_of_any_make(session: AsyncSession, make: str, count: int) -> None:
    rows = bars(2 * count)

    async def parts() -> AsyncIterator[Any]:
        for start in (0, count):
            given = FRAMES[make](rows[start : start + count])
            for part in given.to_batches() if isinstance(given, pa.Table) else [given]:
                yield part

    assert await market_data.upsert_daily(session, parts()) == UpsertResult(inserted=2 * count)
    assert await holds(session, rows)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", [pl.Categorical, pl.String], ids=["Categorical", "String"])
async def test_rows_that_are_no_bars_or_are_refused_leave_the_others(
    session: AsyncSession, kind: Any, count: int
) -> None:
    rows = bars(count)
    frame = in_polars(rows, ticker=kind, source=kind, **dict.fromkeys(PRICES, pl.Float64))
    at = pl.int_range(count)
    frame = frame.with_columns(
        *(pl.when(at == 1).then(None).otherwise(pl.col(name)).alias(name) for name in PRICES),
        pl.when(at == 3).then(pl.lit(" ")).otherwise(pl.col("ticker").cast(pl.String)).cast(kind).alias("ticker"),
    )
    with pytest.raises(InvalidRowError) as refused:
        await market_data.upsert_daily(session, frame)
    assert (refused.value.row, refused.value.column) == (3, "ticker")
    result = await market_data.upsert_daily(session, frame, on_invalid="reject")
    assert result == UpsertResult(
        inserted=count - 2, skipped=1, rejected=(Rejection(3, "ticker", refused.value.reason),)
    )
    assert await holds(session, [row for number, row in enumerate(rows) if number not in (1, 3)])


@pytest.mark.parametrize("count", SIZES)
async def test_not_a_number_in_a_mapping_is_refused_in_batches_of_any_size(session: AsyncSession, count: int) -> None:
    rows = [{**row, "volume": float("nan" if number == 4 else number)} for number, row in enumerate(bars(count))]
    result = await market_data.upsert_daily(session, rows, on_invalid="reject")
    assert result == UpsertResult(inserted=count - 1, rejected=(Rejection(4, "volume", "NaN is not a finite number"),))
