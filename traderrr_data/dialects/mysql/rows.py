"""How MySQL and MariaDB move many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert
from sqlalchemy.ext.asyncio import AsyncConnection


async def insert_new(connection: AsyncConnection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> bool:
    """Insert rows whose keys are believed absent; return False, with nothing inserted, if one was there after all.

    A plain INSERT that meets another writer's row keeps a shared lock on it, and two writers that then want to change
    it deadlock (https://bugs.mysql.com/bug.php?id=35821). ON DUPLICATE KEY UPDATE takes the exclusive lock at once.
    The variable counts the rows that were there; the assignment changes nothing.
    """
    key = next(iter(table.primary_key.columns if "id" not in table.c else table.c)).name
    count: sa.ColumnClause[Any] = sa.literal_column(f"IF((@repeated := @repeated + 1) IS NULL, {key}, {key})")
    async with connection.begin_nested() as savepoint:
        await connection.execute(sa.text("SET @repeated := 0"))
        await connection.execute(insert(table).on_duplicate_key_update({key: count}), rows)
        repeated = (await connection.execute(sa.text("SELECT @repeated"))).scalar_one()
        if repeated:
            await savepoint.rollback()
    return not repeated
