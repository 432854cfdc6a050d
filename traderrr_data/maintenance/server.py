"""Backups of a server's database as folders of Parquet files, and the way back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa

from traderrr_data import files, schema
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import ConfigurationError, SchemaMismatchError
from traderrr_data.maintenance import copies
from traderrr_data.maintenance.copies import is_copy as is_ours
from traderrr_data.maintenance.threads import Progress
from traderrr_data.models import Base, Compatibility
from traderrr_data.session import to_its_end

__all__ = ["is_ours", "name_and_home", "restore", "write_backup"]


def name_and_home(db: DatabaseManager) -> tuple[str, Path]:
    """Return what backups are named after, and the folder where they go by themselves."""
    return str(db.engine.url.database), Path.cwd()


async def write_backup(db: DatabaseManager, target: Path, progress: Progress | None) -> int:
    """Copy the database into a folder that appears when it is complete; return its bytes."""
    with files.growing(target, is_folder=True) as new:
        await copies.copy(db.settings, new.path, progress)
        return await to_its_end(_appear, new.path, target)


def _appear(part: Path, target: Path) -> int:
    files.appear(part, target)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


async def restore(db: DatabaseManager, source: Path, progress: Progress | None) -> tuple[schema.Status, Path | None]:
    """Copy a backup into the database; return how it stands to this code, and where the replaced rows are.

    Interrupted, the database has the old rows, all of which are kept before the first is removed, or some of the
    backup's; run again, it goes on.
    """
    if not await asyncio.to_thread(source.is_dir):
        raise ConfigurationError(
            f"{source} is no folder of Parquet files: a SQLite file goes into a server's database by `copy`"
        )
    identity, revision = await copies.check(source)
    found = await schema.status(db.engine)
    if found.state is schema.State.FOREIGN:
        raise schema.foreign(found)
    replaced = None
    if found.state is not schema.State.EMPTY:
        rows, begun = await copies.unfinished(db.settings)
        if begun is not None and begun != identity:
            raise SchemaMismatchError(f"a copy of {begun} into this database is not complete: finish it first")
        if rows and begun is None:
            replaced = Path.cwd() / files.named(str(db.engine.url.database), "replaced")
            await write_backup(db, replaced, None)
            await _remove_all_rows(db)
        if begun is None and revision != found.head:
            await schema.drop(db.engine)  # a backup of an older revision goes into tables of that revision
    await copies.copy(source, db.settings, progress)
    return await schema.status(db.engine), replaced


async def _remove_all_rows(db: DatabaseManager) -> None:
    """Empty our tables, in one transaction; nothing is kept of the rows, which are in a folder by now."""
    async with db.engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            if table is not Compatibility.__table__:
                await connection.execute(sa.delete(table))
