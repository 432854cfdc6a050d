"""Rows of Python's values - mappings, or objects of the model - as Arrow columns, before they are checked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from types import NoneType
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.bulk.arrow import storage_of
from traderrr_data.bulk.rows import Shape, values_of
from traderrr_data.dialects.wire import Mask
from traderrr_data.models import Base
from traderrr_data.models.types import CheckedType, ExactDecimal, Flag, SessionDate, UtcDateTime

_WIDEST = 38  # digits of a decimal of 128 bits
_NO_NUMBERS: Final = {bool, np.timedelta64}  # though subclasses of integers
_NATURAL: Final = ((SessionDate, dt.date), (UtcDateTime, dt.datetime), (Flag, bool))
_UNFIT: Final = (OverflowError, TypeError, UnicodeEncodeError, pa.ArrowException)


def columns_of(rows: Sequence[Mapping[str, Any] | Base], shape: Shape) -> tuple[pa.Table, Mask]:
    """Return rows as columns, and which rows have a value that its column does not take.

    Raises:
        KeyError, TypeError: the rows are not all of one class with the same columns, all of them the table's.
    """
    alike = type(rows[0])
    if set(map(type, rows)) != {alike}:
        raise TypeError("rows of several classes")
    mappings = cast("Sequence[Mapping[str, Any]]", rows)
    if issubclass(alike, shape.model):
        mappings = [values_of(row, shape) for row in rows]
    elif not issubclass(alike, Mapping):
        raise TypeError("rows that are none")
    names = list(mappings[0])
    if not names or set(map(len, mappings)) != {len(names)}:
        raise KeyError("rows with more columns than others")
    refused = np.zeros(len(rows), dtype=np.bool_)
    columns = {}
    for name in names:
        columns[name], wrong = _column_of(list(map(itemgetter(name), mappings)), shape.types[name])
        refused |= wrong
    return pa.table(columns), refused


def _column_of(cells: list[Any], kind: CheckedType[Any]) -> tuple[pa.Array, Mask]:
    """Let Arrow read those values of which it makes what `coerce` makes of them, and `coerce` all others."""
    try:
        column = _read_by_arrow(cells, kind)
    except _UNFIT:
        column = None
    if column is None:
        return _coerced(cells, kind)
    if not pa.types.is_floating(column.type):
        return column, np.zeros(len(cells), dtype=np.bool_)
    return column, np.asarray(pc.is_nan(column).fill_null(False))  # in a mapping it is a bad number, in a frame a gap


def _read_by_arrow(cells: list[Any], kind: CheckedType[Any]) -> pa.Array | None:
    classes = set(map(type, cells)) - {NoneType}
    if isinstance(kind, ExactDecimal):
        if classes <= {Decimal, int}:
            return pa.array(cells, pa.decimal128(_WIDEST, kind.scale))
        if classes <= {float, int, np.float64}:
            return pa.array(cells, pa.float64())  # which refuses a whole number that no double holds
        if all(issubclass(each, int | np.integer) and each not in _NO_NUMBERS for each in classes):
            return pa.array(cells, pa.int64())
    natural = next((of_python for of_ours, of_python in _NATURAL if isinstance(kind, of_ours)), str)
    if len(classes) > 1 or not classes <= {natural, str}:
        return None
    if dt.datetime in classes and any(cell is not None and cell.tzinfo is None for cell in cells):
        return None  # Arrow would take the first cell's zone for all
    return pa.array(cells)


def _coerced(cells: list[Any], kind: CheckedType[Any]) -> tuple[pa.Array, Mask]:
    accepted: list[Any] = []
    refused = np.zeros(len(cells), dtype=np.bool_)
    for at, cell in enumerate(cells):
        try:
            accepted.append(None if cell is None else kind.coerce(cell))
        except ValueError:
            accepted.append(None)
            refused[at] = True
    return pa.array(accepted, storage_of(kind)), refused
