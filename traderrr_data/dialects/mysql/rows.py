"""How MySQL and MariaDB move many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import match_keys

_LOOKS = 5


async def insert_absent(
    connection: AsyncConnection, table: sa.Table, key: tuple[str, ...], rows: Sequence[dict[str, Any]]
) -> set[tuple[Any, ...]]:
    """Insert the rows whose key is absent, and lock those that are there.

    A plain INSERT that meets another writer's row keeps a shared lock on it, and two writers that then want to change
    it deadlock (https://bugs.mysql.com/bug.php?id=35821). ON DUPLICATE KEY UPDATE takes the exclusive lock at once.
    That its update happened shows in the count of rows, 1 for a new one and 2 for a changed one; then the savepoint
    undoes it all, the locks stay, and a second look finds what the first could not see.
    """
    columns = [table.c[name] for name in key]
    for _ in range(_LOOKS):
        keys = [tuple(row[name] for name in key) for row in rows]
        query = sa.select(*columns).where(match_keys(columns, keys)).order_by(*columns).with_for_update()
        present = {tuple(row) for row in await connection.execute(query)}
        rows = [row for row, its_key in zip(rows, keys, strict=True) if its_key not in present]
        if not rows:
            return set()
        async with connection.begin_nested() as savepoint:
            touch = {"created_at": table.c.created_at + sa.text("INTERVAL 1 SECOND")}
            tried = await connection.execute(insert(table).on_duplicate_key_update(touch), rows)
            if tried.rowcount == len(rows):
                return {tuple(row[name] for name in key) for row in rows}
            await savepoint.rollback()
    # Not the key but another unique index is in the way: let the database say which.
    await connection.execute(table.insert(), rows)
    return {tuple(row[name] for name in key) for row in rows}
