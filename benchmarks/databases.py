"""The databases that are measured: servers as they come, and new, copied and settled databases on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from benchmarks.data import DECIMALS, UNIT, Digest
from tests import servers
from tests.backends import Backend, MysqlBackend, PostgresqlBackend, SqliteBackend
from traderrr_data import DatabaseManager

DEFAULT_DATABASES: Final = ("sqlite", "postgresql", "mariadb")
KINDS: Final = {"sqlite": "sqlite", "postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
"""The kind of each database that can be named, by its name and by its URL's scheme."""

_DIGEST: Final = ", ".join(
    ["count(*)", *(f"sum(round({name} * {UNIT}))" for name in DECIMALS), "sum(round(volume))"],
)


class Place(ABC):
    """One database system, on which the benchmark makes databases of its own and drops them again.

    Attributes:
        kind: sqlite, postgresql or mysql: who the opponents are.
        name: what the tables call it.
        version: what it says it is.
        utc: what ends an instant in SQL, where the database would take it for one of another zone.
    """

    kind: str
    utc = ""

    def __init__(self, backend: Backend, version: str) -> None:
        self.backend = backend
        self.name = backend.name
        self.version = version

    async def migrated(self) -> str:
        """Return the URL of a new database at head."""
        url = self.backend.create_database()
        async with DatabaseManager(url) as db:
            await db.init_db()
        return url

    @abstractmethod
    def copy(self, url: str) -> str:
        """Return the URL of a new database with the same tables and rows, written to disk; nobody is connected."""

    @abstractmethod
    def settle(self, url: str) -> None:
        """Write out what waits to be written, and bring the planner's statistics up to date."""

    @contextlib.contextmanager
    def with_every_log(self) -> Iterator[Place]:
        """Give the system as it is where somebody replicates it, or restores it to a point in time."""
        yield self

    def log_bytes(self, url: str) -> dict[str, int]:
        """Return how much the server has written to each of its logs so far, after a checkpoint, as far as it tells."""
        return {}

    def catalog_bytes(self, url: str) -> int | None:
        """Return the size of the catalog that temporary tables make grow; None where they do not."""
        return None

    def drop(self, url: str) -> None:
        """Remove a database."""
        self.backend.drop_database(url)

    def digest(self, url: str, table: str = "daily_data") -> Digest:
        """Return what tells which bars a table holds."""
        ((rows, *sums),) = self.backend.run_sql(url, f"SELECT {_DIGEST} FROM {table};")
        return (int(rows or 0), *(int(Decimal(value or 0)) for value in sums))


class SqlitePlace(Place):
    """Files in a directory."""

    kind = "sqlite"

    def copy(self, url: str) -> str:
        """Copy the file; whoever closed it last has emptied its log into it."""
        copied = self.backend.create_database()
        shutil.copyfile(file_of(url), file_of(copied))
        _sync(file_of(copied))
        return copied

    def settle(self, url: str) -> None:
        """Run ANALYZE, which is what SQLite's planner knows a table by."""
        self.backend.run_sql(url, "ANALYZE;")
        _sync(file_of(url))


class PostgresqlPlace(Place):
    """Databases on a PostgreSQL server."""

    kind = "postgresql"
    utc = "+00"

    def copy(self, url: str) -> str:
        """Have the server copy the files of a whole database."""
        copied = self.backend.create_database()
        name, template = make_url(copied).database, make_url(url).database
        self.backend.drop_database(copied)
        self.backend.run_sql(self._administration, f"CREATE DATABASE {name} TEMPLATE {template};")
        self.backend.run_sql(self._administration, "CHECKPOINT;")
        return copied

    def settle(self, url: str) -> None:
        """Vacuum, analyse and write everything out."""
        self.backend.run_sql(url, "VACUUM ANALYZE;")
        self.backend.run_sql(url, "CHECKPOINT;")

    def log_bytes(self, url: str) -> dict[str, int]:
        """Return the place in the write-ahead log."""
        self.backend.run_sql(url, "CHECKPOINT;")
        return {"WAL": int(str(self.backend.run_sql(url, "SELECT pg_current_wal_lsn() - '0/0';")[0][0]))}

    def catalog_bytes(self, url: str) -> int | None:
        """Return the size of the database's whole catalog: temporary tables leave rows in a dozen of its tables."""
        query = (
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
            " WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared;"
        )
        return int(str(self.backend.run_sql(url, query)[0][0]))

    @property
    def _administration(self) -> str:
        server = self.backend.server
        assert server is not None  # noqa: S101 - for the type checker: this kind has one
        return server.url.render_as_string(hide_password=False)


