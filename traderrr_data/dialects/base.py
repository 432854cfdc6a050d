"""What a database must supply, so that everything else need not know which one it is."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.errors import ConfigurationError, DatabaseUnavailableError, TraderrrDataError

if TYPE_CHECKING:
    import pyarrow as pa

READ_ONLY = "traderrr_data_read_only"
"""The execution option that marks a reading transaction, for the databases whose driver has no option of its own."""

TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]


@dataclass(frozen=True)
class Tls:
    """How the connection is encrypted; the modes are those of PostgreSQL's libpq."""

    mode: TlsMode
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """Return the client's context; ConfigurationError if a file cannot be read or is no certificate."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"DB_SSL_CA, DB_SSL_CERT or DB_SSL_KEY cannot be used: {error}") from error
        context.check_hostname = self.mode == "verify-full"
        if self.mode in ("prefer", "require"):
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class EngineOptions:
    """What the settings say about an engine, without where it was said."""

    pool_size: int = 5
    max_overflow: int = 10
    pool_recycle: float = 3600
    pool_timeout: float = 30
    connect_timeout: float = 10
    statement_timeout: float | None = None
    tls: Tls | None = None
    schema: str | None = None
    journal_mode: str = "wal"

    @property
    def pool(self) -> dict[str, Any]:
        """The arguments of a pool of connections to a server."""
        return {
            "pool_size": self.pool_size,
            "max_overflow": self.max_overflow,
            "pool_recycle": self.pool_recycle,
            "pool_timeout": self.pool_timeout,
            "pool_pre_ping": True,
        }


Key: TypeAlias = tuple[Any, ...]

LOCK_TIMEOUT = 60.0
"""Seconds that a migration waits for another one, or for readers of a table that it changes."""


def match_keys(columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[Key]) -> sa.ColumnElement[bool]:
    """Return the condition that a row has one of these keys."""
    return sa.tuple_(*columns).in_(keys)


@dataclass(frozen=True)
class Merge:
    """A checked batch of columns on its way into a table.

    Attributes:
        table: where it goes.
        key: the columns that identify a row.
        columns: the rows in the order of their keys, each key once, with the columns that they were given.
        ignores_stored: leave every stored row as it is.
        keeps_final: a stored bar that is final, or was observed later, is not overwritten by one that is not.
    """

    table: sa.Table
    key: tuple[str, ...]
    columns: pa.Table
    ignores_stored: bool
    keeps_final: bool

    @property
    def values(self) -> list[str]:
        """The columns that are not the key."""
        return [name for name in self.columns.column_names if name not in self.key]


@dataclass
class Counts:
    """What became of the rows of a merge."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Dialect:
    """The facts and hooks of one database.

    Attributes:
        name: what it is called in documentation and diagnostics.
        exact_decimals: every decimal of a column's precision can be stored; otherwise a double holds it.
        transactional_ddl: a failed migration leaves nothing behind.
        reader_options: execution options of an engine whose transactions only read, from one snapshot.
        engine_arguments: the arguments of ``create_engine`` for a URL.
        install: puts the hooks on one engine.
        classify_error: the error of ours for a driver's error, by its code; None if it is none of ours.
        migrating: holds the migration lock and makes the connection fit for DDL, from before to after it.
        verify_migration: raises, inside a migration's transaction, if it broke what the database does not check itself.
        size: the bytes that the database takes.
        ends_transaction: a driver's error after which the database may have rolled the whole transaction back.
        match_keys: the condition that a row has one of these keys.
        insert_absent: inserts the rows, in the order of their keys, whose key is absent, and returns those keys; the
            rows under the other keys are left as they are.
        merge_columns: brings a large batch into its table by the fastest way, in the caller's transaction; None if
            there is none but row by row.
        merge_driver: the driver that `merge_columns` speaks to without SQLAlchemy between.
    """

    name: str
    exact_decimals: bool
    transactional_ddl: bool
    reader_options: Mapping[str, Any]
    engine_arguments: Callable[[sa.URL, EngineOptions], dict[str, Any]]
    install: Callable[[sa.Engine, EngineOptions], None]
    classify_error: Callable[[BaseException], type[TraderrrDataError] | None]
    migrating: Callable[[sa.Connection, float], contextlib.AbstractContextManager[None]]
    verify_migration: Callable[[sa.Connection], None]
    size: Callable[[sa.Connection], int]
    ends_transaction: Callable[[BaseException], bool]
    match_keys: Callable[[Sequence[sa.ColumnElement[Any]], Sequence[Key]], sa.ColumnElement[bool]]
    insert_absent: Callable[[AsyncConnection, sa.Table, tuple[str, ...], Sequence[dict[str, Any]]], Awaitable[set[Key]]]
    merge_columns: Callable[[AsyncConnection, Merge], Awaitable[Counts]] | None = None
    merge_driver: str | None = None

    def translate(self, error: BaseException, *, is_disconnect: bool = False) -> TraderrrDataError | None:
        """Return our error for a driver's, by its code; None for one of ours, a cancellation or an unknown one."""
        if isinstance(error, TraderrrDataError) or not isinstance(error, Exception):
            return None
        kind = self.classify_error(error) or (DatabaseUnavailableError if is_disconnect else None)
        return None if kind is None else kind(str(error) or type(error).__name__)
