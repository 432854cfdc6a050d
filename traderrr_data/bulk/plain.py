"""The many types of a frame's columns, brought into the few that every function of Arrow knows.

Polars speaks in views, categories are dictionaries over them, and Arrow can neither pick rows of a view nor decode such
a dictionary.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the same values in a plain type; one that has none, or is plain already, as it is."""
    given = column.chunks
    try:
        chunks = [_plain(chunk) for chunk in given]
    except pa.ArrowException:  # its cells are still read one by one
        return column
    if all(after is before for after, before in zip(chunks, given, strict=True)):
        return column
    return pa.chunked_array(chunks)


def _plain(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain_dictionary(column)
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(column))
    plainer = _plainer(kind)
    return column if plainer is None else column.cast(plainer)


def _plain_dictionary(column: pa.DictionaryArray) -> pa.Array:
    """Keep a dictionary of texts, each of which is judged once; any other only costs a way of its own."""
    given = column.dictionary
    values = _plain(given)
    if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
        return values.take(column.indices)
    return column if values is given else pa.DictionaryArray.from_arrays(column.indices, values)


def _plainer(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_string_view(kind):
        return pa.large_string()  # which has room for whatever a view has
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_date64(kind):
        return pa.timestamp("ms")  # it may hold a time of the day, which a date would lose
    if pa.types.is_decimal(kind) and kind.bit_width < pa.decimal128(1).bit_width:
        return pa.decimal128(kind.precision, kind.scale)
    return None
