"""What MySQL and MariaDB say of our tables, to compare it with what the models would make."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import sqlalchemy as sa

from traderrr_data.dialects.base import Catalog

_PREFIX = "expected_"
"""MySQL wants a CHECK's name once in a database, also if one of its tables is temporary."""


def catalogs(connection: sa.Connection, tables: Sequence[sa.Table]) -> tuple[Catalog, Catalog]:
    """Return what is there, and what the models make as temporary tables, which are dropped again."""
    present = set(sa.inspect(connection).get_table_names())
    found = _catalog(connection, [table for table in tables if table.name in present])
    try:
        for table in tables:
            # A temporary table has no foreign keys.
            create = sa.schema.CreateTable(table, include_foreign_key_constraints=[])
            text = str(create.compile(dialect=connection.dialect))
            text = text.replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1)
            connection.exec_driver_sql(text.replace("CONSTRAINT ck_", f"CONSTRAINT {_PREFIX}ck_"))
            for index in table.indexes:
                connection.execute(sa.schema.CreateIndex(index))
        return found, _catalog(connection, tables) | _foreign_keys(tables)
    finally:
        if not connection.invalidated:
            names = ", ".join(table.name for table in tables)
            connection.exec_driver_sql(f"DROP TEMPORARY TABLE IF EXISTS {names}")


def _foreign_keys(tables: Sequence[sa.Table]) -> Catalog:
    """Return the models' foreign keys as SHOW CREATE TABLE words them."""

    def names(columns: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in columns)

    lines: Catalog = {}
    for table in tables:
        for key in table.foreign_key_constraints:
            columns = names(key.column_keys)
            there = names(element.column.name for element in key.elements)
            actions = [("DELETE", key.ondelete), ("UPDATE", key.onupdate)]
            ending = "".join(f" ON {event} {action}" for event, action in actions if action)
            reference = f"FOREIGN KEY ({columns}) REFERENCES `{key.referred_table.name}` ({there}){ending}"
            lines[table.name, f"CONSTRAINT {key.name}"] = reference
    return lines


def _catalog(connection: sa.Connection, tables: Sequence[sa.Table]) -> Catalog:
    shown = {table.name: connection.exec_driver_sql(f"SHOW CREATE TABLE {table.name}").one()[1] for table in tables}
    lines = {(name, part): text for name, definition in shown.items() for part, text in _parts(definition)}
    # An index of a foreign key's name is the server's own, where no other index served.
    keys = {(table, part.partition(" ")[2]) for (table, part), text in lines.items() if text.startswith("FOREIGN KEY")}
    return {(table, part): text for (table, part), text in lines.items() if (table, _name_of_key(part)) not in keys}


def _name_of_key(part: str) -> str | None:
    return part.removeprefix("KEY ") if part.startswith("KEY ") else None


def _parts(definition: str) -> Iterator[tuple[str, str]]:
    """Give the lines of SHOW CREATE TABLE, each by what it is about."""
    _, *lines, options = definition.replace(_PREFIX, "").splitlines()
    for number, line in enumerate(lines, 1):
        text = line.strip().rstrip(",")
        if column := re.match(r"`([^`]+)` (.*)", text):
            yield f"column {column[1]}", f"number {number} {column[2]}"
        elif named := re.match(r"(.*?) ?`([^`]+)` (.*)", text) if not text.startswith("PRIMARY") else None:
            yield f"{named[1]} {named[2]}", named[3]
        else:
            yield "PRIMARY KEY", text
    yield "options", re.sub(r"^\) ?| ?AUTO_INCREMENT=\d+", "", options)
