"""The rows of the reader: named tuples, and how they are made of what a driver returns."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa

from traderrr_data.models import Base, DailyData, IntradayData, Metadata
from traderrr_data.models.types import EXACT, CheckedType, ExactDecimal, Flag, SessionDate, UtcDateTime

Cells: TypeAlias = Sequence[Any]
"""One column of some rows."""


class DailyBar(NamedTuple):
    """One bar of one exchange session; the fields are those of `DailyData`."""

    ticker: str
    date: dt.date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal | None
    dividends: Decimal | None
    stock_splits: Decimal | None
    series: str
    source: str | None
    price_basis: str | None
    is_final: bool | None
    observed_at: dt.datetime | None


class IntradayBar(NamedTuple):
    """One bar within a session; the fields are those of `IntradayData`."""

    ticker: str
    datetime: dt.datetime
    timeframe: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal | None
    series: str
    source: str | None
    price_basis: str | None
    is_final: bool | None
    observed_at: dt.datetime | None


class Instrument(NamedTuple):
    """What is known of an instrument; the fields are those of `Metadata`."""

    ticker: str
    company_name: str | None
    sector: str | None
    industry: str | None
    market_cap: Decimal | None
    last_updated: dt.datetime | None
    currency: str | None
    mic: str | None


@dataclass(frozen=True, eq=False)
class Kind:
    """A table, and what of it is asked and answered.

    Attributes:
        model: of the table.
        make: makes a row.
        fields: the columns of a row.
        line: the columns that a question names.
        time: the column by which the rows of a line are ordered; None if there is at most one.
    """

    model: type[Base]
    make: Callable[[Iterable[Any]], Any]
    fields: tuple[str, ...]
    line: tuple[str, ...]
    time: str | None

    @property
    def table(self) -> sa.Table:
        """The table itself."""
        return Base.metadata.tables[self.model.__tablename__]

    def type_of(self, name: str) -> CheckedType[Any]:
        """Return the type of a column."""
        column_type = self.table.c[name].type
        assert isinstance(column_type, CheckedType)  # noqa: S101 - every column that is asked for has one
        return column_type


_BAR: Final = ("ticker", "series")
_LIMIT: Final = 2**18
"""Below it doubles are less than half of 1e-10 apart."""
DAILY: Final = Kind(DailyData, DailyBar._make, DailyBar._fields, _BAR, "date")
INTRADAY: Final = Kind(IntradayData, IntradayBar._make, IntradayBar._fields, (*_BAR, "timeframe"), "datetime")
INSTRUMENT: Final = Kind(Metadata, Instrument._make, Instrument._fields, ("ticker",), None)


class Conversion:
    """Makes rows of one kind out of a driver's rows, a column at a time; each value is as its column type reads it."""

    def __init__(self, kind: Kind, dialect: sa.Dialect, *, exact_decimals: bool) -> None:
        self._make = kind.make
        self._columns: list[tuple[int, Callable[[Cells], Cells]]] = []
        for at, name in enumerate(kind.fields):
            column_type = kind.type_of(name)
            if isinstance(column_type, ExactDecimal):
                if not exact_decimals:
                    self._columns.append((at, partial(_decimals, column_type)))
            elif isinstance(column_type, Flag):
                self._columns.append((at, _flags))
            elif isinstance(column_type, UtcDateTime):
                self._columns.append((at, partial(_instants, column_type, dialect)))
            elif isinstance(column_type, SessionDate):
                self._columns.append((at, partial(_dates, column_type, dialect)))

    def __call__(self, columns: Sequence[Cells]) -> list[Any]:
        """Return the rows that these columns hold.

        Raises:
            InvalidRowError: what is stored cannot be read.
        """
        columns = list(columns)
        for at, convert in self._columns:
            if columns[at].count(None) < len(columns[at]):
                columns[at] = convert(columns[at])
        return list(map(self._make, zip(*columns, strict=True)))


def _decimals(column_type: ExactDecimal, cells: Cells) -> Cells:
    """Return the decimals that plain numbers stand for, as `from_double_storage` does, only sooner."""
    present = [cell for cell in cells if cell is not None]
    kinds = set(map(type, present))
    if kinds == {int}:
        power = 10**column_type.scale
        read: list[Decimal | None] = [
            *map(EXACT.scaleb, (cell * power for cell in present), repeat(-column_type.scale))
        ]
    elif kinds == {float}:
        read = _decimals_of_floats(column_type, present)
    else:
        read = list(map(column_type.from_double_storage, present))
    if len(present) == len(cells):
        return read
    following = iter(read)
    return [None if cell is None else next(following) for cell in cells]


def _decimals_of_floats(column_type: ExactDecimal, cells: list[float]) -> list[Decimal | None]:
    """Count in units of the last decimal where that is exact: the division that gives a cell back proves it.

    Below the limit at most one number of these decimals lies so near to a double that it gives it back, and then it is
    the double's shortest decimal form, too.
    """
    import numpy as np  # noqa: PLC0415 - loaded only where decimals are stored as plain numbers

    power = float(10**column_type.scale)
    given = np.array(cells)
    units = np.rint(given * power)
    proven = (np.abs(given) < _LIMIT * 1e10 / power) & (units / power == given)
    whole = np.where(proven, units, 0).astype(np.int64).tolist()
    read: list[Decimal | None] = [*map(EXACT.scaleb, whole, repeat(-column_type.scale))]
    for at in np.flatnonzero(~proven).tolist():
        read[at] = column_type.from_double_storage(cells[at])
    return read


def _flags(cells: Cells) -> Cells:
    return [None if cell is None else bool(cell) for cell in cells]


def _instants(column_type: UtcDateTime, dialect: sa.Dialect, cells: Cells) -> Cells:
    return [column_type.process_result_value(cell, dialect) for cell in cells]


def _dates(column_type: SessionDate, dialect: sa.Dialect, cells: Cells) -> Cells:
    by_cell = {cell: column_type.process_result_value(cell, dialect) for cell in set(cells)}
    return [by_cell[cell] for cell in cells]
