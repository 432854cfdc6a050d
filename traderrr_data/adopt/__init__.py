"""Taking over a file of the old application, in place, without losing a row.

The old code goes on reading and writing the file until its owner ends the changeover.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from traderrr_data import schema
from traderrr_data.adopt.head import Head, head_of
from traderrr_data.adopt.report import AdoptionReport, TableReport
from traderrr_data.adopt.work import LOCK_TIMEOUT, CancelledWorkError, Work
from traderrr_data.adopt.zones import zone_of_name
from traderrr_data.errors import ConfigurationError
from traderrr_data.models.types import Timeframe

__all__ = ["AdoptionReport", "TableReport", "adopt"]


async def adopt(
    path: str | os.PathLike[str],
    *,
    timezone: str | None = None,
    timeframe: str = "unknown",
    user: int | None = None,
    dry_run: bool = False,
    finish: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
    progress: Callable[[str, float], None] | None = None,
) -> AdoptionReport:
    """Bring a file of the old application to the newest schema, in place; commits, all or nothing.

    A copy is made beside it first. Every row becomes a row of our tables or one of the table `adoption_rejects`. Run
    again, it does nothing. Cancelled, it leaves the file as it was.

    Args:
        path: the SQLite file.
        timezone: the zone (IANA) of intraday instants without an offset, which is asked for where there are any, and
            of metadata.last_updated, this machine's if None.
        timeframe: the length of the intraday bars, which the old tables do not say.
        user: whose positions, signals and performance are kept, in a file with those of several users.
        dry_run: only look, and change not one byte.
        finish: also end the changeover: all checks, no triggers for the old code, a write-ahead log.
        lock_timeout: seconds to wait for other programs that use the file.
        progress: called in this event loop with each step's name and which part of the work is behind it, from 0 to 1.

    Raises:
        ConfigurationError: it is no SQLite file, it is damaged or read-only, or its owner has to decide something
            first; the message says what.
        SchemaMismatchError: it was adopted by another version, or triggers or foreign keys of others do not allow it.
        TransactionConflictError: another process did not let go of it.
        DatabaseUnavailableError: there is no room, or it cannot be read.
    """
    try:
        canonical = Timeframe().coerce(timeframe)
    except ValueError as error:
        raise ConfigurationError(f"timeframe: {error}") from None
    zone = None if timezone is None else zone_of_name(timezone)
    loop = asyncio.get_running_loop()

    def step(name: str, done: float) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress, name, done)

    work = Work(
        path,
        await asyncio.to_thread(_head),
        timezone=zone,
        timeframe=canonical,
        user=user,
        dry_run=dry_run,
        finish=finish,
        lock_timeout=lock_timeout,
        step=step,
    )
    return await _in_a_thread(work)


async def _in_a_thread(work: Work) -> AdoptionReport:
    """Run the work beside the event loop; a cancellation stops it, and waits until it has undone everything."""
    with ThreadPoolExecutor(1, "adopt") as pool:
        running = asyncio.get_running_loop().run_in_executor(pool, work.run)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            work.stop()
            while not running.done():
                try:
                    await asyncio.wait([running])
                except asyncio.CancelledError:
                    continue
            if not isinstance(running.exception(), CancelledWorkError):
                running.result()
            raise


@functools.cache
def _head() -> Head:
    return head_of(schema.sql(sa.make_url("sqlite://")))
