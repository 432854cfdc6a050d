"""What is special about PostgreSQL under asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from traderrr_data.dialects.base import EngineOptions, check_parameters, is_silent, notice_a_dead_peer, without_settings
from traderrr_data.dialects.postgresql import pooling
from traderrr_data.errors import (
    ConfigurationError,
    ConstraintViolationError,
    DatabaseUnavailableError,
    DuplicateRowError,
    TraderrrDataError,
    TransactionConflictError,
)

_cleanups: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected before it ran

# https://www.postgresql.org/docs/current/errcodes-appendix.html: whole codes first, then their classes.
_ERRORS: dict[str, type[TraderrrDataError]] = {
    "23505": DuplicateRowError,
    "23P01": DuplicateRowError,
    "23": ConstraintViolationError,
    "22": ConstraintViolationError,
    "25006": ConfigurationError,  # a write in a read-only transaction
    "28": ConfigurationError,
    "3D000": ConfigurationError,
    "40": TransactionConflictError,
    "55P03": TransactionConflictError,
    "57014": DatabaseUnavailableError,  # statement_timeout
    "57": DatabaseUnavailableError,
    "53": DatabaseUnavailableError,
    "58": DatabaseUnavailableError,
    "08": DatabaseUnavailableError,
}

# Shutdown, crash, not ready, database dropped; idle, in a transaction or not, or a transaction, for too long.
_LAST_WORDS = {"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"}

_UNUSABLE = {"InterfaceError", "InternalClientError"}  # not its subclass DataError, which is about a value
_PARAMETERS = {
    *("application_name", "gsslib", "host", "krbsrvname", "passfile", "port", "service", "servicefile"),
    "target_session_attrs",
}
"""What a URL may say to asyncpg."""


def engine_arguments(url: sa.URL, options: EngineOptions) -> dict[str, Any]:
    """Return the arguments of ``create_engine``; other drivers than asyncpg are taken to speak libpq's options."""
    settings = {"application_name": str(url.query.get("application_name", "traderrr_data"))}
    if not options.transaction_pooling:
        settings |= _session_settings(options)
    if url.get_driver_name() == "asyncpg":
        check_parameters(url, _PARAMETERS)
        arguments: dict[str, Any] = {
            "async_creator_fn": _connect,
            "server_settings": settings,
            "timeout": options.connect_timeout,
        }
        if options.tls is not None:
            # A context would make "prefer" mean "require".
            optional = options.tls.mode in ("disable", "prefer")
            arguments["ssl"] = options.tls.mode if optional else options.tls.context()
        if options.transaction_pooling:
            # A statement with a name stays in the session that prepared it, where another client's may have that name.
            arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    elif options.transaction_pooling:
        raise ConfigurationError("DB_TRANSACTION_POOLING is for asyncpg: leave the driver out of DATABASE_URL")
    else:
        arguments = {
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            "connect_timeout": max(1, round(options.connect_timeout)),
        }
        if (tls := options.tls) is not None:
            files = {
                "sslrootcert": tls.ca,
                "sslcert": tls.certificate,
                "sslkey": tls.key,
                "sslpassword": tls.key_password,
            }
            arguments |= {"sslmode": tls.mode} | {name: path for name, path in files.items() if path is not None}
    return {**options.pool, "connect_args": arguments, "isolation_level": "READ COMMITTED"}


def _session_settings(options: EngineOptions) -> dict[str, str]:
    """Return what holds on every connection, whatever the server's configuration says."""
    settings = {"timezone": "UTC", "datestyle": "ISO"}
    if options.statement_timeout is not None:
        settings["statement_timeout"] = f"{options.statement_timeout * 1000:.0f}"
    if options.schema is not None:
        settings["search_path"] = f'"{options.schema}"'
    return settings


