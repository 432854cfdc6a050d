"""Bring checked rows into a table, in the caller's transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data import dialects
from traderrr_data.bulk.revisions import delete, keep, not_before, revisions_of
from traderrr_data.bulk.rows import Row, Shape, outranks
from traderrr_data.dialects.base import Counts, Merge, Verdict
from traderrr_data.errors import DuplicateRowError

_KEYS_A_STATEMENT = 500

OnConflict: TypeAlias = Literal["update", "ignore", "error", "repeat", "replace"]


@dataclass
class _Plan:
    """What is to be done with some rows, now that it is known what is stored under their keys.

    Attributes:
        verdicts: by the `id` of the row, since a row cannot be a key.
        changed: the rows that are stored otherwise.
    """

    verdicts: dict[int, Verdict] = field(default_factory=dict)
    changed: list[Row] = field(default_factory=list)

    def note(self, verdict: Verdict, rows: Sequence[Row]) -> None:
        self.verdicts.update((id(row), verdict) for row in rows)


async def merge_columns(connection: AsyncConnection, merge: Merge) -> Counts:
    """Merge a batch of columns by the database's own fastest way.

    Raises:
        RowByRow: it must go row by row.
    """
    dialect = _dialect(connection)
    assert dialect.merge_columns is not None  # noqa: S101 - checked before the columns were made
    async with dialect.speaking_to_driver(connection):
        return await dialect.merge_columns(connection, merge)


async def merge_rows(connection: AsyncConnection, shape: Shape, rows: Sequence[Row], on_conflict: OnConflict) -> Counts:
    """Merge checked rows, which are in the order of their keys, a chunk at a time; with all verdicts.

    Raises:
        DuplicateRowError: a key is stored, and `on_conflict` does not allow it.
    """
    verdicts: list[Verdict] = []
    for chunk in _chunks(rows):
        settled = (await _merge_chunk(connection, shape, chunk, on_conflict)).verdicts
        verdicts += [settled[id(row)] for row in chunk]
    return Counts(**Counter[str](verdicts), verdicts=verdicts)


async def delete_rows(connection: AsyncConnection, shape: Shape, rows: Sequence[Row]) -> int:
    """Delete stored rows by their keys and return how many were there."""
    chunks = _chunks(rows)
    return sum([await delete(connection, shape.table, [_have_keys_of(connection, shape, chunk)]) for chunk in chunks])


async def _merge_chunk(
    connection: AsyncConnection, shape: Shape, rows: Sequence[Row], on_conflict: OnConflict
) -> _Plan:
    plan = _Plan()
    keyed = [row for row in rows if shape.key_of(row) is not None]
    if len(keyed) < len(rows):
        additions = [row for row in rows if shape.key_of(row) is None]
        await connection.execute(shape.table.insert(), _rectangular(additions))
        plan.note("inserted", additions)
    while keyed:
        inserted = await _insert_absent(connection, shape, keyed)
        plan.note("inserted", [row for row in keyed if shape.key_of(row) in inserted])
        present = [row for row in keyed if shape.key_of(row) not in inserted]
        stored = await _lock_stored(connection, shape, present) if present else {}
        _judge(plan, shape, [row for row in present if shape.key_of(row) in stored], stored, on_conflict)
        keyed = [row for row in present if shape.key_of(row) not in stored]  # deleted by another since: once more
    if plan.changed:
        await _update(connection, shape, plan.changed)
    return plan


async def _insert_absent(connection: AsyncConnection, shape: Shape, rows: Sequence[Row]) -> set[tuple[Any, ...]]:
    table = shape.table
    if table.autoincrement_column is not None:
        # Every row that is tried takes a number, also if it is there already.
        columns = [table.c[name] for name in shape.key]
        stored = await connection.execute(sa.select(*columns).where(_have_keys_of(connection, shape, rows)))
        present = {tuple(row) for row in stored}
        rows = [row for row in rows if shape.key_of(row) not in present]
    if not rows:
        return set()
    return await _dialect(connection).insert_absent(connection, table, shape.key, _rectangular(rows))


async def _lock_stored(
    connection: AsyncConnection, shape: Shape, rows: Sequence[Row]
) -> dict[tuple[Any, ...] | None, Mapping[str, Any]]:
    table = shape.table
    query = sa.select(table).where(_have_keys_of(connection, shape, rows))
    query = query.order_by(*(table.c[name] for name in shape.key)).with_for_update()
    found = [dict(row._mapping) for row in await connection.execute(query)]
    return {shape.key_of(row): row for row in found}


def _judge(
    plan: _Plan, shape: Shape, rows: Sequence[Row], stored: Mapping[Any, Mapping[str, Any]], on_conflict: OnConflict
) -> None:
    for row in rows:
        verdict = _verdict(shape, row, stored[shape.key_of(row)], on_conflict)
        plan.note(verdict, [row])
        if verdict == "updated":
            plan.changed.append(row)


def _verdict(shape: Shape, row: Row, old: Mapping[str, Any], on_conflict: OnConflict) -> Verdict:
    if on_conflict == "ignore":
        return "skipped"
    equal = all(old[name] == value for name, value in row.items())
    if on_conflict == "error" or (on_conflict == "repeat" and not equal):
        key = ", ".join(f"{name}={old[name]!s}" for name in shape.key)
        raise DuplicateRowError(f"{shape.model.__tablename__} has a row with {key} already")
    if equal:
        return "unchanged"
    return "skipped" if on_conflict == "update" and outranks(old, row) else "updated"


def _rectangular(rows: Sequence[Row]) -> list[Row]:
    """Give all new rows the same columns: one that is absent has no other default than NULL."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


async def _update(connection: AsyncConnection, shape: Shape, rows: Sequence[Row]) -> None:
    table = shape.table
    statement = table.update().where(*(table.c[name] == sa.bindparam(f"key_{name}") for name in shape.key))
    if revisions_of(connection, table) is not None:
        now = await _dialect(connection).clock(connection)
        await keep(connection, table, [_have_keys_of(connection, shape, rows)], "update", now)
        statement = statement.values(updated_at=not_before(table.c.updated_at, now))
    by_columns: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        values = {name: value for name, value in row.items() if name not in shape.key}
        by_columns.setdefault(tuple(values), []).append(values | {f"key_{name}": row[name] for name in shape.key})
    for names, group in by_columns.items():
        # Without revisions the column's onupdate sets updated_at.
        await connection.execute(statement.values({name: sa.bindparam(name) for name in names}), group)


def _chunks(rows: Sequence[Row]) -> list[Sequence[Row]]:
    return [rows[at : at + _KEYS_A_STATEMENT] for at in range(0, len(rows), _KEYS_A_STATEMENT)]


def _dialect(connection: AsyncConnection) -> dialects.Dialect:
    return dialects.for_connection(connection.sync_connection or connection.sync_engine)


def _have_keys_of(connection: AsyncConnection, shape: Shape, rows: Sequence[Row]) -> sa.ColumnElement[bool]:
    table = shape.table
    return _dialect(connection).match_keys(
        [table.c[name] for name in shape.key], [tuple(row[n] for n in shape.key) for row in rows]
    )
