"""However a frame or a row spells its values, columns accept what rows accept, and refuse it in the same words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.bars import flat
from traderrr_data import DailyData, IntradayData, InvalidRowError
from traderrr_data.bulk import columns
from traderrr_data.bulk.arrow import rows_of_frame, table_of_frame
from traderrr_data.bulk.converting import Undecided
from traderrr_data.bulk.plain import plain
from traderrr_data.bulk.rows import Batch, check, shape_of

DAILY = shape_of(DailyData, ("ticker", "series", "date"))
INTRADAY = shape_of(IntradayData, ("ticker", "series", "timeframe", "datetime"))
RULES: dict[str, Any] = {"fixed": {"series": ""}, "on_invalid": "reject"}
FIRST = dt.date(2020, 1, 1)
COUNT = 40


def usual() -> pa.Table:
    """Bars in the types of which columns have always been sure."""
    days = [FIRST + dt.timedelta(days=day) for day in range(COUNT)]
    low = [Decimal(100 + 7 * day) / 100 for day in range(COUNT)]
    return pa.table(
        {
            "ticker": pa.array(["A", "B"] * (COUNT // 2)),
            "date": pa.array(days),
            "open": pa.array(low, pa.decimal128(9, 2)),
            "high": pa.array([price + 2 for price in low], pa.decimal128(9, 2)),
            "low": pa.array(low, pa.decimal128(9, 2)),
            "close": pa.array([price + 1 for price in low], pa.decimal128(9, 2)),
            "volume": pa.array([None, *range(1, COUNT)], pa.int64()),
            "source": pa.array([None, "x", "y", "x"] * (COUNT // 4)),
        }
    )


def with_column(name: str, column: Any) -> pa.Table:
    table = usual()
    return table.set_column(table.column_names.index(name), name, column)


def cast(name: str, kind: pa.DataType) -> Callable[[], Any]:
    return lambda: with_column(name, usual()[name].cast(kind))


def viewed_dictionary(name: str) -> pa.Table:
    encoded = usual()[name].combine_chunks().dictionary_encode()
    return with_column(name, pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.string_view())))


def in_polars(**casts: Any) -> pl.DataFrame:
    frame = pl.DataFrame(usual())
    return frame.with_columns(pl.col(name).cast(kind) for name, kind in casts.items())


FORMS: dict[str, Callable[[], Any]] = {
    "string_view": cast("ticker", pa.string_view()),
    "large_string": cast("source", pa.large_string()),
    "dictionary of views": lambda: viewed_dictionary("source"),
    "dictionary of dates": lambda: with_column("date", usual()["date"].dictionary_encode()),
    "dictionary of decimals": lambda: with_column("open", usual()["open"].dictionary_encode()),
    "dictionary of texts for dates": lambda: with_column("date", usual()["date"].cast(pa.string()).dictionary_encode()),
    "dictionary of texts for decimals": lambda: with_column("open", usual()["open"].cast("string").dictionary_encode()),
    "run-end encoded": lambda: with_column("ticker", pc.run_end_encode(usual()["ticker"].combine_chunks())),
    "decimal256": cast("open", pa.decimal256(60, 2)),
    "decimal of more decimals than the column": cast("close", pa.decimal128(38, 18)),
    "decimal256 of more decimals": cast("volume", pa.decimal256(76, 30)),
    "uint64": cast("volume", pa.uint64()),
    "date64": cast("date", pa.date64()),
    "nanoseconds": cast("date", pa.timestamp("ns")),
    "polars": in_polars,
    "polars Categorical": lambda: in_polars(ticker=pl.Categorical, source=pl.Categorical),
    "polars Enum": lambda: in_polars(ticker=pl.Enum(["B", "A", "C"])),
    "polars Datetime": lambda: in_polars(date=pl.Datetime("ns")),
    "polars Decimal": lambda: in_polars(open=pl.Decimal(38, 12), volume=pl.UInt64),
    "polars, filtered": lambda: pl.concat([in_polars(source=pl.Categorical), in_polars(source=pl.Categorical)]).filter(
        pl.int_range(2 * COUNT) >= COUNT
    ),
    "pandas": lambda: usual().to_pandas(),
    "pandas category": lambda: usual().to_pandas().astype({"ticker": "category", "source": "category"}),
}
if hasattr(pa, "decimal32"):  # pyarrow 19
    FORMS["decimal32"] = cast("open", pa.decimal32(9, 2))
    FORMS["decimal64"] = cast("low", pa.decimal64(18, 2))


def judged(given: Any, shape: Any = DAILY) -> Batch:
    """Return what columns make of an input, which is what rows make of it."""
    for exact_decimals in (True, False):
        expected = check(given, shape, exact_decimals=exact_decimals, **RULES)
        rows = table_of_frame(given) if hasattr(given, "__arrow_c_stream__") else given
        found = columns.check(rows, shape, exact_decimals=exact_decimals, **RULES)
        assert found.rejected == expected.rejected
        assert (found.positions, found.dropped) == (expected.positions, expected.dropped)
        assert found.columns is not None
        assert found.columns.select(list(expected.rows[0])).to_pylist() == expected.rows
    return found


@pytest.fixture
def none_may_be_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST_IN_DOUBT", 0.0)


@pytest.fixture
def all_may_be_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST_IN_DOUBT", 1.0)


@pytest.mark.usefixtures("none_may_be_in_doubt")
@pytest.mark.parametrize("form", FORMS)
def test_no_row_of_a_good_frame_is_in_doubt_whatever_its_types(form: str) -> None:
    batch = judged(FORMS[form]())
    assert (len(batch.positions), batch.rejected) == (COUNT, [])
    names = usual().column_names
    expected = columns.check(usual(), DAILY, exact_decimals=True, **RULES)
    assert batch.columns is not None
    assert expected.columns is not None
    assert batch.columns.select(names).equals(expected.columns.select(names))


LONG = 2**64 - 1
BAD_COLUMNS: dict[str, tuple[str, Callable[[], pa.Array]]] = {
    "decimal with a digit too many": ("open", lambda: decimals(pa.decimal128(38, 18), "1.070000000000000001")),
    "negative, with a digit too many": ("volume", lambda: decimals(pa.decimal128(38, 18), "-0.000000000000000001")),
    "decimal256 that is too long": ("volume", lambda: decimals(pa.decimal256(76, 2), str(2**128 + 5))),
    "decimal256 that is too long and negative": ("volume", lambda: decimals(pa.decimal256(76, 20), str(-(2**127)))),
    "decimal256 with a digit too many": ("close", lambda: decimals(pa.decimal256(76, 30), "2.070000000000000000001")),
    "uint64 that is too long": ("dividends", lambda: pa.array([LONG, 2**63, 10**10, None] * 10, pa.uint64())),
    "date64 in the middle of a day": ("date", lambda: dates_and(86_399_999)),
    "view that is no Unicode": ("source", lambda: texts_and(b"\xff").cast(pa.string_view())),
    "dictionary with a text that is refused": ("ticker", lambda: categories("A", " B")),
    "dictionary with an empty text": ("ticker", lambda: categories("A", "")),
    "dictionary with a null": ("ticker", lambda: categories("A", None)),
    "dictionary of bytes": ("source", lambda: pa.array([b"x", None, b"y", b"x"] * 10).dictionary_encode()),
    "binary view": ("source", lambda: pa.array([None, b"x"] * 20, pa.binary_view())),
}  # fmt: skip


def decimals(kind: pa.DataType, bad: str) -> pa.Array:
    return pa.array([Decimal(bad), *(Decimal(200 + 7 * day) / 100 for day in range(1, COUNT))], kind)


def dates_and(milliseconds: int) -> pa.Array:
    days = [18_262 + day for day in range(COUNT)]
    values = np.array([day * 86_400_000 for day in days[:-1]] + [days[-1] * 86_400_000 + milliseconds], np.int64)
    return pa.Array.from_buffers(pa.date64(), COUNT, [None, pa.py_buffer(values)])


def texts_and(bad: bytes) -> pa.Array:
    offsets = np.array([0, *[len(bad)] * COUNT], np.int32)
    return pa.Array.from_buffers(pa.string(), COUNT, [None, pa.py_buffer(offsets), pa.py_buffer(bad)])


def categories(good: str, other: str | None) -> pa.Array:
    codes = pa.array([0] * (COUNT - 1) + [1], pa.uint32())
    return pa.DictionaryArray.from_arrays(codes, pa.array([good, other], pa.string_view()))


@pytest.mark.usefixtures("all_may_be_in_doubt")
@pytest.mark.parametrize("bad", BAD_COLUMNS)
def test_a_frame_is_refused_row_by_row_in_the_words_of_a_rows_check(bad: str) -> None:
    name, made = BAD_COLUMNS[bad]
    frame = with_column(name, made()) if name in usual().column_names else usual().append_column(name, made())
    try:
        batch = judged(frame)
    except columns.UNDECIDED:  # the rows are judged one by one, then
        batch = check(frame, DAILY, exact_decimals=True, **RULES)
    assert batch.rejected
    assert {refused.column for refused in batch.rejected} == {name}
    some_are_good = bad not in ("dictionary of bytes", "binary view", "uint64 that is too long")
    assert len(batch.rejected) == 1 or not some_are_good


def test_a_dictionary_of_any_kind_gives_its_cells() -> None:
    codes = pa.array([1, None, 0], pa.uint16())
    kinds = [pa.array(["a", "b"], pa.string_view()), pa.array([b"a", b"b"], pa.binary_view()), pa.array([1.5, np.nan])]
    kinds += [pa.array([["a"], ["b"]], pa.list_(pa.string_view())), pa.array([{"a": 1}, {"a": 2}])]
    for values in kinds:
        frame = pa.table({"cell": pa.DictionaryArray.from_arrays(codes, values)})
        cells = [None if cell != cell else cell for cell in values.to_pylist()]  # noqa: PLR0124 - NaN
        assert list(rows_of_frame(frame)) == [{"cell": cells[1]}, {"cell": None}, {"cell": cells[0]}]


def test_a_column_that_is_plain_is_not_copied() -> None:
    for column in (usual()["ticker"], usual()["source"].dictionary_encode(), pa.chunked_array([], pa.string_view())):
        assert plain(column) is column


@pytest.mark.parametrize("cell", [10**40, "\ud800"])
def test_a_frame_that_arrow_cannot_hold_is_refused_as_such(cell: object) -> None:
    frame = pd.DataFrame({"ticker": pd.Series([cell, "A" if isinstance(cell, str) else 1], dtype=object)})
    with pytest.raises(InvalidRowError, match="Arrow cannot hold"):
        check(frame, DAILY, exact_decimals=True, **RULES)


DAYS = [FIRST + dt.timedelta(days=day) for day in range(COUNT)]
NOON = dt.datetime(2025, 1, 2, 12, tzinfo=dt.UTC)
SPELLINGS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "pandas Timestamp": ("date", lambda at: pd.Timestamp(DAYS[at])),
    "Timestamp of Tokyo": ("date", lambda at: pd.Timestamp(DAYS[at], tz="Asia/Tokyo")),
    "naive datetime": ("date", lambda at: dt.datetime.combine(DAYS[at], dt.time())),
    "dates in several classes": ("date", lambda at: DAYS[at] if at % 2 else DAYS[at].isoformat()),
    "numpy float": ("open", lambda _: np.float64(1.1)),
    "numpy float of 32 bits": ("open", lambda _: np.float32(1.1)),
    "numpy integer": ("volume", np.int64),
    "numpy unsigned integer": ("volume", np.uint8),
    "numpy text": ("source", lambda _: np.str_("x")),
    "numpy truth": ("is_final", lambda at: np.bool_(at % 2)),
    "whole numbers among floats": ("open", lambda at: 1 if at % 2 else 1.1),
    "floats among decimals": ("open", lambda at: Decimal("1.05") if at % 2 else 1.1),
    "texts among decimals": ("open", lambda at: Decimal("1.05") if at % 2 else "1.1"),
    "instants of pandas": ("observed_at", lambda at: pd.Timestamp(NOON) + pd.Timedelta(hours=at)),
    "instants as texts among others": ("observed_at", lambda at: NOON if at % 2 else NOON.isoformat()),
}


def spelled(name: str, value: Callable[[int], Any], *, as_objects: bool) -> list[Any]:
    prices = {"open": 1.1, "high": 1.2, "low": 1.0, "close": 1.1}
    rows = [{"ticker": "A", "date": DAYS[at], **prices, "volume": at, name: value(at)} for at in range(COUNT)]
    return [DailyData(**row) for row in rows] if as_objects else rows


@pytest.mark.usefixtures("none_may_be_in_doubt")
@pytest.mark.parametrize("as_objects", [False, True], ids=["mappings", "objects"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_row_of_a_good_list_is_in_doubt_however_its_values_are_spelled(spelling: str, *, as_objects: bool) -> None:
    batch = judged(spelled(*SPELLINGS[spelling], as_objects=as_objects))
    assert len(batch.positions) == COUNT


BAD_CELLS: dict[str, tuple[str, list[Any]]] = {
    "dates": (
        "date",
        [pd.NaT, pd.Timestamp("2025-01-02 00:00:00.000000001"), pd.Timestamp("2025-01-02 01:00"), 5, None, "soon"],
    ),
    "numpy's own dates": ("date", [np.datetime64("2025-01-02"), dt.date(999, 1, 1), pd.Timestamp("2025-01-02")]),
    "prices": ("open", [float("nan"), np.float64("inf"), np.float32("nan"), True, np.bool_(1), None, Decimal("NaN")]),
    "numbers": ("dividends", [float("nan"), None, 1.5, 2**53 + 1, 10**40, Decimal("0.12345678901"), pd.NA]),
    "floats alone": ("dividends", [float("nan"), None, 1.5, float("inf"), 1e30]),
    "volumes": ("volume", [np.int64(-1), np.uint64(LONG), np.timedelta64(5, "s"), np.int8(3), 10**30]),
    "decimals": ("volume", [Decimal("0.123456789"), Decimal("1E+40"), Decimal(5), Decimal("sNaN")]),
    "texts": ("source", [5, b"x", "x", np.str_("y"), "\ud800", "a\0b", True]),
    "truths": ("is_final", [1, "true", np.bool_(0), None, 0.0]),
    "instants": ("observed_at", [NOON.replace(tzinfo=None), pd.Timestamp(NOON), "now", NOON, pd.NaT, DAYS[0]]),
}


@pytest.mark.usefixtures("all_may_be_in_doubt")
@pytest.mark.parametrize("bad", BAD_CELLS)
def test_a_value_is_refused_in_the_same_words_in_lists_of_any_size(bad: str) -> None:
    name, cells = BAD_CELLS[bad]
    good = SPELLINGS["pandas Timestamp"][1] if name == "date" else (lambda _: 1 if name == "open" else None)
    rows = spelled(name, lambda at: cells[at] if at < len(cells) else good(at), as_objects=False)
    assert judged(rows).rejected


def test_rows_of_another_table_are_left_to_the_rows_check() -> None:
    row = {"ticker": "A", "date": FIRST, **flat(1)}
    for rows in ([IntradayData(ticker="A")] * 3, [row, DailyData(**row)], [row, {**row, "volume": 1}], [5, 6]):
        with pytest.raises(Undecided):
            columns.check(rows, DAILY, exact_decimals=True, **RULES)
