"""The commands that show what is stored: quickstart, show, coverage, diff, info."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import sample
from traderrr_data.access import market_data
from traderrr_data.access.bars import Coverage
from traderrr_data.access.revisions import Difference
from traderrr_data.bulk import UpsertResult
from traderrr_data.cli import output
from traderrr_data.cli.app import FAILED, Invocation, refuse_missing
from traderrr_data.cli.times import instant
from traderrr_data.db import DatabaseInfo, DatabaseManager
from traderrr_data.errors import RowNotFoundError
from traderrr_data.models import DailyData, IntradayData
from traderrr_data.url import masked

_SAMPLE = (
    f"The sample: real daily bars of twelve US companies, 2013 and 2014, from the test data of {sample.SOURCE}"
    " (Apache License 2.0), adjusted for nothing."
)
_BAR = ("open", "high", "low", "close", "volume")
_DAILY = ("date", *_BAR, "dividends", "stock_splits")
_INTRADAY = ("datetime", *_BAR)
_PROVENANCE = ("series", "source", "price_basis", "is_final", "observed_at")
_INFO = (
    "database_url",
    "dialect",
    "driver",
    "server_version",
    "is_connected",
    "schema_revision",
    "schema_head",
    "size_bytes",
    "first_date",
    "last_date",
)
_COVERAGE = ("ticker", "series", "timeframe", "first", "last", "last_final", "rows")


def quickstart(context: typer.Context) -> None:
    """Make the tables, store the sample, and show it.

    The sample comes with the package. What is stored already stays as it is; run again, nothing changes.
    """
    invocation: Invocation = context.obj

    async def store(session: AsyncSession) -> tuple[UpsertResult, UpsertResult]:
        # Whoever has bars of these tickers keeps them.
        return (
            await market_data.upsert_daily(session, sample.daily_bars(), on_conflict="ignore"),
            await market_data.upsert_metadata(session, sample.companies(), on_conflict="ignore"),
        )

    async def work(db: DatabaseManager) -> tuple[UpsertResult, UpsertResult, list[Coverage], dict[str, DailyData]]:
        await db.init_db(upgrade=True)
        stored = await db.run(store, idempotent=True)
        async with db.session_context(read_only=True) as session:
            return *stored, await market_data.coverage(session), await market_data.latest_daily(session)

    with output.progress("storing the sample"):
        bars, companies, covered, newest = invocation.run(work)
    url = masked(invocation.settings.url)
    lines = [line._asdict() for line in covered]
    latest = [{"ticker": ticker, **_row(bar, _DAILY)} for ticker, bar in newest.items()]
    if bars.inserted or companies.inserted:
        outcome = f"{bars.inserted:,} bars and {companies.inserted} companies are stored in {url}."
    else:
        outcome = f"Nothing changed: the sample was in {url} already."
    document = {
        "database_url": url,
        "bars_inserted": bars.inserted,
        "companies_inserted": companies.inserted,
        "source": sample.SOURCE,
        "licence": "Apache-2.0",
        "coverage": lines,
        "newest": latest,
    }
    invocation.show(
        document,
        outcome,
        _SAMPLE,
        "\nWhat is stored:\n",
        output.table_of(lines, _COVERAGE),
        "\nThe newest bars:\n",
        output.table_of(latest, ("ticker", *_DAILY)),
        "\nNext: traderrr-data show AAPL, or traderrr-data --help.",
    )


def show(
    context: typer.Context,
    ticker: Annotated[str, typer.Argument(help="As it is stored; AAPL is not aapl.")],
    last: Annotated[int, typer.Option("--last", min=1, help="How many bars.")] = 10,
    timeframe: Annotated[
        str | None, typer.Option("--timeframe", help="Intraday bars of this length, such as 1m.", show_default="daily")
    ] = None,
    series: Annotated[str, typer.Option("--series", help="Which line of bars.")] = "",
) -> None:
    """Show a ticker's newest bars, the newest first."""
    invocation: Invocation = context.obj

    async def work(db: DatabaseManager) -> Sequence[DailyData] | Sequence[IntradayData]:
        async with db.session_context(read_only=True) as session:
            window: dict[str, Any] = {"last": last, "newest_first": True, "series": series}
            found: Sequence[DailyData] | Sequence[IntradayData]
            if timeframe is None:
                found = await market_data.list_daily(session, ticker, **window)
            else:
                found = await market_data.list_intraday(session, ticker, timeframe=timeframe, **window)
            if not found:
                await refuse_unknown(session, [ticker], timeframe=timeframe, series=series)
            return found

    bars = invocation.read(work)
    columns = _DAILY if timeframe is None else _INTRADAY
    document = [_row(bar, ("ticker", *columns, *_PROVENANCE)) for bar in bars]
    rows = [_row(bar, columns) for bar in bars]
    kinds = [ticker, timeframe or "daily", *([series] if series else [])]
    bases = {bar.price_basis for bar in bars}
    sources = {bar.source for bar in bars}
    if len(bases) == 1 and (basis := bases.pop()) is not None:
        kinds.append(f"prices {basis}")
    if len(sources) == 1 and (source := sources.pop()):
        kinds.append(f"from {source}")
    invocation.show(document, f"{', '.join(kinds)}\n", output.table_of(rows, columns))


