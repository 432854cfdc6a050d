"""Bars and instruments.

Windows are ``start <= t < end``; for daily bars they are the exchange's session dates, for intraday bars aware
instants. A ticker is compared byte for byte. ``series=""`` is the line of bars that everybody means. No function
commits.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import bulk
from traderrr_data.access.window import contains, window
from traderrr_data.bulk import OnConflict, OnInvalid, ReplaceResult, Rows, UpsertResult
from traderrr_data.errors import ConfigurationError, RowNotFoundError
from traderrr_data.models import DailyData, IntradayData, Metadata

if TYPE_CHECKING:
    import pyarrow as pa

Bar = TypeVar("Bar", DailyData, IntradayData)

_DAILY_KEY = ("ticker", "series", "date")
_INTRADAY_KEY = ("ticker", "series", "timeframe", "datetime")
_PROVENANCE = ("source", "price_basis", "is_final", "observed_at")
_OHLCV = ("open", "high", "low", "close", "volume")
_DAILY_COLUMNS = ("ticker", "date", *_OHLCV, "dividends", "stock_splits", "series", *_PROVENANCE)
_INTRADAY_COLUMNS = ("ticker", "datetime", "timeframe", *_OHLCV, "series", *_PROVENANCE)
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


class Summary(NamedTuple):
    """One ticker as a portfolio's overview shows it; what is not known is None."""

    ticker: str
    company_name: str | None
    sector: str | None
    market_cap: Decimal | None
    last_price: Decimal | None
    last_volume: Decimal | None
    last_date: dt.date | None


async def upsert_daily(
    session: AsyncSession,
    rows: Rows,
    *,
    series: str = "",
    on_conflict: OnConflict = "update",
    on_invalid: OnInvalid = "raise",
    allow_inconsistent: bool = False,
) -> UpsertResult:
    """Store daily bars: new ones are inserted, stored ones that differ are updated, the rest is left alone.

    A column that is absent keeps what is stored, an explicit None clears it. A bar that is marked final is not
    overwritten by one that is not, nor one observed later by one observed earlier. The caller commits; a call that
    fails undoes itself alone.

    Args:
        session: an open session.
        rows: mappings by column name, DailyData objects, or a frame (Arrow, pandas, Polars, DuckDB). In a frame NaN
            means None, and a row without any price is dropped.
        series: the line of bars of all rows that do not name one.
        on_conflict: where a bar is stored: "update" it, "ignore" the row, or raise an "error".
        on_invalid: "raise" at the first invalid row, or "reject" it and go on.
        allow_inconsistent: store bars whose prices are out of order, as they were sent.

    Returns:
        The exact counts, also beside other writers.

    Raises:
        InvalidRowError: a row cannot be stored exactly; it names row, column and reason.
        DuplicateRowError: a bar is stored, and `on_conflict` is "error".
        TransactionConflictError: a deadlock; the unit of work may be run again.
    """
    return await bulk.upsert(
        session,
        DailyData,
        rows,
        key=_DAILY_KEY,
        fixed={"series": series},
        on_conflict=on_conflict,
        on_invalid=on_invalid,
        allow_inconsistent=allow_inconsistent,
    )


async def upsert_intraday(
    session: AsyncSession,
    rows: Rows,
    *,
    timeframe: str | None = None,
    series: str = "",
    on_conflict: OnConflict = "update",
    on_invalid: OnInvalid = "raise",
    allow_inconsistent: bool = False,
) -> UpsertResult:
    """Store intraday bars; in all else as `upsert_daily`.

    Args:
        session: an open session.
        rows: as for `upsert_daily`; ``datetime`` is the bar's first instant, with a time zone.
        timeframe: the bars' length, such as ``1m``; None if every row has its own.
        series: the line of bars of all rows that do not name one.
        on_conflict: where a bar is stored: "update" it, "ignore" the row, or raise an "error".
        on_invalid: "raise" at the first invalid row, or "reject" it and go on.
        allow_inconsistent: store bars whose prices are out of order, as they were sent.

    Returns:
        The exact counts, also beside other writers.

    Raises:
        InvalidRowError: a row cannot be stored exactly; it names row, column and reason.
        DuplicateRowError: a bar is stored, and `on_conflict` is "error".
        TransactionConflictError: a deadlock; the unit of work may be run again.
    """
    return await bulk.upsert(
        session,
        IntradayData,
        rows,
        key=_INTRADAY_KEY,
        fixed={"series": series} | _said(timeframe=timeframe),
        on_conflict=on_conflict,
        on_invalid=on_invalid,
        allow_inconsistent=allow_inconsistent,
    )


