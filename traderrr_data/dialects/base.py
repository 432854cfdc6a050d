"""What a database must supply, so that everything else need not know which one it is."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import select
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.errors import ConfigurationError, DatabaseUnavailableError, TraderrrDataError
from traderrr_data.url import SETTINGS_IN_URL

if TYPE_CHECKING:
    import pyarrow as pa

WITHOUT_REVISIONS = "traderrr_data_without_revisions"
"""The execution option of an engine that names the tables whose overwritten rows are not kept."""

READ_ONLY = "traderrr_data_read_only"
"""The execution option that marks a reading transaction, for the databases whose driver has no option of its own."""

MIGRATION_WAITS = "traderrr_data_migration_waits"
"""The execution option of an engine that says how long its migrations wait, as `Waits`."""

TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]


@dataclass(frozen=True)
class Tls:
    """How the connection is encrypted; the modes are those of PostgreSQL's libpq."""

    mode: TlsMode
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)

    def context(self) -> ssl.SSLContext:
        """Return the client's context; ConfigurationError if a file cannot be read or is no certificate."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                # Without a password OpenSSL would ask for it on the terminal, and everything would wait.
                context.load_cert_chain(self.certificate, self.key, self.key_password or "")
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"DB_SSL_CA, DB_SSL_CERT or DB_SSL_KEY cannot be used, or DB_SSL_KEY_PASSWORD is not its: {error}"
            ) from error
        context.check_hostname = self.mode == "verify-full"
        if self.mode == "prefer" or (self.mode == "require" and self.ca is None):  # so does libpq
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class Waits:
    """How long a migration waits, and for whom.

    Attributes:
        lock: hold the migration lock; without it somebody else has to see to it that only one migration runs.
        lock_timeout: seconds to wait for another migration.
        ddl_timeout: seconds that a statement waits for those who use its table; meanwhile all others wait behind it.
        transaction_pooling: the next transaction may go to another session of the server's.
    """

    lock: bool = True
    lock_timeout: float = 60.0
    ddl_timeout: float = 5.0
    transaction_pooling: bool = False


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
    transaction_pooling: bool = False
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


_DEAD_AFTER = {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 60_000}
"""Socket options by which a machine that is gone is noticed within a minute (Linux; elsewhere those that there are)."""


def notice_a_dead_peer(transport: asyncio.BaseTransport | None) -> None:
    """Have the system ask now and then whether the server's machine is still there.

    By itself it asks after two hours, and sends again for a quarter of one; the drivers do not change that.
    """
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for name, value in _DEAD_AFTER.items():
        level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(level, option, value)


def is_silent(transport: asyncio.BaseTransport | None) -> bool:
    """Tell whether a connection is open and nothing has arrived on it, neither a server's last words nor its end."""
    connection = transport.get_extra_info("socket") if transport is not None and not transport.is_closing() else None
    if connection is None or connection.fileno() < 0:
        return False
    arrivals = select.poll()
    arrivals.register(connection.fileno(), select.POLLIN)
    return not arrivals.poll(0)


def check_parameters(url: sa.URL, known: Collection[str]) -> None:
    """Refuse a URL with parameters that are neither settings nor known to its driver, which would fail at each call.

    Raises:
        ConfigurationError: it has such a parameter.
    """
    for name in url.query:
        if name not in known and name not in SETTINGS_IN_URL:
            listed = ", ".join(sorted([*known, *SETTINGS_IN_URL]))
            raise ConfigurationError(f"DATABASE_URL has the parameter {name!r}, which is not known; known are {listed}")


def without_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a connection without what a URL says to us and not to the driver."""
    return {name: value for name, value in arguments.items() if name not in SETTINGS_IN_URL}


Key: TypeAlias = tuple[Any, ...]


def match_keys(columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[Key]) -> sa.ColumnElement[bool]:
    """Return the condition that a row has one of these keys."""
    return sa.tuple_(*columns).in_(keys)


def loose_scan(column: sa.Column[Any]) -> sa.Select[Any]:
    """Return the query for every value of an index's first column, by one look into the index for each of them."""
    found = sa.select(sa.func.min(column).label("value")).cte("found", recursive=True)
    following = sa.select(sa.func.min(column)).where(column > found.c.value).scalar_subquery()
    found = found.union_all(sa.select(following).where(found.c.value.is_not(None)))
    return sa.select(found.c.value).where(found.c.value.is_not(None))


class CellByCell(Exception):  # noqa: N818 - it says what is to be done
    """These rows must be read cell by cell: columns cannot tell what they hold."""


QUICKLY_BUILT = 4_000
"""Rows of a page that is built in a few milliseconds by numpy."""


@dataclass(frozen=True)
class Page:
    """Some rows of a query on their way out, in the order of its key.

    Attributes:
        build: makes Arrow columns of them, beside the event loop; raises CellByCell where that cannot be.
        is_last: no row follows.
        end: the last row's columns of the key, if they are known before the page is built.
        is_quick: building takes less time than a thread takes to begin and end on a busy machine.
    """

    build: Callable[[], pa.RecordBatch]
    is_last: bool
    end: Mapping[str, Any] | None = None
    is_quick: bool = False


