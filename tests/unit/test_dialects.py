"""What a driver's codes mean, and what an engine is told about each database; nothing is connected."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from typing import Any

import asyncpg
import pymysql  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa

from traderrr_data import (
    ConfigurationError,
    ConstraintViolationError,
    DatabaseUnavailableError,
    DuplicateRowError,
    TransactionConflictError,
    dialects,
)
from traderrr_data.dialects import EngineOptions
from traderrr_data.dialects.base import is_silent
from traderrr_data.dialects.mysql import MYSQL
from traderrr_data.dialects.postgresql import POSTGRESQL
from traderrr_data.dialects.sqlite import SQLITE
from traderrr_data.engine import create_engine

POSTGRESQL_CODES = {
    asyncpg.UniqueViolationError: DuplicateRowError,
    asyncpg.ExclusionViolationError: DuplicateRowError,
    asyncpg.NotNullViolationError: ConstraintViolationError,
    asyncpg.CheckViolationError: ConstraintViolationError,
    asyncpg.ForeignKeyViolationError: ConstraintViolationError,
    asyncpg.StringDataRightTruncationError: ConstraintViolationError,
    asyncpg.NumericValueOutOfRangeError: ConstraintViolationError,
    asyncpg.InvalidPasswordError: ConfigurationError,
    asyncpg.InvalidCatalogNameError: ConfigurationError,
    asyncpg.ReadOnlySQLTransactionError: ConfigurationError,
    asyncpg.DeadlockDetectedError: TransactionConflictError,
    asyncpg.SerializationError: TransactionConflictError,
    asyncpg.LockNotAvailableError: TransactionConflictError,
    asyncpg.InvalidCachedStatementError: TransactionConflictError,
    asyncpg.QueryCanceledError: DatabaseUnavailableError,
    asyncpg.AdminShutdownError: DatabaseUnavailableError,
    asyncpg.CannotConnectNowError: DatabaseUnavailableError,
    asyncpg.TooManyConnectionsError: DatabaseUnavailableError,
    asyncpg.DiskFullError: DatabaseUnavailableError,
    asyncpg.ConnectionDoesNotExistError: DatabaseUnavailableError,
    asyncpg.PostgresSyntaxError: None,
    asyncpg.UndefinedTableError: None,
}

# (number, the class in which the driver hides it)
MYSQL_CODES: list[tuple[int, type[Exception], type[Exception] | None]] = [
    (1062, pymysql.err.IntegrityError, DuplicateRowError),
    (1022, pymysql.err.IntegrityError, DuplicateRowError),
    (1048, pymysql.err.IntegrityError, ConstraintViolationError),
    (1452, pymysql.err.IntegrityError, ConstraintViolationError),
    (1264, pymysql.err.DataError, ConstraintViolationError),
    (1406, pymysql.err.DataError, ConstraintViolationError),
    (1292, pymysql.err.OperationalError, ConstraintViolationError),
    (1366, pymysql.err.OperationalError, ConstraintViolationError),
    (4025, pymysql.err.OperationalError, ConstraintViolationError),
    (3819, pymysql.err.OperationalError, ConstraintViolationError),
    (1205, pymysql.err.OperationalError, TransactionConflictError),
    (1213, pymysql.err.OperationalError, TransactionConflictError),
    (3572, pymysql.err.OperationalError, TransactionConflictError),
    (1040, pymysql.err.OperationalError, DatabaseUnavailableError),
    (2003, pymysql.err.OperationalError, DatabaseUnavailableError),
    (2006, pymysql.err.OperationalError, DatabaseUnavailableError),
    (2013, pymysql.err.OperationalError, DatabaseUnavailableError),
    (1969, pymysql.err.OperationalError, DatabaseUnavailableError),
    (3024, pymysql.err.OperationalError, DatabaseUnavailableError),
    (1045, pymysql.err.OperationalError, ConfigurationError),
    (1049, pymysql.err.OperationalError, ConfigurationError),
    (1792, pymysql.err.InternalError, ConfigurationError),
    (1064, pymysql.err.ProgrammingError, None),
]

SQLITE_CODES = {
    "SQLITE_CONSTRAINT_UNIQUE": DuplicateRowError,
    "SQLITE_CONSTRAINT_PRIMARYKEY": DuplicateRowError,
    "SQLITE_CONSTRAINT_NOTNULL": ConstraintViolationError,
    "SQLITE_CONSTRAINT_CHECK": ConstraintViolationError,
    "SQLITE_CONSTRAINT_FOREIGNKEY": ConstraintViolationError,
    "SQLITE_BUSY": TransactionConflictError,
    "SQLITE_BUSY_SNAPSHOT": TransactionConflictError,
    "SQLITE_LOCKED": TransactionConflictError,
    "SQLITE_CANTOPEN": DatabaseUnavailableError,
    "SQLITE_IOERR_READ": DatabaseUnavailableError,
    "SQLITE_FULL": DatabaseUnavailableError,
    "SQLITE_READONLY": ConfigurationError,
    "SQLITE_NOTADB": ConfigurationError,
    "SQLITE_ERROR": None,
}


@pytest.mark.parametrize(("error", "ours"), POSTGRESQL_CODES.items())
def test_a_postgresql_error_is_told_by_its_sqlstate(error: type[Exception], ours: type[Exception] | None) -> None:
    assert POSTGRESQL.classify_error(error("whatever the text says: duplicate key, deadlock")) is ours


@pytest.mark.parametrize(("number", "wrapped_in", "ours"), MYSQL_CODES)
def test_a_mysql_error_is_told_by_its_number_and_not_by_its_class(
    number: int, wrapped_in: type[Exception], ours: type[Exception] | None
) -> None:
    assert MYSQL.classify_error(wrapped_in(number, "whatever the text says: duplicate entry, deadlock")) is ours


@pytest.mark.parametrize(("code", "ours"), SQLITE_CODES.items())
def test_a_sqlite_error_is_told_by_its_extended_code(code: str, ours: type[Exception] | None) -> None:
    error = sqlite3.OperationalError("whatever the text says: UNIQUE constraint failed, database is locked")
    error.sqlite_errorcode = getattr(sqlite3, code)
    assert SQLITE.classify_error(error) is ours


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL, MYSQL], ids=lambda dialect: dialect.name)
def test_an_error_without_a_code_is_not_guessed_at(dialect: dialects.Dialect) -> None:
    for error in (ValueError("duplicate key"), RuntimeError(), OSError("deadlock detected"), KeyError("1062")):
        assert dialect.classify_error(error) is None


def test_a_deadlock_ends_the_transaction_on_mysql_and_a_duplicate_does_not() -> None:
    assert MYSQL.ends_transaction(pymysql.err.OperationalError(1213, "text"))
    assert not MYSQL.ends_transaction(pymysql.err.IntegrityError(1062, "text"))


def test_every_scheme_has_its_dialect_and_mariadb_is_mysql() -> None:
    assert [dialects.by_name(name) for name in ("sqlite", "postgresql", "mysql", "mariadb")] == [
        SQLITE,
        POSTGRESQL,
        MYSQL,
        MYSQL,
    ]


def test_the_facts_of_each_database() -> None:
    facts = {d.name: (d.exact_decimals, d.transactional_ddl) for d in (SQLITE, POSTGRESQL, MYSQL)}
    assert facts == {"SQLite": (False, True), "PostgreSQL": (True, True), "MySQL/MariaDB": (True, False)}


@pytest.mark.parametrize("url", ["postgresql://u:p@h/n", "mysql://u:p@h/n", "mariadb://u:p@h/n"])
def test_a_server_gets_a_small_pool_that_asks_before_it_hands_out(url: str) -> None:
    pool: Any = create_engine(url).pool
    assert (pool.size(), pool._max_overflow, pool._recycle, pool._pre_ping) == (5, 10, 3600, True)


def test_a_file_gets_a_pool_and_memory_its_one_connection() -> None:
    file: Any = create_engine("sqlite:///bars.db").pool
    memory: Any = create_engine("sqlite://").pool
    assert (file.size(), file._max_overflow) == (5, 10)
    assert (memory.size(), memory._max_overflow, memory._recycle) == (1, 0, -1)


def test_the_pool_is_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"DB_POOL_SIZE": "2", "DB_MAX_OVERFLOW": "1", "DB_POOL_RECYCLE": "60", "DB_POOL_TIMEOUT": "0.5"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    pool: Any = create_engine("postgresql://u:p@h/n").pool
    assert (pool.size(), pool._max_overflow, pool._recycle, pool.timeout()) == (2, 1, 60, 0.5)


def test_an_engine_of_somebody_else_in_the_same_process_keeps_its_own_ways() -> None:
    create_engine("sqlite:///bars.db")
    foreign = sa.create_engine("sqlite://")
    with foreign.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 0
    foreign.dispose()


def test_the_mysql_driver_gets_the_passwords_bytes_in_utf_8() -> None:
    arguments = MYSQL.engine_arguments(sa.make_url("mysql+aiomysql://u:p%E2%82%ACss%C3%A4@h/n"), EngineOptions())
    assert arguments["connect_args"]["password"].encode("latin-1") == "p€ssä".encode()


def test_a_statement_time_out_reaches_each_server() -> None:
    options = EngineOptions(statement_timeout=1.5)
    postgresql = POSTGRESQL.engine_arguments(sa.make_url("postgresql+asyncpg://h/n"), options)["connect_args"]
    mysql = MYSQL.engine_arguments(sa.make_url("mysql+aiomysql://h/n"), options)["connect_args"]
    sqlite = SQLITE.engine_arguments(sa.make_url("sqlite+aiosqlite:///x"), options)["connect_args"]
    assert postgresql["server_settings"]["statement_timeout"] == "1500"
    assert "max_statement_time=1.5" in mysql["init_command"]
    assert "max_execution_time=1500" in mysql["init_command"]
    assert sqlite["timeout"] == 1.5


def test_libpqs_drivers_get_libpqs_options() -> None:
    options = EngineOptions(statement_timeout=2, schema="market", connect_timeout=3)
    arguments = POSTGRESQL.engine_arguments(sa.make_url("postgresql+psycopg://h/n"), options)["connect_args"]
    assert arguments["connect_timeout"] == 3
    assert {"-c timezone=UTC", "-c statement_timeout=2000"} <= set(
        arguments["options"].replace(" -c", "\n-c").split("\n")
    )


async def test_making_engines_starts_no_task_and_opens_nothing() -> None:
    before = asyncio.all_tasks()
    create_engine("postgresql://u:p@127.0.0.1:1/n")
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("what_comes", [b"last words", b""])
async def test_a_connection_is_silent_until_something_arrives_or_it_ends(what_comes: bytes) -> None:
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    assert is_silent(transport)
    theirs.sendall(what_comes)
    theirs.close()
    assert not is_silent(transport)  # before the event loop has read anything
    await asyncio.sleep(0)
    transport.close()
    assert not is_silent(transport)
    assert not is_silent(None)
    await asyncio.sleep(0)
