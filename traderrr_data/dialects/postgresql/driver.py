"""asyncpg's own connection, for what SQLAlchemy has no words for."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection


async def driver_of(connection: AsyncConnection) -> Any:
    """Return asyncpg's connection, in the transaction of SQLAlchemy's, which begins only with its first statement."""
    pooled = await connection.get_raw_connection()
    driver: Any = pooled.driver_connection
    if not driver.is_in_transaction():
        # What SQLAlchemy's cursors do before a statement (2.0.50, 2.1.9); a statement would be a journey more.
        begin = getattr(pooled.dbapi_connection, "_start_transaction", None)
        await (connection.exec_driver_sql("SELECT 1") if begin is None else begin())
    return driver
