"""From whatever a caller has to checked rows: the values as they will be read back, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import sqlalchemy as sa

from traderrr_data.errors import InvalidRowError
from traderrr_data.models import Base
from traderrr_data.models.types import CheckedType

if TYPE_CHECKING:
    import pyarrow as pa

_SET_BY_THE_DATABASE = frozenset({"id", "created_at", "updated_at"})
PRICES = ("open", "high", "low", "close")

Row: TypeAlias = dict[str, Any]
OnInvalid: TypeAlias = Literal["raise", "reject"]

NO_BAR: Final = object()
"""Stands for a row of a frame that is no bar; not None, which somebody's list may hold by mistake."""


@runtime_checkable
class ArrowStream(Protocol):
    """Anything that speaks Arrow's C stream interface: tables of Arrow, pandas, Polars, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Rows: TypeAlias = Iterable[Mapping[str, Any] | Base] | ArrowStream
"""Mappings by column name, objects of the model, or a frame."""


class Rejection(NamedTuple):
    """A row that was not stored: its position in the input, the column if one is to blame, and the reason."""

    row: int
    column: str | None
    reason: str


@dataclass(frozen=True)
class Shape:
    """What a row of one table must be."""

    model: type[Base]
    table: sa.Table
    types: Mapping[str, CheckedType[Any]]
    required: frozenset[str]
    key: tuple[str, ...]

    def key_of(self, row: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Return a checked row's key; None if it has none, as an addition without a dedupe_key."""
        key = tuple(row.get(name) for name in self.key)
        return None if None in key else key

    def coerce(self, values: Mapping[str, Any]) -> Row:
        """Return values that hold for a whole call as they will be stored; InvalidRowError names the column."""
        row: Row = {}
        for name, value in values.items():
            try:
                row[name] = self.types[name].coerce(value)
            except ValueError as error:
                raise InvalidRowError(str(error), column=name) from error
        return row


@cache
def shape_of(model: type[Base], key: tuple[str, ...]) -> Shape:
    """Return the shape of a model's rows, identified by the columns of `key`."""
    table = Base.metadata.tables[model.__tablename__]
    columns = [column for column in table.columns if column.name not in _SET_BY_THE_DATABASE]
    types = {column.name: column.type for column in columns if isinstance(column.type, CheckedType)}
    # The defaults of series and timeframe are for the legacy application's inserts; a caller of ours says them.
    required = frozenset(c.name for c in columns if not c.nullable and (c.server_default is None or c.name in key))
    return Shape(model, table, types, required, key)


@dataclass
class Batch:
    """Checked rows in the order of their keys, and an account of every row that is not among them.

    Attributes:
        given: how many rows the input had.
        rows: each with only the columns that it was given; empty where the batch was checked as columns.
        positions: of the checked rows in the input.
        dropped: positions of a frame's rows without any price, which are no bars.
        rejected: rows that cannot be stored.
        columns: the checked rows as columns; None where they do not all have the same ones.
    """

    given: int = 0
    rows: list[Row] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    columns: pa.Table | None = None

    @property
    def duplicates(self) -> int:
        """Rows whose key came again in the batch."""
        return self.given - len(self.positions) - len(self.dropped) - len(self.rejected)

    def verdicts(self, of_checked: Sequence[str]) -> tuple[str, ...]:
        """Return what became of every row of the input, from what became of the checked ones."""
        every = ["duplicate"] * self.given
        known = [
            *zip(self.positions, of_checked, strict=True),
            *((position, "skipped") for position in self.dropped),
            *((bad.row, "rejected") for bad in self.rejected),
        ]
        for position, verdict in known:
            every[position] = verdict
        return tuple(every)

    def reject(self, position: int, error: InvalidRowError, on_invalid: OnInvalid) -> None:
        """Note a row that cannot be stored, or raise its error with its position."""
        if on_invalid == "raise":
            raise InvalidRowError(error.reason, row=position, column=error.column) from error
        self.rejected.append(Rejection(position, error.column, error.reason))


