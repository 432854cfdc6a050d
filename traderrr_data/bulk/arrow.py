"""Arrow at both ends: rows of any frame in, tables and record batches out."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.bulk.plain import plain
from traderrr_data.bulk.rows import NO_BAR, PRICES
from traderrr_data.dialects.wire import nulls, whole_numbers
from traderrr_data.errors import InvalidRowError
from traderrr_data.models import Base
from traderrr_data.models.types import CheckedType, ExactDecimal, Flag, SessionDate, UtcDateTime, shown

MANY_ROWS = 100_000  # more in one batch are hardly faster
_EXACT_IN_A_DOUBLE = 2**53
_UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException)  # zones unknown among them
_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls the index of a filtered frame


class UnreadableCell:
    """A cell that Python has no value for, or only a coarser one; no column takes it, text columns among them."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __str__(self) -> str:
        """Return what there is to be shown of it."""
        return self._shown


def rows_of_frame(frame: Any) -> Iterator[object]:
    """Yield a frame's rows by column name, NaN as None; NO_BAR for a row without any price, which is no bar."""
    for batch in table_of_frame(frame).to_batches():
        names = batch.schema.names
        has_prices = all(name in names for name in PRICES)
        for values in zip(*(_cells(batch.column(name)) for name in names), strict=True):
            row = dict(zip(names, values, strict=True))
            yield NO_BAR if has_prices and all(row[name] is None for name in PRICES) else row


def _cells(column: pa.Array) -> list[Any]:
    """Return a column's values as Python's, nothing changed but NaN to None."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = _cells(column.dictionary)
        return [None if code is None else values[code] for code in column.indices.to_pylist()]
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
        if not pa.types.is_float64(kind):
            # Widening would show digits that the measurement does not have: 269.28 would be 269.2799987792969.
            column = column.cast(pa.string())
            return [None if text is None else float(text) for text in column.to_pylist()]
    try:
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            return _cells_of_nanoseconds(column)
        cells: list[Any] = column.to_pylist()
    except _UNREADABLE:
        cells = [cell_of(scalar) for scalar in column]
    return cells


def _cells_of_nanoseconds(column: pa.Array) -> list[Any]:
    kind = column.type
    coarse = column.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    fine = pc.equal(coarse.cast(kind, safe=False), column)
    return [
        instant if same is not False else UnreadableCell(f"{instant} and a fraction finer than a microsecond")
        for instant, same in zip(coarse.to_pylist(), fine.to_pylist(), strict=True)
    ]


def cell_of(scalar: pa.Scalar) -> Any:
    """Return one value as Python's; some have none: bytes that are no text, instants far off."""
    try:
        return scalar.as_py()
    except _UNREADABLE:
        pass
    try:
        return UnreadableCell(str(scalar.cast(pa.string()).as_py()))
    except _UNREADABLE:
        return UnreadableCell(f"a {scalar.type} that cannot be read")


def table_of_frame(frame: Any) -> pa.Table:
    """Return any frame as an Arrow table of plain columns; InvalidRowError if Arrow cannot hold it."""
    try:
        table = pa.table(frame)
    except _UNREADABLE as error:
        raise InvalidRowError(f"the frame has a column that Arrow cannot hold: {error}") from error
    names = table.column_names
    for name in names:
        if names.count(name) > 1:
            raise InvalidRowError("the frame has more than one column of this name", column=name)
    return pa.table({name: plain(table[name]) for name in names if not _UNNAMED_INDEX.fullmatch(name)})


async def joined(batches: AsyncIterable[Any], *, rows: int) -> AsyncGenerator[Any, None]:
    """Yield batches in their order, and close their iterator in the end.

    Args:
        batches: of any kind.
        rows: how many rows Arrow's batches that follow each other may have to be yielded as one table.
    """
    waiting: list[pa.RecordBatch] = []
    try:
        async for batch in batches:
            if waiting and not _fits(batch, waiting, rows):
                yield pa.Table.from_batches(waiting)
                waiting.clear()
            if isinstance(batch, pa.RecordBatch):
                waiting.append(batch)
            else:
                yield batch
        if waiting:
            yield pa.Table.from_batches(waiting)
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()


def _fits(batch: Any, waiting: Sequence[pa.RecordBatch], rows: int) -> bool:
    if not isinstance(batch, pa.RecordBatch) or not batch.schema.equals(waiting[0].schema, check_metadata=True):
        return False
    return sum(map(len, waiting)) + len(batch) <= rows


def schema_of(model: type[Base], names: Sequence[str], *, exact: bool) -> pa.Schema:
    """Return the Arrow schema of some columns of a table."""
    columns = model.__table__.c
    return pa.schema([pa.field(n, storage_of(columns[n].type, exact=exact), columns[n].nullable) for n in names])


def storage_of(column_type: Any, *, exact: bool = True) -> pa.DataType:
    """Return the Arrow type that holds a column's values."""
    if isinstance(column_type, ExactDecimal):
        return pa.decimal128(column_type.precision, column_type.scale) if exact else pa.float64()
    if isinstance(column_type, SessionDate):
        return pa.date32()
    if isinstance(column_type, UtcDateTime):
        return pa.timestamp("us", tz="UTC")
    if isinstance(column_type, Flag):
        return pa.bool_()
    assert isinstance(column_type, CheckedType)  # noqa: S101 - the rest is text
    return pa.string()


def batch_of(schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Return rows, whose cells stand in the schema's order, as one record batch.

    Raises:
        InvalidRowError: a stored number is too large for its column.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    try:
        arrays = [pa.array(cells, field.type) for cells, field in zip(columns, schema, strict=True)]
    except pa.ArrowInvalid:
        _refuse_large_numbers(schema, rows)
        raise
    return pa.record_batch(arrays, schema=schema)


def _refuse_large_numbers(schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> None:
    for row in rows:
        for cell, field in zip(row, schema, strict=True):
            if isinstance(cell, Decimal) and abs(cell) >= 10 ** (field.type.precision - field.type.scale):
                others = ", ".join(shown(other) for other in row if not isinstance(other, Decimal | None))
                reason = f"the stored {shown(cell)}, beside {others}, has more digits than the column's numbers"
                raise InvalidRowError(reason, column=field.name)


def completed(batch: pa.RecordBatch, schema: pa.Schema, constants: Mapping[str, str]) -> pa.RecordBatch:
    """Return exact columns as those of a schema, which may have floats for decimals, and columns of one text more."""
    arrays = []
    for field in schema:
        if field.name in constants:
            arrays.append(pa.repeat(pa.scalar(constants[field.name], field.type), batch.num_rows))
        elif pa.types.is_float64(field.type):
            arrays.append(_floats(batch[field.name]))
        else:
            arrays.append(batch[field.name])
    return pa.record_batch(arrays, schema=schema)


def _floats(column: pa.Array) -> pa.Array:
    """Return decimals as the floats nearest to them; Arrow's own cast is one bit off in every seventh."""
    null = nulls(column)
    try:
        whole = whole_numbers(column)
    except OverflowError:
        return pa.array([None if cell is None else float(cell) for cell in column.to_pylist()], pa.float64())
    floats = whole / float(10**column.type.scale)  # two numbers that doubles hold, and one rounding
    for position in np.flatnonzero(np.abs(whole) > _EXACT_IN_A_DOUBLE):
        floats[position] = float(column[int(position)].as_py())
    return pa.array(floats, pa.float64(), mask=null)


def table_of(schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """Return record batches of one schema as a table."""
    return pa.Table.from_batches(batches, schema=schema)
