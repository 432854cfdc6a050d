"""DatabaseManager: one engine, its sessions and their lifetime; and the one that a whole process may share."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypedDict, TypeVar

import sqlalchemy as sa
import stamina
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from traderrr_data import dialects, schema
from traderrr_data.engine import WHOLE, create_engine
from traderrr_data.errors import (
    CommitOutcomeUnknownError,
    ConfigurationError,
    TraderrrDataError,
)
from traderrr_data.models import Base, Compatibility, DailyData
from traderrr_data.models.base import VERSION_TABLE
from traderrr_data.session import DataSession
from traderrr_data.settings import Settings
from traderrr_data.url import masked

T = TypeVar("T")


class _Found(TypedDict):
    server_version: str | None
    tables: dict[str, int]
    """Rows per table of ours."""
    size_bytes: int | None
    first_date: dt.date | None
    """Of the daily bars."""
    last_date: dt.date | None
    is_connected: bool


class DatabaseInfo(_Found):
    """What `DatabaseManager.get_database_info` tells; nothing in it is secret."""

    database_url: str
    dialect: str
    driver: str
    schema_revision: str | None
    schema_head: str
    error: str | None
    """Why it is not connected."""


class DatabaseManager:
    """One database: its engine and its sessions.

    The constructor connects to nothing. Close it when done, best by ``async with``; it belongs to the event loop in
    which it is first used.

    Args:
        url_or_settings: a URL (``sqlite:///bars.db``, ``postgresql://user:password@host/name``, ``mysql://...``),
            Settings, or None for the environment's.

    Raises:
        ConfigurationError: a setting is wrong.
    """

    def __init__(self, url_or_settings: str | sa.URL | Settings | None = None) -> None:
        self.settings = Settings.of(url_or_settings)
        self.engine: AsyncEngine = create_engine(self.settings)
        self.dialect = dialects.for_connection(self.engine.sync_engine)
        self._reader = self.engine.execution_options(**self.dialect.reader_options)
        writer = self.engine.execution_options(**{WHOLE: True})
        self._writing = async_sessionmaker(writer, class_=DataSession, expire_on_commit=False)
        self._reading = async_sessionmaker(self._reader, class_=DataSession, expire_on_commit=False, autoflush=False)
        self._is_usable = False
        self._looking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"DatabaseManager({self.database_url!r})"

    @property
    def database_url(self) -> str:
        """The URL without its secrets."""
        return masked(self.engine.url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the manager may be used again afterwards, also in another event loop."""
        await self.engine.dispose()
        self._is_usable = False
        self._looking = asyncio.Lock()  # a lock that was waited for belongs to its event loop

    def get_session(self, *, read_only: bool = False) -> DataSession:
        """Return a new session that the caller commits and closes (``async with``); prefer `session_context`."""
        return self._reading() if read_only else self._writing()

    @contextlib.asynccontextmanager
    async def session_context(self, *, read_only: bool = False) -> AsyncIterator[AsyncSession]:
        """Open a session for one unit of work: it commits at the end and rolls back on any error or cancellation.

        What its functions returned stays readable afterwards, also after an error. The first one looks whether this
        code may use the database, unless `init_db` has.

        Args:
            read_only: one snapshot of the database for all reads; the database refuses a write.

        Raises:
            SchemaMismatchError: the database has none of our tables, or they are not as this code needs them.
            CommitOutcomeUnknownError: the connection died during COMMIT.
        """
        if not self._is_usable:
            await self._look_at_schema()
        async with self.get_session(read_only=read_only) as session:
            yield session
            await session.commit()

    async def _look_at_schema(self) -> None:
        async with self._looking:
            if not self._is_usable:
                schema.require_usable(await schema.status(self.engine))
                self._is_usable = True

    async def run(
        self, work: Callable[[AsyncSession], Awaitable[T]], *, retries: int = 3, idempotent: bool = False
    ) -> T:
        """Return what `work` returns, run in a unit of work of its own, and again after a passing failure.

        Args:
            work: a coroutine function that takes a session; each attempt begins from an empty transaction.
            retries: how many further attempts, with growing pauses.
            idempotent: `work` may be repeated even if the first time was stored, as upserts may.

        Raises:
            TraderrrDataError: the last attempt's error; or CommitOutcomeUnknownError unless `idempotent`.
        """

        def may_pass(error: Exception) -> bool:
            if isinstance(error, CommitOutcomeUnknownError):
                return idempotent
            return isinstance(error, TraderrrDataError) and error.retryable

        pauses = {"wait_initial": 0.05, "wait_max": 5.0, "wait_jitter": 0.1}
        async for attempt in stamina.retry_context(on=may_pass, attempts=retries + 1, timeout=None, **pauses):
            with attempt:
                async with self.session_context() as session:
                    return await work(session)
        raise AssertionError("stamina ends with a result or an error")

    async def init_db(self, *, upgrade: bool = False) -> None:
        """Bring a database without our tables to the newest schema; leave one that is there alone. Commits.

        Args:
            upgrade: also migrate a database that is behind.

        Raises:
            SchemaMismatchError: it is behind, ahead and incompatible, or its tables are not ours.
        """
        found = await schema.status(self.engine)
        match found.state:
            case schema.State.EMPTY:
                await schema.upgrade(self.engine)
            case schema.State.BEHIND if upgrade:
                await schema.upgrade(self.engine)
            case _:
                schema.require_usable(found)
        self._is_usable = True

    async def drop_db(self, *, yes: bool = False) -> None:
        """Remove our tables with all their rows, and nothing else; commits.

        Args:
            yes: must be True.

        Raises:
            ConfigurationError: `yes` is not True.
            SchemaMismatchError: the tables are somebody else's, or of a newer version.
        """
        if yes is not True:
            raise ConfigurationError("drop_db removes every row: call it with yes=True")
        self._is_usable = False
        await schema.drop(self.engine)

    async def ping(self) -> None:
        """Return if the database answers.

        Raises:
            DatabaseUnavailableError: it cannot be reached.
            ConfigurationError: it refuses the login.
        """
        async with self._reader.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))

    async def get_database_info(self) -> DatabaseInfo:
        """Return what there is to know about the database; one that does not answer is said so, not raised."""
        found = _Found(
            server_version=None, tables={}, size_bytes=None, first_date=None, last_date=None, is_connected=False
        )
        revision = reason = None
        try:
            async with self._reader.connect() as connection:
                found = await connection.run_sync(self._describe)
            revision = await schema.current(self.engine)
        except (TraderrrDataError, SQLAlchemyError) as error:
            reason = f"{type(error).__name__}: {error}"
        return DatabaseInfo(
            **found,
            database_url=self.database_url,
            dialect=self.engine.dialect.name,
            driver=self.engine.driver,
            schema_revision=revision,
            schema_head=schema.head(),
            error=reason,
        )

    def _describe(self, connection: sa.Connection) -> _Found:
        present = set(sa.inspect(connection).get_table_names())
        internal = {Compatibility.__tablename__}
        ours = [table for name, table in sorted(Base.metadata.tables.items()) if name in present - internal]
        counts = {t.name: connection.scalars(sa.select(sa.func.count()).select_from(t)).one() for t in ours}
        first = last = None
        if DailyData.__tablename__ in present and VERSION_TABLE in present:
            first, last = connection.execute(sa.select(sa.func.min(DailyData.date), sa.func.max(DailyData.date))).one()
        version = connection.dialect.server_version_info
        return _Found(
            server_version=".".join(map(str, version or ())),
            tables=counts,
            size_bytes=self.dialect.size(connection),
            first_date=first,
            last_date=last,
            is_connected=True,
        )