def check(
    rows: Rows,
    shape: Shape,
    *,
    fixed: Mapping[str, Any],
    exact_decimals: bool,
    on_invalid: OnInvalid,
    allow_inconsistent: bool = False,
    window: Callable[[Row], bool] | None = None,
    equal_repeats: bool = False,
    is_checked: bool = False,
) -> Batch:
    """Return the checked batch.

    Args:
        rows: the caller's input.
        shape: what its rows must be.
        fixed: values for rows that do not say their own; a row that says something else than a value that is not
            empty is invalid.
        exact_decimals: the database can store every decimal; otherwise one that a double cannot hold is invalid.
        on_invalid: raise at the first invalid row, or reject it and go on.
        allow_inconsistent: take bars whose prices are out of order.
        window: tells whether a checked row is where the caller allows rows; others are invalid.
        equal_repeats: a key may come again only with an equal row; otherwise the last of the highest finality wins.
        is_checked: the rows are such as `check_row` has returned.

    Raises:
        InvalidRowError: a row is invalid and `on_invalid` is "raise"; or the input is no batch of rows at all.
    """
    batch = Batch()
    checked: dict[tuple[Any, ...], tuple[int, Row]] = {}
    for index, given in enumerate(_rows_of(rows)):
        batch.given += 1
        if given is NO_BAR:
            batch.dropped.append(index)
            continue
        try:
            rules = {"exact_decimals": exact_decimals, "allow_inconsistent": allow_inconsistent}
            row = given if is_checked else check_row(given, shape, fixed, **rules)
            if window is not None and not window(row):
                raise InvalidRowError("is outside of the window that is replaced", column=shape.key[-1])
            key = shape.key_of(row) or (index,)
            _, earlier = checked.get(key, (None, None))
            if equal_repeats and earlier is not None and earlier != row:
                raise InvalidRowError("another row of the batch has the same key", column=shape.key[-1])
        except InvalidRowError as error:
            batch.reject(index, error, on_invalid)
            continue
        if earlier is None or not outranks(earlier, row):
            checked[key] = index, row
    # One order for all writers: two that lock the same rows in different orders deadlock. Additions, whose key is their
    # position, come before the others.
    for key in sorted(checked, key=lambda key: (type(key[0]) is not int, key)):
        at, row = checked[key]
        batch.positions.append(at)
        batch.rows.append(row)
    return batch


def outranks(stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Tell whether a stored bar must not be overwritten: it is final and the other is not, or was observed later."""
    finality = {True: 2, None: 1, False: 0}
    ours, theirs = finality[stored.get("is_final")], finality[given.get("is_final")]
    if ours != theirs:
        return ours > theirs
    then, now = stored.get("observed_at"), given.get("observed_at")
    return then is not None and now is not None and then > now


def speaks_arrow(rows: object) -> bool:
    """Tell a frame from rows."""
    return hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__")


def materialised(rows: Rows) -> Any:
    """Return a frame as an Arrow table, anything else as it is."""
    if not speaks_arrow(rows):
        return rows
    from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

    return arrow.table_of_frame(rows)


def _rows_of(rows: Rows) -> Iterator[Any]:
    """Yield each row as it was given, and NO_BAR for a row of a frame that is no bar."""
    if speaks_arrow(rows):
        from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

        return arrow.rows_of_frame(rows)
    if isinstance(rows, Mapping | str | bytes | Base) or not isinstance(rows, Iterable):
        raise InvalidRowError(f"a batch is a list of rows or a frame, not one {type(rows).__name__}")
    return iter(rows)


def check_row(
    given: object, shape: Shape, fixed: Mapping[str, Any], *, exact_decimals: bool, allow_inconsistent: bool
) -> Row:
    """Return one checked row; the arguments are those of `check`.

    Raises:
        InvalidRowError: the row cannot be stored; without its position.
    """
    values = values_of(given, shape)
    for name, value in fixed.items():
        values.setdefault(name, value)
    row = _coerced(values, shape, exact_decimals=exact_decimals)
    for name in shape.required:
        if name not in row:
            raise InvalidRowError("is missing", column=name)
    _check_fixed(row, fixed)
    if (volume := row.get("volume")) is not None and volume < 0:
        raise InvalidRowError(f"{volume:f} is negative", column="volume")
    if not allow_inconsistent:
        _check_order(row)
    return row


def _coerced(values: Mapping[str, Any], shape: Shape, *, exact_decimals: bool) -> Row:
    row: Row = {}
    name = None
    try:
        for name, value in values.items():
            if (kind := shape.types.get(name)) is None:
                known = "is set by the database" if name in _SET_BY_THE_DATABASE else "is no column of this table"
                raise InvalidRowError(known, column=str(name))
            if value is not None:
                row[name] = coerced = kind.coerce(value)
                if not exact_decimals:
                    kind.to_double_storage(coerced)
            elif shape.table.c[name].nullable:
                row[name] = None
            else:
                raise InvalidRowError("must have a value", column=name)
    except InvalidRowError:
        raise
    except ValueError as error:
        raise InvalidRowError(str(error), column=name) from error
    return row


def values_of(given: object, shape: Shape) -> dict[str, Any]:
    """Return what one row says, by column; InvalidRowError if it is no row."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, shape.model):
        # What the object holds: an attribute that was never set is absent, not None.
        return {name: value for name, value in vars(given).items() if name in shape.types}
    raise InvalidRowError(f"a {type(given).__name__} is neither a mapping nor a {shape.model.__name__}")


def _check_fixed(row: Row, fixed: Mapping[str, Any]) -> None:
    for name, value in fixed.items():
        if value and row[name] != value:
            raise InvalidRowError(f"{row[name]!r} is not the {value!r} of this call", column=name)


def _check_order(row: Row) -> None:
    """Refuse prices that cannot be one bar's: low <= open, close <= high, after rounding to the column."""
    if not all(name in row for name in PRICES):
        return
    low, high = row["low"], row["high"]
    for name in ("open", "close", "low"):
        price: Decimal = row[name]
        if not low <= price <= high:
            raise InvalidRowError(f"{price:f} is not between low {low:f} and high {high:f}", column=name)
