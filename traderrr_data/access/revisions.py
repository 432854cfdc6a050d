"""Bars as they stood at an instant, and what was overwritten since; `market_data` asks it for both kinds of bars."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data.errors import InvalidRowError
from traderrr_data.models import BarRevision, Base, DailyData, IntradayData
from traderrr_data.models.types import UtcDateTime

_REVISIONS = Base.metadata.tables[BarRevision.__tablename__]
_BOOKKEEPING = {"created_at", "updated_at"}


@dataclass(frozen=True)
class Difference:
    """One bar that does not read as it did.

    Attributes:
        ticker: the symbol.
        series: which line of bars.
        timeframe: None for a daily bar.
        time: the bar's date, or its first instant.
        columns: which columns differ; all of them where the bar is gone.
        old: every column of the bar as it stood then.
        new: as it stands now; None if it was deleted.
    """

    ticker: str
    series: str
    timeframe: str | None
    time: dt.date
    columns: tuple[str, ...]
    old: Mapping[str, Decimal | str | bool | dt.datetime | None]
    new: Mapping[str, Decimal | str | bool | dt.datetime | None] | None


def bars_as_of(model: type[DailyData | IntradayData], as_of: dt.datetime) -> sa.Subquery:
    """Return the bars that stood at an instant, under the names of the model's columns.

    Raises:
        InvalidRowError: the instant has no time zone.
    """
    instant = _instant("as_of", as_of)
    table = Base.metadata.tables[model.__tablename__]
    stood = [
        _REVISIONS.c.known_from if column.name == "updated_at" else _REVISIONS.c[column.name] for column in table.c
    ]
    current = sa.select(*table.c).where(table.c.updated_at <= instant)
    earlier = sa.select(*stood).where(
        _REVISIONS.c.table_name == table.name, _REVISIONS.c.known_from <= instant, _REVISIONS.c.known_until > instant
    )
    return sa.union_all(current, earlier).subquery("bars")


async def list_revisions(
    session: AsyncSession, conditions: Sequence[sa.ColumnElement[bool]], time: Any
) -> Sequence[BarRevision]:
    """Return versions of bars by the bars' time, the oldest version of each first."""
    query = sa.select(BarRevision).where(*conditions).order_by(time, BarRevision.known_until, BarRevision.id)
    return (await session.scalars(query)).all()


async def differences(
    session: AsyncSession,
    model: type[DailyData | IntradayData],
    time: str,
    *conditions: sa.ColumnElement[bool],
    since: dt.datetime,
    until: dt.datetime | None,
) -> list[Difference]:
    """Return the bars that stood at `since` and read otherwise at `until` (None: now), by their key.

    The conditions are on the columns of BarRevision.
    """
    table = Base.metadata.tables[model.__tablename__]
    now: Any = table.alias("now") if until is None else bars_as_of(model, until)
    then = _REVISIONS
    key = [column.name for column in table.primary_key]
    values = [column.name for column in table.c if column.name not in {*key, *_BOOKKEEPING}]
    instant = _instant("since", since)
    query = (
        sa.select(
            *(then.c[name] for name in key),
            *(then.c[name].label(f"old_{name}") for name in values),
            now.c.ticker.label("is_stored"),
            *(now.c[name].label(f"new_{name}") for name in values),
        )
        .select_from(then.outerjoin(now, sa.and_(*(then.c[name] == now.c[name] for name in key))))
        .where(
            then.c.table_name == table.name,
            then.c.known_from <= instant,
            then.c.known_until > instant,
            *conditions,
        )
        .order_by(*(then.c[name] for name in key))
    )
    found = []
    for row in (await session.execute(query)).mappings():
        old = {name: row[f"old_{name}"] for name in values}
        new = {name: row[f"new_{name}"] for name in values} if row["is_stored"] is not None else None
        columns = tuple(name for name in values if new is None or old[name] != new[name])
        if columns:
            found.append(Difference(row["ticker"], row["series"], row.get("timeframe"), row[time], columns, old, new))
    return found


def _instant(name: str, value: dt.datetime) -> dt.datetime:
    try:
        return UtcDateTime().coerce(value)
    except ValueError as error:
        raise InvalidRowError(f"{name}: {error}") from error
