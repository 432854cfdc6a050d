"""Bars and instruments.

Windows are ``start <= t < end``; for daily bars they are the exchange's session dates, for intraday bars aware
instants. A ticker is compared byte for byte. ``series=""`` is the line of bars that everybody means. No function
commits.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import bulk
from traderrr_data.access import bars
from traderrr_data.access.bars import Coverage
from traderrr_data.access.revisions import Difference, differences, list_revisions
from traderrr_data.access.window import bounds, contains, each_once, if_said, same, whole, window
from traderrr_data.bulk import OnConflict, OnInvalid, ReplaceResult, Rows, UpsertResult, frames
from traderrr_data.errors import RowNotFoundError
from traderrr_data.models import BarRevision, DailyData, IntradayData, Metadata

if TYPE_CHECKING:
    import pyarrow as pa

_DAILY_KEY = ("ticker", "series", "date")
_INTRADAY_KEY = ("ticker", "series", "timeframe", "datetime")
_PROVENANCE = ("source", "price_basis", "is_final", "observed_at")
_OHLCV = ("open", "high", "low", "close", "volume")
_DAILY_COLUMNS = ("ticker", "date", *_OHLCV, "dividends", "stock_splits", "series", *_PROVENANCE)
_INTRADAY_COLUMNS = ("ticker", "datetime", "timeframe", *_OHLCV, "series", *_PROVENANCE)


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
    rows: Rows | AsyncIterable[Rows],
    *,
    series: str = "",
    on_conflict: OnConflict = "update",
    on_invalid: OnInvalid = "raise",
    allow_inconsistent: bool = False,
    verdicts: bool = False,
) -> UpsertResult:
    """Store daily bars: new ones are inserted, stored ones that differ are updated, the rest is left alone.

    A column that is absent keeps what is stored, an explicit None clears it. A bar that is marked final is not
    overwritten by one that is not, nor one observed later by one observed earlier. The caller commits; a call that
    fails undoes itself alone.

    Args:
        session: an open session.
        rows: mappings by column name, DailyData objects, or a frame (Arrow, pandas, Polars, DuckDB). In a frame NaN
            means None, and a row without any price is dropped. Or an async iterator of such batches, which are stored
            one after the other in bounded memory, small record batches together; a key that comes again in a later
            batch is a duplicate if both are stored together, and otherwise meets a stored row there.
        series: the line of bars of rows that do not name one; if it is not empty, a row that names another is invalid.
        on_conflict: where a bar is stored: "update" it, "ignore" the row, or raise an "error".
        on_invalid: "raise" at the first invalid row, or "reject" it and go on.
        allow_inconsistent: store bars whose prices are out of order, as they were sent.
        verdicts: also tell of each row what became of it.

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
        verdicts=verdicts,
    )


