"""How SQLite moves many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import match_keys


async def insert_absent(
    connection: AsyncConnection, table: sa.Table, key: tuple[str, ...], rows: Sequence[dict[str, Any]]
) -> set[tuple[Any, ...]]:
    """Insert the rows whose key is absent; the file's write lock is held, so nobody else can."""
    columns = [table.c[name] for name in key]
    if table.autoincrement_column is not None:
        # Every row that is tried takes a number.
        keys = [tuple(row[name] for name in key) for row in rows]
        present = {tuple(row) for row in await connection.execute(sa.select(*columns).where(match_keys(columns, keys)))}
        rows = [row for row, its_key in zip(rows, keys, strict=True) if its_key not in present]
    if not rows:
        return set()
    statement = insert(table).on_conflict_do_nothing(index_elements=key).returning(*columns)
    return {tuple(row) for row in await connection.execute(statement, rows)}
