"""What is special about SQLite under aiosqlite, and the hooks that make its transactions real."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sqlite3
import time
import weakref
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from traderrr_data.dialects.base import READ_ONLY, EngineOptions
from traderrr_data.errors import (
    ConfigurationError,
    ConstraintViolationError,
    DatabaseUnavailableError,
    DuplicateRowError,
    TraderrrDataError,
    TransactionConflictError,
)

logger = logging.getLogger(__name__)

_BUSY_TIMEOUT = 30.0  # seconds
_LONG_WRITE = 1.0  # seconds; every other writer waits as long
_JOURNAL_ATTEMPTS = 50
_FILE = "traderrr_data_file"
"""Which file a connection has open."""

_ERRORS: dict[int, type[TraderrrDataError]] = {
    sqlite3.SQLITE_BUSY: TransactionConflictError,
    sqlite3.SQLITE_LOCKED: TransactionConflictError,
    sqlite3.SQLITE_CONSTRAINT: ConstraintViolationError,
    sqlite3.SQLITE_TOOBIG: ConstraintViolationError,
    sqlite3.SQLITE_MISMATCH: ConstraintViolationError,
    sqlite3.SQLITE_CANTOPEN: DatabaseUnavailableError,
    sqlite3.SQLITE_IOERR: DatabaseUnavailableError,
    sqlite3.SQLITE_FULL: DatabaseUnavailableError,
    sqlite3.SQLITE_READONLY: ConfigurationError,
    sqlite3.SQLITE_NOTADB: ConfigurationError,
    sqlite3.SQLITE_CORRUPT: ConfigurationError,
}
_DUPLICATES = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}

_cleanups: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected before it ran


class _Connection(sqlite3.Connection):
    """A connection that can be rolled back after an interrupt.

    An interrupt lasts for as long as any statement has rows that nobody has fetched, and interrupts a ROLLBACK too
    (https://www.sqlite.org/c3ref/interrupt.html).
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        cursor = super().cursor(*arguments, **options)
        self._cursors.add(cursor)
        return cursor

    def give_up(self) -> None:
        """End all statements and the transaction."""
        for cursor in list(self._cursors):
            cursor.close()
        self.rollback()


def engine_arguments(url: sa.URL, options: EngineOptions) -> dict[str, Any]:
    """Return the arguments of ``create_engine``.

    A database in memory lives in its one connection, so sessions take turns on it, and it is gone with that
    connection, as when a task is cancelled during a statement.
    """
    pool = options.pool | {"pool_pre_ping": False, "pool_recycle": -1}
    if url.database in (None, "", ":memory:"):
        pool |= {"pool_size": 1, "max_overflow": 0}
    # isolation_level=None: the driver begins nothing by itself, `_begin` does. Otherwise SAVEPOINT, DDL and reads run
    # outside of the transaction (https://docs.python.org/3/library/sqlite3.html#transaction-control).
    arguments = {
        "isolation_level": None,
        "timeout": options.statement_timeout or _BUSY_TIMEOUT,
        "factory": _Connection,
        "async_creator_fn": _connect,
    }
    return {**pool, "connect_args": arguments}


def install(engine: sa.Engine, options: EngineOptions) -> None:
    """Put the hooks on one engine."""

    @event.listens_for(engine, "connect")
    def connect(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        _fetch(dbapi_connection, "PRAGMA foreign_keys=ON")
        if _fetch(dbapi_connection, "PRAGMA page_count") == 0:  # a file that nobody has written yet
            _set_journal_mode(dbapi_connection, options.journal_mode)

    if (path := engine.url.database or "").startswith("/"):
        _watch_the_file(engine, path)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "commit", _warn_of_a_long_write)
    event.listen(engine.pool, "invalidate", _free_the_lock)


async def _connect(*arguments: Any, **options: Any) -> Any:
    """Return an open connection; if its task is cancelled meanwhile, its thread ends before.

    Whoever stops the thread again waits for the first time: one that has ended answers nobody. SQLAlchemy does so with
    a task that is cancelled for the second time while it waits for a lock, and the end of the event loop would wait for
    ever.
    """
    import aiosqlite  # noqa: PLC0415 - loaded only where it is the driver

    driver = aiosqlite.connect(*arguments, **options)
    driver._thread.daemon = True  # a program that never closes its manager ends all the same
    driver.stop = functools.cache(driver.stop)  # type: ignore[method-assign]
    try:
        return await driver
    except BaseException:
        stopped = driver.stop()
        while stopped is not None and not stopped.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([stopped])
        raise


def _watch_the_file(engine: sa.Engine, path: str) -> None:
    """Go on in the file that has the name now, and make no new one in the place of one that is gone.

    To write into a file that was deleted or replaced succeeds, and nobody will ever read it.
    """
    seen: set[tuple[int, int]] = set()

    def identity() -> tuple[int, int] | None:
        try:
            found = os.stat(path)  # noqa: PTH116 - microseconds, for each unit of work
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def refuse_one_that_is_gone(now: tuple[int, int] | None) -> None:
        if now is None and seen:
            raise DatabaseUnavailableError(f"the file {path} is gone: only another manager would make a new one")

    @event.listens_for(engine, "do_connect")
    def do_connect(*_: object) -> None:
        refuse_one_that_is_gone(identity())

    @event.listens_for(engine, "connect")
    def connect(_dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        if (now := identity()) is not None:
            record.info[_FILE] = now
            seen.add(now)

    @event.listens_for(engine, "checkout")
    def checkout(_dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if (now := identity()) != record.info.get(_FILE, now):
            refuse_one_that_is_gone(now)
            raise DisconnectionError(f"the file {path} was replaced")  # the pool connects anew


def _fetch(dbapi_connection: DBAPIConnection, statement: str) -> Any:
    cursor = dbapi_connection.cursor()
    cursor.execute(statement)
    row = cursor.fetchone() if cursor.description else None
    cursor.close()
    return row[0] if row else None


def _set_journal_mode(dbapi_connection: DBAPIConnection, mode: str) -> None:
    # Processes that open a new file at once collide here, and this statement does not honour the busy timeout.
    for attempt in range(_JOURNAL_ATTEMPTS):
        try:
            _fetch(dbapi_connection, f"PRAGMA journal_mode={mode}")
        except sqlite3.OperationalError as error:
            if classify_error(error) is not TransactionConflictError or attempt == _JOURNAL_ATTEMPTS - 1:
                raise
            # The loop is not blocked: the wait is a statement's, on the connection's own thread.
            with contextlib.suppress(sqlite3.OperationalError):
                _fetch(dbapi_connection, "BEGIN IMMEDIATE")
                _fetch(dbapi_connection, "ROLLBACK")
        else:
            return


def _begin(connection: sa.Connection) -> None:
    """Begin for real: a writer takes the lock at once, since a lock taken later fails without waiting."""
    options = connection.get_execution_options()
    reads = bool(options.get(READ_ONLY, False))
    if connection.info.get(READ_ONLY, False) is not reads:
        connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reads else 'OFF'}")
        connection.info[READ_ONLY] = reads
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
    connection.info["began"] = None if reads else time.monotonic()


def _warn_of_a_long_write(connection: sa.Connection) -> None:
    began = connection.info.pop("began", None)
    if began is not None and (seconds := time.monotonic() - began) > _LONG_WRITE:
        logger.warning("a write transaction held the file's lock for %.1f s: every other writer waited", seconds)


def _free_the_lock(
    dbapi_connection: DBAPIConnection | None, _record: ConnectionPoolEntry, _error: BaseException | None
) -> None:
    """Roll back on the connection's thread, before the pool closes a connection whose task was cancelled.

    sqlite3_close_v2 leaves a connection with an unfinished cursor, and with it the write lock, until the cursor is
    collected (https://www.sqlite.org/c3ref/close.html).
    """
    driver = getattr(dbapi_connection, "driver_connection", None)
    if driver is None:
        return

    async def roll_back() -> None:
        with contextlib.suppress(sqlite3.Error, ValueError):
            await driver._execute(driver._conn.give_up)

    with contextlib.suppress(RuntimeError, ValueError, AttributeError):
        driver._conn.interrupt()  # the public coroutine would come too late
        task = asyncio.get_running_loop().create_task(roll_back())
        _cleanups.add(task)
        task.add_done_callback(_cleanups.discard)


def classify_error(error: BaseException) -> type[TraderrrDataError] | None:
    """Return our error for a result code (https://www.sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    return DuplicateRowError if code in _DUPLICATES else _ERRORS.get(code & 0xFF)


def is_closed(_driver: object) -> bool:
    """Tell that a file goes nowhere."""
    return False


def is_at_rest(_driver: object) -> bool:
    """Tell that a file says nothing by itself."""
    return True


def in_transaction(driver: Any) -> bool:
    """Tell whether a transaction has begun and not ended; asked without a visit to the connection's thread."""
    return bool(driver.in_transaction)


def ends_transaction(error: BaseException) -> bool:
    """Tell the errors after which SQLite may roll back by itself, and every later statement would commit alone.

    https://www.sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction
    """
    fatal = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT}
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in fatal


def size(connection: sa.Connection) -> int:
    """Return the bytes of the file's pages, without what waits in its write-ahead log."""
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
