"""How a whole MySQL or MariaDB database is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Copying, as_it_is, cells_as_texts
from traderrr_data.dialects.mysql.carrier import backslash_escapes, fitting_values, limits_of, made, run
from traderrr_data.errors import ConstraintViolationError

if TYPE_CHECKING:
    import pyarrow as pa

_IDENTITY = "SELECT CONCAT_WS(' ', @@hostname, @@port, @@datadir, DATABASE())"


async def _identity(connection: AsyncConnection) -> str:
    return str((await connection.exec_driver_sql(_IDENTITY)).scalar_one())


async def _insert_columns(connection: AsyncConnection, table: sa.Table, rows: pa.Table) -> None:
    from traderrr_data.dialects.mysql import load, texts  # noqa: PLC0415 - loaded only where Arrow is used

    pooled = await connection.get_raw_connection()
    driver: Any = pooled.driver_connection
    limits = await limits_of(driver, pooled.info)
    name, columns = f"`{table.name}`", ", ".join(f"`{column}`" for column in rows.column_names)
    if limits.loads(rows.num_rows):
        lines = await made(rows.num_rows, lambda: texts.lines(rows))
        try:
            outcome = await load.load_local(driver, name, columns, lines)
        except load.Error as error:
            if not limits.refuse_local(error):
                raise
        else:
            if outcome != (rows.num_rows, 0):  # a LOCAL load leaves rows out with a warning
                raise ConstraintViolationError(f"{table.name} took {outcome[0]} of {rows.num_rows} rows")
            return
    escapes = backslash_escapes(driver)
    most = limits.rows_bytes
    parts = await made(rows.num_rows, lambda: fitting_values(rows, most_bytes=most, backslash_escapes=escapes))
    for values in parts:
        await run(driver, [f"INSERT INTO {name} ({columns}) VALUES ".encode() + values[1:]])


async def _put_ids_behind(_connection: AsyncConnection, _table: sa.Table) -> None:
    """Find nothing to do: an id that is inserted moves the counter by itself."""


COPYING = Copying(
    identity=_identity,
    at_rest=as_it_is,
    doubts=None,
    raw_cells=cells_as_texts,
    writers=3,
    insert_columns=_insert_columns,
    put_ids_behind=_put_ids_behind,
)
