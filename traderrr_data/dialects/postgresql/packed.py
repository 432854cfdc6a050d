"""A page whose columns the server packs, each into one value, in the form in which it sends single cells.

The driver takes no cell apart then, and numpy all of a column at once. What stands for NULL is nothing that a cell of
the type can be: https://github.com/postgres/postgres/tree/REL_15_STABLE/src/backend/utils/adt (numeric.c, date.c,
timestamp.c, bool.c; the functions that end in _send, or send).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from traderrr_data.dialects import cells
from traderrr_data.dialects.base import CellByCell
from traderrr_data.dialects.cells import Cells
from traderrr_data.dialects.postgresql import numeric

if TYPE_CHECKING:
    import pyarrow as pa

_END_OF_LINE = b"\n"
_NOT_NULL = ord("=")  # before every text of a column that may be NULL, which is an empty line
_EPOCH_DAYS = 10_957  # 2000-01-01
_EPOCH = _EPOCH_DAYS * 86_400 * 1_000_000
_FIXED = {"date32[day]": ("date_send", ">i4"), "timestamp[us, tz=UTC]": ("timestamptz_send", ">i8")}
_FIXED |= {"bool": ("boolsend", "u1")}
_NULLS = {">i4": 1 - 2**31, ">i8": 1 - 2**63, "u1": 2}  # one more than -infinity


def is_packed(schema: pa.Schema) -> bool:
    """Tell whether all columns are of types that can be packed."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    return all(pa.types.is_decimal(f.type) or pa.types.is_string(f.type) or str(f.type) in _FIXED for f in schema)


def packing(field: pa.Field, cell: str) -> str:
    """Return the SQL that packs a column of a page."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    if pa.types.is_string(field.type):
        line = f"coalesce('{_NOT_NULL:c}' || {cell}, '')" if field.nullable else cell
        return f"convert_to(string_agg({line}, chr(10)), 'UTF8')"
    if pa.types.is_decimal(field.type):
        send, null = "numeric_send", numeric.null(field.type.scale)
    else:
        send, kind = _FIXED[str(field.type)]
        null = np.array(_NULLS[kind], kind).tobytes()
    sent = f"{send}({cell})"
    if field.nullable:
        sent = f"coalesce({sent}, decode('{null.hex()}', 'hex'))"
    return f"string_agg({sent}, ''::bytea)"


def last_of(field: pa.Field, packed: bytes, rows: int) -> Any:
    """Return the last cell of a column that is never null; None if it is not sure."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    try:
        if pa.types.is_string(field.type):
            return packed.rpartition(_END_OF_LINE)[2].decode() if packed.count(_END_OF_LINE) == rows - 1 else None
        return _fixed(field, packed[-np.dtype(_FIXED[str(field.type)][1]).itemsize :], 1)[0].as_py()
    except (CellByCell, UnicodeDecodeError):
        return None


def batch_of(packed: Sequence[bytes], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """Return packed columns as those of a schema.

    Raises:
        CellByCell: a cell is not what its column's type says, or Arrow cannot hold it.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    if not rows:
        return pa.RecordBatch.from_pylist([], schema=schema)
    arrays: dict[str, pa.Array] = {}
    alike: dict[pa.DataType, dict[str, bytes]] = {}
    for field, column in zip(schema, packed, strict=True):
        if pa.types.is_decimal(field.type):
            alike.setdefault(field.type, {})[field.name] = column
        elif pa.types.is_string(field.type):
            arrays[field.name] = _texts(field, column, rows)
        else:
            arrays[field.name] = _fixed(field, column, rows)
    for kind, columns in alike.items():
        arrays |= zip(columns, numeric.arrays(list(columns.values()), kind, rows), strict=True)
    return pa.record_batch([arrays[name] for name in schema.names], schema=schema)


def _texts(field: pa.Field, packed: bytes, rows: int) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    letters = np.frombuffer(packed + _END_OF_LINE, np.uint8)
    ends = np.flatnonzero(letters == _END_OF_LINE[0])
    if len(ends) != rows:
        raise CellByCell(f"{len(ends)} lines for {rows} rows")
    at = np.concatenate([[0], ends[:-1] + 1])
    null = ends == at if field.nullable else np.zeros(rows, np.bool_)
    if null.all():
        return pa.nulls(rows, field.type)
    marked = ~null if field.nullable else 0
    return cells.texts(Cells(letters, at + marked, ends - at - marked, null))


def _fixed(field: pa.Field, packed: bytes, rows: int) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    kind = _FIXED[str(field.type)][1]
    if len(packed) != rows * np.dtype(kind).itemsize:
        raise CellByCell(f"{len(packed)} bytes of {kind} for {rows} rows")
    numbers = np.frombuffer(packed, kind).astype(np.int64)
    null = numbers == _NULLS[kind]
    if null.all():
        return pa.nulls(rows, field.type)
    if pa.types.is_boolean(field.type):
        return pa.array(numbers == 1, mask=null)
    if pa.types.is_date32(field.type):
        return cells.dates(numbers + _EPOCH_DAYS, null)
    if (np.abs(numbers) > 2**62)[~null].any():
        raise CellByCell("an instant is infinite")
    return cells.instants(numbers + _EPOCH, null, field.type)
