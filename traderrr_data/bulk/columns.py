"""A large batch as Arrow columns: checked a column at a time, and row by row only where a row is in doubt.

A vectorised check accepts only what it can prove; every other row goes through `rows.check_row`, which alone knows the
reasons for which a row is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.bulk import arrow
from traderrr_data.bulk.converting import SURE, Undecided, convert
from traderrr_data.bulk.given import columns_of
from traderrr_data.bulk.rows import PRICES, Batch, OnInvalid, Row, Shape, check_row, outranks
from traderrr_data.dialects.wire import Mask, Whole, nulls, whole_numbers
from traderrr_data.errors import InvalidRowError
from traderrr_data.models import Base
from traderrr_data.models.types import ExactDecimal

_POSITION = "position in the input"  # the name of a column of our own; no table has one like it
_MOST_IN_DOUBT = 0.2  # of a batch; with more, looking at columns first is a waste

UNDECIDED: Final = (Undecided, OverflowError, UnicodeDecodeError, pa.ArrowException)
"""What says that a batch is none for columns: also that Arrow has no way to look at a type, or at a text."""


def check(
    rows: pa.Table | Sequence[Mapping[str, Any] | Base],
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
    given, refused = (rows, None) if isinstance(rows, pa.Table) else _columns_of_rows(rows, shape)
    if not given.num_rows or not shape.required <= set(given.column_names) | set(fixed):
        raise Undecided
    is_bar = _is_bar(given) if isinstance(rows, pa.Table) else np.ones(given.num_rows, dtype=np.bool_)
    if not is_bar.any():
        raise Undecided
    bars = np.flatnonzero(is_bar)
    judged = given if is_bar.all() else given.filter(pa.array(is_bar))
    columns, doubtful = _converted(judged, shape, fixed, exact_decimals=exact_decimals)
    if refused is not None:
        doubtful |= refused
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


def _columns_of_rows(rows: Sequence[Mapping[str, Any] | Base], shape: Shape) -> tuple[pa.Table, Mask]:
    try:
        return columns_of(rows, shape)
    except (AttributeError, KeyError, TypeError) as error:  # a row without one of the columns, or one that is no row
        raise Undecided from error


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
        columns[name], unsure = convert(kind, table[name].combine_chunks())
        doubtful |= unsure
        if not shape.table.c[name].nullable:
            doubtful |= nulls(columns[name])
        if fixed.get(name):
            doubtful |= ~np.asarray(pc.equal(columns[name], fixed[name]).fill_null(False))
        if isinstance(kind, ExactDecimal) and not exact_decimals:
            whole = whole_numbers(columns[name])
            held = (whole % 10**kind.scale == 0) if kind.keeps_whole_numbers else False
            doubtful |= (np.abs(whole) >= SURE) & ~np.asarray(held)
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