async def replace_daily(
    session: AsyncSession,
    ticker: str,
    rows: Rows,
    *,
    start: dt.date | None = None,
    end: dt.date | None = None,
    series: str = "",
    allow_inconsistent: bool = False,
) -> ReplaceResult:
    """Make one ticker's window hold exactly these bars: what the provider withdrew is gone. The caller commits.

    Args:
        session: an open session.
        ticker: of all rows.
        rows: as for `upsert_daily`; an absent column is cleared, and a final bar is replaced, too.
        start: first session date of the window; None for the earliest.
        end: first session date after the window; None for no end.
        series: the line of bars.
        allow_inconsistent: store bars whose prices are out of order, as they were sent.

    Raises:
        InvalidRowError: a row cannot be stored exactly, or is outside of the window; nothing has changed.
        TransactionConflictError: a deadlock; the unit of work may be run again.
    """
    return await bulk.replace(
        session,
        DailyData,
        rows,
        key=_DAILY_KEY,
        fixed={"ticker": ticker, "series": series},
        window=lambda row: row["series"] == series and contains(DailyData.date, start, end, row["date"]),
        stored=[*_line(DailyData, ticker, series), *window(DailyData.date, start, end)],
        allow_inconsistent=allow_inconsistent,
    )


async def replace_intraday(
    session: AsyncSession,
    ticker: str,
    rows: Rows,
    *,
    timeframe: str,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    series: str = "",
    allow_inconsistent: bool = False,
) -> ReplaceResult:
    """Make one ticker's window hold exactly these bars of one timeframe; in all else as `replace_daily`.

    Args:
        session: an open session.
        ticker: of all rows.
        rows: as for `upsert_intraday`; an absent column is cleared, and a final bar is replaced, too.
        timeframe: of all rows.
        start: first instant of the window; None for the earliest.
        end: first instant after the window; None for no end.
        series: the line of bars.
        allow_inconsistent: store bars whose prices are out of order, as they were sent.

    Raises:
        InvalidRowError: a row cannot be stored exactly, or is outside of the window; nothing has changed.
        TransactionConflictError: a deadlock; the unit of work may be run again.
    """
    return await bulk.replace(
        session,
        IntradayData,
        rows,
        key=_INTRADAY_KEY,
        fixed={"ticker": ticker, "series": series, "timeframe": timeframe},
        window=lambda row: row["series"] == series and contains(IntradayData.datetime, start, end, row["datetime"]),
        stored=[
            *_line(IntradayData, ticker, series),
            IntradayData.timeframe == timeframe,
            *window(IntradayData.datetime, start, end),
        ],
        allow_inconsistent=allow_inconsistent,
    )


async def list_daily(
    session: AsyncSession,
    ticker: str,
    *,
    start: dt.date | None = None,
    end: dt.date | None = None,
    last: int | None = None,
    newest_first: bool = False,
    series: str = "",
) -> Sequence[DailyData]:
    """Return one ticker's daily bars, oldest first; empty if none is stored.

    Args:
        session: any open session; nothing is written.
        ticker: as stored, byte for byte.
        start: first session date wanted; None for the earliest.
        end: first session date NOT wanted; None for all up to the newest.
        last: only the newest so many of the window.
        newest_first: turn the order round.
        series: the line of bars.
    """
    query = sa.select(DailyData).where(*_line(DailyData, ticker, series), *window(DailyData.date, start, end))
    return await _bars(session, query, DailyData.date, last=last, newest_first=newest_first)


async def list_intraday(
    session: AsyncSession,
    ticker: str,
    *,
    timeframe: str,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    last: int | None = None,
    newest_first: bool = False,
    series: str = "",
) -> Sequence[IntradayData]:
    """Return one ticker's intraday bars of one timeframe, oldest first; empty if none is stored.

    Args:
        session: any open session; nothing is written.
        ticker: as stored, byte for byte.
        timeframe: such as ``1m``; ``unknown`` for those of the legacy application.
        start: first instant wanted; None for the earliest.
        end: first instant NOT wanted; None for all up to the newest.
        last: only the newest so many of the window.
        newest_first: turn the order round.
        series: the line of bars.
    """
    query = sa.select(IntradayData).where(
        *_line(IntradayData, ticker, series),
        IntradayData.timeframe == timeframe,
        *window(IntradayData.datetime, start, end),
    )
    return await _bars(session, query, IntradayData.datetime, last=last, newest_first=newest_first)


