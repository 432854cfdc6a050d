"""From settings to an AsyncEngine: the only place that picks a dialect."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection, PoolResetState

from traderrr_data import dialects
from traderrr_data.dialects import Dialect, EngineOptions, Tls
from traderrr_data.errors import (
    CommitOutcomeUnknownError,
    ConfigurationError,
    DatabaseUnavailableError,
    InvalidRowError,
)
from traderrr_data.settings import Settings

WHOLE = "traderrr_data_whole"
"""The execution option of an engine whose transactions are stored as a whole or not at all (not of Alembic's: it asks
MySQL for a table by a statement that fails)."""
_FAILED = "traderrr_data_failed"
"""Marks a connection whose transaction had a statement that failed, outside of any savepoint."""
_COMMITTING = "traderrr_data_committing"
"""Marks a connection whose COMMIT has been sent."""
_USED_AT = "traderrr_data_used_at"
"""When a connection came back to the pool."""
_TRUSTED = 0.5  # seconds; to ask a connection that has just worked would cost up to half the time of a short session


def create_engine(source: str | sa.URL | Settings | None = None) -> AsyncEngine:
    """Return the engine for a URL, settings, or the environment; nothing is connected yet.

    Its errors are this library's, its listeners sit on this one engine, and it belongs to the event loop that first
    connects through it.

    Raises:
        ConfigurationError: the scheme is unknown, the driver is missing or not asynchronous, or the folder of a
            SQLite file cannot be made.
    """
    settings = Settings.of(source)
    url = settings.url
    dialect = dialects.by_name(url.get_backend_name())
    options = _options(settings)
    arguments = dialect.engine_arguments(url, options)
    _make_folder(url)
    try:
        engine = create_async_engine(
            url,
            poolclass=_Pool,
            pool_reset_on_return=None,  # `_install` does it, and only where there is something to roll back
            echo=settings.sql_echo,
            execution_options={
                dialects.WITHOUT_REVISIONS: settings.tables_without_revisions,
                dialects.MIGRATION_WAITS: waits_of(settings),
            },
            **arguments,
        )
    except NoSuchModuleError:
        raise ConfigurationError(f"DATABASE_URL names the driver {url.drivername!r}, which is not known") from None
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the driver of {url.drivername!r} is missing: pip install {error.name}") from None
    except (ArgumentError, InvalidRequestError):  # the pool says the one, the dialect the other
        raise ConfigurationError(
            f"DATABASE_URL names {url.drivername!r}, which is not asynchronous: leave the driver out"
        ) from None
    _install(engine.sync_engine, dialect, options)
    return engine


def waits_of(settings: Settings) -> dialects.Waits:
    """Return how long migrations wait."""
    return dialects.Waits(
        lock=settings.db_migration_lock,
        lock_timeout=settings.db_lock_timeout,
        ddl_timeout=settings.db_ddl_timeout,
        transaction_pooling=settings.db_transaction_pooling,
    )


def _options(settings: Settings) -> EngineOptions:
    files = (settings.db_ssl_ca, settings.db_ssl_cert, settings.db_ssl_key)
    ca, certificate, key = (str(path) if path is not None else None for path in files)
    if settings.db_ssl in (None, "prefer") and any(files):
        raise ConfigurationError(
            f"DB_SSL_CA, DB_SSL_CERT and DB_SSL_KEY say nothing {'with' if settings.db_ssl else 'without'} DB_SSL"
            f"{'=prefer' if settings.db_ssl else ''}: set it (in a URL sslmode) to verify-full"
        )
    password = settings.db_ssl_key_password
    key_password = password.get_secret_value() if password is not None else None
    return EngineOptions(
        pool_size=settings.db_pool_size,
        max_overflow=settings.db_max_overflow,
        pool_recycle=settings.db_pool_recycle,
        pool_timeout=settings.db_pool_timeout,
        connect_timeout=settings.db_connect_timeout,
        statement_timeout=settings.db_statement_timeout,
        tls=Tls(settings.db_ssl, ca, certificate, key, key_password) if settings.db_ssl is not None else None,
        schema=settings.db_schema,
        transaction_pooling=settings.db_transaction_pooling,
        journal_mode=settings.db_sqlite_journal,
    )


def _make_folder(url: sa.URL) -> None:
    if url.get_backend_name() != "sqlite" or not Path(url.database or "").is_absolute():
        return
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {folder} of the database cannot be made: {error.strerror}") from None


class _Pool(AsyncAdaptedQueuePool):
    """The ordinary pool, of one event loop, with an error of ours when no connection becomes free in time."""

    _loop: asyncio.AbstractEventLoop | None = None

    def connect(self) -> PoolProxiedConnection:
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            # A connection of one loop hangs in another, or fails in the driver's depths.
            raise ConfigurationError(
                "this DatabaseManager was first used in another event loop: close it there, or make one for each loop"
            )
        self._loop = loop
        try:
            return super().connect()
        except PoolTimeoutError as error:
            raise DatabaseUnavailableError(
                f"no connection became free in {self.timeout():g} s (DB_POOL_SIZE, DB_MAX_OVERFLOW, DB_POOL_TIMEOUT)"
            ) from error

    def _do_get(self) -> ConnectionPoolEntry:
        entry = super()._do_get()
        was_just_used = time.monotonic() - entry.info.get(_USED_AT, -_TRUSTED) < _TRUSTED
        name = cast("sa.Dialect", self._dialect).name  # the engine gives its own
        if was_just_used and dialects.by_name(name).is_at_rest(entry.driver_connection):
            entry.fresh = True  # type: ignore[attr-defined] # the pool asks no connection that was just made, either
        return entry


def _install(engine: sa.Engine, dialect: Dialect, options: EngineOptions) -> None:
    # Before the dialect's hooks: what fails in them must not be taken for the end of the transaction before.
    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.info.pop(_FAILED, None)
        connection.info.pop(_COMMITTING, None)

    dialect.install(engine, options)

    @event.listens_for(engine, "handle_error")
    def translate(context: ExceptionContext) -> BaseException | None:
        if context.is_pre_ping:
            return None  # the pool asks SQLAlchemy's own error whether to connect anew
        if dialect.ends_transaction(context.original_exception):
            # Going on would commit what came after the error without what came before it.
            context.is_disconnect, context.invalidate_pool_on_disconnect = True, False
        connection, error = context.connection, context.original_exception
        if isinstance(error, InvalidRowError):
            return None  # refused before anything was sent: the transaction is as it was
        # One that was given up already, by the same error at an inner place, has no information any more.
        if connection is None or connection.invalidated:
            return dialect.translate(error, is_disconnect=context.is_disconnect)
        if connection.get_execution_options().get(WHOLE, False):
            if connection.info.get(_COMMITTING, False) and context.is_disconnect and isinstance(error, Exception):
                return CommitOutcomeUnknownError(f"the connection was lost during COMMIT: {error}")
            in_savepoint = connection.in_nested_transaction() and context.statement is not None
            connection.info[_FAILED] = connection.info.get(_FAILED, False) or not in_savepoint
        return dialect.translate(error, is_disconnect=context.is_disconnect)

    @event.listens_for(engine, "commit")
    def commit(connection: sa.Connection) -> None:
        """Refuse a commit that PostgreSQL would turn into a rollback without a word, and others into half the work."""
        if connection.info.get(_FAILED, False):
            connection.dialect.do_rollback(connection.connection)  # the pool takes the transaction for ended
            raise ConfigurationError(
                "nothing of this transaction was stored, since one of its statements had failed: let the error end the"
                " session's block, or run what may fail inside of `session.begin_nested()`"
            )
        connection.info[_COMMITTING] = True

    @event.listens_for(engine, "checkin")
    def note_use(_dbapi_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = time.monotonic()

    @event.listens_for(engine, "reset")
    def roll_back(dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry, state: PoolResetState) -> None:
        """Do as the pool does by itself, but without a journey for a transaction that has ended."""
        if state.asyncio_safe and not state.transaction_was_reset and dialect.in_transaction(record.driver_connection):
            dbapi_connection.rollback()

    @event.listens_for(engine, "do_connect")
    def connect(
        sa_dialect: Any, _record: ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]
    ) -> DBAPIConnection:
        try:
            return sa_dialect.connect(*arguments, **options)  # type: ignore[no-any-return]
        except Exception as error:
            if (reason := _certificate_refused(error)) is not None:
                raise ConfigurationError(f"the server's certificate is refused, by DB_SSL: {reason}") from error
            # Some drivers raise errors of their own here, which SQLAlchemy does not know as the driver's.
            translated = dialect.translate(error, is_disconnect=isinstance(error, OSError | TimeoutError))
            if translated is None:
                raise
            raise translated from error


def _certificate_refused(error: BaseException | None) -> str | None:
    """Return why TLS came to nothing, if that is what a driver's error is about; trying again would not help."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__
    return None if error is None else error.verify_message
