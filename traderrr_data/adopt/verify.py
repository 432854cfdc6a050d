"""What must still hold after the tables have changed: references, views and triggers of others."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass

from traderrr_data.adopt.forms import quoted
from traderrr_data.adopt.recognise import TABLES, objects_of
from traderrr_data.errors import SchemaMismatchError


@dataclass(frozen=True)
class Before:
    """What was in order, and what was not, before anything changed."""

    views: frozenset[str]
    dangling: Counter[tuple[str, str]]
    unreferenced: frozenset[str]

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Before:
        """Look at a file."""
        views = {o.name for o in objects_of(connection) if o.kind == "view" and _fault(connection, o.name) is None}
        dangling, faults = _dangling(connection)
        return cls(frozenset(views), dangling, frozenset(faults))


def broken_by(connection: sqlite3.Connection, before: Before) -> list[str]:
    """Return what the change has done to others, as sentences.

    Raises:
        SchemaMismatchError: a trigger or a foreign key of others would make every write fail; roll back.
    """
    notes = []
    for view in sorted(before.views):
        fault = _fault(connection, view)
        if fault is not None:
            notes.append(f"the view {view} can no longer be read: {fault}")
    for table in TABLES:
        for statement in (
            f"INSERT INTO {table} DEFAULT VALUES",
            f"UPDATE {table} SET ticker = ticker",
            f"DELETE FROM {table}",
        ):
            if "ticker = ticker" in statement and "ticker" not in TABLES[table].c:
                continue
            try:
                connection.execute(f"EXPLAIN {statement}").fetchall()
            except sqlite3.OperationalError as error:
                raise SchemaMismatchError(
                    f"a trigger on {table} would make every write fail ({error}): drop it and adopt again;"
                    " nothing was changed"
                ) from error
    dangling, faults = _dangling(connection)
    if new := faults - before.unreferenced:
        raise SchemaMismatchError(
            f"the foreign keys of {', '.join(sorted(new))} need a unique key that our tables do not have;"
            " nothing was changed"
        )
    for (child, parent), count in sorted(dangling.items()):
        more = count - before.dangling[child, parent]
        if more > 0:
            notes.append(f"{more} rows of {child} refer to rows of {parent} that are in adoption_rejects now")
        if before.dangling[child, parent]:
            notes.append(f"{before.dangling[child, parent]} rows of {child} referred to absent rows of {parent} before")
    return notes


def _fault(connection: sqlite3.Connection, view: str) -> str | None:
    try:
        connection.execute(f"SELECT * FROM {quoted(view)} LIMIT 0")
    except sqlite3.OperationalError as error:
        return str(error)
    return None


def _dangling(connection: sqlite3.Connection) -> tuple[Counter[tuple[str, str]], set[str]]:
    """Return how many rows refer to nothing, by table and the table referred to; and tables whose keys are in error."""
    found: Counter[tuple[str, str]] = Counter()
    faults = set()
    for thing in objects_of(connection):
        if thing.kind != "table" or thing.sql.upper().startswith("CREATE VIRTUAL"):
            continue
        try:
            for child, _, parent, _ in connection.execute(f"PRAGMA foreign_key_check({quoted(thing.name)})"):
                found[child, parent] += 1
        except sqlite3.OperationalError:
            faults.add(thing.name)
    return found, faults
