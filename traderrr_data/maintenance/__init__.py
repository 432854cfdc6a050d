"""Backups of a database, the way back from one, and giving free space back."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from traderrr_data import files, schema
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import ConfigurationError, SchemaMismatchError
from traderrr_data.maintenance import names, server, sqlite, vacuuming
from traderrr_data.maintenance.threads import Progress
from traderrr_data.models import Base

__all__ = ["Backup", "Progress", "Restored", "Vacuumed", "backup", "restore", "vacuum"]


@dataclass(frozen=True)
class Backup:
    """What `backup` made.

    Attributes:
        path: the file, or the folder of Parquet files.
        size_bytes: of it.
        seconds: how long it took.
        removed: the older backups that went, oldest first.
    """

    path: Path
    size_bytes: int
    seconds: float
    removed: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Restored:
    """What `restore` did.

    Attributes:
        status: how the restored database stands to this code; one that is behind wants an upgrade.
        replaced: where the former rows are kept; None if there were none.
        seconds: how long it took.
    """

    status: schema.Status
    replaced: Path | None
    seconds: float


@dataclass(frozen=True)
class Vacuumed:
    """What `vacuum` did.

    Attributes:
        statements: what was run, in order.
        bytes_before: what the database took, as `get_database_info` tells it.
        bytes_after: what it takes now.
        remarks: what the database said that is worth knowing.
    """

    statements: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    remarks: tuple[str, ...] = ()


async def backup(
    db: DatabaseManager, path: str | Path | None = None, *, keep: int | None = None, progress: Progress | None = None
) -> Backup:
    """Make a complete backup of the database as it is at one instant, while others read and write.

    Of a SQLite file it is a SQLite file, checked, that needs no other file beside it; of a server's database it is a
    folder of Parquet files (`transfer.copy`). It appears under its name only when it is complete, replaces nothing,
    and nobody can read it who cannot read the database.

    Args:
        db: the database; a SQLite file may be behind, so that a backup can come before an upgrade.
        path: a new name, or a folder for a backup named ``NAME.backup-TIME`` (UTC); None for the folder of the
            SQLite file, or the working directory.
        keep: how many backups of that name to keep in the folder, this one included; the oldest others are removed
            when this one is complete. None removes nothing.
        progress: is told how much is done.

    Raises:
        SchemaMismatchError: the database has none of our tables, or they are somebody else's; on a server, also if it
            is not at head.
        ConfigurationError: it is in memory or damaged; or `keep` has no backups to count.
        TransactionConflictError: somebody holds the lock of the file.
        DatabaseUnavailableError: the database cannot be read.
        OSError: there is something of that name, or it cannot be written.
    """
    began = time.monotonic()
    kind = sqlite if db.engine.dialect.name == "sqlite" else server
    name, home = kind.name_and_home(db)
    target = await asyncio.to_thread(names.backup_path, None if path is None else Path(path), home, name, keep)
    size = await kind.write_backup(db, target, progress)
    removed = await asyncio.to_thread(_remove_surplus, target, name, keep, kind.is_ours) if keep is not None else ()
    return Backup(target, size, time.monotonic() - began, removed)


def _remove_surplus(newest: Path, name: str, keep: int, is_ours: Callable[[Path], bool]) -> tuple[Path, ...]:
    gone = names.surplus(newest, name, keep, is_ours)
    for path in gone:
        files.remove(path)
    return tuple(gone)


async def restore(db: DatabaseManager, path: str | Path, *, progress: Progress | None = None) -> Restored:
    """Bring a database back to what a backup holds, and keep what is replaced.

    The backup is checked before anything is changed. A SQLite file is replaced in one step: whenever that is
    interrupted, the file is the old one or the new one, and the old one is kept beside it as ``FILE.replaced-TIME``
    (UTC). Of a server's database the replaced rows are written into a folder ``NAME.replaced-TIME`` in the working
    directory first; one that is interrupted is run again.

    The manager's connections are closed first; it may be used again afterwards. Stop everything else that uses the
    database.

    Args:
        db: the database; a SQLite file may be absent or damaged.
        path: what `backup` made: a file, or a folder of Parquet files, of this or another kind of database.
        progress: is told how much is done.

    Raises:
        SchemaMismatchError: the backup holds no tables of ours, or those of a newer version.
        CopyMismatchError: a file of the folder is not what it was.
        ConfigurationError: the backup is damaged or is the database itself, or cannot go into this kind of database.
        TransactionConflictError: somebody uses the database; nothing was changed.
        OSError: the backup cannot be read, or the file not be written.
    """
    began = time.monotonic()
    source = Path(path)
    if not await asyncio.to_thread(source.exists):
        raise FileNotFoundError(errno.ENOENT, "there is no such backup", str(source))
    kind = sqlite if db.engine.dialect.name == "sqlite" else server
    status, replaced = await kind.restore(db, source, progress)
    return Restored(status, replaced, time.monotonic() - began)


async def vacuum(db: DatabaseManager) -> Vacuumed:
    """Give back the space that deleted and overwritten rows left, and renew the planner's statistics.

    SQLite writes the file anew, which needs as much space again for a while and keeps all others out of it.
    PostgreSQL makes the space free for new rows, beside readers and writers. MySQL and MariaDB write each table anew,
    beside readers and writers but for an instant.

    Raises:
        ConfigurationError: a pooler stands before the server (DB_TRANSACTION_POOLING).
        SchemaMismatchError: the database has none of our tables.
        TransactionConflictError: somebody uses a SQLite file all the time, or holds a table.
        DatabaseUnavailableError: the database said that it could not do it, as where a disk is full.
    """
    if db.settings.db_transaction_pooling and db.engine.dialect.name == "postgresql":
        # It runs in no transaction, and outside of one a pooler keeps no settings, not even which schema is meant.
        raise ConfigurationError("a pooler in transaction mode cannot do this: use the address of the server itself")
    found = await schema.status(db.engine)
    if found.revision is None:
        raise SchemaMismatchError(schema.describe(found))
    async with db.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        present = await connection.run_sync(lambda sync: set(sa.inspect(sync).get_table_names()))
        tables = [name for name in sorted(Base.metadata.tables) if name in present]
        before = await connection.run_sync(db.dialect.size)
        statements, remarks = await vacuuming.WAYS[db.engine.dialect.name](connection, tables)
        after = await connection.run_sync(db.dialect.size)
    return Vacuumed(tuple(statements), before, after, tuple(remarks))
