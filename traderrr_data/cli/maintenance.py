"""The commands that keep a database: backup, restore, vacuum."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from traderrr_data import maintenance, schema
from traderrr_data.cli import output
from traderrr_data.cli.app import Invocation, refuse_missing
from traderrr_data.db import DatabaseManager
from traderrr_data.url import masked


def backup(
    context: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(help="A new name, or a folder for a name with the time.", show_default="beside the database"),
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Keep so many backups of this database, remove the oldest.")
    ] = None,
) -> None:
    """Make a complete backup while others read and write.

    Of SQLite it is a file, of the others a folder of Parquet files. It appears when it is complete, and replaces
    nothing.
    """
    invocation: Invocation = context.obj
    refuse_missing(invocation.settings.url)

    async def work(db: DatabaseManager) -> maintenance.Backup:
        with output.progress("backup") as moved:
            return await maintenance.backup(db, path, keep=keep, progress=moved)

    made = invocation.run(work)
    document = {
        "path": made.path,
        "size_bytes": made.size_bytes,
        "seconds": round(made.seconds, 3),
        "removed": made.removed,
    }
    removed = [f"removed: {gone}" for gone in made.removed]
    invocation.show(document, f"{made.path}: {made.size_bytes:,} bytes in {made.seconds:.2f} s", *removed)


def restore(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A backup: a file, or a folder of Parquet files.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Bring the database back to what a backup holds.

    The backup is checked first, and what is replaced is kept. Stop everything else that uses the database.
    """
    invocation: Invocation = context.obj
    url = masked(invocation.settings.url)
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("the database would be replaced: say --yes, since nobody can be asked here")
        typer.confirm(f"Replace what is in {url} by {path}?", abort=True, err=True)

    async def work(db: DatabaseManager) -> maintenance.Restored:
        with output.progress("restore") as moved:
            return await maintenance.restore(db, path, progress=moved)

    done = invocation.run(work)
    document = {
        "database_url": url,
        "revision": done.status.revision,
        "state": done.status.state.name.lower(),
        "replaced": done.replaced,
        "seconds": round(done.seconds, 3),
    }
    kept = "there was nothing to replace" if done.replaced is None else f"what was replaced is in {done.replaced}"
    invocation.show(document, f"{url} holds what is in {path}", kept, schema.describe(done.status))


def vacuum(context: typer.Context) -> None:
    """Give back the space of deleted rows.

    It also renews the statistics by which queries are planned, and says what it ran.
    """
    invocation: Invocation = context.obj
    refuse_missing(invocation.settings.url)
    with output.progress("vacuum"):
        done = invocation.run(maintenance.vacuum)
    document = {
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "statements": done.statements,
        "remarks": done.remarks,
    }
    sizes = f"{done.bytes_before:,} bytes before, {done.bytes_after:,} after"
    invocation.show(document, sizes, *(f"ran: {statement}" for statement in done.statements), *done.remarks)
