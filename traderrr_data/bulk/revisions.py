"""What was overwritten: every version of a bar that a change ends is kept, in the same transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data import dialects
from traderrr_data.dialects import WITHOUT_REVISIONS
from traderrr_data.dialects.base import kept_columns
from traderrr_data.errors import TransactionConflictError
from traderrr_data.models import BarRevision, Base, DailyData, IntradayData

_REVISIONS = Base.metadata.tables[BarRevision.__tablename__]
_KEPT = (DailyData.__tablename__, IntradayData.__tablename__)
_ATTEMPTS = 5


def revisions_of(connection: AsyncConnection, table: sa.Table) -> sa.Table | None:
    """Return the table that keeps the earlier versions of a table's rows; None if nothing does."""
    bind = connection.sync_connection or connection.sync_engine
    without = bind.get_execution_options().get(WITHOUT_REVISIONS, ())
    return _REVISIONS if table.name in _KEPT and table.name not in without else None


async def keep(
    connection: AsyncConnection,
    table: sa.Table,
    where: Sequence[sa.ColumnElement[bool]],
    change: Literal["update", "delete"],
    now: dt.datetime,
) -> int:
    """Lock the rows where `where` holds, keep them as they are, and return how many they are."""
    kept = kept_columns(table, _REVISIONS)
    query = sa.select(
        sa.literal(table.name, _REVISIONS.c.table_name.type),
        sa.literal(change, _REVISIONS.c.change.type),
        not_before(table.c.updated_at, now),
        *(table.c[name] for name in kept.values()),
    )
    names = ["table_name", "change", "known_until", *kept]
    statement = _REVISIONS.insert().from_select(names, query.where(*where).with_for_update())
    return (await connection.execute(statement)).rowcount


def not_before(updated_at: sa.ColumnElement[dt.datetime], now: dt.datetime) -> sa.ColumnElement[dt.datetime]:
    """Return when a row changes that was last changed at `updated_at`: a clock that was put back ends no version early.

    Otherwise two versions of a bar would stand at the same instant.
    """
    changed = sa.literal(now, updated_at.type)
    return sa.case((updated_at > changed, updated_at), else_=changed)


async def delete(connection: AsyncConnection, table: sa.Table, where: Sequence[sa.ColumnElement[bool]]) -> int:
    """Keep the rows where `where` holds, delete them, and return how many they were.

    Raises:
        TransactionConflictError: other writers kept adding rows where `where` holds.
    """
    statement = sa.delete(table).where(*where)
    if revisions_of(connection, table) is None:
        return (await connection.execute(statement)).rowcount
    for _ in range(_ATTEMPTS):
        async with connection.begin_nested() as attempt:
            now = await dialects.for_connection(connection.sync_engine).clock(connection)
            kept = await keep(connection, table, where, "delete", now)
            deleted = (await connection.execute(statement)).rowcount
            if deleted == kept:
                return deleted
            await attempt.rollback()  # another writer added rows after ours were kept
    raise TransactionConflictError("other writers kept adding rows to what was to be deleted")
