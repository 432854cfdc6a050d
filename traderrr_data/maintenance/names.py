"""Where backups appear: their names, whole or not at all, and which of them go."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from traderrr_data.errors import ConfigurationError
from traderrr_data.files import store

_TIME = "%Y%m%dT%H%M%S.%fZ"
_TIME_PATTERN = r"\d{8}T\d{6}\.\d{6}Z"
_BESIDE = ("", "-wal", "-shm", "-journal")
_PART = ".part"


def named(name: str, kind: str) -> str:
    """Return the name of what is kept of a database now: ``NAME.KIND-TIME``, where names sort by time (UTC)."""
    return f"{name}.{kind}-{dt.datetime.now(dt.UTC).strftime(_TIME)}"


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
    target = path if folder is None and path is not None else (folder or home) / named(name, "backup")
    if keep is not None and keep < 1:
        raise ConfigurationError(f"keep is {keep}: at least the backup that is made now has to stay")
    if keep is not None and folder is None and not _pattern(name, "backup").fullmatch(target.name):
        raise ConfigurationError(
            "keep counts the backups that have a name of ours: say the folder of the backups, or no path"
        )
    if target.exists():
        raise FileExistsError(errno.EEXIST, "is there already, and a backup overwrites nothing", str(target))
    return target


def surplus(newest: Path, name: str, keep: int, is_ours: Callable[[Path], bool]) -> list[Path]:
    """Return the backups of a database, beside the newest, that are more than are kept; oldest first."""
    named_so = [path for path in newest.parent.iterdir() if _pattern(name, "backup").fullmatch(path.name)]
    older = sorted((path for path in named_so if path != newest and is_ours(path)), key=lambda path: path.name)
    return older[: max(0, len(older) - keep + 1)]


def remove(path: Path) -> None:
    """Remove a backup, or what is beside an unfinished one."""
    if path.is_dir():
        shutil.rmtree(path)
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _pattern(name: str, kind: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(name)}\.{kind}-{_TIME_PATTERN}")


class Growing:
    """A file or folder that is not complete yet; others leave it alone as long as this process holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Hold it no longer."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def growing(target: Path, *, is_folder: bool = False) -> Iterator[Growing]:
    """Give an empty file, or folder, beside the target, which only its owner can read, and which is gone afterwards.

    What a killed process left there for the same database is removed.
    """
    _remove_abandoned(target)
    part = target.with_name(target.name + _PART)
    if is_folder:
        part.mkdir(mode=0o700)
    else:
        part.touch(mode=0o600, exist_ok=False)
    held = Growing(part)
    try:
        yield held
    finally:
        held.let_go()
        remove(part)


def appear(part: Path, target: Path) -> None:
    """Give what is complete its name, for good.

    Raises:
        FileExistsError: somebody else was faster.
    """
    if part.is_dir():
        for path in part.rglob("*"):
            store(path)
        part.rename(target)  # fails if a folder of that name holds anything
    else:
        store(part)
        try:
            target.hardlink_to(part)  # unlike a rename it overwrites nothing
        except FileExistsError:
            raise
        except OSError:  # a file system without links, such as exFAT
            if target.exists():
                raise FileExistsError(errno.EEXIST, "is there already", str(target)) from None
            part.rename(target)
    store(target.parent)


def take_after(path: Path, like: os.stat_result) -> None:
    """Give a file the owner and the mode of another; where that owner cannot be given, nobody but ours may read it."""
    mode = like.st_mode & 0o666
    now = path.stat()
    if (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
        try:
            os.chown(path, like.st_uid, like.st_gid)
        except PermissionError:
            mode &= 0o600
    path.chmod(mode)


def copy_open_file(source: FileIO, target: Path, stopping: Callable[[], None]) -> None:
    """Copy a file that stays open: closing any descriptor of it would drop the locks that this process has on it."""
    source.seek(0)
    with target.open("wb") as out:
        while chunk := source.read(1 << 22):
            stopping()
            out.write(chunk)
    take_after(target, os.fstat(source.fileno()))
    store(target)


def _remove_abandoned(target: Path) -> None:
    name = re.sub(rf"{_TIME_PATTERN}$", "", target.name)
    of_same = re.compile(rf"{re.escape(name)}({_TIME_PATTERN})?{re.escape(_PART)}")
    for path in target.parent.iterdir():
        if of_same.fullmatch(path.name):
            with contextlib.suppress(BlockingIOError):
                Growing(path).let_go()
                remove(path)
