"""Cells that the server spells out, read as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from traderrr_data.dialects import cells
from traderrr_data.dialects.base import CellByCell
from traderrr_data.dialects.cells import Bytes, Cells
from traderrr_data.dialects.wire import Whole, decimals_of_whole, read_texts

if TYPE_CHECKING:
    import pyarrow as pa

    from traderrr_data.dialects.mysql.rowset import Rowset

_ROWS_A_BLOCK = 2_048  # what is made of so many on the way stays in the processor's cache
_HEAD = 4  # bytes of a packet's size and number
_NULL = 0xFB  # instead of a size
_TWO, _THREE = 0xFC, 0xFD  # so many bytes of size follow; with more, the cell is longer than a packet
_WORD = 8  # letters that are read at once
_ZEROS, _SIX, _HIGH = (np.uint64(byte * 0x0101010101010101) for byte in (0x30, 0x06, 0xF0))
_TWO_ZEROS = 0x3030
_LARGEST = 2**63 - 1
# Two digits become one number, then two of these, and so on: the first of them stands in the lower half.
_STEPS = tuple(
    (np.uint64(mask), np.uint64(factor), np.uint64(by))
    for mask, factor, by in (
        (0x0F0F0F0F0F0F0F0F, 10 * 2**8 + 1, 8),
        (0x00FF00FF00FF00FF, 100 * 2**16 + 1, 16),
        (0x0000FFFF0000FFFF, 10_000 * 2**32 + 1, 32),
    )
)


def batch_of(rowset: Rowset, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as columns of a schema.

    Raises:
        CellByCell: a cell is not what its column's type says, or is too long.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    if rowset.has_long_rows:
        raise CellByCell("a row takes more than one packet")
    if not rowset.begins:
        return pa.RecordBatch.from_pylist([], schema=schema)
    letters = np.frombuffer(rowset.packets, np.uint8)
    begins = np.array([*rowset.begins, rowset.end], np.int64)
    batches = []
    for first in range(0, len(rowset.begins), _ROWS_A_BLOCK):
        columns = _cells(letters, begins[first : first + _ROWS_A_BLOCK + 1], len(schema))
        batches.append(pa.record_batch(_arrays(columns, schema), schema=schema))
    [batch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return batch


def _cells(letters: Bytes, begins: Whole, columns: int) -> list[Cells]:
    """Return where each column's cells lie in some rows, of which the last one ends where the last of these begins."""
    found: list[Cells] = []
    last = len(letters) - 1
    at = begins[:-1] + _HEAD
    for _ in range(columns):
        at = np.minimum(at, last)
        size = letters[at].astype(np.int64)
        null = size == _NULL
        size[null] = 0
        at = at + 1
        if (size > _NULL).any():
            at, size = _long(letters, at, size)
        found.append(Cells(letters, at, size, null))
        at = at + size
    if not np.array_equal(at, begins[1:]):
        raise CellByCell("the cells of a row do not fill it")
    return found


def _long(letters: Bytes, at: Whole, size: Whole) -> tuple[Whole, Whole]:
    """Return where cells begin, and their sizes, where some sizes take more than one byte."""
    at, size = at.copy(), size.copy()
    for row in np.flatnonzero(size > _NULL).tolist():
        if size[row] > _THREE:
            raise CellByCell("a cell is longer than a packet")
        begin, width = int(at[row]), 2 if size[row] == _TWO else 3
        size[row] = int.from_bytes(letters[begin : begin + width].tobytes(), "little")
        at[row] += width
    return at, size


def _arrays(columns: Sequence[Cells], schema: pa.Schema) -> list[pa.Array]:
    """Return each column; decimals of one type are read all at once."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    arrays: dict[str, pa.Array] = {}
    alike: dict[pa.DataType, dict[str, Cells]] = {}
    for column, field in zip(columns, schema, strict=True):
        if column.null.all():
            arrays[field.name] = pa.nulls(len(column.null), field.type)
        elif pa.types.is_decimal(field.type):
            alike.setdefault(field.type, {})[field.name] = column
        else:
            arrays[field.name] = array_of(column, field.type)
    for kind, named in alike.items():
        rows = len(columns[0].at)
        array = _decimals(cells.joined(list(named.values())), kind)
        arrays |= {name: array.slice(place * rows, rows) for place, name in enumerate(named)}
    return [arrays[name] for name in schema.names]


def array_of(column: Cells, kind: pa.DataType) -> pa.Array:
    """Return cells as a column of a type; CellByCell if one cannot be read as that."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    if pa.types.is_boolean(kind):
        letter = column.words("u1").astype(np.int64)
        if ((column.size != 1) | (letter < ord("0")) | (letter > ord("1")))[~column.null].any():
            raise CellByCell("a flag is neither 0 nor 1")
        return pa.array(letter == ord("1"), mask=column.null)
    texts = cells.texts(column)
    return texts if pa.types.is_string(kind) else read_texts(texts, kind)


def _decimals(column: Cells, kind: pa.DataType) -> pa.Array:
    try:
        return decimals_of_whole(_whole(column, kind.scale), column.null, kind)
    except _UnusualError:
        return read_texts(cells.texts(column), kind)


class _UnusualError(Exception):
    """Numbers are spelled otherwise than this server spells those of the column, or do not fit 64 bits."""


def _whole(column: Cells, scale: int) -> Whole:
    """Return decimals as whole numbers of their last decimal; all of these are spelled, zeros too."""
    null, end = column.null, column.at + column.size
    point = end - scale - 1
    negative = column.words("u1") == ord("-")
    before = point - column.at - negative  # how many digits
    usual = (column.letters[point] == ord(".")) & (before >= 1) & (before <= 2 * _WORD) | null
    if not usual.all():
        raise _UnusualError
    before[null] = 0
    whole = _number(column.letters, point, before)
    if whole.max() > _LARGEST // 10**scale - 1:
        raise _UnusualError
    whole *= 10**scale
    whole += _fraction(column.letters, end, np.where(null, 0, scale), scale)
    return np.negative(whole, out=whole, where=negative & ~null)


def _number(letters: Bytes, end: Whole, count: Whole) -> Whole:
    """Return the number of so many digits, at most sixteen, that ends before each place."""
    number = _digits(letters, end, np.minimum(count, _WORD))
    if count.max() > _WORD:
        number += 10**_WORD * _digits(letters, end - _WORD, np.maximum(count - _WORD, 0))
    return number


def _fraction(letters: Bytes, end: Whole, count: Whole, scale: int) -> Whole:
    """Return the decimals of numbers that have so many, or none where null; the last two are nearly always zeros."""
    if scale == _WORD + 2 and (cells.window(letters, "<u2")[end - 2] == _TWO_ZEROS).all():
        return 100 * _digits(letters, end - 2, np.minimum(count, _WORD))
    return _number(letters, end, count)


def _digits(letters: Bytes, end: Whole, count: Whole) -> Whole:
    """Return the number of so many digits, at most eight, that ends before each place."""
    word = cells.window(letters, "<u8")[end - _WORD].astype(np.uint64) ^ _ZEROS
    # Letters before the first digit count as zeros. A shift by all 64 bits has no meaning: it is done in two steps.
    half = (4 * (_WORD - count)).astype(np.uint64)
    word &= ~np.uint64(0) << half << half
    if ((word | word + _SIX) & _HIGH).any():  # a half byte of ten or more is no digit
        raise _UnusualError
    for mask, factor, by in _STEPS:
        word &= mask
        word *= factor
        word >>= by
    return word.astype(np.int64)
