"""Bring checked rows into a table, and say exactly what became of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from traderrr_data import dialects
from traderrr_data.bulk.rows import (
    Batch,
    OnInvalid,
    Rejection,
    Row,
    Rows,
    Shape,
    check,
    materialised,
    outranks,
    shape_of,
)
from traderrr_data.dialects.base import Merge
from traderrr_data.errors import ConfigurationError, DuplicateRowError
from traderrr_data.models import Base

if TYPE_CHECKING:
    import pyarrow as pa

OnConflict: TypeAlias = Literal["update", "ignore", "error"]

_KEYS_A_STATEMENT = 500
_COLUMNS_FROM = 1_000  # rows; fewer are not worth a staging table
_CHECKED_INLINE = 256  # rows; more are checked in a thread, so that the event loop goes on


@dataclass(frozen=True)
class UpsertResult:
    """What became of every row that was given; the counts add up to their number.

    Attributes:
        inserted: new rows.
        updated: stored rows that now differ.
        unchanged: stored rows that already read as the row given; nothing was written.
        skipped: kept back, since the stored bar is final or was observed later, or by ``on_conflict="ignore"``; and
            rows of a frame without any price, which are no bars.
        duplicates: rows whose key came again in the batch; the last of the highest finality was taken.
        rejected: rows that cannot be stored, with the reason.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    duplicates: int = 0
    rejected: tuple[Rejection, ...] = ()

    @property
    def written(self) -> int:
        """Rows that were inserted or updated."""
        return self.inserted + self.updated


@dataclass(frozen=True)
class ReplaceResult(UpsertResult):
    """As UpsertResult, and how many stored rows of the window were not among the rows given."""

    deleted: int = 0


class Change(NamedTuple):
    """One stored row that a merge changes or removes: all its columns before, and what is set (None: removed)."""

    old: Mapping[str, Any]
    new: Mapping[str, Any] | None


Observer: TypeAlias = Callable[[AsyncConnection, Sequence[Change]], Awaitable[None]]
"""Called in the same transaction, before rows are changed or removed."""

Verdict: TypeAlias = Literal["inserted", "updated", "unchanged", "skipped"]


@dataclass
class _Plan:
    """What is to be done with some rows, now that it is known what is stored under their keys."""

    verdicts: dict[Verdict, list[Row]] = field(
        default_factory=lambda: {"inserted": [], "updated": [], "unchanged": [], "skipped": []}
    )
    changes: list[Change] = field(default_factory=list)


async def upsert(
    session: AsyncSession,
    model: type[Base],
    rows: Rows,
    *,
    key: tuple[str, ...],
    fixed: Mapping[str, Any] | None = None,
    on_conflict: OnConflict | Literal["repeat"] = "update",
    on_invalid: OnInvalid = "raise",
    allow_inconsistent: bool = False,
    observer: Observer | None = None,
) -> UpsertResult:
    """Insert rows or update those that are stored, in the caller's transaction.

    Args:
        session: an open session; the caller commits.
        model: of the table.
        rows: mappings, objects of the model, or a frame.
        key: the columns that identify a row.
        fixed: values that hold for all rows.
        on_conflict: what to do where the key is stored; "repeat" takes an equal row for a repetition and raises for
            another.
        on_invalid: raise at the first invalid row, before anything is written, or reject it and go on.
        allow_inconsistent: take bars whose prices are out of order.
        observer: sees every changed row's old values.

    Raises:
        InvalidRowError: a row cannot be stored, and `on_invalid` is "raise".
        DuplicateRowError: a key is stored, and `on_conflict` does not allow it.
    """
    _check_word("on_conflict", on_conflict, ("update", "ignore", "error", "repeat"))
    shape = shape_of(model, key)
    batch = await check_rows(
        session,
        rows,
        shape,
        fixed=fixed,
        on_invalid=on_invalid,
        allow_inconsistent=allow_inconsistent,
        equal_repeats=on_conflict == "repeat",
        as_columns=on_conflict in ("update", "ignore") and observer is None and _takes_columns(session),
    )
    connection = await _connection(session)
    async with connection.begin_nested():  # fails alone: the caller's transaction goes on
        if batch.columns is None:
            counts = await _merge(connection, shape, batch.rows, on_conflict, observer)
        else:
            counts = await _merge_columns(connection, shape, batch.columns, on_conflict)
    return UpsertResult(**_account(counts, batch))


