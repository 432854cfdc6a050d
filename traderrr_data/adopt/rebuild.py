"""Make one table anew in the caller's transaction, with every row that can be one of ours; and keep what cannot."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from traderrr_data.adopt.examine import Examined, reject_rows
from traderrr_data.adopt.forms import quoted
from traderrr_data.adopt.head import Head
from traderrr_data.adopt.recognise import Object, Source, key_of, objects_of
from traderrr_data.adopt.report import REJECTS
from traderrr_data.adopt.values import Undecodable
from traderrr_data.errors import ConstraintViolationError, SchemaMismatchError

CREATE_REJECTS = (
    f"CREATE TABLE {REJECTS} (id INTEGER PRIMARY KEY AUTOINCREMENT, table_name TEXT NOT NULL,"
    " original_values TEXT NOT NULL, reason TEXT NOT NULL, adopted_at TIMESTAMP NOT NULL)"
)
EXTRA = "adoption_columns_of_"


@dataclass(frozen=True)
class PutAside:
    """A table of the old application that is under another name now, and what was on it."""

    source: Source
    things: tuple[Object, ...]
    sequence: int | None


def put_aside(connection: sqlite3.Connection, source: Source) -> PutAside:
    """Give a table another name; foreign keys are off and legacy_alter_table is on, so that nothing follows it."""
    name = source.table.name
    mine = [o for o in objects_of(connection) if o.table.lower() == name and o.kind in ("index", "trigger")]
    sequence = _sequence(connection, source.name)
    for thing in mine:  # their names are wanted again, and a trigger would follow
        connection.execute(f"DROP {thing.kind} {quoted(thing.name)}")
    other = free_name(connection, f"adoption_old_{name}")
    connection.execute(f"ALTER TABLE {quoted(source.name)} RENAME TO {other}")
    return PutAside(replace(source, name=other), tuple(mine), sequence)


def rebuild(
    connection: sqlite3.Connection, old: PutAside, examined: Examined, head: Head, now: str, *, strict: bool
) -> list[str]:
    """Make our table with the rows, indexes and triggers of one that was put aside, and drop that one.

    Returns:
        What its owner should know.

    Raises:
        ConstraintViolationError: rows were lost on the way; roll back.
    """
    name = examined.source.table.name
    keep_rejects(connection, examined, now)
    connection.execute(head.tables[name] if strict else head.lenient(name))
    _move(connection, examined)
    _keep_extra_columns(connection, examined)
    connection.execute(f"DROP TABLE {old.source.name}")
    if old.sequence is not None:
        _raise_sequence(connection, name, old.sequence)
    return _give_back(connection, head, name, old.things)


def create_absent(connection: sqlite3.Connection, head: Head, names: Sequence[str], *, strict: bool) -> None:
    """Make the tables that are not there, with their indexes."""
    for name in names:
        connection.execute(head.tables[name] if strict else head.lenient(name))
        for table, sql in head.indexes.values():
            if table == name:
                connection.execute(sql)


def keep_rejects(connection: sqlite3.Connection, examined: Examined, now: str) -> None:
    """Keep every row that was set aside, with its values and the reason."""
    source = examined.source
    for batch in reject_rows(examined, connection, source):
        rows = [
            (source.table.name, as_json(dict(zip(source.all_columns, cells, strict=True))), why, now)
            for why, *cells in batch
        ]
        connection.executemany(
            f"INSERT INTO {REJECTS} (table_name, original_values, reason, adopted_at) VALUES (?, ?, ?, ?)", rows
        )


def as_json(row: dict[str, Any]) -> str:
    """Return a row as JSON that keeps every value.

    A BLOB is ``{"blob": "<hex>"}``, text that is not UTF-8 ``{"text": "<hex>"}``, an infinity ``{"real": "-inf"}``;
    floats have all their digits.
    """
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Undecodable):
        return {"text": value.hex()}
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"real": repr(value)}
    return value


def _move(connection: sqlite3.Connection, examined: Examined) -> None:
    table = examined.source.table
    names = ", ".join(map(quoted, examined.columns))
    order = ", ".join(map(quoted, key_of(table) or ("id",)))  # the order in which they lie
    query = f"INSERT INTO {table.name} ({names}) SELECT * FROM ({examined.moved}) ORDER BY {order}"
    stored = connection.execute(query).rowcount
    if stored != examined.report.kept:
        raise ConstraintViolationError(
            f"{table.name}: {stored} rows were stored where {examined.report.kept} were expected"
        )


def _keep_extra_columns(connection: sqlite3.Connection, examined: Examined) -> None:
    """Keep the columns that ours does not have, by the key of their rows."""
    source = examined.source
    if not source.extras:
        return
    table = examined.report.extra_table = free_name(connection, f"{EXTRA}{source.table.name}")
    key = key_of(source.table) or ("id",)
    extras = ", ".join(quoted(f"original_{name}" if name.lower() in key else name) for name in source.extras)
    # Without types, so that every value stays what it was.
    connection.execute(f"CREATE TABLE {table} ({', '.join(map(quoted, key))}, {extras})")
    connection.execute(f"INSERT INTO {table} {examined.extra_query(key)}")


def free_name(connection: sqlite3.Connection, wanted: str) -> str:
    """Return a name that nothing in the file has."""
    taken = {o.name.lower() for o in objects_of(connection)}
    names = (f"{wanted}{suffix}" for suffix in ("", *(f"_{number}" for number in range(2, 1_000))))
    return next(name for name in names if name not in taken)


def _sequence(connection: sqlite3.Connection, name: str) -> int | None:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone():
        return None
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE lower(name) = ?", [name.lower()]).fetchone()
    return row[0] if row and isinstance(row[0], int) else None


def _raise_sequence(connection: sqlite3.Connection, name: str, least: int) -> None:
    """Let the next id be above every id that the table ever gave."""
    changed = connection.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", [least, name]).rowcount
    autoincrement = "SELECT 1 FROM sqlite_schema WHERE name = ? AND sql LIKE '%AUTOINCREMENT%'"
    if not changed and connection.execute(autoincrement, [name]).fetchone():
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", [name, least])


def _give_back(connection: sqlite3.Connection, head: Head, name: str, mine: Sequence[Object]) -> list[str]:
    """Make our indexes, and those and the triggers that others had on the table, by their own statements.

    Raises:
        SchemaMismatchError: a unique index does not hold any more; roll back.
    """
    notes = []
    for table, sql in head.indexes.values():
        if table == name:
            connection.execute(sql)
    for thing in mine:
        if thing.kind == "index" and thing.name in head.indexes:
            continue
        try:
            connection.execute(thing.sql)
        except sqlite3.IntegrityError as error:
            raise SchemaMismatchError(
                f"rows of {name} that the unique index {thing.name} tells apart are alike once they are in form"
                f" ({error}): drop it and adopt again; nothing was changed"
            ) from error
        except sqlite3.OperationalError as error:
            notes.append(f"the {thing.kind} {thing.name} on {name} is gone, since it cannot be made again: {error}")
    return notes
