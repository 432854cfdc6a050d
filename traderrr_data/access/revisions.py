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


def bars_as_of(
    model: type[DailyData | IntradayData],
    as_of: dt.datetime,
    *,
    among: sa.Subquery | None = None,
    by: Sequence[str] = (),
) -> sa.Subquery:
    """Return the bars that stood at an instant, under the names of the model's columns.

    Args:
        model: whose bars.
        as_of: the instant.
        among: only the bars that have a row here with the same values in the columns `by`.
        by: the names of these columns.

    Raises:
        InvalidRowError: the instant has no time zone.
    """
    table = Base.metadata.tables[model.__tablename__]
    names = {column.name: "known_from" if column.name == "updated_at" else column.name for column in table.c}
    current = sa.select(*table.c).where(*_still_stands(table, as_of))
    earlier = sa.select(*(_REVISIONS.c[name] for name in names.values())).where(*_stood(table, as_of))
    if among is not None:
        current = current.join(among, sa.and_(*(table.c[name] == among.c[name] for name in by)))
        earlier = earlier.join(among, sa.and_(*(_REVISIONS.c[name] == among.c[name] for name in by)))
    return sa.union_all(current, earlier).subquery("bars")


def newest_as_of(
    model: type[DailyData | IntradayData],
    time: str,
    tickers: sa.Subquery,
    wanted: Mapping[str, sa.ColumnElement[Any]],
    as_of: dt.datetime,
) -> sa.Subquery:
    """Return the time of each ticker's newest bar that stood at an instant, found by a look for each of them.

    Args:
        model: whose bars.
        time: the name of their column of time.
        tickers: each as its `value`.
        wanted: the value of other columns.
        as_of: the instant.

    Raises:
        InvalidRowError: the instant has no time zone.
    """
    table = Base.metadata.tables[model.__tablename__]
    bar = table.alias("bar")

    def newest(rows: Any, conditions: Sequence[sa.ColumnElement[bool]]) -> sa.ScalarSelect[Any]:
        chosen = [rows.c.ticker == tickers.c.value, *(rows.c[name] == value for name, value in wanted.items())]
        found = sa.select(rows.c[time]).where(*chosen, *conditions).order_by(rows.c[time].desc()).limit(1)
        return found.correlate(tickers).scalar_subquery()

    each = sa.select(
        tickers.c.value.label("ticker"),
        newest(bar, _still_stands(bar, as_of)).label("current"),
        newest(_REVISIONS, _stood(table, as_of)).label("earlier"),
    ).subquery("each_newest")
    is_earlier = sa.or_(each.c.current.is_(None), each.c.earlier > each.c.current)
    later = sa.case((is_earlier, each.c.earlier), else_=each.c.current)
    return sa.select(each.c.ticker, later.label(time)).subquery("newest")


def _still_stands(rows: Any, as_of: dt.datetime) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a stored bar stood at an instant as it stands now.

    One that came again right after it was deleted may say that it came before: whole seconds are what SQLite's clock
    tells other programs and `session.add`, and a clock may have been put back. Its last version knows better.
    """
    instant, version = _instant("as_of", as_of), _REVISIONS.alias("version")
    key = [column.name for column in getattr(rows, "element", rows).primary_key]
    ended_later = sa.exists().where(
        version.c.table_name == getattr(rows, "element", rows).name,
        version.c.known_until > instant,
        *(version.c[name] == rows.c[name] for name in key),
    )
    return [rows.c.updated_at <= instant, ~ended_later]


def _stood(table: sa.Table, as_of: dt.datetime) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a version of a table's bar stood at an instant."""
    instant = _instant("as_of", as_of)
    return [
        _REVISIONS.c.table_name == table.name,
        _REVISIONS.c.known_from <= instant,
        _REVISIONS.c.known_until > instant,
    ]


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