FetchPage: TypeAlias = Callable[
    [AsyncConnection, sa.Select[Any], Sequence[sa.ColumnElement[Any]], "pa.Schema", int], Awaitable[Page | None]
]


OnConflict: TypeAlias = Literal["update", "ignore", "repeat"]
Verdict: TypeAlias = Literal["inserted", "updated", "unchanged", "skipped"]


@dataclass(frozen=True)
class Merge:
    """A checked batch of columns on its way into a table.

    Attributes:
        table: where it goes.
        key: the columns that identify a row; a row in which one is null is an addition, and never stored before.
        columns: the rows in the order of their keys, each key once, with the columns that they were given.
        on_conflict: where a key is stored, "update" the row, "ignore" what is given, or take an equal row for a
            "repeat" and refuse another (`RowByRow`).
        revisions: the table that keeps the versions that are overwritten, in the same transaction; None if none does.
        wants_verdicts: tell of each row what became of it.
    """

    table: sa.Table
    key: tuple[str, ...]
    columns: pa.Table
    on_conflict: OnConflict
    revisions: sa.Table | None = None
    wants_verdicts: bool = False

    @property
    def values(self) -> list[str]:
        """The columns that are not the key."""
        return [name for name in self.columns.column_names if name not in self.key]

    @property
    def keeps_final(self) -> bool:
        """A stored bar that is final, or was observed later, is not overwritten by one that is not."""
        return self.on_conflict == "update" and "is_final" in self.table.c


def kept_columns(table: sa.Table, revisions: sa.Table) -> dict[str, str]:
    """Return which column of the revisions keeps which column of a table of bars."""
    return {column.name: column.name for column in revisions.columns if column.name in table.c} | {
        "known_from": "updated_at"
    }


class RowByRow(Exception):  # noqa: N818 - it says what is to be done
    """This batch must go row by row: columns cannot bring it in, or cannot say what is wrong with it."""


