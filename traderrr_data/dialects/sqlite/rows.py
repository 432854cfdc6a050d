"""How SQLite moves many rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection


async def insert_absent(
    connection: AsyncConnection, table: sa.Table, key: tuple[str, ...], rows: Sequence[dict[str, Any]]
) -> set[tuple[Any, ...]]:
    """Insert the rows whose key is absent; the file's write lock is held, so nobody else can."""
    columns = [table.c[name] for name in key]
    statement = insert(table).on_conflict_do_nothing(index_elements=key).returning(*columns)
    now = await clock(connection)  # the columns' defaults tell whole seconds
    dated = [row | {"created_at": now, "updated_at": now} for row in rows]
    return {tuple(row) for row in await connection.execute(statement, dated)}


async def clock(_connection: AsyncConnection) -> dt.datetime:
    """Return this machine's time, which is the database's."""
    return dt.datetime.now(dt.UTC)
