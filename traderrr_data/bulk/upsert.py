"""What callers ask of many rows: store them, or make them all there is; and what became of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from traderrr_data import dialects
from traderrr_data.bulk import revisions
from traderrr_data.bulk.loading import loaded
from traderrr_data.bulk.merge import delete_rows, merge_columns, merge_rows
from traderrr_data.bulk.rows import (
    Batch,
    OnInvalid,
    Rejection,
    Row,
    Rows,
    Shape,
    check,
    materialised,
    shape_of,
    speaks_arrow,
)
from traderrr_data.dialects.base import Counts, Merge, RowByRow
from traderrr_data.errors import ConfigurationError, InvalidRowError
from traderrr_data.models import Base
from traderrr_data.models.types import shown

OnConflict: TypeAlias = Literal["update", "ignore", "error"]

_COLUMNS_FROM = 200  # rows; fewer are checked faster one by one
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
        verdicts: of every row in the order given, if they were asked for: "inserted", "updated", "unchanged",
            "skipped", "duplicate" or "rejected".
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    duplicates: int = 0
    rejected: tuple[Rejection, ...] = ()
    verdicts: tuple[str, ...] | None = None

    @property
    def written(self) -> int:
        """Rows that were inserted or updated."""
        return self.inserted + self.updated

    @property
    def given(self) -> int:
        """All rows."""
        return self.written + self.unchanged + self.skipped + self.duplicates + len(self.rejected)

    def followed_by(self, other: UpsertResult) -> UpsertResult:
        """Return the result of both, as of one batch."""
        return UpsertResult(
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.skipped + other.skipped,
            self.duplicates + other.duplicates,
            (*self.rejected, *(bad._replace(row=bad.row + self.given) for bad in other.rejected)),
            None if other.verdicts is None else (*(self.verdicts or ()), *other.verdicts),
        )


@dataclass(frozen=True)
class ReplaceResult(UpsertResult):
    """As UpsertResult, and how many stored rows of the window were not among the rows given."""

    deleted: int = 0


async def upsert(
    session: AsyncSession,
    model: type[Base],
    rows: Rows | AsyncIterable[Rows],
    *,
    key: tuple[str, ...],
    fixed: Mapping[str, Any] | None = None,
    on_conflict: OnConflict | Literal["repeat"] = "update",
    on_invalid: OnInvalid = "raise",
    allow_inconsistent: bool = False,
    verdicts: bool = False,
    is_checked: bool = False,
    savepoint: bool = True,
) -> UpsertResult:
    """Insert rows or update those that are stored, in the caller's transaction.

    Args:
        session: an open session; the caller commits.
        model: of the table.
        rows: mappings, objects of the model, or a frame; or an async iterator of such batches.
        key: the columns that identify a row.
        fixed: values that hold for all rows.
        on_conflict: what to do where the key is stored; "repeat" takes an equal row for a repetition and raises for
            another.
        on_invalid: raise at the first invalid row, or reject it and go on.
        allow_inconsistent: take bars whose prices are out of order.
        verdicts: tell of each row what became of it.
        is_checked: the rows are such as `check_row` has returned.
        savepoint: what fails undoes itself alone; without one, which saves two journeys, the caller has to roll back.

    Raises:
        InvalidRowError: a row cannot be stored, and `on_invalid` is "raise".
        DuplicateRowError: a key is stored, and `on_conflict` does not allow it.
        RowByRow: columns cannot bring it in, and there is no savepoint from which to go on row by row.
    """
    _check_word("on_conflict", on_conflict, ("update", "ignore", "error", "repeat"))
    _check_word("on_invalid", on_invalid, ("raise", "reject"))
    shape = shape_of(model, key)
    rules: dict[str, Any] = {
        "fixed": shape.coerce(fixed or {}),
        "on_invalid": on_invalid,
        "allow_inconsistent": allow_inconsistent,
        "equal_repeats": on_conflict == "repeat",
    }

    async def store(given: Rows) -> UpsertResult:
        as_columns = _takes_columns(session, on_conflict)
        batch = await _check(session, given, shape, as_columns=as_columns, is_checked=is_checked, **rules)
        connection = await _connection(session)
        counts = await _merge(connection, shape, batch, on_conflict, wants_verdicts=verdicts, savepoint=savepoint)
        return UpsertResult(
            **_account(counts, batch), verdicts=batch.verdicts(counts.verdicts or ()) if verdicts else None
        )

    if not isinstance(rows, AsyncIterable):
        return await store(rows)
    async with (await _connection(session)).begin_nested():  # fails alone, with all batches before
        # Only an update comes to the same whether a key comes again in one batch or in a later one.
        return await _store_each(rows, store, joins=on_conflict == "update", wants_verdicts=verdicts)


async def _store_each(
    batches: AsyncIterable[Rows],
    store: Callable[[Rows], Awaitable[UpsertResult]],
    *,
    joins: bool,
    wants_verdicts: bool,
) -> UpsertResult:
    """Store one batch after the other, and count their rows as those of one; small batches together if it `joins`."""
    await loaded()
    from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

    total = UpsertResult(verdicts=() if wants_verdicts else None)
    async with contextlib.aclosing(arrow.joined(batches, rows=arrow.MANY_ROWS if joins else 0)) as joined:
        async for batch in joined:
            try:
                result = await store(batch)
            except InvalidRowError as error:
                if error.row is None:
                    raise
                raise InvalidRowError(error.reason, row=error.row + total.given, column=error.column) from error
            total = total.followed_by(result)
    return total


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

    Raises:
        InvalidRowError: a row cannot be stored, or is outside of the window.
    """
    shape = shape_of(model, key)
    rules: dict[str, Any] = {"fixed": shape.coerce(fixed), "window": window, "allow_inconsistent": allow_inconsistent}
    batch = await _check(session, rows, shape, on_invalid="raise", **rules)
    cleared = dict.fromkeys(shape.types)
    whole = [cleared | row for row in batch.rows]
    kept = {shape.key_of(row) for row in whole}
    table = shape.table
    connection = await _connection(session)
    async with connection.begin_nested():
        query = sa.select(*(table.c[name] for name in key)).where(*stored).order_by(*(table.c[name] for name in key))
        present = [dict(row._mapping) for row in await connection.execute(query.with_for_update())]
        gone = [row for row in present if shape.key_of(row) not in kept]
        deleted = await delete_rows(connection, shape, gone)
        counts = await merge_rows(connection, shape, whole, "replace")
    return ReplaceResult(**_account(counts, batch), deleted=deleted)


