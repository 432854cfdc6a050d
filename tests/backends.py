"""The databases that the tests run on: new ones, migrated ones, and a look at what is really stored in them.

Nothing here goes through the package under test: what a test asserts about it is asked of the database's own client.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Final

from sqlalchemy import make_url

from tests.poolers import Pgbouncer
from tests.servers import POSTGRESQL_SCHEME, Row, Server, ServerError

SQLITE_SCHEME: Final = "sqlite+aiosqlite"

# What the migrations write for themselves stays when a database is emptied.
_BOOKKEEPING: Final = "traderrr_data_"
# A transaction that an earlier test left open is an error to report, not to wait for.
_LOCK_SECONDS: Final = 10


class Backend(ABC):
    """One kind of database.

    Attributes:
        name: the name that the option `--database` takes.
        scheme: what its URLs begin with.
        server: the server it runs on, None for SQLite.
        leave_utc: a statement that puts a client's session some hours west of UTC.
        other_literals: a statement after which the session takes quotes and backslashes in literals for something else.
        forbid_loading: a statement by which a server's administrator takes the fastest way of many rows away.
        allow_loading: one that gives it back.
        long_statement: one that takes a minute, with the word SLOWLY.
        session_limits: a query for what a migration sets for its session, and has to set back.
        make_login: statements that make an account of a role, of the parts `name`, `password` and `role`.
        drop_login: statements that remove it, and the role.
    """

    leave_utc: ClassVar[str] = ""
    other_literals: ClassVar[str] = "SELECT 1;"
    forbid_loading: ClassVar[str] = "SELECT 1;"
    allow_loading: ClassVar[str] = "SELECT 1;"
    long_statement: ClassVar[str]
    session_limits: ClassVar[str]
    make_login: ClassVar[str] = ""
    drop_login: ClassVar[str] = ""

    def __init__(self, name: str, scheme: str, server: Server | None = None) -> None:
        self.name = name
        self.scheme = scheme
        self.server = server

    @abstractmethod
    def create_database(self) -> str:
        """Return the URL of a new, empty database. SQLite's file does not exist yet."""

    @abstractmethod
    def drop_database(self, url: str) -> None:
        """Remove a database with whatever is in it, and throw out who is connected to it."""

    @abstractmethod
    def run_sql(self, url: str, sql: str) -> list[Row]:
        """Run a script in a database, without the package under test.

        Args:
            url: the database, as `create_database` returned it.
            sql: statements as one would type them into the database's client; the first that fails ends the script.

        Returns:
            The rows of all its queries, in order, every value as text and NULL as None.

        Raises:
            ServerError: a statement failed.
        """

    @abstractmethod
    def migrated_database(self, migrate: Callable[[str], None]) -> contextlib.AbstractContextManager[str]:
        """Give the URL of a database at head, without rows and with its ids at the beginning, for one test.

        Args:
            migrate: brings the empty database of a URL to head; called when there is no such database to reuse.
        """


class SqliteBackend(Backend):
    """SQLite: every database is a file in one directory, and a migrated one is a copy of a template."""

    long_statement = (
        "WITH RECURSIVE slowly(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM slowly WHERE n < 1000000000)"
        " SELECT count(*) AS SLOWLY FROM slowly"
    )
    session_limits = "SELECT timeout, foreign_keys FROM pragma_busy_timeout, pragma_foreign_keys"

    def __init__(self, directory: Path) -> None:
        super().__init__("sqlite", SQLITE_SCHEME)
        self._directory = directory
        self._template: Path | None = None

    def create_database(self) -> str:
        """Return the URL of a file that does not exist yet."""
        return f"{SQLITE_SCHEME}:///{self._directory / f'{_new_name()}.db'}"

    def drop_database(self, url: str) -> None:
        """Remove the file and those beside it."""
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{_file_of(url)}{suffix}").unlink(missing_ok=True)

    def run_sql(self, url: str, sql: str) -> list[Row]:
        """Run a script through Python's own sqlite3."""
        try:
            with contextlib.closing(sqlite3.connect(_file_of(url), isolation_level=None)) as connection:
                rows = [row for statement in _statements(sql) for row in connection.execute(statement)]
        except sqlite3.Error as error:
            raise ServerError(f"sqlite3 failed: {error}") from error
        return [tuple(None if value is None else str(value) for value in row) for row in rows]

    @contextlib.contextmanager
    def migrated_database(self, migrate: Callable[[str], None]) -> Iterator[str]:
        """Give a copy of the template."""
        if self._template is None:
            url = self.create_database()
            migrate(url)
            self._template = _file_of(url)
        url = self.create_database()
        shutil.copyfile(self._template, _file_of(url))
        try:
            yield url
        finally:
            self.drop_database(url)


def _file_of(url: str) -> Path:
    return Path(make_url(url).database or "")


def _statements(script: str) -> Iterator[str]:
    """Split a script at the semicolons that end a statement, which those inside of a trigger do not."""
    statement = ""
    for part in script.split(";"):
        statement += part
        if sqlite3.complete_statement(f"{statement};"):
            yield statement
            statement = ""
        else:
            statement += ";"
    if remainder := statement.rstrip("; \n\t"):
        yield remainder


