"""What a SQLite file says of its tables, to compare it with what the models would make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from traderrr_data.dialects.base import Catalog

_LEGACY_INDEX = "idx_daily_data_ticker_date"  # the legacy application makes it at every start

_REJECTS = "adoption_rejects"  # a file that was adopted has it
_CHANGEOVER = "adoption_changeover_metadata"  # and one that legacy code still writes into has this
_STORAGE = re.compile(r"CHECK ck_\w+_is_(a_number|a_date|an_instant)$")

_COLUMNS = 'SELECT cid, name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?)'
_INDEXES = """
SELECT l.name, l."unique", l.origin, m.sql,
    group_concat(coalesce(x.name, '(expression)') || CASE WHEN x."desc" THEN ' DESC' ELSE '' END || ' ' || x.coll, ', ')
  FROM pragma_index_list(?1) AS l, pragma_index_xinfo(l.name) AS x LEFT JOIN sqlite_master AS m ON m.name = l.name
  WHERE x.key AND l.origin <> 'pk' GROUP BY l.name
"""
_TABLE = "SELECT m.sql, l.wr FROM sqlite_master AS m JOIN pragma_table_list AS l ON l.name = m.name WHERE m.name = ?"


def catalogs(connection: sa.Connection, tables: Sequence[sa.Table]) -> tuple[Catalog, Catalog]:
    """Return what is there, and what the models make in a database of their own, in memory."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as scratch:
        for table in tables:
            table.create(scratch)
        expected = _catalog(scratch, tables)
    engine.dispose()
    return _as_adopted(connection, _catalog(connection, tables), expected)


def _as_adopted(connection: sa.Connection, found: Catalog, expected: Catalog) -> tuple[Catalog, Catalog]:
    """Leave out, in a file of the legacy application, its owner's indexes, and checks that its code would break."""
    names = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    if _REJECTS in names:
        found = {key: text for key, text in found.items() if key in expected or not key[1].startswith("index ")}
    if _CHANGEOVER in names:
        expected = {key: text for key, text in expected.items() if key in found or not _STORAGE.search(key[1])}
    return found, expected


def _catalog(connection: sa.Connection, tables: Sequence[sa.Table]) -> Catalog:
    return {(table.name, part): text for table in tables for part, text in _parts(connection, table.name)}


def _parts(connection: sa.Connection, table: str) -> Iterator[tuple[str, str]]:
    found = connection.exec_driver_sql(_TABLE, (table,)).one_or_none()
    if found is None:
        return
    definition = " ".join(found.sql.split())
    elements = list(_elements(definition))
    collations = {
        element.split(maxsplit=1)[0].strip('"'): re.findall(r'COLLATE "?(\w+)', element) for element in elements
    }
    yield "rows", ("by key" if found.wr else "by rowid") + (", AUTOINCREMENT" if "AUTOINCREMENT" in definition else "")
    for number, name, kind, not_null, default, key in connection.exec_driver_sql(_COLUMNS, (table,)):
        words = [f"number {number + 1}", kind.upper(), *collations.get(name, []), "NOT NULL" if not_null else "NULL"]
        words += [f"DEFAULT {_plain(default)}"] if default is not None else []
        yield f"column {name}", " ".join([*words, *([f"KEY {key}"] if key else [])])
    for name, unique, origin, sql, columns in connection.exec_driver_sql(_INDEXES, (table,)):
        if name != _LEGACY_INDEX:
            condition = re.search(r" WHERE .*", sql or "", re.IGNORECASE | re.DOTALL)
            text = ("unique " if unique else "") + f"({columns})" + (condition[0] if condition else "")
            yield (f"index {name}", text) if origin == "c" else (f"unique key ({columns})", "unique")
    for element in elements:
        if check := re.match(r'CONSTRAINT "?(\w+)"? CHECK (.*)|CHECK (.*)', element, re.IGNORECASE):
            yield f"CHECK {check[1] or check[3]}", check[2] or check[3]


def _plain(default: str) -> str:
    return default.strip("()").lower()


def _elements(definition: str) -> Iterator[str]:
    """Give what stands between the commas of a CREATE TABLE, outside of parentheses and quotes."""
    body = definition.partition("(")[2].rpartition(")")[0]
    element, depth, quoted = "", 0, False
    for character in body:
        quoted ^= character == "'"
        depth += 0 if quoted else (character == "(") - (character == ")")
        if character == "," and not depth and not quoted:
            yield element.strip()
            element = ""
        else:
            element += character
    yield element.strip()