async def latest_daily(
    session: AsyncSession, tickers: Iterable[str] | None = None, *, series: str = ""
) -> dict[str, DailyData]:
    """Return the newest daily bar of each ticker, in the tickers' order; one without bars is not among them.

    Args:
        session: any open session; nothing is written.
        tickers: None for all that are stored.
        series: the line of bars.
    """
    return await _latest(session, DailyData, DailyData.date, tickers, [DailyData.series == series])


async def latest_intraday(
    session: AsyncSession, tickers: Iterable[str] | None = None, *, timeframe: str, series: str = ""
) -> dict[str, IntradayData]:
    """Return the newest intraday bar of each ticker; as `latest_daily`, for one timeframe."""
    conditions = [IntradayData.series == series, IntradayData.timeframe == timeframe]
    return await _latest(session, IntradayData, IntradayData.datetime, tickers, conditions)


async def stream_daily(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    start: dt.date | None = None,
    end: dt.date | None = None,
    series: str = "",
    exact: bool = True,
    batch_rows: int = 50_000,
) -> AsyncIterator[pa.RecordBatch]:
    """Yield daily bars as Arrow record batches, by ticker and date, in bounded memory.

    Every batch is a query of its own, so one may stop at any time. In a ``read_only`` session all of them see one
    snapshot; in a writing one each sees what is committed by then.

    Args:
        session: any open session; nothing is written.
        tickers: None for all that are stored.
        start: first session date wanted; None for the earliest.
        end: first session date NOT wanted; None for all up to the newest.
        series: the line of bars.
        exact: decimals as they are stored; False for float64.
        batch_rows: of one batch at most.
    """
    conditions = [DailyData.series == series, *window(DailyData.date, start, end)]
    pages = _pages(session, DailyData, _DAILY_COLUMNS, DailyData.date, tickers, conditions, batch_rows)
    async for page in pages:
        yield await _record_batch(DailyData, _DAILY_COLUMNS, page, exact=exact)


async def stream_intraday(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    timeframe: str,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    series: str = "",
    exact: bool = True,
    batch_rows: int = 50_000,
) -> AsyncIterator[pa.RecordBatch]:
    """Yield intraday bars of one timeframe as Arrow record batches, by ticker and instant; as `stream_daily`."""
    time = IntradayData.datetime
    conditions = [IntradayData.series == series, IntradayData.timeframe == timeframe, *window(time, start, end)]
    pages = _pages(session, IntradayData, _INTRADAY_COLUMNS, time, tickers, conditions, batch_rows)
    async for page in pages:
        yield await _record_batch(IntradayData, _INTRADAY_COLUMNS, page, exact=exact)


async def daily_frame(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    start: dt.date | None = None,
    end: dt.date | None = None,
    series: str = "",
    exact: bool = True,
) -> pa.Table:
    """Return daily bars as one Arrow table, by ticker and date; without rows if none is stored.

    Args:
        session: any open session; nothing is written.
        tickers: None for all that are stored.
        start: first session date wanted; None for the earliest.
        end: first session date NOT wanted; None for all up to the newest.
        series: the line of bars.
        exact: decimal128 as stored; False for float64.
    """
    batches = stream_daily(session, tickers, start=start, end=end, series=series, exact=exact)
    return await _table(DailyData, _DAILY_COLUMNS, batches, exact=exact)


async def intraday_frame(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    timeframe: str,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    series: str = "",
    exact: bool = True,
) -> pa.Table:
    """Return intraday bars of one timeframe as one Arrow table, by ticker and instant; as `daily_frame`."""
    batches = stream_intraday(
        session, tickers, timeframe=timeframe, start=start, end=end, series=series, exact=exact
    )
    return await _table(IntradayData, _INTRADAY_COLUMNS, batches, exact=exact)


async def coverage(session: AsyncSession, tickers: Iterable[str] | None = None) -> list[Coverage]:
    """Return what is stored of every line of bars: daily ones first, then by ticker, series and timeframe.

    Args:
        session: any open session; nothing is written.
        tickers: None for all that are stored.
    """
    wanted = _wanted(tickers)
    return [
        *await _coverage(session, DailyData, DailyData.date, sa.null(), wanted),
        *await _coverage(session, IntradayData, IntradayData.datetime, IntradayData.timeframe, wanted),
    ]