@dataclass
class Counts:
    """What became of the rows of a merge; `verdicts` of each row in their order, if they were wanted."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    verdicts: list[Verdict] | None = None


Catalog: TypeAlias = dict[tuple[str, str], str]
"""What a database says of its tables: for a table and a part of it (a column, an index, a CHECK) its definition."""


@dataclass(frozen=True)
class Doubts:
    """What some stored rows hold that is not exactly what they read as.

    Attributes:
        noise: numbers with more decimals than their column has.
        largest: how far the farthest of these lies from what it reads as.
        others: cells of any kind that only a look at each can judge.
    """

    noise: int = 0
    largest: float = 0.0
    others: int = 0


RawCells: TypeAlias = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Copying:
    """How whole databases are copied: rows as they are, with their ids and timestamps.

    Attributes:
        identity: tells the database that a connection is in from all others, however its URL is spelled.
        at_rest: gives the URL of what a long reading transaction may read without holding up writers: of the database
            itself, or of a copy of this moment.
        doubts: what the rows of a table where a condition holds are not exactly what they read as; None if that cannot
            be on this database.
        raw_cells: the rows of a query as they are stored; numbers, dates and instants of a server as their texts. Bytes
            are what can be read as nothing.
        writers: how many transactions may bring rows in at once.
        insert_columns: inserts rows, in the caller's transaction that has begun; any key that is stored is an error.
        put_ids_behind: has the next id that the database gives come behind all that are stored.
    """

    identity: Callable[[AsyncConnection], Awaitable[str]]
    at_rest: Callable[[sa.URL], contextlib.AbstractAsyncContextManager[sa.URL]]
    doubts: (
        Callable[[AsyncConnection, sa.TableClause, pa.Schema, Sequence[sa.ColumnElement[bool]]], Awaitable[Doubts]]
        | None
    )
    raw_cells: Callable[[AsyncConnection, sa.Select[Any]], Awaitable[RawCells]]
    writers: int
    insert_columns: Callable[[AsyncConnection, sa.Table, pa.Table], Awaitable[None]]
    put_ids_behind: Callable[[AsyncConnection, sa.Table], Awaitable[None]]


@contextlib.asynccontextmanager
async def as_it_is(url: sa.URL) -> AsyncIterator[sa.URL]:
    """Give the URL of a database whose readers hold up no writer."""
    yield url


async def cells_as_texts(connection: AsyncConnection, query: sa.Select[Any]) -> RawCells:
    """Return rows with every cell as the server's own text of it."""
    texts = query.with_only_columns(*(sa.cast(column, sa.Text()) for column in query.selected_columns))
    return [tuple(row) for row in await connection.execute(texts)]


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
        script_head: what stands at the beginning of a migration that is only written, inside its transaction.
        guard_migration: around the statements of a migration, inside its transaction if it has one; raises if they
            broke what the database does not check itself.
        scripts: the folder of roles.sql and grants.sql, for an administrator; None if the database knows no users.
        catalogs: what the database's catalog says of these tables, and what it would say had the models made them; all
            that it does for the second is rolled back.
        catalog_options: execution options of an engine that is asked for `catalogs`.
        size: the bytes that the database takes.
        is_closed: whether the driver has given up one of its connections.
        is_at_rest: whether one of the driver's idle connections is open, and its server has said nothing on it.
        in_transaction: whether one of the driver's connections may have a transaction that has not ended.
        ends_transaction: a driver's error after which the database may have rolled the whole transaction back, or ends
            the connection.
        match_keys: the condition that a row has one of these keys.
        each_value: the query for every value of an index's first column, or for these values, stored or not, at a cost
            that grows with the values and not with the rows.
        after_key: the condition that a row comes after a key, in a form that the key's index serves.
        fetch_page: fetches the first rows of a query, in the order of its key's columns, for Arrow columns of a schema
            without an object per cell; at most so many rows, but for what others write meanwhile. None if that way
            cannot take these rows.
        insert_absent: inserts the rows, in the order of their keys, whose key is absent, and returns those keys; the
            rows under the other keys are left as they are.
        copying: how the whole database is copied.
        clock: the instant by which a change is dated; at least as late as every instant that it gave before.
        merge_columns: brings a batch into its table by the fastest way, in the caller's transaction; None if there is
            none but row by row. Raises RowByRow where that way is the better one.
        merge_driver: the driver that `merge_columns` speaks to without SQLAlchemy between.
        short_page: how many rows `fetch_page` is asked for first, where it has a faster way for so few; None if it has
            one way for all.
    """

    name: str
    exact_decimals: bool
    transactional_ddl: bool
    reader_options: Mapping[str, Any]
    engine_arguments: Callable[[sa.URL, EngineOptions], dict[str, Any]]
    install: Callable[[sa.Engine, EngineOptions], None]
    classify_error: Callable[[BaseException], type[TraderrrDataError] | None]
    migrating: Callable[[sa.Connection, Waits], contextlib.AbstractContextManager[None]]
    script_head: Callable[[Waits], str]
    guard_migration: Callable[[sa.Connection, Waits], contextlib.AbstractContextManager[None]]
    catalogs: Callable[[sa.Connection, Sequence[sa.Table]], tuple[Catalog, Catalog]]
    catalog_options: Mapping[str, Any]
    size: Callable[[sa.Connection], int]
    is_closed: Callable[[Any], bool]
    is_at_rest: Callable[[Any], bool]
    in_transaction: Callable[[Any], bool]
    ends_transaction: Callable[[BaseException], bool]
    match_keys: Callable[[Sequence[sa.ColumnElement[Any]], Sequence[Key]], sa.ColumnElement[bool]]
    each_value: Callable[[sa.Column[Any], Sequence[Any] | None], sa.Select[Any]]
    after_key: Callable[[Sequence[sa.ColumnElement[Any]], Key], sa.ColumnElement[bool]]
    fetch_page: FetchPage
    insert_absent: Callable[[AsyncConnection, sa.Table, tuple[str, ...], Sequence[dict[str, Any]]], Awaitable[set[Key]]]
    clock: Callable[[AsyncConnection], Awaitable[dt.datetime]]
    copying: Copying
    scripts: Path | None = None
    merge_columns: Callable[[AsyncConnection, Merge], Awaitable[Counts]] | None = None
    merge_driver: str | None = None
    short_page: int | None = None

    @contextlib.asynccontextmanager
    async def speaking_to_driver(self, connection: AsyncConnection) -> AsyncIterator[None]:
        """Do what SQLAlchemy does about a cancellation or an error, where the driver is spoken to without it."""
        try:
            yield
        except asyncio.CancelledError as error:
            await connection.invalidate(error)  # the driver may be in the middle of something
            raise
        except Exception as error:
            is_lost = self._is_lost(connection)
            if is_lost or self.ends_transaction(error):
                # As the engine's listener does: whoever catches the error must not commit what comes after it alone.
                await connection.invalidate(error)
            translated = self.translate(error, is_disconnect=is_lost)
            if translated is None:
                raise
            raise translated from error

    def _is_lost(self, connection: AsyncConnection) -> bool:
        """Tell whether the driver has given a connection up; what it raises then may be an error without a code."""
        sync = connection.sync_connection
        return sync is None or sync.invalidated or self.is_closed(sync.connection.driver_connection)

    def translate(self, error: BaseException, *, is_disconnect: bool = False) -> TraderrrDataError | None:
        """Return our error for a driver's, by its code; None for one of ours, a cancellation or an unknown one."""
        if isinstance(error, TraderrrDataError) or not isinstance(error, Exception):
            return None
        kind = self.classify_error(error) or (DatabaseUnavailableError if is_disconnect else None)
        return None if kind is None else kind(str(error) or type(error).__name__)
