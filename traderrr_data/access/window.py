"""Half-open windows, the one way in which every function limits time."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from traderrr_data.models.types import CheckedType


def window(column: InstrumentedAttribute[Any], start: Any, end: Any) -> list[sa.ColumnElement[bool]]:
    """Return the conditions ``start <= column < end``; None leaves a side open."""
    return [*([column >= start] if start is not None else []), *([column < end] if end is not None else [])]


def contains(column: InstrumentedAttribute[Any], start: Any, end: Any, value: Any) -> bool:
    """Tell whether a checked value is inside the window; the bounds are read as the column would read them."""
    kind = column.type
    assert isinstance(kind, CheckedType)  # noqa: S101 - every column of time is one
    return (start is None or kind.coerce(start) <= value) and (end is None or value < kind.coerce(end))


def last_days(days: int, today: dt.date | None) -> dt.date:
    """Return the first date of the last `days` days, which end with today (UTC's, if None)."""
    return (today or dt.datetime.now(dt.UTC).date()) - dt.timedelta(days=days)
