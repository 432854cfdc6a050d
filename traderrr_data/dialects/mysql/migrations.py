"""How a migration keeps others out on MySQL and MariaDB, and gives up rather than hold up an application."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from traderrr_data.dialects.base import Waits
from traderrr_data.errors import TransactionConflictError

_LOCK_NAME = "concat('traderrr_data.', md5(database()))"  # a lock's name has 64 characters at most
_LOCK_WAIT_TIMEOUT = 1205

# Without the privilege PROCESS a session sees those of its own user.
_SESSION = """
SELECT concat('connection ', id, ', user ', user, ', from ', host, ', ', lower(command), ' for ', time, ' s')
  FROM information_schema.processlist
"""
_HOLDER = f"SELECT is_used_lock({_LOCK_NAME})"
_USERS = f"{_SESSION} WHERE db = database() AND id <> connection_id() ORDER BY time DESC LIMIT 5"


@contextlib.contextmanager
def migrating(connection: sa.Connection, waits: Waits) -> Iterator[None]:
    """Hold a named lock of this database, and let DDL give up behind a reader that does not go away."""
    limits = _limits(connection, waits)
    names = ", ".join(f"@@{name} AS {name}" for name in limits)
    before = connection.exec_driver_sql(f"SELECT {names}").mappings().one()
    _set(connection, limits)
    try:
        if waits.lock:
            _take_lock(connection, waits)
        connection.commit()  # an open transaction would swallow Alembic's
        yield
    except TransactionConflictError as error:
        if getattr(error.__cause__, "args", ())[:1] != (_LOCK_WAIT_TIMEOUT,):
            raise
        connection.rollback()
        others = "; ".join(connection.exec_driver_sql(_USERS).scalars()) or "they have gone meanwhile"
        raise TransactionConflictError(
            f"a statement waited {waits.ddl_timeout:g} s for a table that others use (connections to this database:"
            f" {others}). What came before it stays; end their transactions and run it again, which goes on there, or"
            " let it wait longer (DB_DDL_TIMEOUT)"
        ) from error
    finally:
        if not connection.invalidated:  # a lost connection has taken the lock and the settings with it
            connection.rollback()
            if waits.lock:
                connection.exec_driver_sql(f"SELECT release_lock({_LOCK_NAME})")  # NULL or 0 if it is not ours
            _set(connection, before)
            connection.commit()


def _limits(connection: sa.Connection, waits: Waits) -> dict[str, float]:
    seconds = _seconds(waits)
    limits: dict[str, float] = {"lock_wait_timeout": seconds, "innodb_lock_wait_timeout": seconds}
    if getattr(connection.dialect, "is_mariadb", False):
        limits["max_statement_time"] = 0  # meant for queries, not for building an index; MySQL's is one of SELECTs
    return limits


def script_head(waits: Waits) -> str:
    """Return the time-out of what waits for those who use a table."""
    return f"SET SESSION lock_wait_timeout = {_seconds(waits)};"


def _seconds(waits: Waits) -> int:
    return max(1, round(waits.ddl_timeout))


def _set(connection: sa.Connection, limits: Mapping[Any, Any]) -> None:
    connection.exec_driver_sql("SET " + ", ".join(f"SESSION {name} = {value}" for name, value in limits.items()))


def _take_lock(connection: sa.Connection, waits: Waits) -> None:
    if connection.exec_driver_sql(f"SELECT get_lock({_LOCK_NAME}, {waits.lock_timeout:g})").scalar_one():
        return
    number = connection.exec_driver_sql(_HOLDER).scalar_one()
    holder = "it has ended meanwhile"
    if number is not None:
        found = connection.exec_driver_sql(f"{_SESSION} WHERE id = {number:d}").scalar_one_or_none()
        holder = found or f"connection {number}"
    raise TransactionConflictError(
        f"nothing was changed: another migration held the lock for {waits.lock_timeout:g} s ({holder})."
        " Run it again when that has ended, or let it wait longer (--lock-timeout, DB_LOCK_TIMEOUT)"
    )


def guard_migration(_connection: sa.Connection, _waits: Waits) -> contextlib.AbstractContextManager[None]:
    """Guard nothing: the server checks its constraints itself."""
    return contextlib.nullcontext()
