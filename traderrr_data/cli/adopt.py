"""The commands that take over a file of the old application: adopt, rename-timeframe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data.access import market_data
from traderrr_data.adopt import AdoptionReport, TableReport
from traderrr_data.adopt import adopt as take_over
from traderrr_data.cli import output
from traderrr_data.cli.app import DONE, FAILED, ROWS_REJECTED, Invocation
from traderrr_data.db import DatabaseManager

_REASONS_SHOWN = 20


def adopt(
    context: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(help="The application's database file.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is found, and change nothing.")] = False,
    timezone: Annotated[
        str | None,
        typer.Option(
            "--timezone",
            metavar="ZONE",
            help="Of intraday instants without an offset, and of metadata.last_updated: America/New_York, UTC, ...",
        ),
    ] = None,
    timeframe: Annotated[
        str, typer.Option("--timeframe", metavar="NAME", help="The length of the intraday bars, such as 1m.")
    ] = "unknown",
    user: Annotated[
        int | None, typer.Option("--user", metavar="ID", help="Whose positions, signals and performance are kept.")
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="The old application no longer uses the file: end the changeover.")
    ] = False,
) -> None:
    """Take over a file of the old application, in place.

    A copy is made beside it first, and the change is made as a whole or not at all. Every row becomes a row of the new
    tables or, with the reason, one of the table adoption_rejects; then the exit code is 3. The old application may go
    on using the file until --finish. Run again, it does nothing.
    """
    invocation: Invocation = context.obj

    async def work() -> AdoptionReport:
        with output.progress(file.name) as moved:
            return await take_over(
                file,
                timezone=timezone,
                timeframe=timeframe,
                user=user,
                dry_run=dry_run,
                finish=finish,
                progress=None if moved is None else lambda name, done: moved(done, name),
            )

    report = invocation.wait(work)
    invocation.show(_as_document(report), *_as_parts(file, report))
    if report.refusals:
        for refusal in report.refusals:
            output.complain(refusal)
        raise typer.Exit(FAILED)
    raise typer.Exit(ROWS_REJECTED if report.changed and report.rejected else DONE)


def rename_timeframe(
    context: typer.Context,
    old: Annotated[str, typer.Argument(help="As the bars are stored: unknown after adopt.", show_default=False)],
    new: Annotated[str, typer.Argument(help="What they are, such as 1m.", show_default=False)],
    ticker: Annotated[list[str] | None, typer.Option("--ticker", help="Only this one; repeatable.")] = None,
    series: Annotated[str | None, typer.Option("--series", help="Only this line of bars.", show_default="all")] = None,
) -> None:
    """Say of which timeframe stored intraday bars are.

    If bars are stored under both names, nothing is changed.
    """
    invocation: Invocation = context.obj

    async def rename(session: AsyncSession) -> int:
        return await market_data.rename_timeframe(session, old, new, tickers=ticker or None, series=series)

    async def work(db: DatabaseManager) -> int:
        return await db.run(rename, idempotent=True)

    rows = invocation.read(work)
    invocation.show({"from": old, "to": new, "rows": rows}, f"{rows:,} bars that were {old} are {new} now")


def _as_document(report: AdoptionReport) -> dict[str, Any]:
    tables = [{**vars(table), "duplicates": table.duplicates} for table in report.tables]
    return {**vars(report), "rejected": report.rejected, "tables": tables}


def _as_parts(file: Path, report: AdoptionReport) -> list[Any]:
    rows = [
        {
            "table": table.name,
            "found": table.shape,
            "rows": table.rows,
            "kept": table.kept,
            "rejected": table.rejected.total(),
        }
        for table in report.tables
    ]
    # What becomes of the rows is looked at only where the file can be adopted.
    columns = ("table", "found", "rows", *(() if report.refusals else ("kept", "rejected")))
    parts: list[Any] = [f"{file}: {_outcome(report)}\n", output.table_of(rows, columns)]
    for table in report.tables:
        parts += _of_table(table)
    if report.others:
        parts.append(f"\nleft as they are: {', '.join(report.others)}")
    parts += [f"note: {note}" for note in report.notes]
    if report.backup is not None:
        parts.append(f"\nthe file as it was: {report.backup}")
    return parts


def _outcome(report: AdoptionReport) -> str:
    if report.dry_run:
        return "this is what was found; nothing was changed"
    if not report.changed:
        return "nothing is to be done"
    end = "and the changeover is over" if report.finished else "and the old application may go on using it"
    return f"the file is at {report.revision} now, {end}"


def _of_table(table: TableReport) -> list[str]:
    lines = [f"{count:,} x {change}" for change, count in sorted((table.changes + table.notes).items())]
    rejected = [
        f"{count:,} rows to adoption_rejects: {why}" for why, count in table.rejected.most_common(_REASONS_SHOWN)
    ]
    if table.extra_columns:
        place = f", kept in {table.extra_table}" if table.extra_table else ""
        lines.append(f"columns of its own: {', '.join(table.extra_columns)}{place}")
    if table.left_out:
        lines.append(f"columns that are in the backup only: {', '.join(table.left_out)}")
    return [f"\n{table.name}:", *(f"  {line}" for line in [*lines, *rejected])] if lines or rejected else []