class ServerBackend(Backend):
    """A database on a server; one migrated database is emptied before every test, which is faster than a new one."""

    server: Server

    def __init__(self, name: str, scheme: str, server: Server) -> None:
        super().__init__(name, scheme, server)
        self._migrated: str | None = None
        self._look_and_empty = ""
        self._look: list[Row] = []

    @property
    @abstractmethod
    def _tables_query(self) -> str:
        """The query for the names of all tables in a database."""

    @abstractmethod
    def _emptying(self, tables: list[str]) -> str:
        """Return a script that empties these tables and starts their ids again; it fails rather than wait for long."""

    @abstractmethod
    def _dropping(self, database: str) -> str:
        """Return a script that drops a database."""

    def create_database(self) -> str:
        """Create a database on the server."""
        name = _new_name()
        self.server.run_sql(f"CREATE DATABASE {name};")
        return self.server.url.set(drivername=self.scheme, database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Drop a database on the server."""
        self.server.run_sql(self._dropping(str(make_url(url).database)))

    def run_sql(self, url: str, sql: str) -> list[Row]:
        """Run a script through the client of the server."""
        return self.server.run_sql(sql, make_url(url).database)

    @contextlib.contextmanager
    def migrated_database(self, migrate: Callable[[str], None]) -> Iterator[str]:
        """Give the one migrated database, emptied; a new one if a test left it in another shape."""
        if self._migrated is None or not self._was_emptied(self._migrated):
            self.close()
            self._migrated = self._new_migrated(migrate)
        yield self._migrated

    def close(self) -> None:
        """Drop the migrated database: a server that a URL names is left as it was."""
        if self._migrated is not None:
            self.drop_database(self._migrated)
            self._migrated = None

    def _new_migrated(self, migrate: Callable[[str], None]) -> str:
        url = self.create_database()
        migrate(url)
        tables = [str(name) for (name,) in self.run_sql(url, self._tables_query)]
        bookkeeping = [name for name in tables if name.startswith(_BOOKKEEPING)]
        look = self._tables_query + "".join(f"SELECT * FROM {name};" for name in bookkeeping)
        self._look = self.run_sql(url, look)
        self._look_and_empty = look + self._emptying([name for name in tables if name not in bookkeeping])
        return url

    def _was_emptied(self, url: str) -> bool:
        with contextlib.suppress(ServerError):
            return self.run_sql(url, self._look_and_empty) == self._look
        return False


class PostgresqlBackend(ServerBackend):
    """Databases on a PostgreSQL server."""

    leave_utc = "SET TIME ZONE 'America/New_York';"
    other_literals = "SET standard_conforming_strings = off;"
    long_statement = "SELECT pg_sleep(60) AS SLOWLY"
    session_limits = (
        "SELECT name, setting FROM pg_settings WHERE name ~ 'timeout|application_name|check_interval'"
        " UNION ALL SELECT 'locks', count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    )
    make_login = "CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {role}; ALTER ROLE {name} SET role = '{role}';"
    drop_login = "DROP ROLE IF EXISTS {name}; DROP OWNED BY {role}; DROP ROLE {role};"

    def __init__(self, server: Server) -> None:
        super().__init__("postgresql", POSTGRESQL_SCHEME, server)

    @property
    def _tables_query(self) -> str:
        return (
            "SELECT tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY schemaname, tablename;"
        )

    def _emptying(self, tables: list[str]) -> str:
        # Truncating a table costs milliseconds, looking into it none, and most tests write to one or two.
        truncates = " ".join(f"IF EXISTS (SELECT FROM {table}) THEN TRUNCATE {table}; END IF;" for table in tables)
        restart = "PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence;"
        return f"SET lock_timeout = '{_LOCK_SECONDS}s'; DO $$ BEGIN {truncates} {restart} END $$;"

    def _dropping(self, database: str) -> str:
        return f"DROP DATABASE {database} WITH (FORCE);"


class PgbouncerBackend(PostgresqlBackend):
    """Databases on a PostgreSQL server, with the URLs of a pooler before it; what looks into them goes past that.

    Attributes:
        pooler: PgBouncer, in transaction mode.
    """

    def __init__(self, server: Server, pooler: Pgbouncer) -> None:
        super().__init__(server)  # under the name postgresql: it is the same database
        self.pooler = pooler

    def create_database(self) -> str:
        """Create a database on the server, and return where the pooler has it."""
        url = make_url(super().create_database()).set(host=self.pooler.url.host, port=self.pooler.url.port)
        return url.update_query_dict({"pgbouncer": "true"}).render_as_string(hide_password=False)


class MysqlBackend(ServerBackend):
    """Databases on a MySQL or MariaDB server, with the URLs of the one that `name` says."""

    leave_utc = "SET time_zone = '-05:00';"
    other_literals = "SET sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PIPES_AS_CONCAT');"
    long_statement = "SELECT SLEEP(60) AS SLOWLY"
    session_limits = (
        "SELECT variable_name, variable_value FROM information_schema.session_variables"
        " WHERE variable_name LIKE '%timeout%' OR variable_name LIKE 'max_statement_time'"
    )
    make_login = (
        "CREATE USER {name} IDENTIFIED BY '{password}'; GRANT {role} TO {name}; SET DEFAULT ROLE {role} FOR {name};"
    )
    drop_login = "DROP USER IF EXISTS {name}; DROP ROLE {role};"
    forbid_loading = "SET GLOBAL local_infile = 0;"
    allow_loading = "SET GLOBAL local_infile = 1;"

    def __init__(self, name: str, server: Server) -> None:
        super().__init__(name, f"{name}+aiomysql", server)

    @property
    def _tables_query(self) -> str:
        return "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY table_name;"

    def _emptying(self, tables: list[str]) -> str:
        truncates = " ".join(f"TRUNCATE TABLE {table};" for table in tables)
        return f"SET SESSION lock_wait_timeout = {_LOCK_SECONDS}; {truncates}"

    def _dropping(self, database: str) -> str:
        return f"SET SESSION lock_wait_timeout = {_LOCK_SECONDS}; DROP DATABASE {database};"


def _new_name() -> str:
    return f"traderrr_{secrets.token_hex(6)}"