async def upsert_intraday(
    session: AsyncSession,
    rows: Rows | AsyncIterable[Rows],
    *,
    timeframe: str | None = None,
    series: str = "",
    on_conflict: OnConflict = "update",
    on_invalid: OnInvalid = "raise",
    allow_inconsistent: bool = False,
    verdicts: bool = False,
) -> UpsertResult:
    """Store intraday bars; in all else as `upsert_daily`.

    Args:
        session: an open session.
        rows: as for `upsert_daily`; ``datetime`` is the bar's first instant, with a time zone.
        timeframe: the bars' length, such as ``1m``; None if every row has its own.
        series: the line of bars of rows that do not name one; if it is not empty, a row that names another is invalid.
        on_conflict: where a bar is stored: "update" it, "ignore" the row, or raise an "error".
        on_invalid: "raise" at the first invalid row, or "reject" it and go on.
        allow_inconsistent: store bars whose prices are out of order, as they were sent.
        verdicts: also tell of each row what became of it.

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
        fixed={"series": series} | ({} if timeframe is None else {"timeframe": timeframe}),
        on_conflict=on_conflict,
        on_invalid=on_invalid,
        allow_inconsistent=allow_inconsistent,
        verdicts=verdicts,
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
    start, end = bounds(DailyData.date, start, end)
    return await bulk.replace(
        session,
        DailyData,
        rows,
        key=_DAILY_KEY,
        fixed={"ticker": ticker, "series": series},
        window=lambda row: row["series"] == series and contains(start, end, row["date"]),
        stored=[*bars.line(DailyData, ticker, series), *window(DailyData.date, start, end)],
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
    start, end = bounds(IntradayData.datetime, start, end)
    return await bulk.replace(
        session,
        IntradayData,
        rows,
        key=_INTRADAY_KEY,
        fixed={"ticker": ticker, "series": series, "timeframe": timeframe},
        window=lambda row: row["series"] == series and contains(start, end, row["datetime"]),
        stored=[
            *bars.line(IntradayData, ticker, series),
            same(IntradayData.timeframe, timeframe),
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
    as_of: dt.datetime | None = None,
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
        as_of: the bars exactly as they stood at this instant, which has a time zone; None for now.

    Raises:
        InvalidRowError: `as_of` has no time zone.
    """
    wanted = {"ticker": ticker, "series": series}
    return await bars.list_bars(
        session, DailyData, "date", wanted, start=start, end=end, last=last, newest_first=newest_first, as_of=as_of
    )


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
    as_of: dt.datetime | None = None,
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
        as_of: the bars exactly as they stood at this instant, which has a time zone; None for now.

    Raises:
        InvalidRowError: `as_of` has no time zone.
    """
    wanted = {"ticker": ticker, "series": series, "timeframe": timeframe}
    return await bars.list_bars(
        session,
        IntradayData,
        "datetime",
        wanted,
        start=start,
        end=end,
        last=last,
        newest_first=newest_first,
        as_of=as_of,
    )


async def latest_daily(
    session: AsyncSession, tickers: Iterable[str] | None = None, *, series: str = "", as_of: dt.datetime | None = None
) -> dict[str, DailyData]:
    """Return the newest daily bar of each ticker, by ticker, sorted; one without bars is not among them.

    Args:
        session: any open session; nothing is written.
        tickers: None for all that are stored.
        series: the line of bars.
        as_of: the newest that stood at this instant; None for now.
    """
    return await bars.latest_bars(session, DailyData, "date", tickers, {"series": series}, as_of=as_of)


async def latest_intraday(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    timeframe: str,
    series: str = "",
    as_of: dt.datetime | None = None,
) -> dict[str, IntradayData]:
    """Return the newest intraday bar of each ticker; as `latest_daily`, for one timeframe."""
    wanted = {"series": series, "timeframe": timeframe}
    return await bars.latest_bars(session, IntradayData, "datetime", tickers, wanted, as_of=as_of)


def stream_daily(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    start: dt.date | None = None,
    end: dt.date | None = None,
    series: str = "",
    as_of: dt.datetime | None = None,
    exact: bool = True,
    batch_rows: int = 50_000,
) -> AsyncIterator[pa.RecordBatch]:
    """Return an iterator over daily bars as Arrow record batches, by ticker and date, in bounded memory.

    Every batch is a query of its own, so one may stop at any time. In a ``read_only`` session all of them see one
    snapshot; in a writing one each sees what is committed by then.

    Args:
        session: any open session; nothing is written.
        tickers: None for all that are stored.
        start: first session date wanted; None for the earliest.
        end: first session date NOT wanted; None for all up to the newest.
        series: the line of bars.
        as_of: the bars exactly as they stood at this instant, which has a time zone; None for now.
        exact: decimals as they are stored; False for float64.
        batch_rows: of one batch at most.
    """
    wanted = bars.columns_of(
        DailyData, _DAILY_COLUMNS, "date", tickers, start=start, end=end, series=series, as_of=as_of
    )
    return frames.stream(session, wanted, exact=exact, batch_rows=_rows_of_a_batch(batch_rows))


def stream_intraday(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    timeframe: str,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    series: str = "",
    as_of: dt.datetime | None = None,
    exact: bool = True,
    batch_rows: int = 50_000,
) -> AsyncIterator[pa.RecordBatch]:
    """Return an iterator over the bars of one timeframe, by ticker and instant; in all else as `stream_daily`."""
    wanted = bars.columns_of(
        IntradayData,
        _INTRADAY_COLUMNS,
        "datetime",
        tickers,
        start=start,
        end=end,
        series=series,
        timeframe=timeframe,
        as_of=as_of,
    )
    return frames.stream(session, wanted, exact=exact, batch_rows=_rows_of_a_batch(batch_rows))


def _rows_of_a_batch(rows: int) -> int:
    return whole("batch_rows", rows, 1, 2**31 - 1, said="a number of rows")


async def daily_frame(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    start: dt.date | None = None,
    end: dt.date | None = None,
    series: str = "",
    as_of: dt.datetime | None = None,
    exact: bool = True,
) -> pa.Table:
    """Return daily bars as one Arrow table, by ticker and date; without rows if none is stored.

    Args:
        session: any open session; nothing is written.
        tickers: None for all that are stored.
        start: first session date wanted; None for the earliest.
        end: first session date NOT wanted; None for all up to the newest.
        series: the line of bars.
        as_of: the bars exactly as they stood at this instant, which has a time zone; None for now.
        exact: decimal128 as stored; False for float64.

    Raises:
        InvalidRowError: a stored number is too large for its column.
    """
    wanted = bars.columns_of(
        DailyData, _DAILY_COLUMNS, "date", tickers, start=start, end=end, series=series, as_of=as_of
    )
    return await frames.frame(session, wanted, exact=exact)


async def intraday_frame(
    session: AsyncSession,
    tickers: Iterable[str] | None = None,
    *,
    timeframe: str,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    series: str = "",
    as_of: dt.datetime | None = None,
    exact: bool = True,
) -> pa.Table:
    """Return intraday bars of one timeframe as one Arrow table, by ticker and instant; as `daily_frame`."""
    wanted = bars.columns_of(
        IntradayData,
        _INTRADAY_COLUMNS,
        "datetime",
        tickers,
        start=start,
        end=end,
        series=series,
        timeframe=timeframe,
        as_of=as_of,
    )
    return await frames.frame(session, wanted, exact=exact)


async def revisions(
    session: AsyncSession,
    ticker: str,
    *,
    timeframe: str | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    series: str = "",
) -> Sequence[BarRevision]:
    """Return every version of a ticker's bars that was overwritten or deleted, by bar, the oldest version first.

    Args:
        session: any open session; nothing is written.
        ticker: as stored, byte for byte.
        timeframe: of intraday bars; None for daily bars.
        start: the first bar's date, or its first instant; None for the earliest.
        end: the first bar NOT wanted; None for all up to the newest.
        series: the line of bars.
    """
    model: Any = DailyData if timeframe is None else IntradayData
    time: Any = BarRevision.date if timeframe is None else BarRevision.datetime
    chosen = [
        same(BarRevision.ticker, ticker),
        same(BarRevision.series, series),
        BarRevision.table_name == model.__tablename__,
        *if_said(BarRevision.timeframe, timeframe),
        *window(time, start, end),
    ]
    return await list_revisions(session, chosen, time)


async def diff(
    session: AsyncSession,
    *,
    since: dt.datetime,
    until: dt.datetime | None = None,
    tickers: Iterable[str] | None = None,
) -> list[Difference]:
    """Return the bars that were stored at one instant and read otherwise at a later one: what was rewritten meanwhile.

    A bar that was changed and changed back is not among them, nor one that is new. Daily bars come first, then by
    ticker, series, timeframe and time.

    Args:
        session: any open session; nothing is written.
        since: the earlier instant, with a time zone, by the database's clock.
        until: the later one; None for now.
        tickers: None for all.

    Raises:
        InvalidRowError: an instant has no time zone.
    """
    chosen = bars.among(session, BarRevision.ticker, tickers)
    daily = await differences(session, DailyData, "date", *chosen, since=since, until=until)
    return daily + await differences(session, IntradayData, "datetime", *chosen, since=since, until=until)


async def coverage(session: AsyncSession, tickers: Iterable[str] | None = None) -> list[Coverage]:
    """Return what is stored of every line of bars: daily ones first, then by ticker, series and timeframe.

    Args:
        session: any open session; nothing is written.
        tickers: None for all that are stored.
    """
    daily = await bars.coverage_of(session, DailyData, DailyData.date, tickers)
    time, timeframe = IntradayData.datetime, IntradayData.timeframe
    return daily + await bars.coverage_of(session, IntradayData, time, tickers, timeframe=timeframe)


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
    return await bars.delete_bars(
        session, DailyData, DailyData.date, ticker=ticker, before=before, start=start, end=end, series=series
    )


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
    of_timeframe = if_said(IntradayData.timeframe, timeframe)
    return await bars.delete_bars(
        session,
        IntradayData,
        IntradayData.datetime,
        *of_timeframe,
        ticker=ticker,
        before=before,
        start=start,
        end=end,
        series=series,
    )


async def rename_timeframe(
    session: AsyncSession, old: str, new: str, *, tickers: Iterable[str] | None = None, series: str | None = None
) -> int:
    """Give intraday bars the timeframe that they are of, and return how many. The caller commits.

    It is for bars of the old application, which are stored as 'unknown'. Nothing else about them changes, `updated_at`
    included; their earlier versions are renamed, too.

    Args:
        session: an open session.
        old: the timeframe as it is stored.
        new: the one that it is.
        tickers: None for all.
        series: the line of bars; None for all.

    Raises:
        InvalidRowError: one of the two is not a timeframe.
        DuplicateRowError: bars are stored under both, and nothing was changed.
    """
    return await bars.rename_timeframe(session, old, new, tickers=tickers, series=series)


async def upsert_metadata(
    session: AsyncSession, rows: Rows, *, on_conflict: OnConflict = "update", on_invalid: OnInvalid = "raise"
) -> UpsertResult:
    """Store what is known of instruments, one row a ticker; an absent column keeps what is stored.

    The caller commits; a call that fails undoes itself alone.

    Raises:
        InvalidRowError: a row cannot be stored exactly; it names row, column and reason.
        DuplicateRowError: a ticker is stored, and `on_conflict` is "error".
    """
    return await bulk.upsert(session, Metadata, rows, key=("ticker",), on_conflict=on_conflict, on_invalid=on_invalid)


async def find_metadata(session: AsyncSession, ticker: str) -> Metadata | None:
    """Return what is known of one ticker, or None."""
    query = sa.select(Metadata).where(same(Metadata.ticker, ticker))
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
    query = sa.select(Metadata).where(*bars.among(session, Metadata.ticker, tickers)).order_by(Metadata.ticker)
    return (await session.scalars(query, execution_options={"populate_existing": True})).all()


async def portfolio_summary(session: AsyncSession, tickers: Iterable[str], *, series: str = "") -> list[Summary]:
    """Return what an overview shows of each ticker, the largest market capitalisation first.

    A ticker of which nothing is known is among them, too; those without a capitalisation come last, by ticker.

    Args:
        session: any open session; nothing is written.
        tickers: each is answered once.
        series: the line of bars that the prices are from.
    """
    wanted = each_once(Metadata.ticker, tickers) or []
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
