"""Arrow columns on their way to a driver, and texts from one on their way to Arrow columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from traderrr_data.dialects.base import CellByCell

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

Whole: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_BLOCK = 2**20  # bytes that one thread reads at a time
_SPACED = 5 * 10**15  # last decimals: up to here doubles lie closer together than these, 10 or fewer behind the point
_WHOLE_IN_A_DOUBLE = 2**53
_SURE = 10**15  # a product below is told by its nearest whole number, unless it lies near the middle of two
_END_OF_LINE = 10
_YEAR_1 = int(np.datetime64("0001-01-01", "us").astype(np.int64))


def nulls(column: pa.Array) -> Mask:
    """Return where a column is null."""
    if not column.null_count:
        return np.zeros(len(column), dtype=np.bool_)
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)


def whole_numbers(column: pa.Array) -> Whole:
    """Return decimals as whole numbers of their last decimal, 0 where null.

    Raises:
        OverflowError: one does not fit 64 bits.
    """
    words = np.frombuffer(column.buffers()[1], dtype=np.int64)
    words = words[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    if column.null_count:
        null = nulls(column)
        low, high = np.where(null, 0, low), np.where(null, 0, high)
    if not (high == low >> 63).all():
        raise OverflowError("a decimal does not fit 64 bits")
    return low


def runs(columns: pa.Table, key: Sequence[str]) -> pa.Table:
    """Return the runs of rows that differ in the key's last column only: what they share, its first and its last value.

    Args:
        columns: rows in the order of their keys; those in which one of the key's columns is null are left out.
        key: the names of its columns.

    Returns:
        A run a row, in columns of the key's types that are numbered from 0.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    keys = columns.select(list(key)).drop_null().combine_chunks()
    begins = np.zeros(keys.num_rows, dtype=np.bool_)
    begins[:1] = True
    for name in key[:-1]:
        for column in keys[name].chunks:
            begins[1:] |= np.asarray(pc.not_equal(column[1:], column[:-1]))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], keys.num_rows)[: len(first)] - 1
    found = [*(keys[name].take(first) for name in key), keys[key[-1]].take(last)]
    return pa.table(found, names=list(map(str, range(len(found)))))


def batch_of_text(text: bytes, schema: pa.Schema, rows: int, *, null: str, zoned: bool) -> pa.RecordBatch:
    """Return lines of cells, with tabs between them, as columns of a schema.

    Args:
        text: the lines, each with its end.
        schema: the columns in the order of the cells.
        rows: how many lines there must be.
        null: what stands for NULL; in a column of text that cannot be NULL, for an empty one.
        zoned: instants have an offset; otherwise they are in UTC.

    Raises:
        CellByCell: a cell cannot be read as its column's type, or there are more or fewer cells than rows and columns.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used
    from pyarrow import csv  # noqa: PLC0415 - as above

    if not rows:
        return pa.RecordBatch.from_pylist([], schema=schema)
    if b"\r" in text:
        raise CellByCell("Arrow takes it for the end of a line")
    try:
        table = csv.read_csv(
            pa.BufferReader(text),
            csv.ReadOptions(column_names=schema.names, block_size=_BLOCK),
            csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types={field.name: _read_as(field.type, zoned=zoned) for field in schema},
                null_values=[null],
                true_values=["1", "t"],
                false_values=["0", "f"],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        raise CellByCell(str(error)) from error
    if table.num_rows != rows:
        raise CellByCell(f"{table.num_rows} lines for {rows} rows")
    columns = [_as_stored(table[field.name].combine_chunks(), field.type) for field in schema]
    filled = [
        column.fill_null("") if not field.nullable and pa.types.is_string(field.type) else column
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.record_batch(filled, schema=schema)


def _read_as(kind: pa.DataType, *, zoned: bool) -> pa.DataType:
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    return pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) and not zoned else kind


def _as_stored(column: pa.Array, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    if pa.types.is_timestamp(kind):
        earliest = pc.min(column.cast(pa.int64())).as_py()
        if earliest is not None and earliest < _YEAR_1:
            raise CellByCell("an instant is before the year 1")
    return column.cast(kind)


def decimals_of_doubles(whole: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return the whole numbers of a last decimal that doubles were scaled to, as decimals.

    Raises:
        CellByCell: one has more digits than tell a double's decimal.
    """
    values = np.asarray(whole.fill_null(0))
    if not _told(values).all():
        raise CellByCell("a number is too large for a double to tell its last decimal")
    return decimals_of_whole(values, nulls(whole), kind)


