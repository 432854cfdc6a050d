"""Values of the old application: what they stand for, and that SQL and Python read the same bytes alike."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
import struct
import zoneinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traderrr_data.adopt import values
from traderrr_data.adopt.blobs import number_of_blob
from traderrr_data.adopt.examine import in_batches
from traderrr_data.models.types import ExactDecimal, LongText, Price, Quantity, Ticker

BLOBS = st.one_of(
    st.floats(width=32).map(lambda value: struct.pack("<f", value)),
    st.floats(min_value=1e-15, max_value=1e15).map(lambda value: struct.pack("<d", value)),
    st.integers(-(2**22), 2**22).map(lambda value: struct.pack("<i", value)),
    st.integers(-(2**51), 2**51).map(lambda value: struct.pack("<q", value)),
)


@given(blob=BLOBS, kind=st.sampled_from([Price(), Quantity()]))
def test_sql_reads_a_numpy_value_as_python_does(blob: bytes, kind: ExactDecimal) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        parameters = (blob, kind.keeps_whole_numbers)
        (read,) = connection.execute(f"SELECT {number_of_blob('?1', '?2')}", parameters).fetchone()
    assert read == values.number(kind, blob, lambda _change: None)


@pytest.mark.parametrize(
    ("layout", "value"),
    [
        ("<f", -0.15000000596046448),
        ("<d", 269.2799987792969),
        ("<q", 3_000_000_000),
        ("<q", -5),
        ("<i", 77),
        ("<f", 0.0),
    ],
)
def test_a_numpy_value_is_its_number(layout: str, value: float) -> None:
    noted: list[str] = []
    assert values.number(Price(), struct.pack(layout, value), noted.append) == value
    assert noted == ["a BLOB (a numpy value) became its number"]


@pytest.mark.parametrize(
    ("stored", "read"),
    [("1.5", 1.5), (" 7 ", 7), ("", None), ("NaN", None), ("None", None), ("inf", None), (float("-inf"), None), (5, 5)],
)
def test_what_stands_for_a_number_is_one(stored: Any, read: float | None) -> None:
    assert values.number(Quantity(), stored, lambda _change: None) == read


@pytest.mark.parametrize("stored", ["1,5", "abc", b"abc", values.Undecodable(b"\xff"), 1e300, "0x1"])
def test_what_is_no_number_is_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match="is "):
        values.number(Price(), stored, lambda _change: None)


@pytest.mark.parametrize(
    "stored", ["2025-01-02", "2025-01-02 00:00:00", "2025-01-02T00:00:00-05:00", "20250102", 20250102, b"2025-01-02"]
)
def test_a_date_is_read_however_it_was_written(stored: Any) -> None:
    assert values.date(stored, lambda _change: None) == "2025-01-02"


@pytest.mark.parametrize("stored", ["2025-02-30", "2025-01-02 09:30:00", "x", "", 1.5, b"\xff", "0999-01-01"])
def test_what_is_no_date_is_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match="is not a"):
        values.date(stored, lambda _change: None)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("2025-07-01 09:30:00", "2025-07-01 13:30:00"),
        ("2025-12-01 09:30", "2025-12-01 14:30:00"),
        ("2025-12-01", "2025-12-01 05:00:00"),
        ("2025-07-01 09:30:00.250000000", "2025-07-01 13:30:00.250000"),
        ("2025-07-01T09:30:00+05:30", "2025-07-01 04:00:00"),
        ("2025-07-01 09:30:00Z", "2025-07-01 09:30:00"),
    ],
)
def test_an_instant_is_brought_to_utc(stored: str, read: str) -> None:
    zone = zoneinfo.ZoneInfo("America/New_York")
    assert values.instant(stored, zone, lambda _change: None) == read


@pytest.mark.parametrize(
    "stored", ["09:30:00", "2025-07-01 25:00:00", 1751376600, "2025-07-01 09:30:00.0000001", b"\xff"]
)
def test_what_is_no_instant_is_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match="is not an instant"):
        values.instant(stored, dt.UTC, lambda _change: None)


def test_text_is_kept_as_it_is_but_a_key_must_be_one() -> None:
    noted: list[str] = []
    assert values.text(LongText(), b"caf\xc3\xa9", noted.append) == "café"
    assert values.text(LongText(), 700, noted.append) == "700"
    assert noted == ["a BLOB became text", "a number became text"]
    for stored in ("", " AAPL", "A\nB", "x" * 65, "A\x00"):
        with pytest.raises(ValueError, match="is empty, too long"):
            values.text(Ticker(), stored, noted.append)
    with pytest.raises(ValueError, match="UTF-8"):
        values.text(LongText(), b"\xff", noted.append)


def test_rows_with_long_texts_are_in_memory_a_few_at_a_time() -> None:
    long = [(number, "x" * 3_000_000, b"") for number in range(10)]
    assert [len(batch) for batch in in_batches(long)] == [3, 3, 3, 1]
    short = [(number, "x") for number in range(12_000)]
    assert [len(batch) for batch in in_batches(short)] == [5_000, 5_000, 2_000]
    assert [row for batch in in_batches(short) for row in batch] == short
