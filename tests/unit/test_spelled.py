"""Rows that MySQL and MariaDB spelled out become what was stored, or nothing at all."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from traderrr_data.dialects.base import CellByCell
from traderrr_data.dialects.cells import PADDING
from traderrr_data.dialects.mysql.rowset import Rowset
from traderrr_data.dialects.mysql.spelled import batch_of

PRICE = pa.decimal128(20, 10)


def cell(text: str | None) -> bytes:
    if text is None:
        return b"\xfb"
    size, encoded = len(text.encode()), text.encode()
    if size <= 250:
        return bytes([size]) + encoded
    return (b"\xfc" + size.to_bytes(2, "little") if size < 2**16 else b"\xfd" + size.to_bytes(3, "little")) + encoded


def rowset(*rows: tuple[str | None, ...]) -> Rowset:
    found = Rowset()
    for row in rows:
        packet = b"".join(map(cell, row))
        found.begins.append(len(found.packets))
        found.packets += len(packet).to_bytes(3, "little") + b"\x07" + packet
    found.end = len(found.packets)
    found.packets += PADDING
    return found


def read(kind: Any, *cells: str | None) -> list[Any]:
    values: list[Any] = batch_of(rowset(*((text,) for text in cells)), pa.schema([("x", kind)]))["x"].to_pylist()
    return values


NUMBERS = ["0.0000000000", "149.9900000000", "-37.6300000000", "0.0000000001", "-0.0000000003", "99999999.9999999999"]
LARGE = ["123456789.0000000000", "922337203.6854775807", "922337203.6854775808", "-9999999999.9999999999"]


@pytest.mark.parametrize("number", [*NUMBERS, *LARGE])
def test_a_number_is_what_it_was_alone_and_beside_others(number: str) -> None:
    assert read(PRICE, number) == [Decimal(number)]
    assert read(PRICE, None, number, None, *NUMBERS) == [None, Decimal(number), None, *map(Decimal, NUMBERS)]


@pytest.mark.parametrize(
    "volume", ["0.00000000", "12345678.12345678", "9007199254740993.00000000", "92233720368.54775807"]
)
def test_a_volume_is_what_it_was(volume: str) -> None:
    assert read(pa.decimal128(24, 8), volume, None) == [Decimal(volume), None]


def test_numbers_that_are_spelled_otherwise_are_read_all_the_same() -> None:
    assert read(PRICE, "1.5", "7", "-2") == [Decimal("1.5"), 7, -2]


@pytest.mark.parametrize(
    "unread", ["", "1,0000000000", "1.00000000001", "x.0000000000", "-.0000000000x", ":.0000000000"]
)
def test_what_is_no_number_of_the_column_is_not_read(unread: str) -> None:
    with pytest.raises(CellByCell):
        read(PRICE, "1.0000000000", unread)


@pytest.mark.parametrize("size", [0, 1, 250, 251, 65_535, 65_536, 70_000])
def test_texts_of_any_size_are_read(size: int) -> None:
    assert read(pa.string(), "a", "é" * (size // 2), None, "b") == ["a", "é" * (size // 2), None, "b"]


@pytest.mark.parametrize("flag", ["2", "", "10"])
def test_a_flag_that_is_neither_yes_nor_no_is_not_read(flag: str) -> None:
    assert read(pa.bool_(), "0", "1", None) == [False, True, None]
    with pytest.raises(CellByCell):
        read(pa.bool_(), "1", flag)


@pytest.mark.parametrize("columns", [1, 3])
def test_rows_of_more_or_fewer_cells_than_columns_are_not_read(columns: int) -> None:
    schema = pa.schema([(f"c{number}", pa.string()) for number in range(columns)])
    with pytest.raises(CellByCell):
        batch_of(rowset(("a", "b"), ("c", "d")), schema)


def test_a_row_of_several_packets_is_not_read() -> None:
    found = rowset(("a",))
    found.has_long_rows = True
    with pytest.raises(CellByCell):
        batch_of(found, pa.schema([("x", pa.string())]))


def test_the_last_row_is_read_by_itself() -> None:
    found = rowset(("a", "1.0000000000"), ("b", None)).last()
    assert batch_of(found, pa.schema([("x", pa.string()), ("y", PRICE)])).to_pylist() == [{"x": "b", "y": None}]
