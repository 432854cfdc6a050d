"""Half-open windows, the one way in which every function limits time."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from traderrr_data.errors import InvalidRowError
from traderrr_data.models.types import CheckedType


def window(column: InstrumentedAttribute[Any], start: Any, end: Any) -> list[sa.ColumnElement[bool]]:
    """Return the conditions ``start <= column < end``; None leaves a side open."""
    return [*([column >= start] if start is not None else []), *([column < end] if end is not None else [])]


def bounds(column: InstrumentedAttribute[Any], start: Any, end: Any) -> tuple[Any, Any]:
    """Return the bounds as the column would read them; InvalidRowError names the one that it cannot read."""
    kind = column.type
    assert isinstance(kind, CheckedType)  # noqa: S101 - every column of time is one
    read = []
    for name, bound in (("start", start), ("end", end)):
        try:
            read.append(None if bound is None else kind.coerce(bound))
        except ValueError as error:
            raise InvalidRowError(f"{name}: {error}", column=column.key) from error
    return read[0], read[1]


def contains(start: Any, end: Any, value: Any) -> bool:
    """Tell whether ``start <= value < end``; None leaves a side open."""
    return (start is None or start <= value) and (end is None or value < end)


def last_days(days: int, today: dt.date | None) -> dt.date:
    """Return the first date of the last `days` days, which end with today (UTC's, if None)."""
    return (today or dt.datetime.now(dt.UTC).date()) - dt.timedelta(days=days)
