"""Files with rows of a database in them: nobody may read them who may not read the database, and they are to last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import sqlalchemy as sa

_NOBODY_ELSE: Final = 0o600
_GROUP: Final = 0o060


def create(path: Path, database: sa.URL, *sources: Path) -> int:
    """Make a file in place of what has its name, and return a descriptor to write to it.

    Whoever may read it may read the file of the database, and every other source as well; where that is a server, its
    owner alone may. The umask takes its part away too.

    Args:
        path: of the file.
        database: whose rows it is for.
        sources: other files whose content goes into it.

    Raises:
        OSError: it cannot be made.
    """
    likes = [_stat(Path(database.database or "")), *map(_stat, sources)]
    mode = 0o666
    for like in likes:
        mode &= _NOBODY_ELSE if like is None else like.st_mode | _NOBODY_ELSE
    path.unlink(missing_ok=True)  # one that was left there may be open to all
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    group = os.fstat(fd).st_gid
    if any(like is not None and like.st_gid != group for like in likes):
        os.fchmod(fd, os.fstat(fd).st_mode & ~_GROUP)  # its group is another one
    return fd


def store(path: Path) -> None:
    """Have the disk store a file, or the names in a folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _stat(path: Path) -> os.stat_result | None:
    return path.stat() if path.is_absolute() and path.is_file() else None
