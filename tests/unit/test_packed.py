"""Columns that PostgreSQL packed become what was stored, or nothing at all."""

from __future__ import annotations

import struct
from decimal import Decimal

import pyarrow as pa
import pytest

from traderrr_data.dialects.base import CellByCell
from traderrr_data.dialects.postgresql import numeric
from traderrr_data.dialects.postgresql.packed import batch_of, last_of

PRICE = pa.decimal128(20, 10)
NAN = struct.pack(">HHHH", 0, 0, 0xC000, 0)


def sent(number: str, shown: int = 10) -> bytes:
    """What numeric_send makes of a number."""
    sign, digits, exponent = Decimal(number).as_tuple()
    assert isinstance(exponent, int)
    fraction = -(-max(-exponent, 0) // 4)
    whole = int("".join(map(str, digits))) * 10 ** (4 * fraction + exponent)
    places = []
    while whole:
        whole, place = divmod(whole, 10_000)
        places.append(place)
    weight = len(places) - 1 - fraction
    while places and not places[0]:
        places.pop(0)
    head = struct.pack(">HhHH", len(places), weight if places else 0, 0x4000 if sign else 0, shown)
    return head + struct.pack(f">{len(places)}H", *reversed(places))


NUMBERS = ["0", "149.99", "-37.63", "0.0000000001", "-0.0000000003", "9999999999.9999999999", "628500.005", "10"]
# Digits of 10,000 that look like the head of a number: ten is how many decimals a price shows.
NUMBERS += ["10.001", "5.0000001", "10.0000001", "100000.001", "9223372036.8547758", "922337203.6854775807", "1e9"]


def test_packed_numbers_are_what_they_were() -> None:
    packed = [b"".join(sent(number) for number in NUMBERS), numeric.null(10) * len(NUMBERS)]
    found, nulls = numeric.arrays(packed, PRICE, len(NUMBERS))
    assert found.to_pylist() == [Decimal(number) for number in NUMBERS]
    assert nulls.null_count == len(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_each_packed_number_is_what_it_was_beside_a_null(number: str) -> None:
    packed = numeric.null(10) + sent(number) + numeric.null(10)
    [found] = numeric.arrays([packed], PRICE, 3)
    assert found.to_pylist() == [None, Decimal(number), None]


@pytest.mark.parametrize(
    "packed",
    [
        NAN,
        sent("1", shown=11) + sent("1"),
        sent("0.00000000001"),
        sent("0.000000000001"),
        sent("10000000000.5"),
        sent("1e30"),
        sent("1.5")[:-2],
        sent("1.5")[:-1],
        b"",
    ],
)
def test_what_is_no_number_of_the_column_is_not_read(packed: bytes) -> None:
    with pytest.raises(CellByCell):
        numeric.arrays([packed], PRICE, 1)


def test_columns_whose_numbers_only_add_up_are_not_read() -> None:
    with pytest.raises(CellByCell):
        numeric.arrays([sent("1") * 3, sent("1")], PRICE, 2)


FIELDS = [
    pa.field("ticker", pa.string(), nullable=False),
    pa.field("source", pa.string()),
    pa.field("date", pa.date32(), nullable=False),
    pa.field("at", pa.timestamp("us", tz="UTC")),
]


@pytest.mark.parametrize(
    ("place", "packed"),
    [
        (0, b"A\nB\nC"),
        (0, b"AB"),
        (0, b"A\n\xff"),
        (1, b"=a\n=b\n"),
        (2, struct.pack(">i", 1)),
        (2, struct.pack(">ii", 1, 2**31 - 1)),
        (2, struct.pack(">ii", 1, -(2**31))),
        (3, struct.pack(">qq", 1, 2**63 - 1)),
        (3, struct.pack(">qq", 1, -(2**63))),
        (3, struct.pack(">qq", 1, 2**60)),
    ],
)
def test_a_column_of_other_cells_than_its_type_has_is_not_read(place: int, packed: bytes) -> None:
    with pytest.raises(CellByCell):
        batch_of([packed], pa.schema([FIELDS[place]]), 2)


def test_the_last_cell_of_a_key_is_told_only_if_it_is_sure() -> None:
    ticker, _, date, _ = FIELDS
    assert last_of(ticker, b"A\nB", 2) == "B"
    assert last_of(ticker, b"A\nB\nC", 2) is None
    assert last_of(ticker, b"A\n\xff", 2) is None
    assert str(last_of(date, struct.pack(">ii", 0, 366), 2)) == "2001-01-01"
    assert last_of(date, struct.pack(">ii", 0, 2**31 - 1), 2) is None
