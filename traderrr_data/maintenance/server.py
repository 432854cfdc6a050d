"""Backups of a server's database as folders of Parquet files, and the way back."""

from __future__ import annotations

from pathlib import Path

from traderrr_data import schema
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import ConfigurationError
from traderrr_data.maintenance.threads import Progress


def is_ours(path: Path) -> bool:
    """Tell whether something is a folder of our Parquet files."""
    return path.is_dir()


def name_and_home(db: DatabaseManager) -> tuple[str, Path]:
    """Return what backups are named after, and the folder where they go by themselves."""
    return str(db.engine.url.database), Path.cwd()


async def write_backup(db: DatabaseManager, target: Path, progress: Progress | None) -> int:
    """Copy the database into a folder that appears when it is complete; return its bytes."""
    raise ConfigurationError("not yet")


async def restore(db: DatabaseManager, source: Path, progress: Progress | None) -> tuple[schema.Status, Path | None]:
    """Copy a backup into the database; return how it stands to this code, and where the replaced rows are."""
    raise ConfigurationError("not yet")
