"""What was accepted and is not settled yet, in the order of arrival: rows in memory, and behind them the spill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from traderrr_data.errors import InvalidRowError, TraderrrDataError
from traderrr_data.ingest.writer.accepted import Acceptance, Accepted, Outcome
from traderrr_data.ingest.writer.spill import Record, Spill
from traderrr_data.ingest.writer.store import Fate
from traderrr_data.session import to_its_end


class _Arrival(NamedTuple):
    """A row on its way into the spill, and who waits until it is there."""

    row: Accepted
    durable: bool
    in_file: asyncio.Future[None]


class Backlog:
    """Rows between their callers and the database; they leave it in the order in which they came.

    Rows wait in memory only while the spill holds none but those in flight. Otherwise each new row goes behind those
    in the spill, so that what is read back after a crash is in order, too.

    Args:
        acceptance: the rules for rows that come back from the spill.
        max_pending: how many rows may wait in memory.
        spill: where the others go; without one their callers wait.

    Attributes:
        accepted: how many rows came in, those that were found in the spill among them.
        settled: how many of them, counted from the first, have left.
        in_flight: the rows that are being written.
        waiting: the rows in memory behind them.
        callers_waiting: how many of these have a caller who waits for the outcome.
        in_spill: how many rows are in the spill only.
        refusal: why no more rows are taken in.
        changed: set when there may be something new to write, or nothing any more; whoever waits for it clears it.
    """

    def __init__(self, acceptance: Acceptance, *, max_pending: int, spill: Spill | None) -> None:
        self.accepted = self.in_spill = 0 if spill is None else spill.unwritten_rows
        self.settled = 0
        self.in_flight: Sequence[Accepted] = ()
        self.waiting: deque[Accepted] = deque()
        self.callers_waiting = 0
        self.refusal: TraderrrDataError | None = None
        self.changed = asyncio.Event()
        self._acceptance = acceptance
        self._room = asyncio.Semaphore(max_pending)
        self._holds_room = False
        self._spill = spill
        self._file = asyncio.Lock()  # of whoever is in a thread with the spill
        self._read_from = 0 if spill is None else spill.done
        self._callers: dict[int, asyncio.Future[Outcome]] = {}  # of rows in the spill, by the end of their record
        self._arrivals: list[_Arrival] = []
        self._diverting: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """No further row fits into memory."""
        return self._room.locked()

    @property
    def is_empty(self) -> bool:
        """Nothing is here, nor on its way into the spill."""
        return not (self.in_flight or self.waiting or self.in_spill or self._is_diverting)

    @property
    def _is_diverting(self) -> bool:
        return self._diverting is not None and not self._diverting.done()

    async def add(self, row: Accepted, *, durable: bool) -> None:
        """Take a row in; without a spill wait while there is no room for it.

        Raises:
            TraderrrDataError: the `refusal`; or a SpillError, and the row was not taken in.
        """
        if self.refusal is not None:
            raise self.refusal
        if self._spill is not None and (durable or self.in_spill or self._is_diverting or self.is_full):
            await self._divert(self._spill, row, durable=durable)
            return
        await self._room.acquire()
        if self.refusal is not None:
            self._room.release()  # wakes the next one who waits, and so on
            raise self.refusal
        self.waiting.append(row)
        self.callers_waiting += row.caller is not None
        self.accepted += 1

    def refuse(self, refusal: TraderrrDataError) -> None:
        """Take no more rows in; those who wait for room get the same answer."""
        self.refusal = refusal
        self._room.release()

    async def take(self, limit: int) -> None:
        """Put the next rows in flight, as many as may go in one batch; there must be one."""
        if self.waiting:
            self.in_flight = _batch(self.waiting, limit)
            self._holds_room = True
            for row in self.in_flight:
                self.waiting.popleft()
                self.callers_waiting -= row.caller is not None
        elif self._spill is not None:
            async with self._file:
                rows = await to_its_end(self._read, self._spill, limit)
                for row in rows:
                    row.caller = self._callers.get(row.end or 0)
                self.in_flight = _batch(rows, limit)
                self._holds_room = False
                for row in self.in_flight:
                    self._callers.pop(row.end or 0, None)
                self._read_from = self.in_flight[-1].end or 0
                self.in_spill -= len(self.in_flight)

    async def settle(self, fates: Sequence[Fate]) -> None:
        """Let the rows in flight go: each is in the database, or never will be."""
        rows = self.in_flight
        if self._spill is not None:
            async with self._file:
                await to_its_end(self._forget, self._spill, rows, fates)
        self.in_flight = ()
        self.settled += len(rows)
        for row, fate in zip(rows, fates, strict=True):
            if self._holds_room:
                self._room.release()
            if row.caller is not None and not row.caller.done():
                if isinstance(fate, TraderrrDataError):
                    row.caller.set_exception(fate)
                else:
                    row.caller.set_result(fate)

    async def keep(self) -> list[Accepted]:
        """Bring what is in memory into the spill, as to survive a power failure, and return what could not be kept."""
        if self._diverting is not None:
            await asyncio.wait([self._diverting])
        in_memory = [*(row for row in self.in_flight if row.end is None), *self.waiting]
        if self._spill is None or self.is_empty:
            return in_memory
        async with self._file:
            try:
                await to_its_end(self._append, self._spill, in_memory, sync=True)
            except TraderrrDataError:
                return in_memory
        return []

    def end_waiting(self, error: TraderrrDataError) -> None:
        """Let everyone who still waits for an outcome have this error."""
        callers = [row.caller for row in (*self.in_flight, *self.waiting)]
        for caller in (*callers, *self._callers.values()):
            if caller is not None and not caller.done():
                caller.set_exception(error)

    async def _divert(self, spill: Spill, row: Accepted, *, durable: bool) -> None:
        """Have a row written to the spill, together with those that arrive while the one before it is being written."""
        arrival = _Arrival(row, durable, asyncio.get_running_loop().create_future())
        self._arrivals.append(arrival)
        if not self._is_diverting:
            self._diverting = asyncio.create_task(self._take_arrivals(spill))
        await arrival.in_file

    async def _take_arrivals(self, spill: Spill) -> None:
        while self._arrivals:
            async with self._file:
                arrivals, self._arrivals = self._arrivals, []
                try:
                    await self._move_into(spill, arrivals)
                except Exception as error:
                    for arrival in arrivals:
                        if not arrival.in_file.done():
                            arrival.in_file.set_exception(error)
        self.changed.set()

    async def _move_into(self, spill: Spill, arrivals: Sequence[_Arrival]) -> None:
        """Write everything that is in memory to the spill, and the arrivals behind it."""
        flying = [row for row in self.in_flight if row.end is None]
        waited, self.waiting, self.callers_waiting = self.waiting, deque(), 0
        moved = [*waited, *(arrival.row for arrival in arrivals)]
        start = spill.end
        try:
            durable = any(arrival.durable for arrival in arrivals)
            ends = await to_its_end(self._append, spill, [*flying, *moved], sync=durable)
        except BaseException:
            self.waiting, self.callers_waiting = waited, sum(row.caller is not None for row in waited)
            raise
        for row, end in zip((*flying, *moved), ends, strict=True):
            row.end = end
        if self.in_spill == 0:
            self._read_from = ends[len(flying) - 1] if flying else start
        self._callers.update({row.end: row.caller for row in moved if row.caller is not None and row.end is not None})
        self.in_spill += len(moved)
        self.accepted += len(arrivals)
        for _ in waited:
            self._room.release()
        for arrival in arrivals:
            if not arrival.in_file.done():
                arrival.in_file.set_result(None)

    # What follows runs in a thread, one at a time.

    def _append(self, spill: Spill, rows: Sequence[Accepted], *, sync: bool) -> list[int]:
        return spill.append([(row.shape.table.name, row.values) for row in rows], sync=sync)

    def _read(self, spill: Spill, limit: int) -> list[Accepted]:
        return [self._accepted_again(record) for record in spill.read(self._read_from, limit)]

    def _accepted_again(self, record: Record) -> Accepted:
        try:
            row = self._acceptance.check_again(record.table, record.values)
        except InvalidRowError as flaw:
            return self._acceptance.flawed(record.table, record.values, record.end, flaw)
        row.end = record.end
        return row

    def _forget(self, spill: Spill, rows: Sequence[Accepted], fates: Sequence[Fate]) -> None:
        refused = [
            (row.shape.table.name, row.values, str(fate))
            for row, fate in zip(rows, fates, strict=True)
            if row.is_unattended and isinstance(fate, TraderrrDataError)
        ]
        if refused:
            spill.set_aside(refused)
        end = rows[-1].end
        if end is not None and (self.in_spill or self._arrivals):
            spill.mark_done(end, len(rows))
        elif end is not None:
            # Rows that wait in memory are newer, and go straight into the database from here on: these must never come
            # again.
            spill.clear()


def _batch(rows: Iterable[Accepted], limit: int) -> list[Accepted]:
    """Return the first rows, up to one that has to wait for another one with its key."""
    batch: list[Accepted] = []
    latest: dict[tuple[Any, ...], Accepted] = {}
    for row in islice(rows, limit):
        earlier = latest.get(row.key)
        if earlier is not None and not row.may_follow(earlier):
            break
        latest[row.key] = row
        batch.append(row)
    return batch
