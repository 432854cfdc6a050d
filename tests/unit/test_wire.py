"""Texts from a driver become columns, or nothing at all."""

from __future__ import annotations

import datetime as dt
import math
import random
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pyarrow as pa
import pytest

from traderrr_data.dialects.base import CellByCell
from traderrr_data.dialects.wire import array_of_lines, batch_of_text, decimals_of_doubles, decimals_read, in_order

SCHEMA = pa.schema([("ticker", pa.string()), ("close", pa.decimal128(20, 10)), ("at", pa.timestamp("us", tz="UTC"))])


def read(text: str, rows: int, null: str = "") -> pa.RecordBatch:
    return batch_of_text(text.encode(), SCHEMA, rows, null=null, zoned=False)


def test_lines_become_rows_and_an_absent_cell_is_null() -> None:
    batch = read("A\"'\\,\t-37.63\t2025-01-02 14:30:00.000001\nB\t\t\n", 2)
    instant = dt.datetime(2025, 1, 2, 14, 30, 0, 1, dt.UTC)
    assert [row["ticker"] for row in batch.to_pylist()] == ["A\"'\\,", "B"]
    assert [str(row["close"]) for row in batch.to_pylist()] == ["-37.6300000000", "None"]
    assert [row["at"] for row in batch.to_pylist()] == [instant, None]


@pytest.mark.parametrize(
    "text",
    [
        "A\t1\t\n",
        "A\t1\t\nB\t1",
        "A\t1\t\nB\n\t1\t\n",
        "A\t1\t\nB\tx\t1\t\n",
        "A\t1\t\nB\r\t1\t\n",
        "A\tNaN\t\nB\t1\t\n",
    ],
)
def test_a_text_that_was_cut_or_has_a_stranger_in_it_is_not_read(text: str) -> None:
    with pytest.raises(CellByCell):
        read(text, 2)


@pytest.mark.parametrize("instant", ["0000-01-01 00:00:00", "2025-01-02 24:00:00", "2025-01-02 10:00:00+01:00"])
def test_an_instant_that_python_would_read_otherwise_is_not_read(instant: str) -> None:
    with pytest.raises(CellByCell):
        read(f"A\t1\t{instant}\n", 1)


@pytest.mark.parametrize(
    ("text", "nullable", "expected"), [("a\n\nb\n", True, ["a", None, "b"]), ("\n", False, [""]), ("\n", True, [None])]
)
def test_each_line_is_a_value(text: str, nullable: bool, expected: list[Any]) -> None:
    assert array_of_lines(text.encode(), pa.field("x", pa.string(), nullable), len(expected)).to_pylist() == expected
    with pytest.raises(CellByCell):
        array_of_lines(text.encode(), pa.field("x", pa.string(), nullable), len(expected) + 1)


def test_scaled_doubles_become_decimals_as_far_as_a_double_tells_them() -> None:
    kind = pa.decimal128(20, 10)
    found = decimals_of_doubles(pa.array([-376300000000, None, 1, 6285005000000000]), kind)
    assert [str(value) for value in found.to_pylist()] == ["-37.6300000000", "None", "1E-10", "628500.5000000000"]
    for unsure in (-6285005000000001, 10**16):
        with pytest.raises(CellByCell):
            decimals_of_doubles(pa.array([unsure]), kind)


def by_its_digits(value: float, scale: int) -> Decimal:
    return Decimal(repr(value)).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_EVEN)


@pytest.mark.parametrize("scale", [6, 8, 10])
def test_a_double_becomes_the_decimal_of_its_digits_or_nothing(scale: int) -> None:
    source, kind = random.Random(scale), pa.decimal128(20, scale)  # noqa: S311 - test data
    read = 0
    for _ in range(3_000):
        size = 10 ** source.uniform(-12, 9)
        for value in (
            source.uniform(-size, size),
            round(source.uniform(-size, size), source.randint(0, scale)),
            (2 * source.randint(0, 10 ** source.randint(1, 16)) + 1) / (2 * 10**scale),
            math.nextafter(source.randint(1, 10**15) / 10**scale, source.choice([0, math.inf])),
        ):
            try:
                found = decimals_read(pa.array([value]), kind)
            except CellByCell:
                continue
            read += 1
            assert found[0].as_py() == by_its_digits(value, scale)
    assert read > 6_000


def test_doubles_that_are_null_or_no_number_of_a_column() -> None:
    kind = pa.decimal128(20, 10)
    assert decimals_read(pa.array([None, -0.0, 0.24]), kind).to_pylist() == [None, Decimal(0), Decimal("0.24")]
    for odd in (math.inf, -math.inf, math.nan, 1e300, 5e-11, 123456789.12345678):
        with pytest.raises(CellByCell):
            decimals_read(pa.array([1.0, odd]), kind)


def test_rows_that_came_in_another_order_are_put_into_that_of_their_key() -> None:
    batch = pa.record_batch({"ticker": ["B", "A", "A"], "n": [1, 2, 1]})
    assert in_order(batch, ["ticker", "n"]).to_pylist() == [
        {"ticker": "A", "n": 1},
        {"ticker": "A", "n": 2},
        {"ticker": "B", "n": 1},
    ]