async def delete_daily(
    session: AsyncSession,
    ticker: str | None = None,
    *,
    before: dt.date | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    series: str | None = None,
) -> int:
    """Delete daily bars and return how many. The caller commits.

    Args:
        session: an open session.
        ticker: None for all.
        before: another word for `end`.
        start: first session date to delete; None for the earliest.
        end: first session date to keep; None for no end.
        series: the line of bars; None for all.

    Raises:
        ConfigurationError: neither a ticker nor a limit is said, or both `before` and `end` are.
    """
    conditions = _deletable(DailyData, DailyData.date, ticker, start, _one_end(before, end), series)
    return await _delete(session, DailyData, conditions)


async def delete_intraday(
    session: AsyncSession,
    ticker: str | None = None,
    *,
    before: dt.datetime | None = None,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    timeframe: str | None = None,
    series: str | None = None,
) -> int:
    """Delete intraday bars and return how many; as `delete_daily`, and `timeframe` None for all."""
    conditions = _deletable(IntradayData, IntradayData.datetime, ticker, start, _one_end(before, end), series)
    conditions += [IntradayData.timeframe == timeframe] if timeframe is not None else []
    return await _delete(session, IntradayData, conditions)


async def upsert_metadata(
    session: AsyncSession, rows: Rows, *, on_conflict: OnConflict = "update", on_invalid: OnInvalid = "raise"
) -> UpsertResult:
    """Store what is known of instruments, one row a ticker; an absent column keeps what is stored.

    The caller commits; a call that fails undoes itself alone.

    Raises:
        InvalidRowError: a row cannot be stored exactly; it names row, column and reason.
        DuplicateRowError: a ticker is stored, and `on_conflict` is "error".
    """
    return await bulk.upsert(
        session, Metadata, rows, key=("ticker",), on_conflict=on_conflict, on_invalid=on_invalid
    )


async def find_metadata(session: AsyncSession, ticker: str) -> Metadata | None:
    """Return what is known of one ticker, or None."""
    query = sa.select(Metadata).where(Metadata.ticker == ticker)
    return (await session.scalars(query, execution_options={"populate_existing": True})).one_or_none()


async def get_metadata(session: AsyncSession, ticker: str) -> Metadata:
    """Return what is known of one ticker.

    Raises:
        RowNotFoundError: nothing is stored of it.
    """
    found = await find_metadata(session, ticker)
    if found is None:
        raise RowNotFoundError(f"there is no metadata of {ticker!r}")
    return found


async def list_metadata(session: AsyncSession, tickers: Iterable[str] | None = None) -> Sequence[Metadata]:
    """Return what is known of some tickers (None: of all), by ticker."""
    query = sa.select(Metadata).where(*_among(Metadata.ticker, _wanted(tickers))).order_by(Metadata.ticker)
    return (await session.scalars(query, execution_options={"populate_existing": True})).all()


async def portfolio_summary(
    session: AsyncSession, tickers: Iterable[str], *, series: str = ""
) -> list[Summary]:
    """Return what an overview shows of each ticker, the largest market capitalisation first.

    A ticker of which nothing is known is among them, too; those without a capitalisation come last, by ticker.

    Args:
        session: any open session; nothing is written.
        tickers: each is answered once.
        series: the line of bars that the prices are from.
    """
    wanted = sorted(set(tickers))
    known = {row.ticker: row for row in await list_metadata(session, wanted)}
    latest = await latest_daily(session, wanted, series=series)

    def summary(ticker: str) -> Summary:
        about, bar = known.get(ticker), latest.get(ticker)
        return Summary(
            ticker,
            *((about.company_name, about.sector, about.market_cap) if about else (None, None, None)),
            *((bar.close, bar.volume, bar.date) if bar else (None, None, None)),
        )

    found = [summary(ticker) for ticker in wanted]
    return sorted(found, key=lambda row: (row.market_cap is None, -(row.market_cap or 0)))


