"""How a migration keeps others out of a SQLite file, and loses nothing where it makes a table anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from traderrr_data.dialects.base import Waits
from traderrr_data.dialects.sqlite import rebuilds
from traderrr_data.errors import TransactionConflictError


@contextlib.contextmanager
def migrating(connection: sa.Connection, waits: Waits) -> Iterator[None]:
    """Migrate with foreign keys off; the lock is the transaction's own BEGIN IMMEDIATE.

    Alembic's batch mode drops and renames tables, and with foreign keys on that deletes the rows that refer to them.
    """
    patience = _pragma(connection, "busy_timeout")
    _pragma(connection, f"busy_timeout={_milliseconds(waits.lock_timeout)}")
    _pragma(connection, "foreign_keys=OFF")  # inside a transaction it would do nothing
    try:
        yield
    except TransactionConflictError as error:
        raise TransactionConflictError(
            f"nothing was changed: another program did not let go of the file {connection.engine.url.database} in time"
            f" ({waits.lock_timeout:g} s for one that writes, {waits.ddl_timeout:g} s for one that reads). Run it again"
            " when that has ended, or let it wait longer (--lock-timeout, DB_LOCK_TIMEOUT, DB_DDL_TIMEOUT)"
        ) from error
    finally:
        if not connection.invalidated:
            connection.rollback()
            _pragma(connection, "foreign_keys=ON")
            _pragma(connection, f"busy_timeout={patience}")


def guard_migration(connection: sa.Connection, waits: Waits) -> contextlib.AbstractContextManager[None]:
    """Refuse a migration that loses what it does not say."""
    # From here on only readers can be in the way, at the COMMIT of a file that is not in WAL mode; others wait behind.
    _pragma(connection, f"busy_timeout={_milliseconds(waits.ddl_timeout)}")
    return rebuilds.nothing_lost(connection)


def script_head(_waits: Waits) -> str:
    """Return nothing: how long to wait is the client's affair."""
    return ""


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _pragma(connection: sa.Connection, pragma: str) -> Any:
    """Run a PRAGMA outside of any transaction: the connection's own execute would begin one."""
    dbapi_connection: DBAPIConnection | None = connection.connection.dbapi_connection
    assert dbapi_connection is not None  # noqa: S101 - for the type checker: the connection is open
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA {pragma}")
    row = cursor.fetchone() if cursor.description else None
    cursor.close()
    return row[0] if row else None
