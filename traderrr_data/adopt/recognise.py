"""What is in a file: which of its tables are the old application's, and in which shape each of them is."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from traderrr_data.adopt.forms import quoted
from traderrr_data.models import (
    Base,
    DailyData,
    IntradayData,
    Metadata,
    PortfolioPerformance,
    PortfolioPosition,
    SignalHistory,
    SystemEvent,
)

_MODELS = (
    DailyData,
    IntradayData,
    Metadata,
    SignalHistory,
    PortfolioPerformance,
    SystemEvent,
    PortfolioPosition,
)
TABLES: Mapping[str, sa.Table] = {model.__tablename__: Base.metadata.tables[model.__tablename__] for model in _MODELS}
"""The tables that the old application has, too."""

OWNED = ("portfolio_positions", "signal_history", "portfolio_performance")
"""The tables whose rows belong to one user where there are users."""

_BARS = ("daily_data", "intraday_data")
_USER = "user_id"


@dataclass(frozen=True)
class Object:
    """A table, index, trigger or view of the file."""

    kind: str
    name: str
    table: str
    sql: str


@dataclass(frozen=True)
class Source:
    """A table of the old application, as it is in the file.

    Attributes:
        table: ours.
        name: how the file spells its name.
        shape: see `TableReport`.
        sql: the statement that made it.
        columns: for each column of ours the file's, where there is one.
        extras: the other columns.
        left_out: the columns that only told users and rows apart.
        rowid: a name for the rowid; None if it has none.
        unique: no two rows have the same key, if keys are written alike.
        user: the column that says whose a row is.
    """

    table: sa.Table
    name: str
    shape: str
    sql: str
    columns: Mapping[str, str]
    extras: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    rowid: str | None = "rowid"
    unique: bool = False
    user: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it has the columns of our table, in their order."""
        return self.shape == "ours"

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Every column of the file's table."""
        return (*dict.fromkeys(self.columns.values()), *self.extras, *self.left_out)


def objects_of(connection: sqlite3.Connection) -> list[Object]:
    """Return everything that the file's catalog names, but for SQLite's own."""
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%'"
    return [Object(*row) for row in connection.execute(f"{query} ESCAPE '!' ORDER BY rowid")]


def key_of(table: sa.Table) -> tuple[str, ...]:
    """Return the columns by which a row is known; none where it is only known by its id."""
    if "id" not in table.c:
        return tuple(column.name for column in table.primary_key)
    return ("ticker",) if table.name in ("metadata", "portfolio_positions") else ()


def required(table: sa.Table) -> list[str]:
    """Return the columns that must have a value of the file's."""
    return [
        column.name for column in table.c if not column.nullable and not column.server_default and column.name != "id"
    ]


def sources_of(connection: sqlite3.Connection) -> tuple[dict[str, Source], list[str]]:
    """Return the old application's tables that are in a file, and why those that cannot be taken over cannot."""
    found, refusals = {}, []
    present = {o.name.lower(): o for o in objects_of(connection) if o.kind in ("table", "view")}
    for name, table in TABLES.items():
        if name not in present:
            continue
        it = present[name]
        if it.kind == "view" or it.sql.upper().startswith("CREATE VIRTUAL"):
            refusals.append(f"{it.name} is a view or a virtual table, not the old application's table")
            continue
        source = _source(connection, table, it)
        missing = [column for column in required(table) if column not in source.columns]
        if missing:
            refusals.append(
                f"the table {it.name} has no column {', '.join(missing)}: it is not the old application's, so rename it"
            )
            continue
        found[name] = source
    return found, refusals


def _source(connection: sqlite3.Connection, table: sa.Table, it: Object) -> Source:
    info = connection.execute(f"PRAGMA table_xinfo({quoted(it.name)})").fetchall()
    names = [str(row[1]) for row in info if row[6] != 1]
    columns = _matched(table, names)
    unique = _is_unique(connection, it.name, table, columns)
    keyed = unique if key_of(table) else "AUTOINCREMENT" in it.sql.upper()
    ours = keyed and names == [column.name for column in table.c]
    others = [name for name in names if name not in columns.values()]
    user = next((name for name in others if name.lower() == _USER), None)
    # In the shape with users, bars have a surrogate key.
    left_out = [name for name in others if user and (name == user or (name.lower() == "id" and "id" not in table.c))]
    rowid = _rowid(connection, it, names)
    return Source(
        table=table,
        name=it.name,
        shape="ours" if ours else _shape(table, names, columns, user),
        sql=it.sql,
        columns=columns,
        extras=tuple(name for name in others if name not in left_out),
        left_out=tuple(left_out),
        rowid=rowid,
        unique=unique,
        user=user,
    )


def _matched(table: sa.Table, names: Sequence[str]) -> dict[str, str]:
    """Return for our columns the file's of the same name, or of one like `Stock Splits`."""

    def plain(name: str) -> str:
        return re.sub(r"\W+", "_", name.strip().lower())

    exact = {name.lower(): name for name in names}
    alike = {plain(name): name for name in reversed(names)}
    found = {column.name: exact.get(column.name) or alike.get(column.name) for column in table.c}
    return {ours: theirs for ours, theirs in found.items() if theirs is not None}


def _shape(table: sa.Table, names: Sequence[str], columns: Mapping[str, str], user: str | None) -> str:
    lower = [name.lower() for name in names]
    legacy = [c.name for c in table.c if c.name in columns]
    if user or (lower[0] == "id" and "updated_at" in lower and "created_at" in lower):
        return "O"
    if table.name in _BARS and "updated_at" not in lower:
        return "P"
    if table.name == "signal_history" and not {"entry_price", "target_price", "stop_loss", "regime", "reasons"} & set(
        lower
    ):
        return "S"
    return "A" if lower == legacy else "other"


def _rowid(connection: sqlite3.Connection, it: Object, names: Sequence[str]) -> str | None:
    taken = {name.lower() for name in names}
    for name in ("rowid", "_rowid_", "oid"):
        if name not in taken:
            try:
                connection.execute(f"SELECT {name} FROM {quoted(it.name)} LIMIT 0")
            except sqlite3.OperationalError:
                return None
            return name
    return None


def _is_unique(connection: sqlite3.Connection, name: str, table: sa.Table, columns: Mapping[str, str]) -> bool:
    """Tell whether the file itself keeps two rows of the same key out."""
    key = {columns[column].lower() for column in key_of(table) if column in columns}
    for _, index, unique, _, partial in connection.execute(f"PRAGMA index_list({quoted(name)})").fetchall():
        if unique and not partial:
            members = [row[2] for row in connection.execute(f"PRAGMA index_info({quoted(index)})")]
            if all(member is not None and member.lower() in key for member in members):
                return True
    return False


def ids_are_usable(connection: sqlite3.Connection, source: Source) -> bool:
    """Tell whether the file's ids are whole numbers that occur once."""
    if "id" not in source.columns:
        return False
    name = quoted(source.columns["id"])
    query = f"SELECT count(*), count(DISTINCT {name}), sum(typeof({name}) = 'integer') FROM {quoted(source.name)}"
    rows, distinct, whole = connection.execute(query).fetchone()
    return bool(rows == distinct == (whole or 0))
