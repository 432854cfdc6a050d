"""A process that writes units of work, in every way there is, and tells what it was told of each.

``python -m tests.soak.worker URL SPILL NAME SEED [drain]``; with ``drain`` it only writes what the spill holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import signal
import sys
from typing import Final

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from tests.soak.units import ENDED, NOTHING, Unit
from traderrr_data import (
    CommitOutcomeUnknownError,
    DatabaseManager,
    Settings,
    TraderrrDataError,
    market_data,
    trading,
)
from traderrr_data.ingest import BarWriter, bar_writer

TASKS: Final = 8
WAYS: Final = ("session", "both", "run", "run_once", "write", "put")
CANCELLED: Final = 0.1  # of all units
REPLACED: Final = 0.02
LARGE: Final = 3_000  # bars: by COPY, LOAD DATA or pieces
REVISED: Final = 0.1  # of all processes: in hours, the versions of what was replaced would fill a disk


class Worker:
    """The tasks of one process, and what they share."""

    def __init__(self, db: DatabaseManager, writer: BarWriter, name: str, chance: random.Random) -> None:
        self.db = db
        self.writer = writer
        self.name = name
        self.chance = chance
        self.numbers = itertools.count(1)
        self.replaceable: list[str] = []  # large batches that were acknowledged

    async def session(self, unit: Unit) -> None:
        """Write a bar; nothing is tried again."""
        async with self.db.session_context() as session:
            await market_data.upsert_daily(session, unit.bar_rows())

    async def both(self, unit: Unit) -> None:
        """Write into two tables."""
        async with self.db.session_context() as session:
            await trading.add_signals(session, unit.signal_rows())
            await market_data.upsert_daily(session, unit.bar_rows())

    async def replace(self, unit: Unit) -> None:
        """Write a large batch in the place of another one."""
        async with self.db.session_context() as session:
            if unit.replaces != NOTHING:
                removed = await market_data.delete_daily(session, unit.replaces)
                if removed != LARGE:
                    raise AssertionError(f"{unit.replaces} had {removed} bars, not {LARGE}")
            await market_data.upsert_daily(session, unit.bar_rows())
        self.replaceable.append(unit.name)

    async def run(self, unit: Unit) -> None:
        """Write what may be repeated, after an unknown outcome, too: the bars by their key, the signals by one made."""
        signals = [row | {"dedupe_key": f"{unit.name}/{number}"} for number, row in enumerate(unit.signal_rows())]

        async def work(session: AsyncSession) -> None:
            await market_data.upsert_daily(session, unit.bar_rows())
            await trading.add_signals(session, signals)

        await self.db.run(work, retries=5, idempotent=True)

    async def run_once(self, unit: Unit) -> None:
        """Write what must not be repeated after an unknown outcome."""
        await self.db.run(lambda session: trading.add_signals(session, unit.signal_rows()), retries=5)

    async def write(self, unit: Unit) -> None:
        """Wait for the COMMIT of a writer."""
        await self.writer.write(unit.bar_rows()[0])

    async def put(self, unit: Unit) -> None:
        """Trust the file of a writer."""
        await self.writer.put(unit.bar_rows()[0], durable=True)

    def next_unit(self) -> Unit:
        """Return a unit of a way at random."""
        name, few = f"{self.name}.{next(self.numbers)}", self.chance.randrange(1, 30)
        if self.chance.random() < REPLACED:
            return Unit(name, "replace", bars=LARGE, replaces=self.replaceable.pop() if self.replaceable else NOTHING)
        match self.chance.choice(WAYS):
            case "both" | "run" as kind:
                return Unit(name, kind, bars=few, signals=few)
            case "run_once" as kind:
                return Unit(name, kind, signals=few)
            case kind:
                return Unit(name, kind, bars=1)

    async def attempt(self, unit: Unit) -> None:
        """Do one unit of work, and tell what became of it; an error that no fault explains ends the process."""
        tell(unit.line("attempted"))
        patience = self.chance.random() / 10 if self.chance.random() < CANCELLED else None
        try:
            async with asyncio.timeout(patience):
                await getattr(self, unit.kind)(unit)
        except CommitOutcomeUnknownError:
            tell(unit.line("unknown"))
        except TimeoutError:
            tell(unit.line("cancelled"))
        except asyncio.CancelledError:
            tell(unit.line("cancelled"))
            raise
        except TraderrrDataError as error:
            if not error.retryable:
                raise
            # The last attempt failed; an earlier one, after whose unknown outcome there was another, may be stored.
            tell(unit.line("unknown" if unit.kind == "run" else "failed"))
        else:
            tell(unit.line("acknowledged"))
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise AssertionError(f"{unit} went on though its task was told to end")

    async def work(self) -> None:
        """Do one unit after the other; nobody who was killed is survived by his workers."""
        parent = os.getppid()
        while os.getppid() == parent:
            await asyncio.sleep(self.chance.random() / 5)
            await self.attempt(self.next_unit())


def tell(line: str) -> None:
    """Write a line to the recorder, before anything else can happen."""
    os.write(sys.stdout.fileno(), line.encode())


async def work_until_told_to_end(worker: Worker) -> None:
    """Return after SIGTERM, when every task has been cancelled."""
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(TASKS):
                tasks.create_task(worker.work())


async def main(url: str, spill: str, name: str, seed: str, *, drain: bool) -> None:
    """Work until SIGTERM, and end in good order."""
    chance = random.Random(f"{seed}/{name}")  # noqa: S311 - it can be done again
    settings = Settings(
        database_url=SecretStr(url),
        db_connect_timeout=3,
        db_statement_timeout=2,
        db_revisions_daily=chance.random() < REVISED,
    )
    async with DatabaseManager(settings) as db:
        async with bar_writer(db, spill=spill, max_delay=0.02) as writer:
            if drain:
                await writer.flush()
            else:
                await work_until_told_to_end(Worker(db, writer, name, chance))
        if writer.status.rejected:
            raise AssertionError(f"the writer says that rows are wrong: {writer.status.last_error}")
        if db.engine.pool.checkedout():  # type: ignore[attr-defined]
            raise AssertionError("a connection stayed checked out")
    tell(f"{ENDED} {name}\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started it
    logging.disable(logging.CRITICAL)  # faults are logged, as they should be
    asyncio.run(main(*sys.argv[1:5], drain=sys.argv[5:] == ["drain"]))
