"""How MySQL and MariaDB give many rows: as they send them, which no driver has to take apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import QUICKLY_BUILT, CellByCell, Key, Page

if TYPE_CHECKING:
    import pyarrow as pa

    from traderrr_data.dialects.mysql.rowset import Rowset


def after_key(columns: Sequence[sa.ColumnElement[Any]], key: Key) -> sa.ColumnElement[bool]:
    """Return the condition that a row comes after a key; a comparison of tuples would not use the index.

    https://dev.mysql.com/doc/refman/8.4/en/range-optimization.html#row-constructor-range-optimization
    """
    (column, *others), (value, *rest) = columns, key
    beyond: sa.ColumnElement[bool] = column > value
    if not others:
        return beyond
    return sa.or_(beyond, sa.and_(column == value, after_key(others, tuple(rest))))


def each_value(column: sa.Column[Any], values: Sequence[Any] | None) -> sa.Select[Any]:
    """Return the query for the values of an index's first column; the server skips through the index by itself."""
    query = sa.select(column.label("value")).distinct()
    return query if values is None else query.where(column.in_(values))


async def fetch_page(
    connection: AsyncConnection,
    query: sa.Select[Any],
    key: Sequence[sa.ColumnElement[Any]],
    schema: pa.Schema,
    rows: int,
) -> Page | None:
    """Fetch the first rows of a query; see `Dialect`. Only aiomysql is spoken to.

    What a backslash in a literal means is a setting, so that a query with one is not for it.
    """
    if connection.dialect.driver != "aiomysql":
        return None
    from traderrr_data.dialects.mysql import rowset  # noqa: PLC0415 - loaded only where aiomysql is the driver

    query = query.order_by(*key).limit(rows)
    statement = str(query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    if "\\" in statement:
        return None
    if not connection.in_transaction():
        # Through SQLAlchemy, which begins the transaction, a reading one for real, with its first statement.
        await connection.exec_driver_sql("SELECT 1")
    driver: Any = (await connection.get_raw_connection()).driver_connection
    found = await rowset.query(driver, statement % ())  # the dialect writes every % twice, for the driver's own sake
    names = [column.name for column in key if column.name in schema.names]

    def build() -> pa.RecordBatch:
        from traderrr_data.dialects.mysql import spelled  # noqa: PLC0415 - it loads numpy

        return spelled.batch_of(found, schema)

    count = len(found.begins)
    end = None if count < rows else _end(found, schema, names)
    return Page(build, is_last=count < rows, end=end, is_quick=count <= QUICKLY_BUILT)


def _end(found: Rowset, schema: pa.Schema, names: Sequence[str]) -> dict[str, Any] | None:
    """Return the last row's cells of the key; None if they cannot be read by themselves."""
    from traderrr_data.dialects.mysql import spelled  # noqa: PLC0415 - it loads numpy

    try:
        [row] = spelled.batch_of(found.last(), schema).select(names).to_pylist()
    except CellByCell:
        return None
    end: dict[str, Any] = row
    return end
