"""What daily and intraday bars are asked alike; `market_data` asks it of each."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import dialects
from traderrr_data.access.window import window
from traderrr_data.errors import ConfigurationError
from traderrr_data.models import DailyData, IntradayData

if TYPE_CHECKING:
    import pyarrow as pa

Bar = TypeVar("Bar", DailyData, IntradayData)

_BUILT_INLINE = 2_000  # rows; a larger frame is built in a thread, so that the event loop goes on


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
    return [model.ticker == ticker, model.series == series]


def among(session: AsyncSession, column: Any, tickers: Iterable[str] | None) -> list[sa.ColumnElement[bool]]:
    """Return the condition that a ticker is one of these, however many; none for None."""
    if isinstance(tickers, str):
        raise ConfigurationError(f"tickers is a list of tickers: say [{tickers!r}]")
    if tickers is None:
        return []
    return [dialects.for_session(session).match_keys([column], [(ticker,) for ticker in sorted(set(tickers))])]


async def list_bars(
    session: AsyncSession, query: sa.Select[Any], time: Any, *, last: int | None, newest_first: bool
) -> Sequence[Any]:
    """Return the bars of a query by time, only the newest `last` of them."""
    if last is not None and last < 0:
        raise ConfigurationError(f"last is a number of bars, not {last}")
    backwards = newest_first or last is not None
    query = query.order_by(time.desc() if backwards else time).limit(last)
    # Another statement of this session may have changed what it already holds.
    bars = (await session.scalars(query, execution_options={"populate_existing": True})).all()
    return bars if backwards == newest_first else bars[::-1]


async def latest_bars(
    session: AsyncSession,
    model: type[Bar],
    time: Any,
    tickers: Iterable[str] | None,
    *conditions: sa.ColumnElement[bool],
) -> dict[str, Any]:
    """Return the newest bar of each ticker, by ticker."""
    newest = (
        sa.select(model.ticker, sa.func.max(time).label("time"))
        .where(*conditions, *among(session, model.ticker, tickers))
        .group_by(model.ticker)
        .subquery()
    )
    query = (
        sa.select(model)
        .join(newest, sa.and_(model.ticker == newest.c.ticker, time == newest.c.time))
        .where(*conditions)
        .order_by(model.ticker)
    )
    bars = await session.scalars(query, execution_options={"populate_existing": True})
    return {bar.ticker: bar for bar in bars}


async def stream_bars(
    session: AsyncSession,
    model: type[Bar],
    columns: Sequence[str],
    time: Any,
    tickers: Iterable[str] | None,
    *conditions: sa.ColumnElement[bool],
    exact: bool,
    batch_rows: int,
) -> AsyncIterator[pa.RecordBatch]:
    """Yield record batches by ticker and time, each found from where the last one ended.

    No cursor stays open between them, so whoever stops early leaves nothing behind.
    """
    if batch_rows < 1:
        raise ConfigurationError(f"batch_rows is a number of rows, not {batch_rows}")
    query = (
        sa.select(*(model.__table__.c[name] for name in columns))
        .where(*conditions, *among(session, model.ticker, tickers))
        .order_by(model.ticker, time)
        .limit(batch_rows)
    )
    at_ticker, at_time = columns.index("ticker"), columns.index(time.key)
    beyond: list[sa.ColumnElement[bool]] = []
    while rows := (await session.execute(query.where(*beyond))).all():
        yield await _record_batch(model, columns, rows, exact=exact)
        if len(rows) < batch_rows:
            return
        ticker, instant = rows[-1][at_ticker], rows[-1][at_time]
        beyond = [sa.or_(model.ticker > ticker, sa.and_(model.ticker == ticker, time > instant))]


async def _record_batch(
    model: type[Bar], columns: Sequence[str], rows: Sequence[sa.Row[Any]], *, exact: bool
) -> pa.RecordBatch:
    from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

    def build() -> pa.RecordBatch:
        return arrow.batch_of(arrow.schema_of(model, columns, exact=exact), rows)

    return build() if len(rows) <= _BUILT_INLINE else await asyncio.to_thread(build)


async def frame(
    model: type[Bar], columns: Sequence[str], batches: AsyncIterator[pa.RecordBatch], *, exact: bool
) -> pa.Table:
    """Return record batches as one table, which has its columns also if there is no batch."""
    from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

    return arrow.table_of(arrow.schema_of(model, columns, exact=exact), [batch async for batch in batches])


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
    model: type[Bar],
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
    statement = sa.delete(model).where(
        *conditions,
        *([model.ticker == ticker] if ticker is not None else []),
        *([model.series == series] if series is not None else []),
        *window(time, start, end),
    )
    return await deleted(session, statement)


async def deleted(session: AsyncSession, statement: sa.Delete) -> int:
    """Run a DELETE and return how many rows it removed."""
    # The session's own copies are not searched for them: what was returned stays readable.
    result = await session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)  # type: ignore[attr-defined, unused-ignore]