def coverage(
    context: typer.Context,
    ticker: Annotated[list[str] | None, typer.Option("--ticker", help="Only this one; repeatable.")] = None,
) -> None:
    """Show of every ticker from when to when there are bars."""
    invocation: Invocation = context.obj

    async def work(db: DatabaseManager) -> list[Coverage]:
        async with db.session_context(read_only=True) as session:
            lines = await market_data.coverage(session, ticker or None)
            missing = sorted(set(ticker or []) - {line.ticker for line in lines})
            if missing:
                await refuse_unknown(session, missing)
            return lines

    rows = [line._asdict() for line in invocation.read(work)]
    invocation.show(rows, output.table_of(rows, _COVERAGE) if rows else "no bars are stored")


def diff(
    context: typer.Context,
    since: Annotated[
        dt.datetime,
        typer.Option("--since", metavar="WHEN", parser=instant, help="A date (in UTC), or an instant with an offset."),
    ],
    until: Annotated[
        dt.datetime | None,
        typer.Option("--until", metavar="WHEN", parser=instant, help="As --since.", show_default="now"),
    ] = None,
    ticker: Annotated[list[str] | None, typer.Option("--ticker", help="Only this one; repeatable.")] = None,
) -> None:
    """Show which bars were rewritten or deleted since."""
    invocation: Invocation = context.obj

    async def work(db: DatabaseManager) -> list[Difference]:
        async with db.session_context(read_only=True) as session:
            return await market_data.diff(session, since=since, until=until, tickers=ticker or None)

    found = invocation.read(work)
    rows = [
        {
            "ticker": change.ticker,
            "series": change.series,
            "timeframe": change.timeframe,
            "time": change.time,
            "column": column,
            "old": change.old[column],
            "new": None if change.new is None else change.new[column],
        }
        for change in found
        for column in (change.columns if change.new is not None else ("close",))
    ]
    columns = ("ticker", "series", "timeframe", "time", "column", "old", "new")
    invocation.show(
        [asdict(change) for change in found], output.table_of(rows, columns) if rows else "nothing was rewritten"
    )


def info(context: typer.Context) -> None:
    """Show where and what the database is, and what it holds."""
    invocation: Invocation = context.obj
    refuse_missing(invocation.settings.url)
    found = invocation.run(_info)
    plain = [(name.replace("_", " "), found[name]) for name in _INFO]  # type: ignore[literal-required]
    tables = [{"table": name, "rows": rows} for name, rows in found["tables"].items()]
    parts = [output.pairs(plain), *([output.table_of(tables, ("table", "rows"))] if tables else [])]
    invocation.show(found, *parts)
    if not found["is_connected"]:
        output.complain(f"the database does not answer: {' '.join((found['error'] or '').split())}")
        raise typer.Exit(FAILED)


async def _info(db: DatabaseManager) -> DatabaseInfo:
    return await db.get_database_info()


def _row(bar: DailyData | IntradayData, columns: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(bar, name) for name in columns}


async def refuse_unknown(
    session: AsyncSession, tickers: Sequence[str], *, timeframe: str | None = None, series: str = ""
) -> None:
    """Raise RowNotFoundError for tickers without bars, and say what the caller may have meant."""
    ticker = tickers[0]
    lines = await market_data.coverage(session, [ticker])
    if lines:
        have = ", ".join(_line(line) for line in lines)
        wanted = f"{timeframe or 'daily'} bars{f' of the series {series!r}' if series else ''}"
        raise RowNotFoundError(f"no {wanted} of {ticker!r}; there are {have}")
    # Few spellings first: looking through all tickers reads every bar's key.
    near = {line.ticker for line in await market_data.coverage(session, {ticker.upper(), ticker.lower()})}
    if not near:
        every = await market_data.coverage(session)
        near = {line.ticker for line in every if line.ticker.casefold() == ticker.casefold()}
    hint = f"; did you mean {' or '.join(sorted(near))}?" if near else ""
    raise RowNotFoundError(f"no bars of {ticker!r}{hint}")


def _line(line: Coverage) -> str:
    daily_or = "daily bars" if line.timeframe is None else f"{line.timeframe} bars (--timeframe {line.timeframe})"
    return f"{daily_or} of the series {line.series!r}" if line.series else daily_or
