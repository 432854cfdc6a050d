"""Migrations from code: what ``alembic`` does on the command line, for an engine that is already there."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import io
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncEngine

from traderrr_data import dialects
from traderrr_data.dialects import Waits
from traderrr_data.errors import ConfigurationError, SchemaMismatchError, TransactionConflictError
from traderrr_data.models import Base, Compatibility
from traderrr_data.models.base import VERSION_TABLE

logger = logging.getLogger(__name__)

_ALEMBIC = threading.Lock()
_holders: list[int] = []  # the thread that holds it
_LOCK_POLL = 0.05  # seconds


class State(enum.Enum):
    """How a database's tables stand to this code."""

    EMPTY = "empty"
    CURRENT = "current"
    BEHIND = "behind"
    AHEAD = "ahead, but usable by this version"
    INCOMPATIBLE = "ahead, and not usable by this version"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Status:
    """What `status` found.

    Attributes:
        state: how the database stands to this code.
        revision: the database's revision; None if no migration has run.
        head: this code's newest revision.
        taken: our names that somebody else's tables have, if the state is FOREIGN.
    """

    state: State
    revision: str | None
    head: str
    taken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Revision:
    """One migration: its id, the one before it (None for the first), and what it does."""

    revision: str
    down_revision: str | None
    description: str


def head() -> str:
    """Return this code's newest revision."""
    return _known_revisions()[0]


def history() -> list[Revision]:
    """Return all migrations, newest first."""

    def parent(script: Script) -> str | None:
        return script.down_revision if isinstance(script.down_revision, str) else None

    return [Revision(s.revision, parent(s), s.doc) for s in _scripts().walk_revisions()]


async def status(engine: AsyncEngine) -> Status:
    """Return how the database stands to this code; nothing is written."""
    with contextlib.suppress(TransactionConflictError):  # a migration that ended between two looks of one snapshot
        return await _look(engine)
    return await _look(engine)


async def _look(engine: AsyncEngine) -> Status:
    reader = engine.execution_options(**dialects.for_connection(engine.sync_engine).reader_options)
    async with reader.connect() as connection:
        return await connection.run_sync(_read_status)


async def current(engine: AsyncEngine) -> str | None:
    """Return the database's revision, or None if no migration has run."""
    return (await status(engine)).revision


async def upgrade(
    engine: AsyncEngine,
    revision: str = "head",
    *,
    lock_timeout: float | None = None,
    ddl_timeout: float | None = None,
    lock: bool | None = None,
) -> None:
    """Bring the database to a revision; commits. Run again, it does nothing.

    A database that is ahead and compatible is left as it is, with a warning in the log. What is None is as the
    engine's settings say.

    Args:
        engine: of the database.
        revision: a revision, ``head`` or a step such as ``+1``.
        lock_timeout: seconds to wait for another migration (DB_LOCK_TIMEOUT).
        ddl_timeout: seconds that a statement waits for those who use its table (DB_DDL_TIMEOUT).
        lock: keep other migrations out (DB_MIGRATION_LOCK); SQLite always does.

    Raises:
        SchemaMismatchError: our names are taken by tables that are not ours, there is no such revision, or the database
            is ahead and incompatible.
        TransactionConflictError: another migration holds the lock, or somebody does not let go of a table; the message
            says who, as far as the database knows.
    """
    found = await status(engine)
    if found.state is State.FOREIGN:
        raise foreign(found)
    if revision == "head" and found.state in (State.AHEAD, State.INCOMPATIBLE):
        require_usable(found)  # a newer release has been here: there is nothing to do, or nothing that may be done
        return
    waits = _waits(engine, lock_timeout, ddl_timeout, lock)
    await _run(engine, lambda config: command.upgrade(config, revision), waits)


async def downgrade(
    engine: AsyncEngine,
    revision: str,
    *,
    lock_timeout: float | None = None,
    ddl_timeout: float | None = None,
    lock: bool | None = None,
) -> None:
    """Take the database back to a revision (``base``: before the first); commits. The rows of dropped tables are lost.

    The arguments are those of `upgrade`.

    Raises:
        SchemaMismatchError: there is no such revision, or the database is at one that this code does not know.
        TransactionConflictError: as `upgrade`.
    """
    waits = _waits(engine, lock_timeout, ddl_timeout, lock)
    await _run(engine, lambda config: command.downgrade(config, revision), waits)


