"""Columns of cells, as formats need them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def is_text(kind: pa.DataType) -> bool:
    """Tell whether cells are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def without_blanks(column: pa.Array) -> pa.Array:
    """Take ``""`` for an empty cell, too: some programs quote every cell."""
    if not is_text(column.type):
        return column
    blank = pc.equal(column, "")
    return pc.if_else(blank, None, column) if pc.any(blank).as_py() else column


def repeated(value: str, length: int) -> pa.Array:
    """Return a column of one text, which costs as good as nothing."""
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), length), pa.array([value]))
