"""The commands for the tables: upgrade, downgrade, current, history, check, sql."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from traderrr_data import schema
from traderrr_data.cli import output
from traderrr_data.cli.app import DONE, FAILED, Invocation, missing_file
from traderrr_data.db import DatabaseManager

CHECK_CODES = {
    schema.State.CURRENT: DONE,
    schema.State.EMPTY: 4,
    schema.State.BEHIND: 4,
    schema.State.AHEAD: 5,
    schema.State.INCOMPATIBLE: 6,
    schema.State.FOREIGN: 7,
}
"""What `check` ends with; 3, 130 and 143 mean the same for every command."""

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
    """Compare the database with what this version expects.

    Exit codes: 0 as it should be; 1 the tables differ, or could not be looked at; 4 without our tables, or behind: run
    `upgrade`; 5 ahead, but usable by this version, as in a rolling deploy: a warning; 6 ahead, and not usable; 7 the
    tables are not ours.
    """
    invocation: Invocation = context.obj

    async def work(db: DatabaseManager) -> tuple[schema.Status, list[str]]:
        found = await schema.status(db.engine)
        return found, await schema.check(db.engine) if found.state is schema.State.CURRENT else []

    if missing_file(invocation.settings.url):
        found, differences = schema.Status(schema.State.EMPTY, None, schema.head()), list[str]()
    else:
        found, differences = invocation.run(work)
    is_right = found.state is schema.State.CURRENT and not differences
    document = {"state": found.state.name.lower(), "revision": found.revision, "head": found.head}
    sentences = ["the database's tables are as they should be"] if is_right else differences
    invocation.show({**document, "differences": differences}, *sentences)
    if differences:
        output.complain(f"the tables differ in {len(differences)} places from what this version expects")
    elif not is_right:
        output.complain(schema.describe(found))
    raise typer.Exit(FAILED if differences else CHECK_CODES[found.state])


def sql(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="A revision, head, or FROM:TO.")] = "head",
    *,
    roles: Annotated[
        bool, typer.Option("--roles", help="Instead: roles for an owner, an application and a reader.")
    ] = False,
    grants: Annotated[
        bool, typer.Option("--grants", help="Instead: what the roles may do, to be run after every upgrade.")
    ] = False,
) -> None:
    """Print the SQL of an upgrade; nothing is connected.

    It is for a person or another tool to run. Of the database only the kind matters.
    """
    invocation: Invocation = context.obj
    if roles and grants:
        raise typer.BadParameter("--roles and --grants are run at different times: ask for one")
    url = invocation.settings.url
    text = schema.roles(url) if roles else schema.grants(url) if grants else schema.sql(url, revision)
    invocation.show({"sql": text}, text.rstrip("\n"))
