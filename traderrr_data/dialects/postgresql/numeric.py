"""The wire form of NUMERIC: digits of 10,000, of which the first stands before so many others before the point.

The layout is numeric_send's: https://github.com/postgres/postgres/blob/REL_15_STABLE/src/backend/utils/adt/numeric.c
(the number of digits, the weight of the first, the sign, the decimals that are shown, and then the digits).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from traderrr_data.dialects.base import CellByCell
from traderrr_data.dialects.cells import PADDING, Bytes, Cells
from traderrr_data.dialects.wire import Mask, Whole, decimals_of_whole

if TYPE_CHECKING:
    import pyarrow as pa

_BASE = 10_000
_PLACES = 4  # decimal places of a digit
_HEAD = 8  # bytes before the digits
_DIGITS_A_WORD = 4  # of 64 bits
_SIGN = 0x4000
_NULL = 0xFFFF
_A_BLOCK = 12_288  # numbers; what is made of them on the way stays in the processor's cache
_ANY = 0xFFFF  # what stands there is no digit
_MOST_DIGITS = 12
_LEAST, _WEIGHTS = 8, 16  # weights are from -8 on, so many


@dataclass(frozen=True)
class _Worth:
    """What digits are worth in last decimals, by the form of a number: how many they are, and the first's weight.

    Attributes:
        places: for each place, the worth of a digit there, by form; 0 where it has none, or a part of a last decimal.
        limit: the largest first digit of a number that fits 64 bits, by form.
        splits: forms whose last digit is worth `unit` parts of a last decimal.
        finer: forms with digits that are all behind the last decimal.
        unit: how much of that digit a last decimal is.
    """

    places: list[Whole]
    limit: Whole
    splits: Mask
    finer: Mask
    unit: int


@cache
def _worth(scale: int) -> _Worth:
    forms = (_MOST_DIGITS + 1) * _WEIGHTS
    places = np.zeros((_MOST_DIGITS, forms), np.int64)
    limit, splits, finer = np.zeros(forms, np.int64), np.zeros(forms, np.bool_), np.zeros(forms, np.bool_)
    for form in range(forms):
        count, weight = form // _WEIGHTS, form % _WEIGHTS - _LEAST
        powers = [_PLACES * (weight - place) + scale for place in range(count)]
        for place, power in enumerate(powers):
            if 0 <= power < 19:
                places[place, form] = 10**power
        limit[form] = 2**63 // 10 ** max(powers[0], 0) - 2 if powers else _ANY
        splits[form] = bool(powers) and -_PLACES < powers[-1] < 0
        finer[form] = bool(powers) and powers[-1] <= -_PLACES
    return _Worth(list(places), limit, splits, finer, 10 ** (-scale % _PLACES))


def null(scale: int) -> bytes:
    """Return what stands for NULL where these forms follow each other: a sign that no number has."""
    return struct.pack(">HHHH", 0, 0, _NULL, scale)


def arrays(packed: Sequence[bytes], kind: pa.DataType, rows: int) -> list[pa.Array]:
    """Return columns of one type, in each of which the numbers follow each other, as decimals.

    Raises:
        CellByCell: one is not a number, or does not fit the type, or there are more or fewer than rows.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    text = b"".join([*packed, PADDING])
    begins = np.cumsum([0, *map(len, packed)])
    at = 2 * _starts(np.frombuffer(text, ">i2", begins[-1] // 2).astype(np.int16), kind.scale)
    if len(at) != rows * len(packed) or (at[::rows] != begins[:-1]).any():
        raise CellByCell("there are more or fewer numbers than rows")
    letters = np.frombuffer(text, np.uint8)
    size = np.diff(at, append=begins[-1])
    blocks = [
        _decimals(letters, at[first : first + _A_BLOCK], size[first : first + _A_BLOCK], kind)
        for first in range(0, len(at), _A_BLOCK)
    ]
    array = pa.concat_arrays(blocks)
    return [array.slice(first, rows) for first in range(0, len(at), rows)]


def _starts(words: npt.NDArray[np.int16], scale: int) -> Whole:
    """Return where numbers begin, of which one follows the other.

    All places that look like a beginning are found at once; if they do not follow each other, some are none.
    """
    found = np.flatnonzero(words[3:] == scale)
    sign = words[found + 2]
    found = found[(sign & ~_SIGN == 0) | (sign == -1)]
    ends = found + 4 + words[found]
    if len(found) and found[0] == 0 and np.array_equal(ends, np.append(found[1:], len(words))):
        return np.asarray(found, np.int64)
    counts, starts, place = words.tolist(), [], 0
    while place < len(counts):
        starts.append(place)
        place += 4 + max(counts[place], 0)
    return np.array(starts, np.int64)


def _decimals(letters: Bytes, at: Whole, size: Whole, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    column = Cells(letters, at, size, np.zeros(len(at), np.bool_))
    head = column.words(">i8").astype(np.int64)
    sign = head >> 16 & 0xFFFF
    is_null = sign == _NULL
    if is_null.all():
        return pa.nulls(len(at), kind)
    count, weight = head >> 48, (head >> 32) + _LEAST & 0xFFFF
    is_number = (sign & ~_SIGN == 0) | is_null
    if not is_number.all() or (size != 2 * count + _HEAD).any():
        raise CellByCell("a cell is no number")
    if count.max() > _MOST_DIGITS or weight.max() >= _WEIGHTS:
        raise CellByCell("a number is larger or finer than any of ours")
    whole, large = _whole(column, count, count * _WEIGHTS + weight, _worth(kind.scale))
    negative = sign == _SIGN
    np.negative(whole, out=whole, where=negative)
    array = decimals_of_whole(whole, is_null, kind)
    if not large.any():
        return array
    cells = array.to_pylist()
    for row in np.flatnonzero(large).tolist():
        number = _decimal(column, row, int(count[row]), int(weight[row]) - _LEAST, kind.scale)
        cells[row] = number.copy_negate() if negative[row] else number
    try:
        return pa.array(cells, kind)
    except pa.ArrowInvalid as error:
        raise CellByCell(str(error)) from error


def _whole(column: Cells, count: Whole, form: Whole, worth: _Worth) -> tuple[Whole, Mask]:
    """Return the numbers without their signs as whole numbers of the last decimal, and which of them do not fit."""
    whole = np.zeros(len(count), np.int64)
    large = np.zeros(len(count), np.bool_)
    for place in range(int(count.max())):
        if place % _DIGITS_A_WORD == 0:
            words = column.words(">i8", _HEAD + 2 * place).astype(np.int64)
        digit = words >> 48 - 16 * (place % _DIGITS_A_WORD) & 0xFFFF
        whole += digit * worth.places[place][form]
        if place == 0:
            large = digit > worth.limit[form]
    if worth.finer[form].any():
        raise CellByCell("a number has more decimals than its column")
    if worth.splits[form].any():
        rows = np.flatnonzero(worth.splits[form])
        last = column.taken(rows).words(">u2", _HEAD + 2 * (count[rows] - 1)).astype(np.int64)
        if (last % worth.unit).any():
            raise CellByCell("a number has more decimals than its column")
        whole[rows] += last // worth.unit
    return whole, large


def _decimal(column: Cells, row: int, count: int, weight: int, scale: int) -> Decimal:
    """Return one number as it is, without its sign, whatever its size."""
    begin = int(column.at[row]) + _HEAD
    whole = 0
    for digit in column.letters[begin : begin + 2 * count].view(">u2").tolist():
        whole = whole * _BASE + digit
    shift = scale + _PLACES * (weight - count + 1)
    whole = whole * 10**shift if shift >= 0 else whole // 10**-shift
    return Decimal((0, tuple(map(int, str(whole))), -scale))
