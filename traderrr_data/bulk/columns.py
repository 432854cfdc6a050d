"""A large batch as Arrow columns: checked a column at a time, and row by row only where a row is in doubt.

A vectorised check accepts only what it can prove; every other row goes through `rows.check_row`, which alone knows the
reasons for which a row is refused.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.bulk import arrow
from traderrr_data.bulk.rows import PRICES, Batch, OnInvalid, Row, Shape, check_row, outranks
from traderrr_data.dialects.wire import Mask, Whole, nulls, whole_numbers
from traderrr_data.errors import InvalidRowError
from traderrr_data.models.types import CheckedType, ExactDecimal, Flag, SessionDate, UtcDateTime

_POSITION = "position in the input"  # the name of a column of our own; no table has one like it
_SURE = 10**15  # a decimal of 15 digits and the double nearest to it stand for each other
_DIGITS = 18  # that 64 bits have room for, whichever they are
_FIRST_DAY = int(np.datetime64("1000-01-01", "D").astype(np.int64))
_LAST_DAY = int(np.datetime64("9999-12-31", "D").astype(np.int64))
_DAY = 86_400_000_000  # microseconds
_INSTANT = (  # what Arrow reads as the row check does: to a microsecond, with an offset
    "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[ T]([01][0-9]|2[0-3]):[0-5][0-9]"
    r"(:[0-5][0-9](\.[0-9]{1,6})?)?(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])$"
)
_MOST_IN_DOUBT = 0.2  # of a batch; with more, looking at columns first is a waste


class Undecided(Exception):  # noqa: N818 - it says that somebody else must decide
    """Columns cannot judge this batch: its rows are judged one by one."""


UNDECIDED: Final = (Undecided, OverflowError, UnicodeDecodeError, pa.ArrowException)
"""What says that a batch is none for columns: also that Arrow has no way to look at a type, or at a text."""


def check(
    rows: pa.Table | Sequence[Mapping[str, Any]],
    shape: Shape,
    *,
    fixed: Row,
    exact_decimals: bool,
    on_invalid: OnInvalid,
    allow_inconsistent: bool = False,
    equal_repeats: bool = False,
) -> Batch:
    """Return a large batch as checked columns; the arguments are those of `rows.check`.

    Raises:
        InvalidRowError: a row is invalid and `on_invalid` is "raise".
        Undecided: columns cannot judge this batch.
        OverflowError: a decimal does not fit 64 bits, which the fast ways need.
    """
    given = rows if isinstance(rows, pa.Table) else _columns_of_mappings(rows, shape)
    if not given.num_rows or not shape.required <= set(given.column_names) | set(fixed):
        raise Undecided
    is_bar = _is_bar(given) if isinstance(rows, pa.Table) else np.ones(given.num_rows, dtype=np.bool_)
    if not is_bar.any():
        raise Undecided
    bars = np.flatnonzero(is_bar)
    judged = given if is_bar.all() else given.filter(pa.array(is_bar))
    columns, doubtful = _converted(judged, shape, fixed, exact_decimals=exact_decimals)
    if not allow_inconsistent:
        doubtful |= _out_of_order(columns)
    if doubtful.mean() > _MOST_IN_DOUBT:
        raise Undecided
    batch = Batch(given=given.num_rows, dropped=np.flatnonzero(~is_bar).tolist())
    settled: dict[int, Row] = {}
    in_doubt = bars[doubtful]
    doubted = arrow.rows_of_frame(given.take(pa.array(in_doubt))) if isinstance(rows, pa.Table) else None
    for position in in_doubt.tolist():
        row = rows[position] if doubted is None else next(doubted)
        try:
            settled[position] = check_row(
                row, shape, fixed, exact_decimals=exact_decimals, allow_inconsistent=allow_inconsistent
            )
        except InvalidRowError as error:
            batch.reject(position, error, on_invalid)
    checked = pa.table({_POSITION: pa.array(bars), **columns})
    if len(in_doubt):
        checked = pa.concat_tables([checked.filter(pa.array(~doubtful)), _rebuilt(settled, checked.schema)])
    ordered = _in_order(checked, shape, equal_repeats=equal_repeats)
    batch.positions = ordered[_POSITION].to_numpy().tolist()
    batch.columns = ordered.drop_columns([_POSITION])
    return batch


def of_rows(rows: Sequence[Row], shape: Shape) -> pa.Table:
    """Return checked rows as columns.

    Raises:
        Undecided: the rows do not all have the same columns.
        OverflowError: a decimal does not fit 64 bits, which the fast ways need.
    """
    names = rows[0].keys() if rows else {}
    if not names or any(row.keys() != names for row in rows):
        raise Undecided
    kinds = {name: arrow.storage_of(shape.types[name]) for name in (*names, *shape.key)}
    table = pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})
    _refuse_long_decimals(table)
    return table


def _columns_of_mappings(rows: Sequence[Mapping[str, Any]], shape: Shape) -> pa.Table:
    first: object = rows[0]
    names = list(first) if isinstance(first, Mapping) else []
    if not names or set(map(type, rows)) != {type(first)} or set(map(len, rows)) != {len(names)}:
        raise Undecided
    try:
        return pa.table({name: _column_of(list(map(itemgetter(name), rows)), shape.types[name]) for name in names})
    except (KeyError, TypeError, OverflowError, UnicodeEncodeError, pa.ArrowException) as error:
        raise Undecided from error


def _column_of(cells: list[Any], kind: CheckedType[Any]) -> pa.Array:
    if isinstance(kind, ExactDecimal) and type(cells[0]) in (Decimal, int):
        return pa.array(cells, pa.decimal128(38, kind.scale))  # takes nothing but these, and nothing that is no number
    classes = set(map(type, cells)) - {type(None)}
    if isinstance(kind, ExactDecimal) and classes <= {Decimal, int}:
        return pa.array(cells, pa.decimal128(38, kind.scale))
    if len(classes) > 1 or not classes <= {float, str, bool, dt.date, dt.datetime}:
        raise Undecided
    if dt.datetime in classes and (
        isinstance(kind, SessionDate) or any(cell is not None and cell.tzinfo is None for cell in cells)
    ):
        raise Undecided  # Arrow would take the first cell's zone for all
    return pa.array(cells)


def _is_bar(frame: pa.Table) -> Mask:
    """Tell all rows from those without any price, which are no bars."""
    priced = np.full(frame.num_rows, not set(PRICES) <= set(frame.column_names))
    if not priced.any():
        for name in PRICES:
            column = frame[name]
            missing = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
            priced |= ~missing.to_numpy().astype(np.bool_)
    return priced


def _converted(table: pa.Table, shape: Shape, fixed: Row, *, exact_decimals: bool) -> tuple[dict[str, pa.Array], Mask]:
    """Return the columns as they are stored, and which rows are in doubt."""
    doubtful = np.zeros(table.num_rows, dtype=np.bool_)
    columns: dict[str, pa.Array] = {}
    for name in table.column_names:
        kind = shape.types.get(name)
        if kind is None:
            raise Undecided
        columns[name], unsure = _convert(kind, table[name].combine_chunks())
        doubtful |= unsure
        if not shape.table.c[name].nullable:
            doubtful |= nulls(columns[name])
        if fixed.get(name):
            doubtful |= ~np.asarray(pc.equal(columns[name], fixed[name]).fill_null(False))
        if isinstance(kind, ExactDecimal) and not exact_decimals:
            whole = whole_numbers(columns[name])
            held = (whole % 10**kind.scale == 0) if kind.keeps_whole_numbers else False
            doubtful |= (np.abs(whole) >= _SURE) & ~np.asarray(held)
    for name in fixed.keys() - columns.keys():
        columns[name] = pa.repeat(pa.scalar(fixed[name], pa.string()), table.num_rows)
    for name in set(shape.key) - columns.keys():
        columns[name] = pa.nulls(table.num_rows, arrow.storage_of(shape.types[name]))
    return columns, doubtful


def _out_of_order(columns: Mapping[str, pa.Array]) -> Mask:
    """Tell where prices cannot be one bar's, or a volume is negative."""
    wrong = np.zeros(len(next(iter(columns.values()))), dtype=np.bool_)
    if "volume" in columns:
        wrong |= whole_numbers(columns["volume"]) < 0
    if set(PRICES) <= set(columns):
        opened, high, low, close = (whole_numbers(columns[name]) for name in PRICES)
        wrong |= (low > opened) | (low > close) | (opened > high) | (close > high)
    return wrong


