"""What a stored cell is worth: the value that it stands for exactly, or the reason why it cannot be copied."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.dialects.wire import Mask
from traderrr_data.errors import RefusedValue
from traderrr_data.models.types import EXACT, ExactDecimal, SessionDate, UtcDateTime
from traderrr_data.transfer.layout import Layout, shown_key
from traderrr_data.transfer.result import Ledger

_HAS_ZONE = re.compile(r"[ T].*(Z|[+-]\d\d(:?\d\d){0,2})$", re.ASCII)
_DAY = len("2025-01-02")
_SHOWN = 60
_TOLD = 10**15  # last decimals: a decimal of 15 digits and the double nearest to it stand for each other
_LONGEST_TEXT = 2**24 - 1  # bytes
_FIRST_DAY = np.datetime64("1000-01-01", "D").astype(np.int64)
_DAYS = {"date32[day]": 1, "timestamp[us, tz=UTC]": 86_400_000_000}


class NoiseError(ValueError):
    """A number has more decimals than its column; `rounded` is what it reads as."""

    def __init__(self, value: Decimal, rounded: Decimal, scale: int) -> None:
        super().__init__(f"has more than {scale} decimals: --round takes it as {rounded.normalize():f}")
        self.rounded = rounded
        self.change = abs(EXACT.subtract(value, rounded))


def value_of(kind: pa.DataType, raw: Any) -> Any:
    """Return the value that a cell, as `Copying.raw_cells` gives it, stands for; ValueError with the reason if none."""
    if raw is None:
        return None
    if isinstance(raw, bytes):
        raise ValueError("is neither text in UTF-8 nor a number")
    if pa.types.is_decimal(kind):
        return _decimal(kind, raw)
    read, expected = _READERS[str(kind)]
    try:
        return read(raw)
    except (KeyError, TypeError):
        raise ValueError(f"is not {expected}") from None


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise TypeError
    return raw


def _whole(raw: Any) -> int:
    if isinstance(raw, float):
        raise TypeError
    return int(raw)


def _instant(raw: Any) -> dt.datetime:
    text = raw if len(raw) > _DAY else f"{raw} 00:00"
    return UtcDateTime().coerce(text if _HAS_ZONE.search(text) else f"{text}Z")


_FLAGS: Mapping[Any, bool] = {1: True, 0: False, "1": True, "0": False, "true": True, "false": False}
_READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "string": (_text, "text"),
    "bool": (_FLAGS.__getitem__, "true or false"),
    "int64": (_whole, "a whole number"),
    "date32[day]": (lambda raw: SessionDate().coerce(_text(raw)), "a date"),
    "timestamp[us, tz=UTC]": (_instant, "an instant"),
}


def _decimal(kind: pa.DataType, raw: Any) -> Decimal:
    try:
        value = Decimal(repr(raw) if isinstance(raw, float) else raw)
    except InvalidOperation:
        raise ValueError("is not a number") from None
    if not value.is_finite():
        raise ValueError("is not a finite number")
    if value and value.adjusted() >= kind.precision - kind.scale:
        raise ValueError(f"has more than {kind.precision - kind.scale} digits before the point")
    rounded = EXACT.quantize(value, Decimal(1).scaleb(-kind.scale))
    if rounded != value:
        raise NoiseError(value, rounded, kind.scale)
    return rounded


def batch_of_raw(layout: Layout, rows: Sequence[tuple[Any, ...]], ledger: Ledger | None) -> pa.RecordBatch:
    """Return stored rows as columns; what cannot be read is noted in the ledger and NULL.

    Raises:
        ValueError: a cell cannot be read, and there is no ledger.
    """
    positions = [layout.schema.names.index(name) for name in layout.key]
    columns: list[list[Any]] = []
    for field, cells in zip(layout.schema, zip(*rows, strict=True) if rows else [()] * len(layout.schema), strict=True):
        column = []
        for row, raw in zip(rows, cells, strict=True):
            try:
                column.append(value_of(field.type, raw))
            except ValueError as error:
                if ledger is None:
                    raise
                if isinstance(error, NoiseError) and ledger.rounds:
                    ledger.round(layout.name, 1, error.change)
                    column.append(error.rounded)
                    continue
                key = shown_key(layout.key, [row[position] for position in positions])
                reason = str(error) if not str(error).startswith(("is ", "has ")) else f"{shown(raw)} {error}"
                ledger.refuse(RefusedValue(layout.name, key, field.name, shown(raw), reason))
                column.append(None)
        columns.append(column)
    arrays = [pa.array(cells, field.type) for cells, field in zip(columns, layout.schema, strict=True)]
    return pa.record_batch(arrays, schema=layout.schema)


def shown(value: Any) -> str:
    """Return a cell as an error may show it."""
    text = ascii(value) if isinstance(value, str | bytes) else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def refuse_unfit(layout: Layout, batch: pa.RecordBatch, ledger: Ledger, *, exact_decimals: bool) -> None:
    """Note the cells that one of the databases could not hold, or this one, which may have no exact decimals."""
    for name, unfit, reason in _unfit(layout, batch, exact_decimals=exact_decimals):
        for position in np.flatnonzero(unfit).tolist():
            [row] = batch.slice(position, 1).to_pylist()
            why = reason(row[name])
            if why is not None:
                key = shown_key(layout.key, [row[column] for column in layout.key])
                ledger.refuse(RefusedValue(layout.name, key, name, shown(row[name]), why))


Reason = Callable[[Any], str | None]


def _unfit(layout: Layout, batch: pa.RecordBatch, *, exact_decimals: bool) -> Iterator[tuple[str, Mask, Reason]]:
    """Yield columns, the cells in them that are in doubt, and what tells why one is unfit."""
    for field in layout.schema:
        column = batch[field.name]
        if pa.types.is_string(field.type):
            yield field.name, _true(pc.match_substring(column, "\0")), lambda _cell: "the text has a NUL"
            length = layout.lengths.get(field.name)
            if length is not None:
                yield field.name, _true(pc.greater(pc.utf8_length(column), length)), _too_long(length)
            else:
                over = pc.greater(pc.binary_length(column), _LONGEST_TEXT)
                yield field.name, _true(over), lambda _cell: "the text is longer than 16 MiB"
        elif (ticks := _DAYS.get(str(field.type))) is not None:
            whole = column.cast(pa.int32() if ticks == 1 else pa.int64()).cast(pa.int64())
            early = pc.less(whole, int(_FIRST_DAY) * ticks)
            yield field.name, _true(early), lambda cell: f"{cell} is before the year 1000"
        elif isinstance(kind := layout.table.c[field.name].type, ExactDecimal) and not exact_decimals:
            yield field.name, _beyond(column), _beyond_a_double(kind)


def _true(mask: pa.Array) -> Mask:
    return np.asarray(mask.fill_null(False))


def _too_long(length: int) -> Reason:
    return lambda cell: f"{len(cell)} characters are more than the {length} that fit"


def _beyond(column: pa.Array) -> Mask:
    limit = pa.scalar(Decimal(_TOLD).scaleb(-column.type.scale), pa.decimal128(38, column.type.scale))
    wide = pc.abs(column.cast(pa.decimal128(38, column.type.scale)))
    return _true(pc.greater_equal(wide, limit))


def _beyond_a_double(kind: ExactDecimal) -> Reason:
    def reason(cell: Decimal) -> str | None:
        try:
            kind.to_double_storage(cell)
        except ValueError as error:
            return str(error)
        return None

    return reason