def _said(**values: str | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _line(model: type[Bar], ticker: str, series: str) -> list[sa.ColumnElement[bool]]:
    return [model.ticker == ticker, model.series == series]


def _wanted(tickers: Iterable[str] | None) -> list[str] | None:
    if isinstance(tickers, str):
        raise ConfigurationError(f"tickers is a list of tickers: say [{tickers!r}]")
    return None if tickers is None else sorted(set(tickers))


def _among(column: Any, wanted: list[str] | None) -> list[sa.ColumnElement[bool]]:
    return [] if wanted is None else [column.in_(wanted)]


async def _bars(
    session: AsyncSession, query: sa.Select[tuple[Bar]], time: Any, *, last: int | None, newest_first: bool
) -> Sequence[Bar]:
    if last is not None and last < 0:
        raise ConfigurationError(f"last is a number of bars, not {last}")
    backwards = newest_first or last is not None
    query = query.order_by(time.desc() if backwards else time).limit(last)
    # Another statement of this session may have changed what it already holds.
    bars = (await session.scalars(query, execution_options={"populate_existing": True})).all()
    return bars if backwards == newest_first else bars[::-1]


async def _latest(
    session: AsyncSession,
    model: type[Bar],
    time: Any,
    tickers: Iterable[str] | None,
    conditions: list[sa.ColumnElement[bool]],
) -> dict[str, Bar]:
    newest = (
        sa.select(model.ticker, sa.func.max(time).label("time"))
        .where(*conditions, *_among(model.ticker, _wanted(tickers)))
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


async def _pages(
    session: AsyncSession,
    model: type[Bar],
    columns: Sequence[str],
    time: Any,
    tickers: Iterable[str] | None,
    conditions: list[sa.ColumnElement[bool]],
    batch_rows: int,
) -> AsyncIterator[Sequence[sa.Row[Any]]]:
    """Yield pages of rows by key, each found from where the last one ended: no cursor stays open between them."""
    query = (
        sa.select(*(model.__table__.c[name] for name in columns))
        .where(*conditions, *_among(model.ticker, _wanted(tickers)))
        .order_by(model.ticker, time)
        .limit(batch_rows)
    )
    at_time = columns.index(time.key)
    beyond: list[sa.ColumnElement[bool]] = []
    while page := (await session.execute(query.where(*beyond))).all():
        yield page
        if len(page) < batch_rows:
            return
        ticker, instant = page[-1][0], page[-1][at_time]
        beyond = [sa.or_(model.ticker > ticker, sa.and_(model.ticker == ticker, time > instant))]


async def _record_batch(
    model: type[Bar], columns: Sequence[str], rows: Sequence[sa.Row[Any]], *, exact: bool
) -> pa.RecordBatch:
    from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

    def build() -> pa.RecordBatch:
        return arrow.batch_of(arrow.schema_of(model, columns, exact=exact), rows)

    return build() if len(rows) <= _BUILT_INLINE else await asyncio.to_thread(build)


async def _table(
    model: type[Bar], columns: Sequence[str], batches: AsyncIterator[pa.RecordBatch], *, exact: bool
) -> pa.Table:
    from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

    return arrow.pa.Table.from_batches(
        [batch async for batch in batches], schema=arrow.schema_of(model, columns, exact=exact)
    )


async def _coverage(
    session: AsyncSession, model: type[Bar], time: Any, timeframe: Any, wanted: list[str] | None
) -> list[Coverage]:
    key = [model.ticker, model.series, *([] if isinstance(timeframe, sa.Null) else [timeframe])]
    last_final = sa.func.max(sa.case((model.is_final.is_(sa.true()), time)), type_=time.type)
    query = (
        sa.select(model.ticker, model.series, timeframe, sa.func.min(time), sa.func.max(time), last_final, sa.func.count())
        .where(*_among(model.ticker, wanted))
        .group_by(*key)
        .order_by(*key)
    )
    return [Coverage(*row) for row in await session.execute(query)]


def _one_end(before: Any, end: Any) -> Any:
    if before is not None and end is not None:
        raise ConfigurationError("before and end are two words for the same limit: say one")
    return end if before is None else before


def _deletable(
    model: type[Bar], time: Any, ticker: str | None, start: Any, end: Any, series: str | None
) -> list[sa.ColumnElement[bool]]:
    if ticker is None and start is None and end is None:
        raise ConfigurationError("this would delete every bar: say a ticker, before, start or end")
    return [
        *([model.ticker == ticker] if ticker is not None else []),
        *([model.series == series] if series is not None else []),
        *window(time, start, end),
    ]


async def _delete(session: AsyncSession, model: type[Bar], conditions: list[sa.ColumnElement[bool]]) -> int:
    # The session's own copies are not searched: what was returned stays readable.
    deleted = await session.execute(
        sa.delete(model).where(*conditions), execution_options={"synchronize_session": False}
    )
    return int(deleted.rowcount)  # type: ignore[attr-defined, unused-ignore]


