"""How a whole SQLite file is copied, whatever the legacy application has left in its cells."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Copying, Doubts, RawCells
from traderrr_data.dialects.sqlite.columns import stored_cells

if TYPE_CHECKING:
    import pyarrow as pa

_WHOLE_IN_A_DOUBLE = 2**53
_TOLD = 9 * 10**15  # last decimals: up to here a product with a power of ten is the whole number that it should be


async def _identity(connection: AsyncConnection) -> str:
    file = (await connection.exec_driver_sql("PRAGMA database_list")).mappings().all()[0]["file"]
    if not file:
        return f"in memory {id(connection.sync_engine)}"
    found = await asyncio.to_thread(Path(file).stat)
    return f"{found.st_dev} {found.st_ino}"


@contextlib.asynccontextmanager
async def _at_rest(url: sa.URL) -> AsyncIterator[sa.URL]:
    """Give the URL of a copy if the journal is not a write-ahead log: there a reader keeps writers from committing.

    The copy is made in one step, which holds writers up for as long as the disk takes.
    """
    path = str(url.database or "")
    with contextlib.ExitStack() as stack:
        if not path.startswith("file:") and await asyncio.to_thread(_journal_mode, path) != "wal":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="traderrr-data-"))
            copy = str(Path(folder) / "copy.db")
            await asyncio.to_thread(_back_up, path, copy)
            url = url.set(database=copy)
        yield url


def _journal_mode(path: str) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _back_up(path: str, copy: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=wal")


async def _insert_columns(connection: AsyncConnection, table: sa.Table, rows: pa.Table) -> None:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    cells = await asyncio.to_thread(lambda: [_cells(table.c[name].type, rows[name]) for name in rows.column_names])
    names = ", ".join(f'"{name}"' for name in rows.column_names)
    statement = f'INSERT INTO "{table.name}" ({names}) VALUES ({", ".join("?" * len(cells))})'

    def insert() -> None:
        driver._conn.executemany(statement, zip(*cells, strict=True))

    await driver._execute(insert)


def _cells(column_type: Any, column: pa.ChunkedArray) -> list[Any]:
    try:
        return stored_cells(column_type, column)
    except OverflowError:
        return [None if cell is None else column_type.to_double_storage(cell) for cell in column.to_pylist()]


async def _put_ids_behind(_connection: AsyncConnection, _table: sa.Table) -> None:
    """Find nothing to do: an id that is inserted moves AUTOINCREMENT by itself."""


async def _raw_cells(connection: AsyncConnection, query: sa.Select[Any]) -> RawCells:
    """Return rows as they are stored. A text goes as bytes and is read here: one that is not UTF-8 stays bytes."""
    kinds = [sa.func.typeof(column) for column in query.selected_columns]
    cells = [
        sa.case((kind == "text", sa.type_coerce(sa.cast(column, sa.LargeBinary()), sa.types.NullType())), else_=column)
        for kind, column in zip(kinds, query.selected_columns, strict=True)
    ]
    both = query.with_only_columns(*kinds, *(sa.type_coerce(cell, sa.types.NullType()) for cell in cells))
    rows = (await connection.execute(both)).all()
    return [tuple(map(_read, row[: len(kinds)], row[len(kinds) :])) for row in rows]


def _read(kind: str, cell: Any) -> Any:
    if kind != "text":
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell


async def _doubts(
    connection: AsyncConnection, table: sa.TableClause, schema: pa.Schema, where: Sequence[sa.ColumnElement[bool]]
) -> Doubts:
    """Count what is not exactly what it reads as, by the same double arithmetic on every machine."""
    numbers = [_Number.of(field) for field in schema if hasattr(field.type, "scale")]
    others = [f"({_is_odd(field)})" for field in schema if not hasattr(field.type, "scale")]

    def ask(*wanted: str) -> sa.Select[Any]:
        columns: list[sa.ColumnElement[Any]] = [sa.literal_column(sql) for sql in wanted]
        return sa.select(*columns).select_from(table).where(*where)

    # Nearly all files are free of doubts, and to ask for the details would take several times as long.
    in_doubt = " OR ".join([*others, *(f"NOT ({number.is_exact})" for number in numbers)])
    if not (await connection.execute(ask(f"total({in_doubt})"))).scalar_one():
        return Doubts()
    noise = " + ".join(["0", *(f"({number.is_noise})" for number in numbers)])
    distances = ", ".join(["0.0", "0.0", *(f"iif({n.is_noise}, abs({n.name} - {n.nearest}), 0.0)" for n in numbers)])
    odd = " + ".join([*others, *(f"NOT ({n.is_exact} OR {n.is_noise})" for n in numbers)])
    found, largest, rest = (
        await connection.execute(ask(f"total({noise})", f"max(max({distances}))", f"total({odd})"))
    ).one()
    return Doubts(int(found), largest or 0.0, int(rest))


def _is_odd(field: pa.Field) -> str:
    """Return the SQL that is true where a cell has a storage class that its column does not read."""
    name = f'"{field.name}"'
    match str(field.type):
        case "bool":
            return f"{name} IS NOT NULL AND {name} NOT IN (0, 1)"
        case "int64":
            return f"typeof({name}) NOT IN ('integer', 'null')"
        case _:
            return f"typeof({name}) NOT IN ('text', 'null')"


@dataclass(frozen=True)
class _Number:
    """The SQL that judges a column's numbers.

    Attributes:
        name: the column.
        is_exact: the cell is just what it reads as, or NULL. A double is, if it is the nearest one to a decimal of the
            column: its shortest form has no more digits than that decimal.
        is_noise: it is a double near what it reads as, but not just that.
        nearest: what a double reads as, if it is noise.
    """

    name: str
    is_exact: str
    is_noise: str
    nearest: str

    @classmethod
    def of(cls, field: pa.Field) -> _Number:
        name, scale = f'"{field.name}"', field.type.scale
        limit = f"1e{field.type.precision - scale}"
        nearest = f"round({name} * 1e{scale}) / 1e{scale}"
        told = f"{name} > -{_TOLD}e-{scale} AND {name} < {_TOLD}e-{scale}"
        integer = f"typeof({name}) = 'integer' AND {name} > -{limit} AND {name} < {limit}"
        whole = f"{name} = CAST({name} AS INTEGER) AND abs({name}) <= {_WHOLE_IN_A_DOUBLE} AND abs({name}) < {limit}"
        exact = f"{name} IS NULL OR {nearest} = {name} AND {told} OR {integer} OR typeof({name}) = 'real' AND {whole}"
        noise = f"{name} IS NOT NULL AND typeof({name}) = 'real' AND {told} AND {nearest} <> {name}"
        return cls(name, exact, noise, nearest)


COPYING = Copying(
    identity=_identity,
    at_rest=_at_rest,
    doubts=_doubts,
    raw_cells=_raw_cells,
    writers=1,
    insert_columns=_insert_columns,
    put_ids_behind=_put_ids_behind,
)