def _convert(kind: CheckedType[Any], column: pa.Array) -> tuple[pa.Array, Mask]:
    if pa.types.is_null(column.type):
        column = column.cast(arrow.storage_of(kind))
    if isinstance(kind, ExactDecimal):
        return _decimals(kind, column)
    if isinstance(kind, UtcDateTime):
        return _instants(column)
    if isinstance(kind, SessionDate) and not _is_text(column.type):
        return _dates(column)
    if isinstance(kind, Flag):
        if not pa.types.is_boolean(column.type):
            raise Undecided
        return column, np.zeros(len(column), dtype=np.bool_)
    return _by_spelling(kind, column)


def _decimals(kind: ExactDecimal, column: pa.Array) -> tuple[pa.Array, Mask]:
    null = np.asarray(pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)))
    if pa.types.is_floating(column.type):
        values, doubtful = _measured(kind, column)
    elif pa.types.is_integer(column.type) and not pa.types.is_uint64(column.type):
        values, doubtful = _multiplied(column.cast(pa.int64()).fill_null(0).to_numpy(), 10**kind.scale)
    elif pa.types.is_decimal128(column.type) and 0 <= column.type.scale <= kind.scale:
        values, doubtful = _multiplied(whole_numbers(column), 10 ** (kind.scale - column.type.scale))
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
        sure = (np.abs(nearest) < _SURE) & ((back == given) | (clear & (faithful | (not kind.keeps_measurements))))
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


