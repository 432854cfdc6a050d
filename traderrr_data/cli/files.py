"""The commands that read and write files of bars: ingest, export."""

from __future__ import annotations

import datetime as dt
import enum
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traderrr_data.access import market_data
from traderrr_data.cli import output
from traderrr_data.cli.app import DONE, FAILED, ROWS_REJECTED, Invocation
from traderrr_data.cli.data import refuse_unknown
from traderrr_data.cli.times import date, instant
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import DatabaseUnavailableError, TraderrrDataError

if TYPE_CHECKING:
    from traderrr_data.ingest import FileResult, Progress

_COUNTS = ("inserted", "updated", "unchanged", "skipped", "duplicates", "rejected")


class Basis(enum.StrEnum):
    """What a file's prices are adjusted for."""

    RAW = "raw"
    SPLIT = "split"
    ALL = "all"


def ingest(
    context: typer.Context,
    *,
    file: Annotated[
        list[Path], typer.Argument(help="Files that end in .csv, .csv.gz or .parquet.", show_default=False)
    ],
    ticker: Annotated[str | None, typer.Option("--ticker", help="Of files that do not say it.")] = None,
    ticker_from_name: Annotated[
        bool, typer.Option("--ticker-from-name", help="A file's name without its ending is its ticker.")
    ] = False,
    timeframe: Annotated[
        str | None, typer.Option("--timeframe", help="Of intraday bars that do not say it, such as 1m.")
    ] = None,
    series: Annotated[str, typer.Option("--series", help="The line of bars of rows that do not name one.")] = "",
    price_basis: Annotated[
        Basis | None,
        typer.Option("--price-basis", help="What the prices are adjusted for, in files that do not say it."),
    ] = None,
    allow_inconsistent: Annotated[
        bool, typer.Option("--allow-inconsistent", help="Store bars whose prices are out of order, too.")
    ] = False,
    format_name: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="own or yfinance; told by the columns if not said.")
    ] = None,
) -> None:
    """Store the bars of CSV and Parquet files.

    They are files with our own columns, as export writes them, or what yfinance's frames were saved to; the columns
    tell which. Each file is stored as a whole or not at all, and may be repeated. Rows that cannot be stored are
    written, with their reasons, to FILE.rejected.csv beside the file, and the exit code is 3; a file that cannot be
    read makes it 1, after the other files.
    """
    from traderrr_data.ingest import ingest_file, ticker_of_name  # noqa: PLC0415 - it loads pyarrow

    invocation: Invocation = context.obj
    _refuse_addresses(*file)
    if ticker is not None and ticker_from_name:
        raise typer.BadParameter("--ticker and --ticker-from-name cannot both be said")
    failures: dict[Path, str] = {}

    async def work(db: DatabaseManager) -> list[FileResult]:
        await db.init_db()
        results = []
        for path in file:
            with output.progress(path.name) as moved:
                try:
                    result = await ingest_file(
                        db,
                        path,
                        ticker=ticker_of_name(path) if ticker_from_name else ticker,
                        timeframe=timeframe,
                        series=series,
                        price_basis=price_basis.value if price_basis is not None else None,
                        allow_inconsistent=allow_inconsistent,
                        format=format_name,
                        progress=None if moved is None else partial(_move, moved),
                    )
                except (TraderrrDataError, OSError) as error:
                    failures[path] = output.sentence_of(error)
                    output.complain(failures[path])
                    if isinstance(error, DatabaseUnavailableError):
                        break  # the other files would wait for it in vain
                    continue
            results.append(result)
            if not invocation.as_json:
                invocation.show(None, *_as_lines(result))
        return results

    results = invocation.run(work)
    if invocation.as_json:
        document = [_as_document(result) for result in results]
        document += [{"file": path, "error": sentence} for path, sentence in failures.items()]
        invocation.show({"files": document})
    rejected = sum(result.rejected for result in results)
    raise typer.Exit(FAILED if failures else ROWS_REJECTED if rejected else DONE)


def _refuse_addresses(*paths: Path) -> None:
    """Refuse a URL with a login for a file: its name would be shown, and files be made of it."""
    if any(re.match(r"[\w+]+:/.*@", str(path)) for path in paths):
        raise typer.BadParameter("the address of a database stands where a file's name is wanted: say --database-url")


def _move(moved: output.Moved, at: Progress) -> None:
    moved(at.done, f"{at.rows:,} rows, {at.rows_per_second:,.0f} rows/s")


def _as_document(result: FileResult) -> dict[str, Any]:
    return {
        "file": result.path,
        "format": result.format,
        "rows": result.rows,
        **{name: getattr(result, name) for name in _COUNTS},
        "rejected_file": result.rejected_file,
        "left_out": result.left_out,
        "seconds": round(result.seconds, 3),
        "rows_per_second": round(result.rows_per_second),
    }


def _as_lines(result: FileResult) -> list[str]:
    counts = ", ".join(f"{getattr(result, name):,} {name}" for name in _COUNTS)
    speed = f"{result.seconds:.2f} s, {result.rows_per_second:,.0f} rows/s"
    lines = [f"{result.path} ({result.format}): {counts}; {speed}"]
    if result.left_out:
        lines.append(f"  left out, since there is no place for it: {', '.join(result.left_out)}")
    if result.rejected_file is not None:
        lines.append(f"  the rejected rows and the reasons: {result.rejected_file}")
    return lines


def export(
    context: typer.Context,
    *,
    path: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Ends in .csv, .csv.gz or .parquet; is replaced.")
    ],
    ticker: Annotated[list[str] | None, typer.Option("--ticker", help="Only this one; repeatable.")] = None,
    timeframe: Annotated[
        str | None, typer.Option("--timeframe", help="Intraday bars of this length, such as 1m.", show_default="daily")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", metavar="TIME", help="First date, or instant with an offset.")
    ] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="First date or instant NOT wanted.")] = None,
    series: Annotated[str, typer.Option("--series", help="Which line of bars.")] = "",
) -> None:
    """Write bars to a file that ingest reads back.

    All digits are kept, and the file appears only when it is complete. Bars that were stored with prices out of
    order come back with ingest --allow-inconsistent.
    """
    from traderrr_data.cli.export import check_ending, write_bars  # noqa: PLC0415 - it loads pyarrow

    invocation: Invocation = context.obj
    _refuse_addresses(path)
    check_ending(path)
    window: dict[str, Any] = {name: _time(text, name, timeframe) for name, text in (("start", start), ("end", end))}
    window["series"] = series

    async def work(db: DatabaseManager) -> int:
        async with db.session_context(read_only=True) as session:
            for one in ticker or []:
                lines = await market_data.coverage(session, [one])
                if not any((line.timeframe, line.series) == (timeframe, series) for line in lines):
                    await refuse_unknown(session, [one], timeframe=timeframe, series=series)
            if timeframe is None:
                empty = await market_data.daily_frame(session, [])
                batches = market_data.stream_daily(session, ticker or None, **window)
            else:
                empty = await market_data.intraday_frame(session, [], timeframe=timeframe)
                batches = market_data.stream_intraday(session, ticker or None, timeframe=timeframe, **window)
            with output.progress(path.name):
                return await write_bars(path, db.engine.url, empty.schema, batches)

    rows = invocation.read(work)
    invocation.show({"file": path, "rows": rows}, f"{rows:,} bars are in {path}")


def _time(text: str | None, name: str, timeframe: str | None) -> dt.date | None:
    """Read the option for a time: a date for daily bars, else an instant, where a date is its midnight in UTC."""
    if text is None:
        return None
    try:
        return date(text) if timeframe is None else instant(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"--{name}: {error.message}") from None
