"""What callers ask of many rows: store them, or make them all there is; and what became of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from traderrr_data import dialects
from traderrr_data.bulk.merge import Change, Observer, delete_rows, merge_columns, merge_rows
from traderrr_data.bulk.rows import Batch, OnInvalid, Rejection, Row, Rows, Shape, check, materialised, shape_of
from traderrr_data.dialects.base import Counts
from traderrr_data.errors import ConfigurationError
from traderrr_data.models import Base

OnConflict: TypeAlias = Literal["update", "ignore", "error"]

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
    batch = await _check(
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
            counts = await merge_rows(connection, shape, batch.rows, on_conflict, observer)
        else:
            counts = await merge_columns(connection, shape, batch.columns, on_conflict)
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
    batch = await _check(
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
        deleted = await delete_rows(connection, shape, gone)
        counts = await merge_rows(connection, shape, whole, "replace", observer)
    return ReplaceResult(**_account(counts, batch), deleted=deleted)


async def _check(
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


def _account(counts: Counts, batch: Batch) -> dict[str, Any]:
    return {
        "inserted": counts.inserted,
        "updated": counts.updated,
        "unchanged": counts.unchanged,
        "skipped": counts.skipped + batch.dropped,
        "duplicates": batch.duplicates,
        "rejected": tuple(batch.rejected),
    }
