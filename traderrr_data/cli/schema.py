"""The commands for the tables: upgrade, downgrade, current, history, check, sql."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from traderrr_data import schema
from traderrr_data.cli import output
from traderrr_data.cli.app import DONE, FAILED, Invocation, missing_file
from traderrr_data.db import DatabaseManager

Revision = Annotated[str, typer.Argument(help="A revision, head, or a step such as +1.")]
LockTimeout = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Wait so long for another migration (DB_LOCK_TIMEOUT, else 60)."),
]
DdlTimeout = Annotated[
    float | None,
    typer.Option(min=0.001, metavar="SECONDS", help="Wait so long for those who use a table (DB_DDL_TIMEOUT, else 5)."),
]
Lock = Annotated[
    bool | None,
    typer.Option("--lock/--no-lock", help="Keep other migrations out (DB_MIGRATION_LOCK).", show_default=False),
]


def upgrade(
    context: typer.Context,
    revision: Revision = "head",
    *,
    lock_timeout: LockTimeout = None,
    ddl_timeout: DdlTimeout = None,
    lock: Lock = None,
) -> None:
    """Make the tables, or bring them to a newer revision.

    Run again, it does nothing.
    """
    invocation: Invocation = context.obj

    async def work(db: DatabaseManager) -> tuple[str | None, str | None]:
        before = await schema.current(db.engine)
        await schema.upgrade(db.engine, revision, lock_timeout=lock_timeout, ddl_timeout=ddl_timeout, lock=lock)
        return before, await schema.current(db.engine)

    before, after = invocation.run(work)
    sentence = f"the database was at {after} already" if before == after else f"the database is at {after} now"
    invocation.show({"from": before, "to": after, "head": schema.head()}, sentence)


def downgrade(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="A revision, base (before the first), or a step such as -1.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    lock_timeout: LockTimeout = None,
    ddl_timeout: DdlTimeout = None,
    lock: Lock = None,
) -> None:
    """Take the tables back to an older revision.

    The rows of tables and the values of columns that go are lost.
    """
    invocation: Invocation = context.obj
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("rows may be lost: say --yes, since nobody can be asked here")
        typer.confirm(f"Rows may be lost. Take the database back to {revision}?", abort=True, err=True)

    async def work(db: DatabaseManager) -> tuple[str | None, str | None]:
        before = await schema.current(db.engine)
        if before is not None:
            waits = {"lock_timeout": lock_timeout, "ddl_timeout": ddl_timeout}
            await schema.downgrade(db.engine, revision, **waits, lock=lock)
        return before, await schema.current(db.engine)

    before, after = (None, None) if missing_file(invocation.settings.url) else invocation.run(work)
    where = "without our tables" if after is None else f"at {after}"
    sentence = f"the database was {where} already" if before == after else f"the database is {where} now"
    invocation.show({"from": before, "to": after, "head": schema.head()}, sentence)


def current(context: typer.Context) -> None:
    """Say at which revision the database is."""
    invocation: Invocation = context.obj

    async def work(db: DatabaseManager) -> schema.Status:
        return await schema.status(db.engine)

    if missing_file(invocation.settings.url):
        found = schema.Status(schema.State.EMPTY, None, schema.head())
    else:
        found = invocation.run(work)
    document = {"revision": found.revision, "head": found.head, "state": found.state.name.lower()}
    invocation.show(document, schema.describe(found))


def history(context: typer.Context) -> None:
    """List all revisions, newest first."""
    invocation: Invocation = context.obj
    rows = [
        {"revision": found.revision, "after": found.down_revision, "description": found.description}
        for found in schema.history()
    ]
    invocation.show(rows, output.table_of(rows, ("revision", "after", "description")))


def check(context: typer.Context) -> None:
    """Compare the tables with what this version expects.

    The exit code is 1 if they differ.
    """
    invocation: Invocation = context.obj

    async def work(db: DatabaseManager) -> list[str]:
        return await schema.check(db.engine)

    differences = invocation.read(work)
    sentences = differences or ["the database's tables are as they should be"]
    invocation.show({"differences": differences}, *sentences)
    if differences:
        output.complain(f"the tables differ in {len(differences)} places from what this version expects")
    raise typer.Exit(FAILED if differences else DONE)


def sql(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="A revision, head, or FROM:TO.")] = "head",
) -> None:
    """Print the SQL of an upgrade; nothing is connected.

    It is for a person or another tool to run. Of the database only the kind matters.
    """
    invocation: Invocation = context.obj
    text = schema.sql(invocation.settings.url, revision)
    invocation.show({"sql": text}, text.rstrip("\n"))
