"""How Alembic reaches the database: async by itself, or through a connection that `traderrr_data.schema` hands in."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Iterable
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext

from traderrr_data import dialects
from traderrr_data.engine import create_engine, waits_of
from traderrr_data.errors import ConfigurationError
from traderrr_data.models import Base
from traderrr_data.models.base import VERSION_TABLE
from traderrr_data.models.types import CheckedType, utc_now
from traderrr_data.settings import Settings

config = context.config

X_ARGUMENTS = {"lock_timeout", "ddl_timeout", "migration_lock"}
"""What ``alembic -x NAME=VALUE`` may say; each is the setting of that name (``DB_LOCK_TIMEOUT`` and so on)."""


def is_ours(name: str | None, kind: str, parents: Any) -> bool:
    """Keep autogenerate and ``check`` away from what others keep in the same database, and on our tables.

    The legacy application makes an index at every start, and the owners of its files have others.
    """
    if kind == "table":
        return name in Base.metadata.tables
    table = Base.metadata.tables.get(parents.get("table_name") or "")
    if kind != "index" or table is None:
        return True
    # MySQL has an index for each unique constraint, too.
    return name in {index.name for index in table.indexes} | {constraint.name for constraint in table.constraints}


def default_differs(
    _context: MigrationContext,
    _inspected: object,
    _column: object,
    found: str | None,
    _default: object,
    wanted: str | None,
) -> bool:
    """Compare defaults as text: a database may say that one reading of its clock is not another."""

    def plain(default: str | None) -> str:
        return re.sub(r"::[\w ]+|[()'\"\s]", "", default or "").lower()

    return plain(found) != plain(wanted)


def render_frozen(kind: str, item: Any, autogenerate: AutogenContext) -> str | bool:
    """Write types and defaults as plain SQLAlchemy: history must not move with this package."""
    if kind == "type" and isinstance(item, CheckedType):
        if "mysql." in item.frozen:
            autogenerate.imports.add("from sqlalchemy.dialects import mysql")
        return item.frozen
    if kind == "server_default" and isinstance(getattr(item, "arg", None), utc_now):
        return "utc_now()"
    return False


def number_revision(
    migration: MigrationContext, _revision: str | Iterable[str | None], directives: list[MigrationScript]
) -> None:
    """Give a new revision the next number, so that file names sort as history does."""
    if directives and not getattr(config.cmd_opts, "rev_id", None):
        scripts = migration.opts["script"].walk_revisions()
        numbers = [int(script.revision) for script in scripts if script.revision.isdigit()]
        directives[0].rev_id = f"{max(numbers, default=0) + 1:03}"


OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table": VERSION_TABLE,
    "include_name": is_ours,
    "compare_type": True,
    "compare_server_default": default_differs,
    "render_item": render_frozen,
    "process_revision_directives": number_revision,
    "render_as_batch": True,  # SQLite cannot ALTER; elsewhere a batch is the plain statements
}


def write_sql() -> None:
    """Write the statements instead of running them."""
    given = config.attributes.get("url")
    chosen = settings() if given is None else Settings(database_url=given.render_as_string(hide_password=False))
    context.configure(url=chosen.url, literal_binds=True, dialect_opts={"paramstyle": "named"}, **OPTIONS)
    with context.begin_transaction():
        if head := dialects.by_name(chosen.url.get_backend_name()).script_head(waits_of(chosen)):
            context.static_output(f"{head}\n")
        context.run_migrations()


def migrate(connection: sa.Connection) -> None:
    """Migrate under the migration lock, on every database in as few transactions as it can."""
    dialect = dialects.for_connection(connection)
    waits: dialects.Waits = connection.get_execution_options().get(dialects.MIGRATION_WAITS, dialects.Waits())
    with dialect.migrating(connection, waits):
        # The owners of adopted files have indexes of their own, on expressions, too; they are none of ours.
        warnings.filterwarnings("ignore", "Skipped unsupported reflection of expression-based index", sa.exc.SAWarning)
        context.configure(connection=connection, transactional_ddl=dialect.transactional_ddl, **OPTIONS)
        with context.begin_transaction(), dialect.guard_migration(connection, waits):
            context.run_migrations()


def settings() -> Settings:
    """Return the settings of the environment, with what `alembic -x` says about waiting in their place.

    Raises:
        ConfigurationError: -x names nothing that is known here, or has a wrong value.
    """
    chosen = context.get_x_argument(as_dictionary=True)
    if unknown := sorted(chosen.keys() - X_ARGUMENTS):
        raise ConfigurationError(f"alembic -x knows {', '.join(sorted(X_ARGUMENTS))}, not {', '.join(unknown)}")
    return Settings(**{f"db_{name}": value for name, value in chosen.items()})


async def migrate_alone() -> None:
    """Migrate as ``alembic`` was asked to on the command line, with an engine of our own."""
    engine = create_engine(settings())
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


if config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    write_sql()
elif (handed_in := config.attributes.get("connection")) is not None:
    migrate(handed_in)
else:
    asyncio.run(migrate_alone())
