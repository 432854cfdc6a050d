"""What daily and intraday bars are asked alike; `market_data` asks it of each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from traderrr_data import bulk, dialects
from traderrr_data.access.revisions import bars_as_of, newest_as_of
from traderrr_data.access.window import as_read, each_once, if_said, same, whole, window
from traderrr_data.bulk.frames import Columns
from traderrr_data.errors import ConfigurationError, DuplicateRowError
from traderrr_data.models import BarRevision, DailyData, IntradayData

MOST_BARS = 2**63 - 1
"""The largest number of rows that every database can be asked for."""

Bar = TypeVar("Bar", DailyData, IntradayData)


class Coverage(NamedTuple):
    """What is stored of one line of bars.

    Attributes:
        ticker: the symbol.
        series: which line of bars.
        timeframe: None for daily bars.
        first: date or instant of the oldest bar.
        last: of the newest.
        last_final: of the newest that is marked final; None if none is.
        rows: how many bars.
    """

    ticker: str
    series: str
    timeframe: str | None
    first: dt.date
    last: dt.date
    last_final: dt.date | None
    rows: int


def line(model: type[Bar], ticker: str, series: str) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of one ticker's line of bars."""
    return [same(model.ticker, ticker), same(model.series, series)]


def among(session: AsyncSession, column: Any, tickers: Iterable[str] | None) -> list[sa.ColumnElement[bool]]:
    """Return the condition that a ticker is one of these, however many; none for None."""
    wanted = each_once(column, tickers)
    if wanted is None:
        return []
    return [dialects.for_session(session).match_keys([column], [(ticker,) for ticker in wanted])]


async def list_bars(
    session: AsyncSession,
    model: type[Bar],
    time: str,
    wanted: Mapping[str, str],
    *,
    start: Any,
    end: Any,
    last: int | None,
    newest_first: bool,
    as_of: dt.datetime | None,
) -> Sequence[Bar]:
    """Return one line's bars by time, only the newest `last` of a window."""
    last = None if last is None else whole("last", last, 0, MOST_BARS, said="a number of bars")
    source: Any = model.__table__ if as_of is None else bars_as_of(model, as_of)
    backwards = newest_first or last is not None
    by_time = source.c[time].desc() if backwards else source.c[time]
    chosen = [*(same(source.c[name], value) for name, value in wanted.items()), *window(source.c[time], start, end)]
    found = await _objects(session, model, source, lambda query: query.where(*chosen).order_by(by_time).limit(last))
    return found if backwards == newest_first else found[::-1]


async def _objects(
    session: AsyncSession,
    model: type[Bar],
    source: Any,
    narrowed: Callable[[sa.Select[Any]], sa.Select[Any]],
) -> Sequence[Bar]:
    """Return bars as objects: those of now are the session's, past ones belong to no session."""
    if source is model.__table__:
        # Another statement of this session may have changed what it already holds.
        options = {"populate_existing": True}
        return (await session.scalars(narrowed(sa.select(model)), execution_options=options)).all()
    rows = (await session.execute(narrowed(sa.select(*source.c)))).mappings()
    return [model(**row) for row in rows]


async def latest_bars(
    session: AsyncSession,
    model: type[Bar],
    time: str,
    tickers: Iterable[str] | None,
    wanted: Mapping[str, str],
    *,
    as_of: dt.datetime | None,
) -> dict[str, Bar]:
    """Return the newest bar of each ticker, by ticker."""
    table: Any = model.__table__
    each = dialects.for_session(session).each_value(table.c.ticker, each_once(table.c.ticker, tickers))
    if as_of is None:
        source, newest = table, _newest(table, time, each.subquery("each"), wanted)
    else:
        # Those whose bars are all gone by now, too: `each_value` need not tell what is not stored.
        gone = sa.select(BarRevision.ticker).where(
            BarRevision.table_name == table.name, *among(session, BarRevision.ticker, tickers)
        )
        known = sa.union(each, gone).subquery("each")
        values = {name: as_read(table.c[name], value) for name, value in wanted.items()}
        newest = newest_as_of(model, time, known, values, as_of)
        source = bars_as_of(model, as_of, among=newest, by=["ticker", time])
    chosen = [same(source.c[name], value) for name, value in wanted.items()]
    is_newest = sa.and_(source.c.ticker == newest.c.ticker, source.c[time] == newest.c[time])
    found = await _objects(
        session, model, source, lambda query: query.join(newest, is_newest).where(*chosen).order_by(source.c.ticker)
    )
    return {bar.ticker: bar for bar in found}


