"""Bring a database to a revision, or take everything of ours away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import AsyncEngine

from traderrr_data import dialects
from traderrr_data.dialects import Waits
from traderrr_data.models.base import VERSION_TABLE
from traderrr_data.schema.running import run
from traderrr_data.schema.standing import State, foreign, require_usable, status


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
    await run(engine, lambda config: command.upgrade(config, revision), waits)


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
    await run(engine, lambda config: command.downgrade(config, revision), waits)


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


def _waits(
    engine: AsyncEngine, lock_timeout: float | None = None, ddl_timeout: float | None = None, lock: bool | None = None
) -> Waits:
    default: Waits = engine.sync_engine.get_execution_options().get(dialects.MIGRATION_WAITS, Waits())
    given: dict[str, Any] = {"lock": lock, "lock_timeout": lock_timeout, "ddl_timeout": ddl_timeout}
    return replace(default, **{name: value for name, value in given.items() if value is not None})
