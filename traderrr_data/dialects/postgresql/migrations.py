"""How a migration keeps others out on PostgreSQL, and gives up rather than hold up an application."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import event

from traderrr_data.dialects.base import Waits
from traderrr_data.errors import ConfigurationError, TransactionConflictError

_POLL = 0.1  # seconds
_LONGEST_LIST = 5
_LONGEST_NAME = 63  # of an application
_LOCK_KEY = "hashtextextended('traderrr_data.' || current_schema(), 0)"
_LOCK_NOT_AVAILABLE = "55P03"

# concat_ws leaves out what the server hides from a role that is not the other session's.
_SESSION = """
SELECT concat_ws(', ', 'process ' || a.pid, 'user ' || a.usename, 'from ' || host(a.client_addr),
    nullif(a.application_name, ''),
    a.state || ' for ' || round(extract(epoch FROM clock_timestamp() - a.state_change)) || ' s')
  FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid AND l.granted
"""
_HOLDER = f"""{_SESSION}
  JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
  WHERE l.locktype = 'advisory' AND l.objsubid = 1
    AND ((l.classid::bigint << 32) | l.objid::bigint) = {_LOCK_KEY} AND a.pid <> pg_backend_pid()
"""
_USERS = f"""{_SESSION}
  JOIN pg_class AS c ON c.oid = l.relation AND c.relnamespace = quote_ident(current_schema())::regnamespace
  JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
  WHERE a.pid <> pg_backend_pid() GROUP BY a.pid, a.usename, a.client_addr, a.application_name, a.state, a.state_change
  ORDER BY a.state_change LIMIT {_LONGEST_LIST}
"""


@contextlib.contextmanager
def migrating(connection: sa.Connection, waits: Waits) -> Iterator[None]:
    """Hold an advisory lock of this schema, and let DDL give up behind a reader that does not go away."""
    if connection.exec_driver_sql("SELECT current_schema()").scalar_one() is None:
        _create_schema(connection)
    connection.commit()
    in_session = waits.lock and not waits.transaction_pooling
    with _locked(connection, waits) if in_session else _behind_a_proxy(connection, waits):
        try:
            yield
        except TransactionConflictError as error:
            if getattr(error.__cause__, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            connection.rollback()
            others = "; ".join(connection.exec_driver_sql(_USERS).scalars()) or "they have gone meanwhile"
            raise TransactionConflictError(
                f"nothing was changed: a statement waited {waits.ddl_timeout:g} s for a table that others use"
                f" ({others}). End their transactions and run it again, or let it wait longer (DB_DDL_TIMEOUT)"
            ) from error


@contextlib.contextmanager
def _locked(connection: sa.Connection, waits: Waits) -> Iterator[None]:
    settings = _settings(waits) | {"application_name": _who_this_is()}
    _apply(connection, settings, local=False)
    connection.commit()
    try:
        _take_lock(connection, waits)
        yield
    finally:
        if not connection.invalidated:  # a lost connection has taken the lock and the settings with it
            connection.rollback()
            for name in settings:
                connection.exec_driver_sql(f"RESET {name}")
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK_KEY})")  # false if it is not held
            connection.commit()


def _take_lock(connection: sa.Connection, waits: Waits) -> None:
    for _ in _attempts(connection, waits, f"SELECT pg_try_advisory_lock({_LOCK_KEY})"):
        connection.commit()
    connection.commit()  # an open transaction would swallow Alembic's


def _attempts(connection: sa.Connection, waits: Waits, attempt: str) -> Iterator[None]:
    """Try to take the lock until it is there, and yield after each failure."""
    deadline = time.monotonic() + waits.lock_timeout
    while not connection.exec_driver_sql(attempt).scalar_one():
        if time.monotonic() >= deadline:
            holder = "; ".join(connection.exec_driver_sql(_HOLDER).scalars()) or "it has ended meanwhile"
            raise TransactionConflictError(
                f"nothing was changed: another migration held the lock for {waits.lock_timeout:g} s ({holder})."
                " Run it again when that has ended, or let it wait longer (--lock-timeout, DB_LOCK_TIMEOUT)"
            )
        yield
        connection.exec_driver_sql(f"SELECT pg_sleep({_POLL})")


@contextlib.contextmanager
def _behind_a_proxy(connection: sa.Connection, waits: Waits) -> Iterator[None]:
    """Keep to a lock and settings of the transaction: behind a proxy the next may go to another session.

    Alembic migrates in one transaction, and looks for what is to be done inside of it.
    """

    def begin(begun: sa.Connection) -> None:
        _apply(begun, _settings(waits) | {"application_name": _who_this_is()}, local=True)
        if waits.lock:
            for _ in _attempts(begun, waits, f"SELECT pg_try_advisory_xact_lock({_LOCK_KEY})"):
                pass

    event.listen(connection, "begin", begin)
    try:
        yield
    finally:
        event.remove(connection, "begin", begin)
        if not connection.invalidated:
            connection.rollback()


def _settings(waits: Waits) -> dict[str, str]:
    return {
        "lock_timeout": str(_milliseconds(waits)),
        "statement_timeout": "0",  # meant for queries, not for building an index
        # A server that is busy with a long statement would not notice that its client was killed, and keep its locks.
        "client_connection_check_interval": "1000",
    }


def _apply(connection: sa.Connection, settings: dict[str, str], *, local: bool) -> None:
    # FROM pg_settings: one that an older server does not know is left out.
    known = sa.text("SELECT set_config(name, :value, :local) FROM pg_settings WHERE name = :name")
    for name, value in settings.items():
        connection.execute(known, {"name": name, "value": value, "local": local})


def script_head(waits: Waits) -> str:
    """Return the time-outs, and why two rules of the linter squawk (https://squawkhq.com) do not hold here."""
    return (
        "-- squawk-ignore-file prefer-text-field, prefer-identity\n"
        "-- prefer-text-field: MySQL wants lengths, and a longer one costs PostgreSQL no rewrite.\n"
        "-- prefer-identity: 001 made ids as bigserial, and every database has the same tables.\n"
        f"SET LOCAL lock_timeout = {_milliseconds(waits)};\n"
        "SET LOCAL statement_timeout = 0;"
    )


def _milliseconds(waits: Waits) -> int:
    return max(1, round(waits.ddl_timeout * 1000))  # 0 would be for ever


def _who_this_is() -> str:
    return f"traderrr_data migration {os.getpid()} on {socket.gethostname()}".encode()[:_LONGEST_NAME].decode(
        errors="ignore"
    )


def _create_schema(connection: sa.Connection) -> None:
    path = connection.exec_driver_sql("SHOW search_path").scalar_one()
    if not re.fullmatch(r'"[^"$]+"', path):  # the form that DB_SCHEMA is given in engine_arguments
        raise ConfigurationError(f"no schema of the search_path {path} exists: name one with DB_SCHEMA")
    connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {path}")


def guard_migration(_connection: sa.Connection, _waits: Waits) -> contextlib.AbstractContextManager[None]:
    """Guard nothing: the server checks its constraints itself."""
    return contextlib.nullcontext()
