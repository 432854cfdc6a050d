"""Run Alembic on the migrations that the package brings along, once at a time."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncEngine

from traderrr_data import dialects
from traderrr_data.dialects import Waits
from traderrr_data.errors import ConfigurationError, SchemaMismatchError, TransactionConflictError

_ALEMBIC = threading.Lock()
_holders: list[int] = []  # the thread that holds it
_LOCK_POLL = 0.05  # seconds


def _folder() -> Path:
    """Return where the migrations are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def new_config() -> Config:
    """Return Alembic's configuration, which writes to nobody's terminal."""
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    return config


def scripts() -> ScriptDirectory:
    """Return the migrations."""
    return ScriptDirectory.from_config(new_config())


async def run(engine: AsyncEngine, action: Callable[[Config], None], waits: Waits) -> None:
    """Run one of Alembic's commands, through a connection of the engine's.

    Raises:
        SchemaMismatchError: Alembic refuses it.
        TransactionConflictError: another migration, of this process or another, did not end in time.
    """
    deadline = time.monotonic() + waits.lock_timeout

    def act(connection: sa.Connection) -> None:
        config = new_config()
        left = max(0.0, deadline - time.monotonic())
        options = {dialects.MIGRATION_WAITS: replace(waits, lock_timeout=left)}
        config.attributes["connection"] = connection.execution_options(**options)
        action(config)

    try:
        async with _alone_in_this_process(waits.lock_timeout), engine.connect() as connection:
            await connection.run_sync(act)
    except CommandError as error:
        raise SchemaMismatchError(str(error)) from error


@contextlib.asynccontextmanager
async def _alone_in_this_process(lock_timeout: float) -> AsyncIterator[None]:
    """Run Alembic once at a time, also in other tasks and threads: what it works on is a global (`alembic.context`)."""
    deadline = time.monotonic() + lock_timeout
    while not _ALEMBIC.acquire(blocking=False):
        if time.monotonic() >= deadline:
            raise TransactionConflictError(
                f"nothing was changed: another migration of this process was under way for {lock_timeout:g} s"
            )
        await asyncio.sleep(_LOCK_POLL)  # an event would belong to one loop
    with _held_by_this_thread():
        yield


@contextlib.contextmanager
def alone_without_waiting() -> Iterator[None]:
    """Do the same where nothing can be awaited: other threads are waited for, this one's event loop cannot be."""
    if _holders == [threading.get_ident()]:
        raise ConfigurationError("a migration is under way in this thread's event loop: await its end first")
    _ALEMBIC.acquire()
    with _held_by_this_thread():
        yield


@contextlib.contextmanager
def _held_by_this_thread() -> Iterator[None]:
    _holders.append(threading.get_ident())
    try:
        yield
    finally:
        _holders.clear()
        _ALEMBIC.release()