async def check(engine: AsyncEngine) -> list[str]:
    """Return the differences between the models and the database's tables, as text; empty if there are none.

    Everything that the database's own catalog says is compared: columns with their types, decimals, fractions of
    seconds, collations, defaults and order, keys, indexes and CHECKs. On a server that takes the right to make
    temporary tables; nothing is left of them.

    Raises:
        SchemaMismatchError: the database is not at this code's head, so that they cannot be compared.
    """
    stands = await status(engine)
    if stands.state is not State.CURRENT:
        raise SchemaMismatchError(describe(stands))
    dialect = dialects.for_connection(engine.sync_engine)
    async with engine.execution_options(**dialect.catalog_options).connect() as connection:
        found, expected = await connection.run_sync(dialect.catalogs, Base.metadata.sorted_tables)
    parts = sorted(found.keys() | expected.keys())
    return [
        _difference(f"{table}, {part}", found.get((table, part)), expected.get((table, part)))
        for table, part in parts
        if found.get((table, part)) != expected.get((table, part))
    ]


def _difference(part: str, found: str | None, expected: str | None) -> str:
    if expected is None:
        return f"{part}: not expected ({found})"
    return f"{part}: missing ({expected})" if found is None else f"{part}: {found}, expected {expected}"


async def drop(engine: AsyncEngine) -> None:
    """Remove everything that is ours, rows included; commits. A database without our tables is left alone.

    Raises:
        SchemaMismatchError: the tables are somebody else's, or of a newer version than this code.
    """
    found = await status(engine)
    if found.state is State.FOREIGN:
        raise foreign(found)
    if found.taken:
        await upgrade(engine)  # finishes what a killed migration left, since only a finished one can be taken back
    if found.taken or found.revision is not None:
        await downgrade(engine, "base")
    async with engine.begin() as connection:
        await connection.execute(sa.schema.DropTable(sa.Table(VERSION_TABLE, sa.MetaData()), if_exists=True))


def sql(url: sa.URL, revision: str = "head") -> str:
    """Return the SQL of an upgrade of an empty database, for a person or another tool to run; nothing is connected.

    Args:
        url: only its scheme matters.
        revision: as for `upgrade`, or ``FROM:TO``.

    Raises:
        SchemaMismatchError: there is no such revision.
        ConfigurationError: a migration is under way in this thread's event loop, which could not go on meanwhile.
    """
    config = _config()
    config.output_buffer = buffer = io.StringIO()
    config.attributes["url"] = url
    try:
        with _alone_without_waiting():
            command.upgrade(config, revision, sql=True)
    except CommandError as error:
        raise SchemaMismatchError(str(error)) from error
    return buffer.getvalue()


def roles(url: sa.URL) -> str:
    """Return SQL that makes an owner, an application's and a reader's role; an administrator runs it once.

    Args:
        url: only its scheme matters.

    Raises:
        ConfigurationError: the database knows no users.
    """
    return _script(url, "roles.sql")


def grants(url: sa.URL) -> str:
    """Return SQL that says what the roles may do with the tables; run it after every upgrade.

    Args:
        url: only its scheme matters.

    Raises:
        ConfigurationError: the database knows no users.
    """
    return _script(url, "grants.sql")


def _script(url: sa.URL, name: str) -> str:
    dialect = dialects.by_name(url.get_backend_name())
    if dialect.scripts is None:
        raise ConfigurationError(f"{dialect.name} knows no users: the permissions of the file say who may use it")
    return (dialect.scripts / name).read_text(encoding="utf-8")


def describe(found: Status) -> str:
    """Return a status as a sentence that names the command that helps."""
    match found.state:
        case State.EMPTY:
            return "the database has none of our tables: run `traderrr-data upgrade`"
        case State.CURRENT:
            return f"the database is at {found.revision}, the newest revision"
        case State.BEHIND:
            return f"the database is at {found.revision}, behind {found.head}: run `traderrr-data upgrade`"
        case State.AHEAD:
            return f"the database is at {found.revision}, newer than {found.head}, and this version may still use it"
        case State.INCOMPATIBLE:
            return (
                f"the database is at {found.revision}, which this version (up to {found.head}) must not use:"
                " install a newer traderrr-data"
            )
        case State.FOREIGN:
            return f"the tables {', '.join(found.taken)} are there, but not made by our migrations"


