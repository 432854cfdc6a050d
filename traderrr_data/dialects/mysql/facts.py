"""What is special about MySQL and MariaDB under aiomysql."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import ConnectionPoolEntry

from traderrr_data.dialects.base import (
    READ_ONLY,
    EngineOptions,
    check_parameters,
    is_silent,
    notice_a_dead_peer,
    without_settings,
)
from traderrr_data.errors import (
    ConfigurationError,
    ConstraintViolationError,
    DatabaseUnavailableError,
    DuplicateRowError,
    TraderrrDataError,
    TransactionConflictError,
)

# NO_AUTO_VALUE_ON_ZERO: an id of 0 is stored as 0. The rest turns silent changes into errors.
_SQL_MODE = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
_SQL_MODE += ",NO_AUTO_VALUE_ON_ZERO"

# https://mariadb.com/kb/en/mariadb-error-codes/, https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
_ERRORS: dict[type[TraderrrDataError], tuple[int, ...]] = {
    DuplicateRowError: (1022, 1062, 1586),
    # null, no default, out of range, cut off, wrong value, too long, CHECK (MySQL, MariaDB), foreign keys
    ConstraintViolationError: (1048, 1364, 1264, 1265, 1292, 1366, 1406, 1690, 3819, 4025, 1216, 1217, 1451, 1452),
    # lock wait, deadlock, record changed since the snapshot, table changed by a migration since the snapshot, NOWAIT
    TransactionConflictError: (1205, 1213, 1020, 1412, 3572),
    # too many connections, shutdown, refused, unknown host, gone, lost, killed, statement time-outs, interrupted
    DatabaseUnavailableError: (1040, 1203, 1053, 1077, 2002, 2003, 2005, 2006, 2013, 1927, 1969, 3024, 1317, 4031),
    # access denied, unknown database, a write in a read-only transaction
    ConfigurationError: (1044, 1045, 1698, 1049, 1792, 2054, 2059),
}
_ERROR_OF_NUMBER = {number: error for error, numbers in _ERRORS.items() for number in numbers}

_cleanups: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected before it ran

_PARAMETERS = {
    *("auth_plugin", "charset", "local_infile", "program_name", "read_default_file", "read_default_group"),
    *("unix_socket", "use_unicode"),
}
"""What a URL may say to aiomysql; the character set is ours all the same, and LOCAL sends no file."""


def engine_arguments(url: sa.URL, options: EngineOptions) -> dict[str, Any]:
    """Return the arguments of ``create_engine``."""
    init_command = f"SET time_zone='+00:00', sql_mode='{_SQL_MODE}'"
    if options.statement_timeout is not None:
        seconds = options.statement_timeout
        # Comments that only MariaDB, and only MySQL, executes.
        init_command += f"/*M!100101 , max_statement_time={seconds:g} */"
        init_command += f"/*!80000 , max_execution_time={seconds * 1000:.0f} */"
    arguments: dict[str, Any] = {
        "init_command": init_command,
        "charset": "utf8mb4",
        "connect_timeout": options.connect_timeout,
    }
    if url.get_driver_name() == "aiomysql":
        check_parameters(url, _PARAMETERS)
        arguments["async_creator_fn"] = _connect
    if url.password is not None:
        # The driver encodes passwords as latin-1, the servers expect UTF-8.
        arguments["password"] = url.password.encode().decode("latin-1")
    if options.tls is not None and options.tls.mode != "disable":
        if options.tls.mode == "prefer":
            raise ConfigurationError("DB_SSL=prefer is not known to this driver: say disable, require or verify-full")
        arguments["ssl"] = options.tls.context()
    return {**options.pool, "connect_args": arguments, "isolation_level": "READ COMMITTED"}


def install(engine: sa.Engine, options: EngineOptions) -> None:
    """Put the hooks on one engine."""
    event.listen(engine, "begin", _begin)

    @event.listens_for(engine, "connect")
    def connect(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        notice_a_dead_peer(_transport_of(getattr(dbapi_connection, "driver_connection", None)))

    @event.listens_for(engine.pool, "invalidate")
    def stop_statement(
        dbapi_connection: DBAPIConnection | None, _record: ConnectionPoolEntry, error: BaseException | None
    ) -> None:
        """Stop what a cancelled task left running on the server, with its row locks."""
        driver = getattr(dbapi_connection, "driver_connection", None)
        if driver is None or error is None or isinstance(error, Exception):
            return
        with contextlib.suppress(RuntimeError):
            task = asyncio.get_running_loop().create_task(_kill_query(engine, options, driver.thread_id()))
            _cleanups.add(task)
            task.add_done_callback(_cleanups.discard)


async def _connect(*, connect_timeout: float, **arguments: Any) -> Any:
    """Connect in time.

    The driver's own time-out ends when the server has taken the call, before it has answered; and on Python 3.11 it may
    lose a cancellation that comes in that moment, after which the task goes on.
    """
    from traderrr_data.dialects.mysql import load  # noqa: PLC0415 - loaded only where aiomysql is the driver

    async with asyncio.timeout(connect_timeout):
        return await load.connect(**without_settings(arguments))


async def _kill_query(engine: sa.Engine, options: EngineOptions, thread_id: int) -> None:
    """Kill over a connection of its own: the pool may have none free."""
    _, arguments = engine.dialect.create_connect_args(engine.url)
    arguments = {k: v for k, v in arguments.items() if k != "client_flag"}
    arguments |= engine_arguments(engine.url, options)["connect_args"]
    connect = arguments.pop("async_creator_fn", _connect)
    with contextlib.suppress(Exception):  # the statement has ended, or the server is gone: nothing is left to stop
        connection = await connect(**arguments)
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(f"KILL QUERY {thread_id:d}")
        finally:
            connection.close()


def _begin(connection: sa.Connection) -> None:
    """Begin a reading transaction for real; a writing one begins by itself."""
    if connection.get_execution_options().get(READ_ONLY, False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


def classify_error(error: BaseException) -> type[TraderrrDataError] | None:
    """Return our error for an error number; the driver's class is no guide (a CHECK is an OperationalError)."""
    number = error.args[0] if error.args else None
    return _ERROR_OF_NUMBER.get(number) if isinstance(number, int) else None


def is_closed(driver: Any) -> bool:
    """Tell whether aiomysql has lost a connection."""
    return bool(getattr(driver, "closed", False))


def is_at_rest(driver: Any) -> bool:
    """Tell whether nothing has come from the server since it was last asked; not known of other drivers."""
    return is_silent(_transport_of(driver))


def _transport_of(driver: Any) -> asyncio.WriteTransport | None:
    return getattr(getattr(driver, "_writer", None), "transport", None)


def in_transaction(driver: Any) -> bool:
    """Tell what the server said with its last answer; other drivers than aiomysql may not know."""
    status = getattr(driver, "get_transaction_status", None)
    return status is None or bool(status())


def ends_transaction(error: BaseException) -> bool:
    """Tell a deadlock, after which the server has rolled back everything; other errors end the statement only."""
    return bool(error.args) and error.args[0] == 1213


async def clock(connection: AsyncConnection) -> dt.datetime:
    """Return the server's clock, in UTC."""
    now: dt.datetime = (await connection.exec_driver_sql("SELECT utc_timestamp(6)")).scalar_one()
    return now.replace(tzinfo=dt.UTC)


def size(connection: sa.Connection) -> int:
    """Return the bytes of the database's tables and indexes, as the server estimates them."""
    query = "SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables"
    return int(connection.exec_driver_sql(f"{query} WHERE table_schema = database()").scalar_one())
