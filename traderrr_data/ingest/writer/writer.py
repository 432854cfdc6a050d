"""Rows of live feeds, one at a time from many callers, written a group at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import stamina

from traderrr_data import schema
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import CommitOutcomeUnknownError, ConfigurationError, TraderrrDataError
from traderrr_data.ingest.writer.accepted import Acceptance, Accepted, Outcome
from traderrr_data.ingest.writer.backlog import Backlog
from traderrr_data.ingest.writer.spill import Spill
from traderrr_data.ingest.writer.store import Fate, store
from traderrr_data.models import DailyData, IntradayData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriterStatus:
    """The counters of a writer; accepted is the sum of the six that follow it.

    Attributes:
        accepted: rows taken in, those that were found in the spill among them.
        written: inserted or updated.
        unchanged: stored bars that already read as the row.
        skipped: kept back, since the stored bar is final or was observed later.
        duplicates: overtaken by a newer row of `put` with the same key, before they were written.
        rejected: refused by the database.
        pending: not written yet, in memory or in the spill.
        last_error: what went wrong last, be it long ago; None if nothing ever did.
    """

    accepted: int
    written: int
    unchanged: int
    skipped: int
    duplicates: int
    rejected: int
    pending: int
    last_error: Exception | None


class UnwrittenRowsError(TraderrrDataError):
    """A writer was closed before it could write all rows that it had accepted, and they are stored nowhere.

    Attributes:
        rows: all of them, in the order of arrival; `upsert_daily` and `upsert_intraday` take them.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = tuple(rows)
        super().__init__(f"{len(self.rows)} accepted rows were not written")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, which would otherwise hand over the message."""
        return (UnwrittenRowsError, (self.rows,))


class WriterStoppedError(TraderrrDataError):
    """A writer met an error that neither passes nor is the fault of one row, its cause; it takes no more rows."""


def bar_writer(
    db: DatabaseManager,
    *,
    timeframe: str | None = None,
    series: str = "",
    allow_inconsistent: bool = False,
    max_delay: float = 0.25,
    max_rows: int = 500,
    max_pending: int = 10_000,
    drain_timeout: float = 30.0,
    spill: str | Path | None = None,
) -> BarWriter:
    """Return a writer for live feeds, daily and intraday bars alike; use it by ``async with``.

    Args:
        db: the database; the writer uses one connection of its pool at a time.
        timeframe: of intraday rows that do not name one; a row that names another is refused. None where each says it.
        series: of rows that do not name one; if it is not empty, a row that names another is refused.
        allow_inconsistent: store bars whose prices are out of order, as they were sent.
        max_delay: seconds after which a row of `BarWriter.put` is written, though few others have come.
        max_rows: of one transaction; so many are written without delay.
        max_pending: rows that wait in memory; when there are as many, `put` and `write` wait, or use the spill.
        drain_timeout: seconds that the end of the block waits for the database.
        spill: a file for rows that memory has no room for, and for durable ones. It belongs to this one writer.

    Raises:
        ConfigurationError: a limit is not above zero.
        InvalidRowError: there is no such timeframe, or no series can have this name.
    """
    limits = {"max_delay": max_delay, "max_rows": max_rows, "max_pending": max_pending}
    for name, limit in limits.items():
        if limit <= 0:
            raise ConfigurationError(f"{name} must be above zero, not {limit}")
    acceptance = Acceptance(
        timeframe=timeframe,
        series=series,
        exact_decimals=db.dialect.exact_decimals,
        allow_inconsistent=allow_inconsistent,
    )
    return BarWriter(
        db,
        acceptance,
        max_delay=max_delay,
        max_rows=max_rows,
        max_pending=max_pending,
        drain_timeout=drain_timeout,
        spill=None if spill is None else Path(spill),
    )


class BarWriter:
    """What `bar_writer` returns: takes rows from any number of tasks, and writes them in the order of arrival.

    A row is a mapping as for `upsert_daily` or `upsert_intraday`, or an object of the model. One with a ``datetime`` is
    intraday, any other daily.
    """

    def __init__(
        self,
        db: DatabaseManager,
        acceptance: Acceptance,
        *,
        max_delay: float,
        max_rows: int,
        max_pending: int,
        drain_timeout: float,
        spill: Path | None,
    ) -> None:
        self._db = db
        self._acceptance = acceptance
        self._max_delay, self._max_rows, self._max_pending = max_delay, max_rows, max_pending
        self._drain_timeout = drain_timeout
        self._spill_path = spill
        self._spill: Spill | None = None
        self._backlog: Backlog | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # a group is done; a new one for each
        self._outage = asyncio.Event()
        self._waiting_since = 0.0
        self._flush_to = 0
        self._closing = False
        self._failure: WriterStoppedError | None = None
        self._unwritten: UnwrittenRowsError | None = None
        self._fates: Counter[str] = Counter()
        self._refused: TraderrrDataError | None = None  # the first since the last flush that nobody waited for
        self._refusals = 0
        self._last_error: Exception | None = None

    async def __aenter__(self) -> Self:
        """Open the spill, if there is to be one; the rows in it are written before any new ones.

        Raises:
            ConfigurationError: the spill belongs to another writer, or cannot be opened.
            SpillError: it is not a spill, comes from a newer version, or is damaged; it was not changed.
        """
        if self._backlog is not None:
            raise ConfigurationError("a writer is used once: make a new one")
        if self._spill_path is not None:
            self._spill = await asyncio.to_thread(_open_spill, self._spill_path)
        self._backlog = Backlog(self._acceptance, max_pending=self._max_pending, spill=self._spill)
        self._task = asyncio.create_task(self._run(self._backlog))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Write what was accepted, also after an error or a cancellation of the block.

        If the database is away, the rows are brought into the spill, at once. Without one it is waited for, for
        `drain_timeout` at most.

        Raises:
            UnwrittenRowsError: there is no spill, or it cannot be written, and the database stayed away.
            WriterStoppedError: the writer had stopped; its rows are in the spill.
            ConstraintViolationError: as `flush`.
            (An error of the block itself goes on in their place, with a note; `unwritten` has the rows.)
        """
        backlog = self._opened()
        backlog.refuse(ConfigurationError("the writer is closed"))
        self._closing = True
        backlog.changed.set()
        try:
            await self._drain(backlog)
        finally:
            await _uncancelled(self._stop(backlog))
        problem = self._unwritten or self._failure
        if kind is None and problem is not None:
            raise problem from self._last_error
        if kind is None:
            self._report()
        elif error is not None and problem is not None:
            error.add_note(str(problem))

    @property
    def status(self) -> WriterStatus:
        """The counters, now."""
        backlog, fates = self._opened(), self._fates
        return WriterStatus(
            accepted=backlog.accepted,
            written=fates["inserted"] + fates["updated"],
            unchanged=fates["unchanged"],
            skipped=fates["skipped"],
            duplicates=fates["duplicate"],
            rejected=fates["rejected"],
            pending=backlog.accepted - backlog.settled,
            last_error=self._last_error,
        )

    @property
    def unwritten(self) -> tuple[Mapping[str, Any], ...]:
        """After the end of the block: the rows that were accepted and are stored nowhere, as `UnwrittenRowsError`."""
        return () if self._unwritten is None else self._unwritten.rows

    async def put(self, row: Mapping[str, Any] | DailyData | IntradayData, *, durable: bool = False) -> None:
        """Accept a row, to be written soon; wait while `max_pending` rows are unwritten, unless there is a spill.

        Cancelled while it waits, the row may be accepted or not.

        Args:
            row: of a bar.
            durable: return only when the row is in the spill and would survive a power failure.

        Raises:
            InvalidRowError: the row cannot be stored; it was not accepted.
            ConfigurationError: the writer is closed, or has no spill for a durable row.
            SpillError: the spill cannot be written; the row was not accepted.
            WriterStoppedError: the writer has stopped.
        """
        backlog = self._opened()
        if durable and self._spill is None:
            raise ConfigurationError("a durable row needs a spill: bar_writer(..., spill=PATH)")
        await self._accept(backlog, self._acceptance.check(row), durable=durable)

    async def write(self, row: Mapping[str, Any] | DailyData | IntradayData) -> Outcome:
        """Write a row and return what became of it, after the COMMIT of the transaction that holds it.

        Calls that arrive while one transaction runs go together into the next. During an outage the call waits; it may
        be limited by ``asyncio.timeout``. Cancelled, the row may be stored or not. After a COMMIT of unknown outcome
        the row is written again, and one that the first COMMIT stored is then "unchanged".

        Raises:
            InvalidRowError: the row cannot be stored; nothing was written.
            ConstraintViolationError: the database refuses the row; the others of its transaction are stored.
            CommitOutcomeUnknownError: the writer was closed meanwhile, and the row is in the spill.
            UnwrittenRowsError: the writer was closed while the database was away.
            ConfigurationError, SpillError, WriterStoppedError: as `put`.
        """
        backlog = self._opened()
        accepted = self._acceptance.check(row)
        accepted.caller = asyncio.get_running_loop().create_future()
        await self._accept(backlog, accepted, durable=False)
        return await accepted.caller

    async def flush(self) -> None:
        """Return when everything that was accepted before is in the database.

        Raises:
            ConstraintViolationError: the database refused rows of `put` since the last `flush`; this is the first
                one's error, and a note counts the others.
            InvalidRowError: the same, of rows in the spill that cannot be stored any more.
            WriterStoppedError: the writer has stopped.
        """
        backlog = self._opened()
        target = backlog.accepted
        self._flush_to = max(self._flush_to, target)
        backlog.changed.set()
        while backlog.settled < target:
            if self._failure is not None:
                raise self._failure
            await self._settled.wait()
        self._report()

    def _opened(self) -> Backlog:
        if self._backlog is None:
            raise ConfigurationError("the writer is not open: use it by `async with`")
        return self._backlog

    async def _accept(self, backlog: Backlog, row: Accepted, *, durable: bool) -> None:
        if not backlog.waiting:
            self._waiting_since = asyncio.get_running_loop().time()
        await backlog.add(row, durable=durable)
        waiting = len(backlog.waiting)
        if waiting <= 1 or waiting >= self._max_rows or row.caller is not None or backlog.is_full:
            backlog.changed.set()

    def _report(self) -> None:
        refused, count = self._refused, self._refusals
        self._refused, self._refusals = None, 0
        if refused is not None:
            if count > 1:
                refused.add_note(f"{count - 1} further rows were refused")
            raise refused

    async def _run(self, backlog: Backlog) -> None:
        """Write one group after the other, until the writer is closed and nothing is left."""
        try:
            while await self._next(backlog):
                rows = backlog.in_flight
                flawless = [row for row in rows if row.flaw is None]
                stored = iter(await self._store(flawless) if flawless else ())
                fates = [next(stored) if row.flaw is None else row.flaw for row in rows]
                await backlog.settle(fates)
                self._count(rows, fates)
        except Exception as error:
            # Neither does it pass nor is one row to blame: every further row would meet it, too.
            logger.exception("the writer has stopped")
            self._last_error = error
            self._failure = WriterStoppedError(f"the writer has stopped: {type(error).__name__}: {error}")
            self._failure.__cause__ = error
            backlog.refuse(self._failure)
            backlog.end_waiting(self._failure)
            self._settled.set()

    async def _next(self, backlog: Backlog) -> bool:
        """Wait for rows that are due and put them in flight; False if there will be none."""
        while not backlog.in_flight:
            backlog.changed.clear()
            patience = None
            if backlog.waiting:
                patience = self._patience(backlog)
            elif backlog.in_spill:
                patience = 0
            elif self._closing and backlog.is_empty:
                return False
            if patience is not None and patience <= 0:
                await backlog.take(self._max_rows)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await backlog.changed.wait()
        return True

    def _patience(self, backlog: Backlog) -> float:
        """Return for how many seconds the rows in memory may wait for others."""
        is_due = (
            self._closing
            or backlog.callers_waiting
            or backlog.is_full
            or len(backlog.waiting) >= self._max_rows
            or backlog.settled < self._flush_to
        )
        return 0 if is_due else self._waiting_since + self._max_delay - asyncio.get_running_loop().time()

    async def _store(self, rows: Sequence[Accepted]) -> Sequence[Fate]:
        """Store rows in one transaction, however long the database is away."""

        def may_pass(error: Exception) -> bool:
            passes = isinstance(error, CommitOutcomeUnknownError) or getattr(error, "retryable", False)
            if passes:
                self._last_error = error
                self._outage.set()
            return passes

        pauses = {"wait_initial": 0.05, "wait_max": 5.0, "wait_jitter": 0.1}
        async for attempt in stamina.retry_context(on=may_pass, attempts=None, timeout=None, **pauses):
            with attempt:
                fates = await store(self._db, rows)
                self._outage.clear()
                return fates
        raise AssertionError("stamina ends with a result or an error")

    def _count(self, rows: Sequence[Accepted], fates: Sequence[Fate]) -> None:
        for row, fate in zip(rows, fates, strict=True):
            if not isinstance(fate, TraderrrDataError):
                self._fates[fate] += 1
                continue
            self._fates["rejected"] += 1
            self._last_error = fate
            fate.add_note(f"the row of {row.shape.table.name}: {row.values}")
            if row.is_unattended:
                logger.error("%s refused %s: %s", row.shape.table.name, row.values, fate)
                self._refused = self._refused or fate
                self._refusals += 1
        settled, self._settled = self._settled, asyncio.Event()
        settled.set()

    async def _drain(self, backlog: Backlog) -> None:
        """Let the task write what is left; with a spill, only until the database is found away."""
        if self._task is None or self._failure is not None:
            return
        if self._task.cancelled():  # by whoever cancels all tasks
            self._task = asyncio.create_task(self._run(backlog))
        outage = asyncio.create_task(self._outage.wait())
        ends = [self._task] if self._spill is None else [self._task, outage]
        try:
            await asyncio.wait(ends, timeout=self._drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outage.cancel()

    async def _stop(self, backlog: Backlog) -> None:
        """Stop the task, and keep what it has not written."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if left := await backlog.keep():
            self._unwritten = UnwrittenRowsError([row.values for row in left])
            logger.error("%s", self._unwritten)
        elif not backlog.is_empty:
            logger.warning("%d rows are kept in the spill %s", self.status.pending, self._spill_path)
        backlog.end_waiting(
            self._unwritten
            or CommitOutcomeUnknownError("the writer was closed: the row is in its spill, and the next one writes it")
        )
        if self._spill is not None:
            await asyncio.to_thread(self._spill.close)


async def _uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work that must not end half-done; a cancellation takes effect behind it."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


def _open_spill(path: Path) -> Spill:
    known = [revision.revision for revision in schema.history()]
    return Spill(path, revision=schema.head(), known_revisions=known)