class MysqlPlace(Place):
    """Databases on a MySQL or MariaDB server, which may have been `started` for the benchmark."""

    kind = "mysql"

    def __init__(self, backend: Backend, version: str, *, started: bool) -> None:
        super().__init__(backend, version)
        self._started = started

    def copy(self, url: str) -> str:
        """Make the same tables, and fill them in the order of their keys, as if that had been the only thing ever."""
        copied = self.backend.create_database()
        template = make_url(url).database
        tables = self.backend.run_sql(url, "SHOW TABLES;")
        script = [f"CREATE TABLE {name} LIKE {template}.{name};" for (name,) in tables]
        script += [f"INSERT INTO {name} SELECT * FROM {template}.{name};" for (name,) in tables]
        self.backend.run_sql(copied, "".join(script))
        self.settle(copied)
        return copied

    def settle(self, url: str) -> None:
        """Analyse the bars and have their dirty pages written."""
        tables = "daily_data, intraday_data"
        self.backend.run_sql(url, f"ANALYZE TABLE {tables}; FLUSH TABLES {tables} FOR EXPORT; UNLOCK TABLES;")

    @contextlib.contextmanager
    def with_every_log(self) -> Iterator[Place]:
        """Give another server, with a binary log, which MariaDB has only where it is asked for; or the one named."""
        if not self._started:
            yield self
            return
        with servers.mysql(durable=True, binary_log=True) as server:
            yield MysqlPlace(MysqlBackend(self.name, server), server.version, started=True)

    def log_bytes(self, url: str) -> dict[str, int]:
        """Return the bytes of InnoDB's redo log, and of the binary log if there is one."""
        written = {"redo log": self.backend.run_sql(url, "SHOW GLOBAL STATUS LIKE 'Innodb_os_log_written';")[0][1]}
        if self.backend.run_sql(url, "SELECT @@log_bin;")[0][0] == "1":
            logs = self.backend.run_sql(url, "SHOW BINARY LOGS;")
            written["binlog"] = str(sum(int(str(size)) for _, size, *_ in logs))
        return {log: int(str(size)) for log, size in written.items()}

    def allow_local_infile(self, allowed: bool) -> None:
        """Have the server take LOAD DATA LOCAL, or refuse it, as hardened ones do."""
        server = self.backend.server
        assert server is not None  # noqa: S101 - for the type checker: this kind has one
        server.run_sql(f"SET GLOBAL local_infile = {allowed:d};")


def file_of(url: str) -> Path:
    """Return the file of an SQLite URL."""
    return Path(str(make_url(url).database))


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def kind_of(database: str) -> str | None:
    """Return the kind of a database that is named, by a word or a URL; None if it is not known."""
    return KINDS.get(_scheme(database))


def _scheme(database: str) -> str:
    scheme = database.partition(":")[0].partition("+")[0]
    return "postgresql" if scheme == "postgres" else scheme


@contextlib.contextmanager
def place(database: str) -> Iterator[Place]:
    """Give a database system.

    Args:
        database: a name of `KINDS`, for a server of our own with its default durability; or the URL of a server's
            administrator, who may create databases.

    Raises:
        ProgramMissingError: there is no program to start.
        ServerError: it did not start, or does not answer.
    """
    kind, scheme = kind_of(database), _scheme(database)
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":  # a URL says no more than the word: the files are the benchmark's own
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="traderrr-benchmarks-")))
            files = SqliteBackend(directory)
            yield SqlitePlace(files, str(files.run_sql(files.create_database(), "SELECT sqlite_version();")[0][0]))
        elif kind == "postgresql":
            postgresql = (
                servers.PostgresqlServer(make_url(database).set(drivername=servers.POSTGRESQL_SCHEME))
                if ":" in database
                else stack.enter_context(servers.postgresql(durable=True))
            )
            yield PostgresqlPlace(PostgresqlBackend(postgresql), postgresql.version)
        else:
            mysql = (
                servers.MysqlServer(make_url(database).set(drivername=servers.MYSQL_SCHEME))
                if ":" in database
                else stack.enter_context(servers.mysql(durable=True))
            )
            yield MysqlPlace(MysqlBackend(scheme, mysql), mysql.version, started=":" not in database)
