"""How MySQL and MariaDB take a batch: into a staging table, and a merge of what is new or differs.

A large batch is loaded straight into its table if no stored key lies between its keys. Otherwise of each piece of a
batch the rows that are absent are inserted first, in the order of their keys, and then those that differ are locked in
that order: two writers of the same rows wait for each other, and do not deadlock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Counts, Merge, RowByRow, Verdict
from traderrr_data.dialects.mysql import statements as sql
from traderrr_data.dialects.mysql.carrier import Carrier, Piece, backslash_escapes, limits_of, made, run
from traderrr_data.dialects.mysql.facts import ends_transaction

_ROWS_A_PIECE = 20_000
_BYTES_A_PIECE = 8 << 20
_ATTEMPTS = 5
_MOST_RUNS = 500
_NO_SUCH_INDEX = 1176


async def merge_columns(connection: AsyncConnection, merge: Merge) -> Counts:
    """Merge checked columns into their table."""
    if not merge.columns.num_rows:
        return Counts(verdicts=[] if merge.wants_verdicts else None)
    pooled = await connection.get_raw_connection()
    driver: Any = pooled.driver_connection
    try:
        limits = await limits_of(driver, pooled.info)
        rows = merge.columns.num_rows
        make = partial(sql.Statements, merge, heap=limits.heap_for(rows), backslash_escapes=backslash_escapes(driver))
        statements = await made(rows, make)
        return await _Work(merge, statements, Carrier(driver, limits, statements)).run()
    except Exception as error:
        if ends_transaction(error):
            await connection.invalidate(error)  # the savepoints are gone, too
        elif not driver.closed:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                await run(driver, [sql.DROP.encode()])
        if error.args[:1] == (_NO_SUCH_INDEX,):
            raise RowByRow from error  # a newer revision has renamed the index that the statements name
        raise


class _Found(NamedTuple):
    """The rows of a piece that are not stored as they were given."""

    absent: int
    different: int
    absent_rows: Sequence[int]  # known where they are asked for


class _Locked(NamedTuple):
    """What the rows that were different are by the time that they are locked."""

    stored: int = 0
    updated: int = 0
    outranked: int = 0
    verdicts: Sequence[tuple[int, Verdict]] = ()  # known where they are asked for


class _Work:
    """One batch on its way."""

    def __init__(self, merge: Merge, statements: sql.Statements, carrier: Carrier) -> None:
        self._merge = merge
        self._sql = statements
        self._carrier = carrier
        # INSERT ... SELECT takes more ids than it inserts rows: rows that get an id are sent once more.
        self._has_ids = merge.table.autoincrement_column is not None

    async def run(self) -> Counts:
        columns = self._merge.columns
        total = Counts(verdicts=[] if self._merge.wants_verdicts else None)
        bytes_a_row = columns.nbytes // columns.num_rows + 1
        step = max(1, min(_ROWS_A_PIECE, _BYTES_A_PIECE // bytes_a_row))
        if await self._load(step):
            every: list[Verdict] = ["inserted"] * columns.num_rows
            return Counts(inserted=len(every), verdicts=every if self._merge.wants_verdicts else None)
        step = min(step, self._sql.rows_that_fit)
        async with contextlib.aclosing(self._carrier.pieces(columns, step)) as pieces:
            async for piece in pieces:
                counts = await self._merge_piece(piece)
                total.inserted += counts.inserted
                total.updated += counts.updated
                total.unchanged += counts.unchanged
                total.skipped += counts.skipped
                if total.verdicts is not None:
                    total.verdicts += counts.verdicts or []
        return total

    async def _load(self, step: int) -> bool:
        """Load the batch straight into its table; False, with nothing done, if any stored key lies between its keys.

        One writer at a time: a load that meets another writer's new row keeps a shared lock on it, and of two that do
        neither could change it (https://bugs.mysql.com/bug.php?id=35821). The look waits for rows that are not
        committed yet.
        """
        from traderrr_data.dialects.wire import runs  # noqa: PLC0415 - it loads numpy

        columns = self._merge.columns
        if self._has_ids or not self._carrier.loads(columns.num_rows):
            return False
        found = await asyncio.to_thread(runs, columns, self._merge.key)
        if found.num_rows > _MOST_RUNS:
            return False
        async with self._carrier.alone() as is_alone:
            if not is_alone:
                return False
            [stored] = await self._carrier.run([self._sql.any_stored(found)])
            return not stored and await self._carrier.load_into_table(columns, step)

    async def _merge_piece(self, piece: Piece) -> Counts:
        """Merge one piece; again where another writer was in the way, whose rows can be seen by then."""
        ignores = self._merge.on_conflict == "ignore"
        counts = Counts(verdicts=["skipped" if ignores else "unchanged"] * piece.size)
        for attempt in range(_ATTEMPTS):
            found = await self._look(piece, again=attempt > 0)
            if found.different and self._merge.on_conflict == "repeat":
                raise RowByRow
            undisturbed = await self._settle(piece, found, counts)
            if undisturbed or ignores:
                rest = piece.size - counts.inserted - counts.updated - counts.skipped
                counts.skipped, counts.unchanged = (rest, 0) if ignores else (counts.skipped, rest)
                return counts
        raise RowByRow

    async def _look(self, piece: Piece, *, again: bool) -> _Found:
        """Bring the piece to the server, and ask what of it is absent or differs."""
        lists = self._merge.wants_verdicts or self._has_ids
        listing = [sql.SET_ABSENT, sql.list_absent(piece.size)] if lists else []
        staging = await self._carrier.stage(piece)
        results = await self._carrier.run([*staging, self._sql.find(again=again), *listing, sql.COUNT_FOUND])
        absent, different = map(int, results[-1][0])
        if not lists:
            return _Found(absent, different, ())
        return _Found(absent, different, range(absent) if absent == piece.size else [n for (n,) in results[-2]])

    async def _settle(self, piece: Piece, found: _Found, counts: Counts) -> bool:
        """Insert and overwrite what was found, and tell whether no other writer was in the way."""
        inserts = await self._inserts(piece, found) if found.absent else []
        changes = self._sql.changes(listed=self._merge.wants_verdicts) if found.different else []
        results = await self._carrier.run([*inserts, *changes, sql.DROP])
        ((met, met_rows),) = results[len(inserts) - 1] if inserts else ((0, ""),)
        if met and self._has_ids and self._merge.wants_verdicts:
            raise RowByRow  # which ones is not known
        locked = self._judged(results[len(inserts)]) if changes else _Locked()
        counts.inserted += found.absent - met
        counts.updated += locked.updated
        counts.skipped = locked.outranked  # those of an earlier look were found again
        assert counts.verdicts is not None  # noqa: S101 - for the type checker
        for number in set(found.absent_rows).difference(map(int, met_rows.split())):
            counts.verdicts[number] = "inserted"
        for number, verdict in locked.verdicts:
            counts.verdicts[number] = verdict
        return met == 0 and locked.stored == found.different

    async def _inserts(self, piece: Piece, found: _Found) -> list[str | bytes]:
        """Return what inserts the absent rows; the last one tells how many another writer has inserted meanwhile."""
        if self._has_ids:
            inserts = await self._carrier.inserts(piece.rows.take(list(found.absent_rows)))
            return [sql.SET_MET, *inserts, sql.MET]
        return [sql.SET_MET, self._sql.insert_staged(all_absent=found.absent == piece.size), sql.MET]

    def _judged(self, rows: Sequence[Any]) -> _Locked:
        if not self._merge.wants_verdicts:
            ((stored, different, outranked),) = rows
            return _Locked(stored, int(different) - int(outranked), int(outranked))
        changed: list[tuple[int, Verdict]] = [
            (number, "skipped" if outranked else "updated") for number, different, outranked in rows if different
        ]
        kept_back = sum(verdict == "skipped" for _, verdict in changed)
        return _Locked(len(rows), len(changed) - kept_back, kept_back, changed)