def require_usable(found: Status) -> None:
    """Return if this code may use the database; log a warning if that is newer.

    Raises:
        SchemaMismatchError: it has none of our tables, or is behind, ahead and incompatible, or foreign.
    """
    if found.state is State.FOREIGN:
        raise foreign(found)
    if found.state not in (State.CURRENT, State.AHEAD):
        raise SchemaMismatchError(describe(found))
    if found.state is State.AHEAD:
        logger.warning("%s", describe(found))


def foreign(found: Status) -> SchemaMismatchError:
    """Return the error for a database whose tables are not ours."""
    return SchemaMismatchError(f"{describe(found)}: nothing was changed (a legacy file is taken over by `adopt`)")


def _folder() -> Path:
    """Return where the migrations are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _config() -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _waits(
    engine: AsyncEngine, lock_timeout: float | None = None, ddl_timeout: float | None = None, lock: bool | None = None
) -> Waits:
    default: Waits = engine.sync_engine.get_execution_options().get(dialects.MIGRATION_WAITS, Waits())
    return Waits(
        lock=default.lock if lock is None else lock,
        lock_timeout=default.lock_timeout if lock_timeout is None else lock_timeout,
        ddl_timeout=default.ddl_timeout if ddl_timeout is None else ddl_timeout,
    )


async def _run(engine: AsyncEngine, action: Callable[[Config], None], waits: Waits) -> None:
    deadline = time.monotonic() + waits.lock_timeout

    def run(connection: sa.Connection) -> None:
        config = _config()
        left = max(0.0, deadline - time.monotonic())
        options = {dialects.MIGRATION_WAITS: replace(waits, lock_timeout=left)}
        config.attributes["connection"] = connection.execution_options(**options)
        action(config)

    try:
        async with _alone_in_this_process(waits.lock_timeout), engine.connect() as connection:
            await connection.run_sync(run)
    except CommandError as error:
        raise SchemaMismatchError(str(error)) from error


@contextlib.asynccontextmanager
async def _alone_in_this_process(lock_timeout: float) -> AsyncIterator[None]:
    """Run Alembic once at a time, also in other tasks and threads: what it works on is a global (`alembic.context`)."""
    deadline = time.monotonic() + lock_timeout
    while not _ALEMBIC.acquire(blocking=False):
        if time.monotonic() >= deadline:
            raise TransactionConflictError(
                f"nothing was changed: another migration of this process was under way for {lock_timeout:g} s"
            )
        await asyncio.sleep(_LOCK_POLL)  # an event would belong to one loop
    with _held_by_this_thread():
        yield


@contextlib.contextmanager
def _alone_without_waiting() -> Iterator[None]:
    """Do the same where nothing can be awaited: other threads are waited for, this one's event loop cannot be."""
    if _holders == [threading.get_ident()]:
        raise ConfigurationError("a migration is under way in this thread's event loop: await its end first")
    _ALEMBIC.acquire()
    with _held_by_this_thread():
        yield


@contextlib.contextmanager
def _held_by_this_thread() -> Iterator[None]:
    _holders.append(threading.get_ident())
    try:
        yield
    finally:
        _holders.clear()
        _ALEMBIC.release()


@functools.cache
def _known_revisions() -> tuple[str, ...]:
    """Return the revisions that this code has, newest first."""
    known = tuple(script.revision for script in _scripts().walk_revisions())
    if not known:
        raise SchemaMismatchError("no migrations are installed")
    return known


def _read_status(connection: sa.Connection) -> Status:
    newest = head()
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    try:
        revision = context.get_current_revision()
    except CommandError as error:
        raise SchemaMismatchError(f"the table {VERSION_TABLE} has more than one row: {error}") from error
    if revision == newest:
        return Status(State.CURRENT, revision, newest)
    present = set(sa.inspect(connection).get_table_names())
    if revision is None:
        taken = tuple(sorted(present & set(Base.metadata.tables)))
        # With our version table there, they are what a killed first migration left on a database without
        # transactional DDL; the next run goes on.
        unfinished = VERSION_TABLE in present
        return Status(State.FOREIGN if taken and not unfinished else State.EMPTY, None, newest, taken)
    if revision in _known_revisions():
        return Status(State.BEHIND, revision, newest)
    has_row = Compatibility.__tablename__ in present
    oldest = connection.scalar(sa.select(Compatibility.oldest_code_revision)) if has_row else None
    return Status(State.AHEAD if oldest in _known_revisions() else State.INCOMPATIBLE, revision, newest)
