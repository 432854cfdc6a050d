"""Columns of any type in the forms in which they are stored, as far as that can be proved of whole columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.bulk import arrow
from traderrr_data.dialects.wire import Mask, Whole, nulls, whole_numbers
from traderrr_data.models.types import CheckedType, ExactDecimal, Flag, SessionDate, UtcDateTime

SURE = 10**15
"""Below it a decimal and the double nearest to it stand for each other."""
_WIDEST = 38  # digits of a decimal of 128 bits
_DIGITS = 18  # that 64 bits have room for, whichever they are
_FIRST_DAY = int(np.datetime64("1000-01-01", "D").astype(np.int64))
_LAST_DAY = int(np.datetime64("9999-12-31", "D").astype(np.int64))
_DAY = 86_400_000_000  # microseconds
_INSTANT = (  # what Arrow reads as the row check does: to a microsecond, with an offset
    "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[ T]([01][0-9]|2[0-3]):[0-5][0-9]"
    r"(:[0-5][0-9](\.[0-9]{1,6})?)?(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])$"
)


class Undecided(Exception):  # noqa: N818 - it says that somebody else must decide
    """Columns cannot judge this batch: its rows are judged one by one."""


def convert(kind: CheckedType[Any], column: pa.Array) -> tuple[pa.Array, Mask]:
    """Return a column in the form in which it is stored, and which rows are in doubt.

    Raises:
        Undecided: it cannot be judged as a column.
        OverflowError: a decimal does not fit 64 bits, which the fast ways need.
    """
    if pa.types.is_null(column.type):
        column = column.cast(arrow.storage_of(kind))
    if isinstance(kind, ExactDecimal):
        return _decimals(kind, _decoded(column))
    if isinstance(kind, UtcDateTime):
        return _instants(_decoded(column))
    if isinstance(kind, SessionDate) and not _is_text(column.type) and not pa.types.is_dictionary(column.type):
        return _dates(column)
    if isinstance(kind, Flag):
        if not pa.types.is_boolean(column.type):
            raise Undecided
        return column, np.zeros(len(column), dtype=np.bool_)
    return _by_spelling(kind, column)


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _decimals(kind: ExactDecimal, column: pa.Array) -> tuple[pa.Array, Mask]:
    null = np.asarray(pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)))
    if pa.types.is_floating(column.type):
        values, doubtful = _measured(kind, column)
    elif pa.types.is_integer(column.type):
        if pa.types.is_uint64(column.type):  # what is too long for a signed number remains too long
            column = pc.min_element_wise(column, pa.scalar(2**63 - 1, pa.uint64()), skip_nulls=False)
        values, doubtful = _multiplied(column.cast(pa.int64()).fill_null(0).to_numpy(), 10**kind.scale)
    elif pa.types.is_decimal128(column.type) and 0 <= column.type.scale <= kind.scale:
        values, doubtful = _multiplied(whole_numbers(column), 10 ** (kind.scale - column.type.scale))
    elif pa.types.is_decimal(column.type):
        values, doubtful = _rescaled(kind, column)
    elif _is_text(column.type):
        column, doubtful = _matching(column, _numeral(kind))
        values = whole_numbers(column.cast(pa.decimal128(kind.precision, kind.scale)))
    else:
        raise Undecided
    if kind.limit * 10**kind.scale < 2**63:
        doubtful |= np.abs(values) >= int(kind.limit * 10**kind.scale)
    words = np.stack([values, values >> 63], axis=1)
    valid = pa.array(~null).buffers()[1] if null.any() else None
    target = pa.decimal128(kind.precision, kind.scale)
    return pa.Array.from_buffers(target, len(values), [valid, pa.py_buffer(words)]), doubtful & ~null


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numeral(kind: ExactDecimal) -> str:
    """Return the pattern of texts that Arrow reads as the exact decimals that `coerce` returns for them."""
    return rf"^([+-]?[0-9]{{1,{_DIGITS - kind.scale}}}(\.[0-9]{{0,{kind.scale}}})?|0E-[0-9]{{1,2}})$"


def _matching(column: pa.Array, pattern: str) -> tuple[pa.Array, Mask]:
    """Return the texts that match, null for all others, and where others are."""
    matches = pc.match_substring_regex(column, pattern)
    others = ~np.asarray(matches.fill_null(True))
    return (pc.if_else(matches, column, None) if others.any() else column), others


def _multiplied(values: Whole, factor: int) -> tuple[Whole, Mask]:
    most = (2**63 - 1) // factor
    doubtful = (values > most) | (values < -most)
    return np.where(doubtful, 0, values) * factor, doubtful


def _rescaled(kind: ExactDecimal, column: pa.Array) -> tuple[Whole, Mask]:
    """Take decimals of any width and scale; where the way back does not give the same again, one is in doubt."""
    exact = column.cast(pa.decimal128(_WIDEST, kind.scale), safe=False)
    same = pc.equal(exact.cast(column.type, safe=False), column).fill_null(True)
    others = ~np.asarray(same)
    return whole_numbers(pc.if_else(same, exact, None) if others.any() else exact), others


def _measured(kind: ExactDecimal, column: pa.Array) -> tuple[Whole, Mask]:
    """Take floats by their shortest decimal form, rounded half-even; near-ties and long numbers are in doubt."""
    if not pa.types.is_float64(column.type):
        # By its shortest form, too: widening would show digits that a 32-bit float does not have.
        column = column.cast(pa.float32()).cast(pa.string()).cast(pa.float64())
    null = np.asarray(pc.is_null(column, nan_is_null=True))
    given = np.where(null, 0.0, column.to_numpy(zero_copy_only=False))
    power = float(10**kind.scale)
    with np.errstate(over="ignore", invalid="ignore"):
        product = given * power
        nearest = np.rint(product)
        back = nearest / power
        # How far the product may be off by the multiplication and by the double's own spelling.
        clear = np.abs(np.abs(product - np.floor(product)) - 0.5) > 4e-16 * np.abs(product) + 1e-9
        faithful = np.abs(back - given) * 1e6 <= np.abs(given) * 0.999
        sure = (np.abs(nearest) < SURE) & ((back == given) | (clear & (faithful | (not kind.keeps_measurements))))
    values = np.where(sure, nearest, 0).astype(np.int64)
    # A float that is a whole number is that number, as volumes are in frames with gaps.
    whole = (np.floor(given) == given) & (np.abs(given) < min(2**53, (2**63 - 1) // 10**kind.scale))
    values[whole] = given[whole].astype(np.int64) * 10**kind.scale
    return values, ~(sure | whole)


def _instants(column: pa.Array) -> tuple[pa.Array, Mask]:
    null = nulls(column)
    others = np.zeros(len(column), dtype=np.bool_)
    if _is_text(column.type):
        column, others = _matching(column, _INSTANT)
        try:
            column = column.cast(pa.timestamp("us", tz="UTC"))
        except pa.ArrowInvalid as error:  # a day that is not in the calendar
            raise Undecided from error
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise Undecided
    pc.local_timestamp(pa.array([0], column.type))  # raises where nobody knows the zone, as a row's check would
    ticks = column.cast(pa.int64()).fill_null(0).to_numpy()
    if column.type.unit == "ns":
        micros, doubtful = ticks // 1000, ticks % 1000 != 0
    else:
        micros, doubtful = _multiplied(ticks, {"us": 1, "ms": 10**3, "s": 10**6}[column.type.unit])
    days = micros // _DAY
    doubtful |= others | (days < _FIRST_DAY) | (days > _LAST_DAY)
    return pa.array(micros, pa.int64(), mask=null).cast(pa.timestamp("us", tz="UTC")), doubtful & ~null


def _dates(column: pa.Array) -> tuple[pa.Array, Mask]:
    null = nulls(column)
    doubtful = np.zeros(len(column), dtype=np.bool_)
    if pa.types.is_timestamp(column.type):
        local = column if column.type.tz is None else pc.local_timestamp(column)
        column = local.cast(pa.date32(), safe=False)
        doubtful |= np.asarray(pc.not_equal(column.cast(local.type), local).fill_null(False))
    elif not pa.types.is_date32(column.type):
        raise Undecided
    days = column.cast(pa.int32()).fill_null(0).to_numpy()
    return column, (doubtful | (days < _FIRST_DAY) | (days > _LAST_DAY)) & ~null


def _by_spelling(kind: CheckedType[Any], column: pa.Array) -> tuple[pa.Array, Mask]:
    """Judge each text once, however often it stands in the column."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if not _is_text(encoded.type.value_type):
        raise Undecided
    accepted: list[Any] = []
    refused: list[bool] = []
    for spelling in encoded.dictionary.to_pylist():
        try:
            accepted.append(None if spelling is None else kind.coerce(spelling))
            refused.append(False)
        except ValueError:
            accepted.append(None)
            refused.append(True)
    codes = encoded.indices.cast(pa.int64()).fill_null(len(accepted)).to_numpy()
    values = pa.array([*accepted, None], arrow.storage_of(kind))
    return values.take(pa.array(codes)), np.array([*refused, False])[codes]