_manager: DatabaseManager | None = None


async def init_db_manager(
    url_or_settings: str | sa.URL | Settings | None = None, *, upgrade: bool = False
) -> DatabaseManager:
    """Make the process-wide manager, bring its database up (`DatabaseManager.init_db`), and return it.

    Called again for the same database it returns the same manager.

    Raises:
        ConfigurationError: a setting is wrong, or the process has a manager of another database.
        SchemaMismatchError: as `DatabaseManager.init_db`.
    """
    global _manager  # noqa: PLW0603 - one for the process is what it is for
    manager = _manager or DatabaseManager(url_or_settings)
    if url_or_settings is not None and Settings.of(url_or_settings).url != manager.engine.url:
        raise ConfigurationError("the process already has a manager of another database: close_db_manager() first")
    try:
        await manager.init_db(upgrade=upgrade)
    except BaseException:
        if manager is not _manager:
            await manager.close()
        raise
    if _manager is not None and manager is not _manager:
        await manager.close()  # another task made one meanwhile
    _manager = _manager or manager
    return _manager


def get_db_manager() -> DatabaseManager:
    """Return the process-wide manager.

    Raises:
        ConfigurationError: there is none yet.
    """
    if _manager is None:
        raise ConfigurationError("there is no manager yet: await init_db_manager() first")
    return _manager


def get_session(*, read_only: bool = False) -> DataSession:
    """Return a new session of the process-wide manager; as `DatabaseManager.get_session`."""
    return get_db_manager().get_session(read_only=read_only)


async def close_db_manager() -> None:
    """Close the process-wide manager, if there is one, and forget it."""
    global _manager
    manager, _manager = _manager, None
    if manager is not None:
        await manager.close()
