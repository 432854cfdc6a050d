"""How a whole PostgreSQL database is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Copying, RawCells, as_it_is, cells_as_texts
from traderrr_data.dialects.postgresql.columns import binary

if TYPE_CHECKING:
    import pyarrow as pa

_LAST: dict[type[Any], str] = {sa.Date: "9999-12-31", sa.DateTime: "9999-12-31 23:59:59.999999+00"}
_IDENTITY = "SELECT concat_ws(' ', current_database(), current_schema(), pg_postmaster_start_time())"


async def _identity(connection: AsyncConnection) -> str:
    return str((await connection.exec_driver_sql(_IDENTITY)).scalar_one())


async def _insert_columns(connection: AsyncConnection, table: sa.Table, rows: pa.Table) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # noqa: S101 - for the type checker: the connection is open
    await driver.copy_to_table(table.name, columns=rows.column_names, source=binary(rows), format="binary")


async def _raw_cells(connection: AsyncConnection, query: sa.Select[Any]) -> RawCells:
    """Return rows as texts, and what asyncpg stores for the last date and instant that Python has as these.

    https://magicstack.github.io/asyncpg/current/usage.html#type-conversion
    """
    lasts = [_LAST.get(type(getattr(column.type, "impl", column.type))) for column in query.selected_columns]
    rows = await cells_as_texts(connection, query)
    return [
        tuple(last if cell == "infinity" and last else cell for cell, last in zip(row, lasts, strict=True))
        for row in rows
    ]


async def _put_ids_behind(connection: AsyncConnection, table: sa.Table) -> None:
    if (column := table.autoincrement_column) is None:
        return
    # setval is strict: in an empty table, where the largest is NULL, it does nothing.
    await connection.exec_driver_sql(
        f"SELECT setval(pg_get_serial_sequence('\"{table.name}\"', '{column.name}'),"
        f' greatest(max("{column.name}"), 1), max("{column.name}") >= 1) FROM "{table.name}"'
    )


COPYING = Copying(
    identity=_identity,
    at_rest=as_it_is,
    doubts=None,
    raw_cells=_raw_cells,
    writers=3,
    insert_columns=_insert_columns,
    put_ids_behind=_put_ids_behind,
)