def _newest(table: sa.Table, time: str, each: sa.Subquery, wanted: Mapping[str, str]) -> sa.Subquery:
    """Return the time of each ticker's newest bar, found by one look into the key's index for each of them."""
    bar = table.alias("bar")
    latest = (
        sa.select(bar.c[time])
        .where(bar.c.ticker == each.c.value, *(same(bar.c[name], value) for name, value in wanted.items()))
        .order_by(bar.c[time].desc())
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(each.c.value.label("ticker"), latest.label(time)).subquery("newest")


def columns_of(
    model: type[Bar],
    names: Sequence[str],
    time: str,
    tickers: Iterable[str] | None,
    *,
    start: Any,
    end: Any,
    as_of: dt.datetime | None = None,
    **constants: str,
) -> Columns:
    """Return what a stream or a frame reads: bars of a window, by ticker and time.

    Args:
        model: whose bars.
        names: the columns, in their order.
        time: the name of the column of time.
        tickers: None for all.
        start: of the window, None for no start.
        end: of the window, None for no end.
        as_of: the bars that stood at this instant; None for now.
        constants: the columns that divide lines of bars, and the one value of each that is wanted.
    """
    column: Any = (model.__table__ if as_of is None else bars_as_of(model, as_of)).c
    constants = {name: as_read(column[name], value) for name, value in constants.items()}
    key = [column["ticker"], *(column[name] for name in constants), column[time]]
    wanted = each_once(column["ticker"], tickers)
    single = wanted is not None and len(wanted) == 1
    if wanted is not None and single:
        # The order that is left to tell is that of time; MariaDB would sort by what is the same in all rows.
        constants["ticker"], key, wanted = wanted[0], [column[time]], None
    chosen: list[sa.ColumnElement[bool]] = []
    for name, value in constants.items():
        # Two limits instead of `=` where many tickers are read: MariaDB and SQLite would not see that the index has
        # the rows in the wanted order, and sort them anew for every page.
        chosen += [column[name] == value] if single else [column[name] >= value, column[name] <= value]
    return Columns(
        model,
        names,
        sa.select(*(column[name] for name in names if name not in constants)).where(
            *chosen, *window(column[time], start, end)
        ),
        key,
        constants,
        wanted,
    )


async def coverage_of(
    session: AsyncSession, model: type[Bar], time: Any, tickers: Iterable[str] | None, *, timeframe: Any = None
) -> list[Coverage]:
    """Return what is stored of every line of bars; `timeframe` is the column that divides lines, if one does."""
    key = [model.ticker, model.series, *([] if timeframe is None else [timeframe])]
    last_final = sa.func.max(sa.case((model.is_final.is_(sa.true()), time)), type_=time.type)
    query = (
        sa.select(
            model.ticker,
            model.series,
            sa.null() if timeframe is None else timeframe,
            sa.func.min(time),
            sa.func.max(time),
            last_final,
            sa.func.count(),
        )
        .where(*among(session, model.ticker, tickers))
        .group_by(*key)
        .order_by(*key)
    )
    return [Coverage(*row) for row in await session.execute(query)]


async def delete_bars(
    session: AsyncSession,
    model: type[DailyData | IntradayData],
    time: Any,
    *conditions: sa.ColumnElement[bool],
    ticker: str | None,
    before: Any,
    start: Any,
    end: Any,
    series: str | None,
) -> int:
    """Delete the bars of a window and return how many; ConfigurationError if that would be all, by an oversight."""
    if before is not None and end is not None:
        raise ConfigurationError("before and end are two words for the same limit: say one")
    end = end if before is None else before
    if ticker is None and start is None and end is None:
        raise ConfigurationError("this would delete every bar: say a ticker, before, start or end")
    chosen: list[sa.ColumnElement[bool]] = [
        *conditions,
        *if_said(model.ticker, ticker),
        *if_said(model.series, series),
        *window(time, start, end),
    ]
    return await bulk.delete(session, model, chosen)


async def deleted(session: AsyncSession, statement: sa.Delete) -> int:
    """Run a DELETE and return how many rows it removed."""
    # The session's own copies are not searched for them: what was returned stays readable.
    result = await session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)  # type: ignore[attr-defined, unused-ignore]


async def rename_timeframe(
    session: AsyncSession, old: str, new: str, *, tickers: Iterable[str] | None, series: str | None
) -> int:
    """Give stored bars, and their earlier versions, another timeframe; see `market_data.rename_timeframe`."""
    before, after = (as_read(IntradayData.timeframe, said) for said in (old, new))
    if before == after:
        return 0

    def chosen(table: Any) -> list[sa.ColumnElement[bool]]:
        return [
            table.timeframe == before,
            *among(session, table.ticker, tickers),
            *if_said(table.series, series),
        ]

    other = aliased(IntradayData)
    alike = [getattr(other, name) == getattr(IntradayData, name) for name in ("ticker", "series", "datetime")]
    both = sa.select(sa.func.count()).select_from(IntradayData).join(other, sa.and_(*alike, other.timeframe == after))
    if taken := (await session.execute(both.where(*chosen(IntradayData)))).scalar_one():
        raise DuplicateRowError(
            f"{taken} bars are stored as {before} and as {after}: delete those of one of them first"
        )
    # Not the columns' own onupdate: the bar reads as it did, and its versions must not have a gap.
    values = {"timeframe": after, "updated_at": IntradayData.updated_at}
    renamed = await _changed(session, sa.update(IntradayData).where(*chosen(IntradayData)).values(values))
    await _changed(session, sa.update(BarRevision).where(*chosen(BarRevision)).values(timeframe=after))
    return renamed


async def _changed(session: AsyncSession, statement: sa.Update) -> int:
    result = await session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)  # type: ignore[attr-defined, unused-ignore]
