"""The names of backups: where they go, and which of them are removed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from traderrr_data import files
from traderrr_data.errors import ConfigurationError


def backup_path(path: Path | None, home: Path, name: str, keep: int | None) -> Path:
    """Return where a backup goes.

    Args:
        path: what the caller said: a folder for a name of ours in it, a new name, or None.
        home: the folder of a caller who said nothing.
        name: of the database.
        keep: how many backups stay.

    Raises:
        ConfigurationError: `keep` is less than one, or the backup has no name of ours to be counted by.
        FileExistsError: there is something of that name.
    """
    folder = home if path is None else path if path.is_dir() else None
    target = path if folder is None and path is not None else (folder or home) / files.named(name, "backup")
    if keep is not None and keep < 1:
        raise ConfigurationError(f"keep is {keep}: at least the backup that is made now has to stay")
    if keep is not None and folder is None and not files.is_named(target.name, name, "backup"):
        raise ConfigurationError(
            "keep counts the backups that have a name of ours: say the folder of the backups, or no path"
        )
    if target.exists():
        raise FileExistsError(errno.EEXIST, "is there already, and a backup overwrites nothing", str(target))
    return target


def surplus(newest: Path, name: str, keep: int, is_ours: Callable[[Path], bool]) -> list[Path]:
    """Return the backups of a database, beside the newest, that are more than are kept; oldest first."""
    named_so = [path for path in newest.parent.iterdir() if files.is_named(path.name, name, "backup")]
    older = sorted((path for path in named_so if path != newest and is_ours(path)), key=lambda path: path.name)
    return older[: max(0, len(older) - keep + 1)]
