"""The rows of the reader: named tuples, and how they are made of what a driver returns."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import chain, repeat
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
        row: the type of its rows here.
        line: the columns that a question names.
        time: the column by which the rows of a line are ordered; None if there is at most one.
    """

    model: type[Base]
    row: type[DailyBar | IntradayBar | Instrument]
    line: tuple[str, ...]
    time: str | None

    @property
    def table(self) -> sa.Table:
        """The table itself."""
        return Base.metadata.tables[self.model.__tablename__]

    @property
    def fetched(self) -> list[str]:
        """The columns of a row that the question does not know already."""
        return [name for name in self.row._fields if name not in self.line]

    def type_of(self, name: str) -> CheckedType[Any]:
        """Return the type of a column."""
        column_type = self.table.c[name].type
        assert isinstance(column_type, CheckedType)  # noqa: S101 - every column that is asked for has one
        return column_type


_BAR: Final = ("ticker", "series")
_LIMIT: Final = 2**18
"""Below it doubles are less than half of 1e-10 apart."""
DAILY: Final = Kind(DailyData, DailyBar, _BAR, "date")
INTRADAY: Final = Kind(IntradayData, IntradayBar, (*_BAR, "timeframe"), "datetime")
INSTRUMENT: Final = Kind(Metadata, Instrument, ("ticker",), None)


class Conversion:
    """Makes rows of one kind out of what a driver returns, by columns; each value is as its column type reads it."""

    def __init__(self, kind: Kind, dialect: sa.Dialect, *, exact_decimals: bool) -> None:
        self._kind = kind
        self._make = partial(tuple.__new__, kind.row)  # what `_make` does, without a call of Python's for each row
        self._convert: dict[str, Callable[[Cells], Cells]] = {}
        for name in kind.fetched:
            column_type = kind.type_of(name)
            if isinstance(column_type, ExactDecimal) and not exact_decimals:
                self._convert[name] = partial(_decimals, column_type)
            elif isinstance(column_type, Flag):
                self._convert[name] = _flags
            elif isinstance(column_type, UtcDateTime):
                self._convert[name] = partial(_instants, column_type, dialect)
            elif isinstance(column_type, SessionDate):
                self._convert[name] = partial(_dates, column_type, dialect)

    def rows(self, fetched: Sequence[Cells], lines: Iterable[tuple[Mapping[str, Any], int]]) -> list[Any]:
        """Return the rows that these columns hold.

        Args:
            fetched: the columns of `Kind.fetched`.
            lines: what names the line of each so many rows, in their order.

        Raises:
            InvalidRowError: what is stored cannot be read.
        """
        columns = dict(zip(self._kind.fetched, fetched, strict=True))
        for name, convert in self._convert.items():
            if columns[name].count(None) < len(columns[name]):
                columns[name] = convert(columns[name])
        lines = list(lines)
        for name in self._kind.line:
            columns[name] = list(chain.from_iterable(repeat(line[name], count) for line, count in lines))
        return list(map(self._make, zip(*(columns[name] for name in self._kind.row._fields), strict=True)))


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
