"""Arrow columns as the text in which MySQL takes many rows: the lines of LOAD DATA, or the rows of VALUES."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_OF_LINES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n"}


def lines(rows: pa.Table) -> memoryview:
    """Return what `load.load_local` takes."""
    cells = [_spelled(column, _OF_LINES).fill_null("\\N") for column in _columns(rows)]
    return _bytes(_joined([_joined(cells, "\t"), ""], "\n"))


def literals(rows: pa.Table, *, backslash_escapes: bool) -> memoryview:
    """Return the rows as they stand behind VALUES, with a comma before each."""
    escapes = _escapes(backslash_escapes=backslash_escapes)
    cells = [_literal(column, _spelled(column, escapes)).fill_null("NULL") for column in _columns(rows)]
    return _bytes(_joined([",(", _joined(cells, ","), ")"], ""))


def in_sql(rows: pa.Table, *, backslash_escapes: bool) -> list[list[str]]:
    """Return each column's values, none of which is null, as they stand in SQL."""
    escapes = _escapes(backslash_escapes=backslash_escapes)
    return [_literal(column, _spelled(column, escapes)).to_pylist() for column in _columns(rows)]


def _escapes(*, backslash_escapes: bool) -> dict[str, str]:
    return {"\\": "\\\\", "'": "''"} if backslash_escapes else {"'": "''"}


def constants(rows: pa.Table, *, backslash_escapes: bool) -> dict[str, str]:
    """Return the columns that have the same value in all rows, with that value as it stands in SQL."""
    found = {}
    for name in rows.column_names:
        if _is_constant(rows[name]):
            alone = bytes(literals(rows.select([name]).slice(0, 1), backslash_escapes=backslash_escapes)).decode()
            found[name] = alone[2:-1]  # without the comma and the parentheses
    return found


def _is_constant(column: pa.ChunkedArray) -> bool:
    if column.null_count:
        return bool(column.null_count == len(column))
    return bool(column[0].equals(column[-1]) and pc.all(pc.equal(column, column[0])).as_py())


def _literal(column: pa.Array, spelled: pa.Array) -> pa.Array:
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind)
    return spelled if is_number and not _has_exponent(spelled) else _joined(["'", spelled, "'"], "")


def _has_exponent(numbers: pa.Array) -> bool:
    """Tell whether one is written as 1E-7, which without quotes is a double."""
    return b"E" in bytes(_bytes(numbers))


def _columns(rows: pa.Table) -> list[pa.Array]:
    return [column.combine_chunks() for column in rows.columns]


def _spelled(column: pa.Array, escapes: dict[str, str]) -> pa.Array:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us"))  # without its zone, which is UTC
    elif pa.types.is_string(kind):
        return _escaped(column, escapes)
    texts = column.cast(pa.string())
    if pa.types.is_decimal(kind) and kind.scale > 0 and not _has_exponent(texts):
        texts = pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")  # zeros that the server would have to read
    return texts


def _escaped(column: pa.Array, escapes: dict[str, str]) -> pa.Array:
    """Escape each spelling once, however often it stands in the column."""
    encoded = column.dictionary_encode()
    spellings = encoded.dictionary
    for character, escape in escapes.items():
        spellings = pc.replace_substring(spellings, character, escape)
    return spellings.take(encoded.indices)


def _joined(parts: list[Any], separator: str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, separator)


def _bytes(texts: pa.Array) -> memoryview:
    """Return the texts one behind the other, which is how Arrow keeps them."""
    _, offsets, data = texts.buffers()
    start, end = np.frombuffer(offsets, np.int32)[[texts.offset, texts.offset + len(texts)]].tolist()
    return memoryview(data)[start:end]