def _rebuilt(settled: Mapping[int, Row], schema: pa.Schema) -> pa.Table:
    """Return the rows that were judged one by one in the form of the others."""
    rows = [{_POSITION: position, **row} for position, row in settled.items()]
    table = pa.Table.from_pylist(rows, schema=schema)
    _refuse_long_decimals(table)
    return table


def _refuse_long_decimals(table: pa.Table) -> None:
    for field in table.schema:
        if pa.types.is_decimal(field.type):
            whole_numbers(table[field.name].combine_chunks())


def _in_order(table: pa.Table, shape: Shape, *, equal_repeats: bool) -> pa.Table:
    """Return the rows by key, each key once; one order for all writers keeps them from deadlocks."""
    position = table[_POSITION].to_numpy()
    ranks = [_ranks(table[name].combine_chunks(), position) for name in shape.key]
    order = np.lexsort((position, *reversed(ranks)))
    repeats = np.ones(max(0, len(order) - 1), dtype=np.bool_)
    for rank in ranks:
        repeats &= rank[order][1:] == rank[order][:-1]
    if repeats.any():
        if equal_repeats:
            raise Undecided
        order = _winners(table, order, repeats)
    return table if np.array_equal(order, np.arange(table.num_rows)) else table.take(pa.array(order))


def _ranks(column: pa.Array, position: Whole) -> npt.NDArray[Any]:
    """Return numbers that sort as the column does; a null is like nothing else, and comes first, by its position."""
    if not pa.types.is_string(column.type):
        return np.asarray(column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64()).to_numpy())
    encoded = column.dictionary_encode()
    rank = np.zeros(len(encoded.dictionary) or 1, dtype=np.int64)
    rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(encoded.dictionary))
    null = nulls(column)
    ranks: npt.NDArray[Any] = rank[encoded.indices.fill_null(0).to_numpy()]
    return np.where(null, position - len(column) - position.max(initial=0), ranks) if null.any() else ranks


def _winners(table: pa.Table, order: Whole, repeats: Mask) -> Whole:
    """Return the order with the winner of each key only: the last one of the highest finality."""
    finality = [name for name in ("is_final", "observed_at") if name in table.column_names]
    starts = np.flatnonzero(np.concatenate([[True], ~repeats]))
    ends = np.append(starts[1:], len(order))
    winners: Whole = order[ends - 1].copy()
    if finality:
        for group in np.flatnonzero(ends - starts > 1):
            members = order[starts[group] : ends[group]]
            rows = table.select(finality).take(pa.array(members)).to_pylist()
            best = 0
            for i in range(1, len(rows)):
                best = best if outranks(rows[best], rows[i]) else i
            winners[group] = members[best]
    return winners
