"""Half-open windows, the one way in which every function limits time, and what else a caller may ask for."""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from traderrr_data.errors import ConfigurationError, InvalidRowError
from traderrr_data.models.types import FIRST_DAY, CheckedType, SessionDate, shown


def window(column: InstrumentedAttribute[Any], start: Any, end: Any) -> list[sa.ColumnElement[bool]]:
    """Return the conditions ``start <= column < end``; None leaves a side open; the errors are those of `bounds`."""
    start, end = bounds(column, start, end)
    return [*([column >= start] if start is not None else []), *([column < end] if end is not None else [])]


def bounds(column: InstrumentedAttribute[Any], start: Any, end: Any) -> tuple[Any, Any]:
    """Return the bounds as the column would read them; InvalidRowError names the one that it cannot read."""
    first, last = (
        None if bound is None else as_read(column, bound, said=f"{name}: ")
        for name, bound in (("start", start), ("end", end))
    )
    return first, last


def contains(start: Any, end: Any, value: Any) -> bool:
    """Tell whether ``start <= value < end``; None leaves a side open."""
    return (start is None or start <= value) and (end is None or value < end)


def last_days(days: int, today: dt.date | None) -> dt.date:
    """Return the first date of the last `days` days, which end with today (UTC's, if None)."""
    if today is not None:
        today = as_read(sa.column("today", SessionDate()), today)
    first = (today or dt.datetime.now(dt.UTC).date()) - dt.timedelta(days=days)
    return max(first, FIRST_DAY)


def as_read(column: Any, value: Any, *, said: str = "", exact_decimals: bool = True) -> Any:
    """Return a value that rows are looked for by, as the column reads it; InvalidRowError if no row can have it.

    Args:
        column: of any table or query.
        value: to be looked for.
        said: what stands before the reason.
        exact_decimals: the database can compare with every decimal.
    """
    kind = column.type
    assert isinstance(kind, CheckedType)  # noqa: S101 - every column that is looked for is one
    try:
        read = kind.coerce(value)
        if not exact_decimals:
            kind.to_double_storage(read)
    except ValueError as error:
        raise InvalidRowError(f"{said}{error}", column=column.key) from error
    return read


def same(column: Any, value: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a column has this value; InvalidRowError if no row can have it."""
    condition: sa.ColumnElement[bool] = column == as_read(column, value)
    return condition


def if_said(column: Any, value: Any) -> list[sa.ColumnElement[bool]]:
    """Return the condition of `same`; none for None."""
    return [] if value is None else [same(column, value)]


def each_once(column: Any, values: Iterable[Any] | None) -> list[Any] | None:
    """Return what is looked for in one column, each once and in order; None for None.

    Raises:
        ConfigurationError: it is one text, or no list of them.
        InvalidRowError: no row can have one of them.
    """
    if values is None:
        return None
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{column.key}s is a list of {column.key}s: say [{shown(values)}]")
    return sorted({as_read(column, value) for value in values})


def whole(name: str, value: Any, least: int, most: int, *, said: str | None = None) -> int:
    """Return an option that is a number; ConfigurationError, with what is `said` of it, if it is out of range."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise ConfigurationError(f"{name} is {said or f'{least} to {most}'}, not {shown(value)}")
    return number