async def replace(
    session: AsyncSession,
    model: type[Base],
    rows: Rows,
    *,
    key: tuple[str, ...],
    fixed: Mapping[str, Any],
    window: Callable[[Row], bool],
    stored: Sequence[sa.ColumnElement[bool]],
    allow_inconsistent: bool = False,
    observer: Observer | None = None,
) -> ReplaceResult:
    """Make the table hold exactly these rows where `stored` holds, in the caller's transaction.

    Args:
        session: an open session; the caller commits.
        model: of the table.
        rows: as for `upsert`; a column that is absent is cleared, and finality does not hold a row back.
        key: the columns that identify a row.
        fixed: values that hold for all rows.
        window: tells whether a row given is inside the window.
        stored: the same as SQL conditions.
        allow_inconsistent: take bars whose prices are out of order.
        observer: sees every changed or removed row's old values.

    Raises:
        InvalidRowError: a row cannot be stored, or is outside of the window.
    """
    shape = shape_of(model, key)
    batch = await check_rows(
        session, rows, shape, fixed=fixed, window=window, on_invalid="raise", allow_inconsistent=allow_inconsistent
    )
    cleared = dict.fromkeys(shape.types)
    whole = [cleared | row for row in batch.rows]
    kept = {shape.key_of(row) for row in whole}
    table = shape.table
    connection = await _connection(session)
    async with connection.begin_nested():
        query = sa.select(table).where(*stored).order_by(*(table.c[name] for name in key)).with_for_update()
        present = [dict(row._mapping) for row in await connection.execute(query)]
        gone = [row for row in present if shape.key_of(row) not in kept]
        if observer is not None and gone:
            await observer(connection, [Change(row, None) for row in gone])
        deleted = 0
        for chunk in _chunks(gone):
            deleted += (
                await connection.execute(sa.delete(table).where(_have_keys_of(connection, shape, chunk)))
            ).rowcount
        counts = await _merge(connection, shape, whole, "replace", observer)
    return ReplaceResult(**_account(counts, batch), deleted=deleted)


async def check_rows(
    session: AsyncSession,
    rows: Rows,
    shape: Shape,
    *,
    fixed: Mapping[str, Any] | None,
    on_invalid: OnInvalid,
    allow_inconsistent: bool,
    window: Callable[[Row], bool] | None = None,
    equal_repeats: bool = False,
    as_columns: bool = False,
) -> Batch:
    """Check a batch against what the session's database can store, without holding up the event loop.

    A large one comes back `as_columns`, if that is allowed and its columns can be judged; the rest is as for `check`.
    """
    _check_word("on_invalid", on_invalid, ("raise", "reject"))
    rules: dict[str, Any] = {
        "fixed": shape.coerce(fixed or {}),
        "exact_decimals": dialects.for_session(session).exact_decimals,
        "on_invalid": on_invalid,
        "allow_inconsistent": allow_inconsistent,
    }

    def work() -> Batch:
        given = materialised(rows)
        if as_columns and isinstance(given, Sized) and len(given) >= _COLUMNS_FROM:
            from traderrr_data.bulk import columns  # noqa: PLC0415 - loaded only where Arrow is used

            with contextlib.suppress(columns.Undecided, OverflowError):
                return columns.check(given, shape, **rules)
        return check(given, shape, window=window, equal_repeats=equal_repeats, **rules)

    few = isinstance(rows, Sized) and len(rows) <= _CHECKED_INLINE
    return work() if few else await asyncio.to_thread(work)


def _takes_columns(session: AsyncSession) -> bool:
    dialect = dialects.for_session(session)
    return dialect.merge_columns is not None and session.get_bind().dialect.driver == dialect.merge_driver


