"""How a database stands to this code."""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
from dataclasses import dataclass

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import Script
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncEngine

from traderrr_data import dialects
from traderrr_data.errors import SchemaMismatchError, TransactionConflictError
from traderrr_data.models import Base, Compatibility
from traderrr_data.models.base import VERSION_TABLE
from traderrr_data.schema.running import scripts

logger = logging.getLogger(__name__)


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

    return [Revision(s.revision, parent(s), s.doc) for s in scripts().walk_revisions()]


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


@functools.cache
def _known_revisions() -> tuple[str, ...]:
    """Return the revisions that this code has, newest first."""
    known = tuple(script.revision for script in scripts().walk_revisions())
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
