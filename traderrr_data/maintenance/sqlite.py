"""Backups of SQLite files, and the way back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr

from traderrr_data import files, schema
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import ConfigurationError, SchemaMismatchError
from traderrr_data.maintenance import copies, sqlite_file
from traderrr_data.maintenance.sqlite_file import is_ours
from traderrr_data.maintenance.threads import Progress, Watch, in_thread
from traderrr_data.settings import Settings

__all__ = ["is_ours", "name_and_home", "restore", "write_backup"]


def name_and_home(db: DatabaseManager) -> tuple[str, Path]:
    """Return what backups are named after, and the folder where they go by themselves."""
    file = sqlite_file.file_of(db.engine.url)
    return file.name, file.parent


async def write_backup(db: DatabaseManager, target: Path, progress: Progress | None) -> int:
    """Copy the database into a file that appears when it is complete; return its bytes."""
    source = sqlite_file.file_of(db.engine.url)
    if not await asyncio.to_thread(source.exists):
        raise SchemaMismatchError(f"there is no database {source}: run `traderrr-data upgrade`")
    found = await schema.status(db.engine)
    if found.revision is None:
        raise SchemaMismatchError(schema.describe(found))

    def write(watch: Watch) -> int:
        with files.growing(target) as new:
            sqlite_file.copy(source, new.path, watch)
            files.take_after(new.path, source.stat())
            files.appear(new.path, target)
            return target.stat().st_size

    return await in_thread(write, progress)


async def restore(db: DatabaseManager, source: Path, progress: Progress | None) -> tuple[schema.Status, Path | None]:
    """Put a backup in the place of the database; return how it stands to this code, and the replaced file."""
    target = sqlite_file.file_of(db.engine.url)
    if await asyncio.to_thread(lambda: target.exists() and source.samefile(target)):
        raise ConfigurationError(f"{source} is the database itself, not a backup of it")
    await db.close()
    kept = target.with_name(files.named(target.name, "replaced"))
    journal_mode = db.settings.db_sqlite_journal
    with files.growing(target.with_name(files.named(target.name, "restored"))) as new:
        if await asyncio.to_thread(source.is_dir):
            await copies.copy(source, _settings(db, new.path), progress)
        else:
            await in_thread(lambda watch: _take_over(source, new.path, watch), progress)
        found = await _status(db, new.path)
        if found.state not in (schema.State.CURRENT, schema.State.BEHIND, schema.State.AHEAD):
            raise SchemaMismatchError(f"{source} cannot be restored: {schema.describe(found)}")
        replaced = await in_thread(
            lambda watch: sqlite_file.replace(target, new, kept, journal_mode=journal_mode, watch=watch)
        )
    return found, replaced


def _take_over(source: Path, new: Path, watch: Watch) -> None:
    sqlite_file.copy(source, new, watch)
    files.take_after(new, source.stat())


async def _status(db: DatabaseManager, path: Path) -> schema.Status:
    async with DatabaseManager(_settings(db, path)) as restored:
        return await schema.status(restored.engine)


def _settings(db: DatabaseManager, path: Path) -> Settings:
    url = sa.URL.create(db.engine.url.drivername, database=str(path)).render_as_string()
    return db.settings.model_copy(update={"database_url": SecretStr(url)})
