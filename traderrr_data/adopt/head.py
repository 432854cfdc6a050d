"""What the tables of the newest revision look like, as the migrations themselves make them."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STRICT = re.compile(r",\s*CONSTRAINT (ck_\w+_is_(?:a_number|a_date|an_instant)) CHECK \([^()]*\)")


@dataclass(frozen=True)
class Head:
    """The newest revision's tables.

    Attributes:
        tables: the statement that makes each table.
        indexes: the table and the statement of each index.
        rows: what the migrations write into tables of their own.
    """

    tables: Mapping[str, str]
    indexes: Mapping[str, tuple[str, str]]
    rows: Mapping[str, list[tuple[Any, ...]]]

    def lenient(self, table: str) -> str:
        """Return the statement for a table that the old code writes into, too.

        The checks of how a value is stored are left out: the old code writes numpy values as BLOBs, and what it writes
        is brought into form by triggers, which run after the checks.
        """
        return _STRICT.sub("", self.tables[table])

    def is_strict(self, table: str, statement: str) -> bool:
        """Tell whether a table was made with all its checks."""
        return set(_STRICT.findall(self.tables[table])) <= set(re.findall(r"\bck_\w+", statement))


def head_of(script: str) -> Head:
    """Return what a migration script makes of an empty database."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        objects = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%'"
            " ESCAPE '!'"
        ).fetchall()
        tables = {name: sql for kind, name, _, sql in objects if kind == "table"}
        indexes = {name: (table, sql) for kind, name, table, sql in objects if kind == "index"}
        rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}
    return Head(tables, indexes, {name: found for name, found in rows.items() if found})