def _told(values: npt.NDArray[Any]) -> Mask:
    """Tell where no other whole number of the last decimal has the same double."""
    size = np.abs(values)
    near: Mask = size < _SPACED
    if not near.all():
        near |= (size < _WHOLE_IN_A_DOUBLE) & (values % 10 == 0)  # 15 digits and a 0 tell it, too
    return near


def decimals_read(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return doubles as the decimals by which they read: their shortest forms, rounded half-even.

    Raises:
        CellByCell: only the digits of one tell its decimal.
    """
    power = float(10**kind.scale)
    values = np.asarray(column.fill_null(0.0) if column.null_count else column)
    with np.errstate(over="ignore", invalid="ignore"):
        product = values * power
        nearest = np.rint(product)
        sure = (nearest / power == values) & _told(nearest)
        if not sure.all():
            # How far the product may be off, by the multiplication and by the double's own spelling, grows with it.
            clear = np.abs(product - nearest) < 0.499999999 - np.abs(product) * 4e-16
            sure |= clear & (np.abs(product) < _SURE)
    if not sure.all():
        raise CellByCell("only the digits of a double tell its decimal")
    return decimals_of_whole(nearest.astype(np.int64), nulls(column), kind)


def decimals_of_whole(whole: Whole, null: Mask, kind: pa.DataType) -> pa.Array:
    """Return whole numbers of the last decimal as decimals."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    words = np.empty((len(whole), 2), dtype=np.int64)
    words[:, 0] = whole
    words[:, 1] = whole >> 63
    valid = pa.array(~null).buffers()[1] if null.any() else None
    return pa.Array.from_buffers(kind, len(whole), [valid, pa.py_buffer(words)])


def array_of_lines(text: bytes, field: pa.Field, rows: int) -> pa.Array:
    """Return each line of a text as one value; an empty one as NULL, where the field may be NULL.

    Raises:
        CellByCell: a line cannot be read as the field's type, or there are more or fewer lines than rows.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    letters = np.frombuffer(text if rows else b"", dtype=np.uint8)
    ends = np.flatnonzero(letters == _END_OF_LINE)
    if len(ends) != rows:
        raise CellByCell(f"{len(ends)} lines for {rows} rows")
    lengths = np.diff(ends, prepend=-1) - 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    valid = pa.array(lengths > 0).buffers()[1] if field.nullable and not lengths.all() else None
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(letters[letters != _END_OF_LINE])]
    return read_texts(pa.Array.from_buffers(pa.string(), rows, buffers), field.type)


def read_texts(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return texts as values of a type; instants are in UTC.

    Raises:
        CellByCell: one cannot be read as that.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    try:
        return _as_stored(texts.cast(_read_as(kind, zoned=False)), kind)
    except pa.ArrowInvalid as error:
        raise CellByCell(str(error)) from error


def in_order(batch: pa.RecordBatch, key: Sequence[str]) -> pa.RecordBatch:
    """Return rows by their key, which aggregates on a server nearly always keep, but do not promise."""
    import pyarrow.compute as pc  # noqa: PLC0415 - loaded only where Arrow is used

    rises = None
    for name in reversed(key):
        earlier, later = batch[name][:-1], batch[name][1:]
        less = pc.less(earlier, later)
        rises = less if rises is None else pc.or_(less, pc.and_(pc.equal(earlier, later), rises))
    if rises is None or pc.all(rises).as_py():
        return batch
    return batch.sort_by([(name, "ascending") for name in key])
