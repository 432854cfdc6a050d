"""How SQLite gives few rows: the driver's cells as they are stored, and columns of them without an object per value."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

from traderrr_data.dialects.base import CellByCell, Page

if TYPE_CHECKING:
    import pyarrow as pa

SHORT_PAGE = 5_000
"""Rows up to which cells are faster than texts, and hold up nobody for long."""


async def short_page(
    connection: AsyncConnection, query: sa.Select[Any], key: Sequence[str], schema: pa.Schema, rows: int
) -> Page | None:
    """Fetch a page of at most so many rows; see `Dialect`. None if a text is no UTF-8."""
    statement = query.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    values = _bound(statement, connection.dialect)
    if not connection.in_transaction():
        await connection.exec_driver_sql("SELECT 1")  # through SQLAlchemy, which begins with its first statement
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # noqa: S101 - for the type checker: the connection is open
    try:
        found = await driver._execute(_fetch, driver._conn, str(statement), values, schema)
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorcode"):
            raise
        return None  # not the database's error, but the driver's about bytes that are not UTF-8

    def build() -> pa.RecordBatch:
        if found.batch is None:
            raise CellByCell("a cell is stored in another form than those that we write")
        return found.batch

    last = {name: found.last[schema.names.index(name)] for name in key} if found.last else {}
    known = bool(last) and all(isinstance(cell, str | int) for cell in last.values())
    return Page(build, is_last=found.count < rows, end=last if known else None, is_quick=True)


def _bound(statement: sa.Compiled, dialect: sa.Dialect) -> list[Any]:
    """Return the values of a statement's marks in their order, as the driver takes them."""
    assert isinstance(statement, SQLCompiler)  # noqa: S101 - for the type checker: it is no DDL
    values = statement.construct_params()
    bound = []
    for name in statement.positiontup or ():
        process = (
            statement.binds[name].type.dialect_impl(dialect).bind_processor(dialect)
            if name in statement.binds
            else None
        )
        bound.append(values[name] if process is None else process(values[name]))
    return bound


@dataclass(frozen=True)
class _Found:
    """What a query found.

    Attributes:
        count: how many rows.
        last: the cells of the last one.
        batch: all of them as columns; None if only a look at each cell tells what it reads as.
    """

    count: int
    last: Sequence[Any]
    batch: pa.RecordBatch | None


def _fetch(connection: sqlite3.Connection, statement: str, values: Sequence[Any], schema: pa.Schema) -> _Found:
    """Fetch rows and make columns of them, all on the connection's thread: another one would cost a page's time."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    cursor = connection.cursor()
    rows = cursor.execute(statement, values).fetchall()
    cursor.close()
    cells = list(chain.from_iterable(rows))  # a zip of so many rows takes several times as long
    try:
        arrays = [_column(cells[at :: len(schema)], field) for at, field in enumerate(schema)]
        batch = pa.record_batch(arrays, schema=schema)
    except CellByCell:
        batch = None
    return _Found(len(rows), rows[-1] if rows else (), batch)


def _column(cells: Sequence[Any], field: pa.Field) -> pa.Array:
    """Return stored cells as Arrow holds them.

    Raises:
        CellByCell: one is stored in another form than those that we write.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    from traderrr_data.dialects.wire import read_texts  # noqa: PLC0415 - as above

    if cells and cells[0] is cells[-1] is None and cells.count(None) == len(cells):
        return pa.nulls(len(cells), field.type)
    try:
        if pa.types.is_decimal(field.type):
            return _decimals(cells, field.type)
        if pa.types.is_boolean(field.type):
            return _flags(cells)
        if pa.types.is_integer(field.type) and set(map(type, cells)) <= {int, type(None)}:
            return pa.array(cells, field.type)
        texts = pa.array(cells) if cells else pa.nulls(0, pa.string())
        if pa.types.is_string(texts.type):  # what holds bytes or numbers is of another type, or of none
            return read_texts(texts, field.type)
    except (pa.ArrowException, OverflowError) as error:
        raise CellByCell(str(error)) from error
    raise CellByCell(f"{field.name} does not hold texts only")


def _flags(cells: Sequence[Any]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    if not set(cells) <= {0, 1, None}:
        raise CellByCell("a flag is neither 0 nor 1")
    return pa.array(cells, pa.int8()).cast(pa.bool_())


def _decimals(cells: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return numbers as the decimals by which they read; an integer is one, whatever its size."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    from traderrr_data.dialects.wire import decimals_read  # noqa: PLC0415 - as above

    # Doubles hold an integer among them just so, or do not tell their decimals.
    if (cells and type(cells[0]) is float) or int not in (kinds := set(map(type, cells))):
        return decimals_read(pa.array(cells, pa.float64()), kind)
    whole = [cell if type(cell) is int else None for cell in cells] if float in kinds else cells
    integers = pa.array(whole, pa.int64())
    integers = integers.cast(pa.decimal128(38, kind.scale)).cast(kind)  # Arrow wants room for any integer
    if float not in kinds:
        return integers
    doubles = pa.array([None if type(cell) is int else cell for cell in cells], pa.float64())
    return pc.coalesce(integers, decimals_read(doubles, kind))
