"""How PostgreSQL moves many rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

_FEW = 100  # values


def match_keys(columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[tuple[Any, ...]]) -> sa.ColumnElement[bool]:
    """Return the condition that a row has one of these keys.

    The keys come as one array a column: a list of row values is planned as so many ORs, and slow where they lie apart.
    ANY has a few values of one column looked up in an index, where a join often goes through the whole table; with many
    it may compare each row with each of them.
    """
    if not keys:
        return sa.false()
    arrays = [
        sa.cast(sa.literal(list(values), ARRAY(column.type)), ARRAY(column.type))
        for column, values in zip(columns, zip(*keys, strict=True), strict=True)
    ]
    if len(columns) == 1 and len(keys) <= _FEW:
        return columns[0] == sa.any_(arrays[0])
    given = sa.func.unnest(*arrays).table_valued(*(f"key_{i}" for i in range(len(arrays)))).render_derived()
    return sa.tuple_(*columns).in_(sa.select(given))


async def insert_absent(
    connection: AsyncConnection, table: sa.Table, key: tuple[str, ...], rows: Sequence[dict[str, Any]]
) -> set[tuple[Any, ...]]:
    """Insert the rows whose key is absent, and lock those that are there, in one pass in the order of the keys.

    Two passes would take locks out of that order and deadlock. DO NOTHING would not lock; an update WHERE false locks
    and writes nothing, and only what was inserted is returned.
    """
    columns = [table.c[name] for name in key]
    statement = insert(table)
    untouched = {key[0]: statement.excluded[key[0]]}
    statement = statement.on_conflict_do_update(index_elements=key, set_=untouched, where=sa.false())
    return {tuple(row) for row in await connection.execute(statement.returning(*columns), rows)}


async def clock(connection: AsyncConnection) -> dt.datetime:
    """Return the server's time at this statement."""
    now: dt.datetime = (await connection.execute(sa.select(sa.func.statement_timestamp()))).scalar_one()
    return now