async def delete(session: AsyncSession, model: type[Base], where: Sequence[sa.ColumnElement[bool]]) -> int:
    """Delete the rows where `where` holds, in the caller's transaction, and return how many.

    Raises:
        TransactionConflictError: other writers kept adding rows where `where` holds.
    """
    return await revisions.delete(await _connection(session), Base.metadata.tables[model.__tablename__], where)


async def _merge(
    connection: AsyncConnection,
    shape: Shape,
    batch: Batch,
    on_conflict: OnConflict | Literal["repeat"],
    *,
    wants_verdicts: bool,
    savepoint: bool,
) -> Counts:
    """Merge by the database's own way if it has one, else row by row; with a `savepoint` a failure undoes itself alone.

    Raises:
        RowByRow: it must go row by row, and there is no savepoint to go back to.
    """

    def attempt() -> contextlib.AbstractAsyncContextManager[Any]:
        return connection.begin_nested() if savepoint else contextlib.nullcontext()

    if batch.columns is not None and on_conflict != "error":
        kept_in = revisions.revisions_of(connection, shape.table)
        merge = Merge(shape.table, shape.key, batch.columns, on_conflict, kept_in, wants_verdicts)
        with contextlib.suppress(*[RowByRow] if savepoint else []):
            async with attempt():
                return await merge_columns(connection, merge)
    async with attempt():
        rows = batch.rows if batch.columns is None else batch.columns.to_pylist()
        return await merge_rows(connection, shape, rows, on_conflict)


async def _check(
    session: AsyncSession,
    rows: Rows,
    shape: Shape,
    *,
    as_columns: bool = False,
    is_checked: bool = False,
    **rules: Any,
) -> Batch:
    """Check a batch against what the session's database can store, without holding up the event loop.

    It comes back `as_columns`, if that is allowed and every row has the same ones; the rules are those of `check`.
    """
    rules["exact_decimals"] = dialects.for_session(session).exact_decimals
    if as_columns or speaks_arrow(rows):
        await loaded()

    def work() -> Batch:
        given = materialised(rows)
        if not as_columns:
            return check(given, shape, is_checked=is_checked, **rules)
        from traderrr_data.bulk import columns  # noqa: PLC0415 - loaded only where Arrow is used

        is_list = isinstance(given, Sequence) or given is not rows
        if is_list and not is_checked and len(given) >= _COLUMNS_FROM:
            with contextlib.suppress(*columns.UNDECIDED):
                return columns.check(given, shape, **rules)
        batch = check(given, shape, is_checked=is_checked, **rules)
        with contextlib.suppress(*columns.UNDECIDED):
            batch.columns = columns.of_rows(batch.rows, shape)
        return batch

    few = isinstance(rows, Sized) and len(rows) <= _CHECKED_INLINE
    return work() if few else await asyncio.to_thread(work)


def _takes_columns(session: AsyncSession, on_conflict: str) -> bool:
    dialect = dialects.for_session(session)
    speaks = dialect.merge_columns is not None and session.get_bind().dialect.driver == dialect.merge_driver
    return speaks and on_conflict != "error"


def _check_word(name: str, word: object, known: Sequence[str]) -> None:
    if not isinstance(word, str) or word not in known:
        raise ConfigurationError(f"{name} is one of {', '.join(known)}, not {shown(word)}")


async def _connection(session: AsyncSession) -> AsyncConnection:
    await session.flush()  # objects that the caller has added count as stored
    return await session.connection()


def _account(counts: Counts, batch: Batch) -> dict[str, Any]:
    return {
        "inserted": counts.inserted,
        "updated": counts.updated,
        "unchanged": counts.unchanged,
        "skipped": counts.skipped + len(batch.dropped),
        "duplicates": batch.duplicates,
        "rejected": tuple(batch.rejected),
    }
