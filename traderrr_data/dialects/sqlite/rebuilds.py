"""What may get lost where a migration makes a table anew, as Alembic's batch mode does to change one on SQLite."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from traderrr_data.errors import ConstraintViolationError, SchemaMismatchError

_NAME = r"(?:IF (?:NOT )?EXISTS\s+)?(?:\w+\.)?(?:\w+|\"[^\"]+\"|`[^`]+`|\[[^\]]+\]|'[^']+')"
_REBUILT = re.compile(rf"\s*CREATE\s+TABLE\s+({_NAME})", re.IGNORECASE)
_MEANT = re.compile(rf"\s*(?:DROP\s+TRIGGER|DROP\s+INDEX|DELETE\s+FROM)\s+({_NAME})", re.IGNORECASE)
_COPY = "_alembic_tmp_"

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
_TRIGGERS = "SELECT name, tbl_name, '' FROM sqlite_master WHERE type = 'trigger'"
# An index by its columns, with their order and collation, and by its condition.
_INDEXES = """
SELECT m.name, m.tbl_name, group_concat(coalesce(x.name, '(expression)') || ' ' || x."desc" || ' ' || x.coll)
    || substr(m.sql, instr(upper(m.sql) || ' WHERE ', ' WHERE '))
  FROM (SELECT * FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL) AS m, pragma_index_xinfo(m.name) AS x
  WHERE x.key GROUP BY m.name
"""
_CHILDREN = """
SELECT DISTINCT m.name FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f
  WHERE m.type = 'table' AND lower(f."table") = lower(?)
"""


@contextlib.contextmanager
def nothing_lost(connection: sa.Connection) -> Iterator[None]:
    """Refuse a migration that lost triggers, indexes or rows without a statement that says so.

    Raises:
        SchemaMismatchError: a trigger or an index of a table that is still there is gone, or is another one.
        ConstraintViolationError: rows are gone, or would refer to nothing.
    """
    before = {kind: _objects(connection, query) for kind, query in (("trigger", _TRIGGERS), ("index", _INDEXES))}
    broken = _broken_references(connection)
    counts: dict[str, int] = {}
    meant: set[str] = set()

    def watch(_connection: sa.Connection, _cursor: object, statement: str, *_: Any) -> None:
        if (found := _REBUILT.match(statement)) and (copy := _bare(found[1])).startswith(_COPY):
            table = copy.removeprefix(_COPY)
            children = connection.exec_driver_sql(_CHILDREN, (table,)).scalars()
            for name in (table, *children):
                counts.setdefault(name, _count(connection, name))
        elif found := _MEANT.match(statement):
            meant.add(_bare(found[1]).lower())

    event.listen(connection, "before_cursor_execute", watch)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", watch)
    tables = set(connection.exec_driver_sql(_TABLES).scalars())
    for kind, query in (("trigger", _TRIGGERS), ("index", _INDEXES)):
        after = _objects(connection, query)
        for name, (table, shape) in before[kind].items():
            if table in tables and name.lower() not in meant and after.get(name, ("", None))[1] != shape:
                raise SchemaMismatchError(
                    f"nothing was changed: the migration makes {table} anew and loses its {kind} {name}. Drop it with a"
                    " statement of its own before (op.execute, op.drop_index), and create it again where it is wanted"
                )
    for table, count in counts.items():
        if table in tables and table.lower() not in meant and (left := _count(connection, table)) < count:
            raise ConstraintViolationError(
                f"nothing was changed: the migration loses {count - left} of the {count} rows of {table}"
            )
    if more := _broken_references(connection) - broken:  # what was broken before is not the migration's doing
        names = ", ".join(sorted({table for table, _ in more}))
        raise ConstraintViolationError(f"nothing was changed: {more.total()} rows would refer to nothing, in {names}")


def _bare(name: str) -> str:
    """Return a name without its quotes and what stands before it."""
    return re.split(r"EXISTS\s+|\.", name, flags=re.IGNORECASE)[-1].strip("\"'`[]")


def _objects(connection: sa.Connection, query: str) -> dict[str, tuple[str, str]]:
    return {name: (table, shape) for name, table, shape in connection.exec_driver_sql(query)}


def _count(connection: sa.Connection, table: str) -> int:
    return connection.scalars(sa.select(sa.func.count()).select_from(sa.table(table))).one()


def _broken_references(connection: sa.Connection) -> Counter[tuple[str, str]]:
    """Count the rows that refer to nothing, by their table and the one that they refer to."""
    return Counter((row[0], row[2]) for row in connection.exec_driver_sql("PRAGMA foreign_key_check"))