def install(engine: sa.Engine, options: EngineOptions) -> None:
    """Put the hooks on one engine."""
    if options.transaction_pooling:
        pooling.install(engine, _session_settings(options))

    @event.listens_for(engine, "connect")
    def connect(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        notice_a_dead_peer(_transport_of(getattr(dbapi_connection, "driver_connection", None)))

    @event.listens_for(engine.pool, "invalidate")
    def end_backend(
        dbapi_connection: DBAPIConnection | None, _record: ConnectionPoolEntry, error: BaseException | None
    ) -> None:
        """End what a cancelled task left running on the server, with its row locks.

        asyncpg asks to cancel the statement, but a server that is between two of its messages ignores that.
        """
        driver = getattr(dbapi_connection, "driver_connection", None)
        if driver is None or not hasattr(driver, "get_server_pid"):  # another driver's
            return
        if error is None or isinstance(error, Exception) or options.transaction_pooling:
            return  # the process that a pooler names is somebody else's; `pooling` says what it does instead
        server_pid = driver.get_server_pid()
        driver.terminate()  # closing it in good order would wait for a server that may not answer
        with contextlib.suppress(RuntimeError):
            task = asyncio.get_running_loop().create_task(_terminate(engine, options, server_pid))
            _cleanups.add(task)
            task.add_done_callback(_cleanups.discard)


async def _connect(*, application_name: str = "", **arguments: Any) -> Any:
    """Connect with the arguments that SQLAlchemy makes of a URL; its application_name is one of the settings."""
    import asyncpg  # noqa: PLC0415 - loaded only where asyncpg is the driver

    try:
        return await asyncpg.connect(**without_settings(arguments))
    except ConnectionError as error:
        # It has no code and no class of its own (asyncpg 0.32); a server that is being killed seems to answer so, too.
        if isinstance(arguments.get("ssl", "prefer"), str) or "rejected SSL upgrade" not in str(error):
            raise
        raise ConfigurationError("DB_SSL asks for encryption, and the server does not offer it") from error


async def _terminate(engine: sa.Engine, options: EngineOptions, server_pid: int) -> None:
    """Terminate over a connection of its own: the pool may have none free."""
    _, arguments = engine.dialect.create_connect_args(engine.url)
    arguments |= engine_arguments(engine.url, options)["connect_args"]
    connect = arguments.pop("async_creator_fn")
    with contextlib.suppress(Exception):  # the backend has ended, or the server is gone: nothing is left to stop
        connection = await connect(**arguments)
        try:
            await connection.execute(f"SELECT pg_terminate_backend({server_pid:d})")
        finally:
            connection.terminate()


def classify_error(error: BaseException) -> type[TraderrrDataError] | None:
    """Return our error for an SQLSTATE."""
    if type(error).__name__ == "InvalidCachedStatementError":
        return TransactionConflictError  # a migration changed the table under a prepared statement: once per connection
    if _is_unusable(error):
        return DatabaseUnavailableError
    state = getattr(error, "sqlstate", None)
    return None if state is None else _ERRORS.get(state, _ERRORS.get(state[:2]))


def is_closed(driver: Any) -> bool:
    """Tell whether asyncpg has lost a connection; what it raises then has no SQLSTATE."""
    return hasattr(driver, "is_closed") and bool(driver.is_closed())


def is_at_rest(driver: Any) -> bool:
    """Tell whether nothing has come from the server since it was last asked; not known of other drivers."""
    return is_silent(_transport_of(driver))


def _transport_of(driver: Any) -> asyncio.BaseTransport | None:
    return getattr(driver, "_transport", None)


def in_transaction(_driver: object) -> bool:
    """Tell that it may be; SQLAlchemy knows by itself what asyncpg has begun, and sends nothing in vain."""
    return True


def ends_transaction(error: BaseException) -> bool:
    """Tell the errors that are the server's last words.

    The driver learns only a moment later that the connection is closed, and fails at a rollback in between. After any
    other error the server refuses every statement but a rollback.
    """
    state = getattr(error, "sqlstate", None) or ""
    return state in _LAST_WORDS or state.startswith("08") or _is_unusable(error)


def _is_unusable(error: BaseException) -> bool:
    """Tell an error of asyncpg's own, without a code: it is closed, or in no state to be used.

    So it is between the server's last words, if they came while it was idle, and the end of the connection (0.32.0).
    """
    own = error.__cause__ if type(error).__module__.startswith("sqlalchemy.") else error
    return type(own).__module__.startswith("asyncpg.") and type(own).__name__ in _UNUSABLE


def size(connection: sa.Connection) -> int:
    """Return the bytes of the whole database, indexes included."""
    return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