def _check_word(name: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise ConfigurationError(f"{name} is one of {', '.join(known)}, not {word!r}")


async def _connection(session: AsyncSession) -> AsyncConnection:
    await session.flush()  # objects that the caller has added count as stored
    return await session.connection()


def _account(counts: dict[Verdict, int], batch: Batch) -> dict[str, Any]:
    return {
        "inserted": counts["inserted"],
        "updated": counts["updated"],
        "unchanged": counts["unchanged"],
        "skipped": counts["skipped"] + batch.dropped,
        "duplicates": batch.duplicates,
        "rejected": tuple(batch.rejected),
    }


def _chunks(rows: Sequence[Row]) -> list[Sequence[Row]]:
    return [rows[at : at + _KEYS_A_STATEMENT] for at in range(0, len(rows), _KEYS_A_STATEMENT)]


def _dialect(connection: AsyncConnection) -> dialects.Dialect:
    return dialects.for_connection(connection.sync_connection or connection.sync_engine)


def _have_keys_of(connection: AsyncConnection, shape: Shape, rows: Sequence[Row]) -> sa.ColumnElement[bool]:
    table = shape.table
    return _dialect(connection).match_keys(
        [table.c[name] for name in shape.key], [tuple(row[n] for n in shape.key) for row in rows]
    )


async def _merge_columns(
    connection: AsyncConnection, shape: Shape, columns: pa.Table, on_conflict: str
) -> dict[Verdict, int]:
    dialect = _dialect(connection)
    merge = Merge(shape.table, shape.key, columns, on_conflict == "ignore", on_conflict == "update")
    assert dialect.merge_columns is not None  # noqa: S101 - checked before the columns were made
    try:
        counts = await dialect.merge_columns(connection, merge)
    except asyncio.CancelledError as error:
        # SQLAlchemy did not see it happen: the driver may be in the middle of something.
        await connection.invalidate(error)
        raise
    except Exception as error:
        translated = dialect.translate(error)
        if translated is None:
            raise
        raise translated from error
    return {
        "inserted": counts.inserted,
        "updated": counts.updated,
        "unchanged": counts.unchanged,
        "skipped": counts.skipped,
    }


async def _merge(
    connection: AsyncConnection, shape: Shape, rows: Sequence[Row], on_conflict: str, observer: Observer | None
) -> dict[Verdict, int]:
    counts: dict[Verdict, int] = {"inserted": 0, "updated": 0, "unchanged": 0, "skipped": 0}
    for chunk in _chunks(rows):
        plan = await _merge_chunk(connection, shape, chunk, on_conflict, observer)
        for verdict, settled in plan.verdicts.items():
            counts[verdict] += len(settled)
    return counts


async def _merge_chunk(
    connection: AsyncConnection, shape: Shape, rows: Sequence[Row], on_conflict: str, observer: Observer | None
) -> _Plan:
    plan = _Plan()
    keyed = [row for row in rows if shape.key_of(row) is not None]
    if len(keyed) < len(rows):
        additions = [row for row in rows if shape.key_of(row) is None]
        await connection.execute(shape.table.insert(), _rectangular(additions))
        plan.verdicts["inserted"] += additions
    while keyed:
        inserted = await _insert_absent(connection, shape, keyed)
        plan.verdicts["inserted"] += [row for row in keyed if shape.key_of(row) in inserted]
        present = [row for row in keyed if shape.key_of(row) not in inserted]
        stored = await _lock_stored(connection, shape, present) if present else {}
        _judge(plan, shape, [row for row in present if shape.key_of(row) in stored], stored, on_conflict)
        keyed = [row for row in present if shape.key_of(row) not in stored]  # deleted by another since: once more
    if plan.changes:
        if observer is not None:
            await observer(connection, plan.changes)
        await _update(connection, shape, plan.verdicts["updated"])
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
    plan: _Plan, shape: Shape, rows: Sequence[Row], stored: Mapping[Any, Mapping[str, Any]], on_conflict: str
) -> None:
    for row in rows:
        old = stored[shape.key_of(row)]
        verdict = _verdict(shape, row, old, on_conflict)
        plan.verdicts[verdict].append(row)
        if verdict == "updated":
            plan.changes.append(Change(old, row))


def _verdict(shape: Shape, row: Row, old: Mapping[str, Any], on_conflict: str) -> Verdict:
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
    by_columns: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        values = {name: value for name, value in row.items() if name not in shape.key}
        by_columns.setdefault(tuple(values), []).append(values | {f"key_{name}": row[name] for name in shape.key})
    for group in by_columns.values():
        await connection.execute(statement, group)  # the column's onupdate sets updated_at
