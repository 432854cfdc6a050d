"""Files with rows of a database in them: open to nobody to whom it is not, whole or not there, and made to last."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa

_NOBODY_ELSE: Final = 0o600
_GROUP: Final = 0o070
_READABLE: Final = 0o444
_TIME: Final = "%Y%m%dT%H%M%S.%fZ"
_TIME_PATTERN: Final = r"\d{8}T\d{6}\.\d{6}Z"
_BESIDE: Final = ("", "-wal", "-shm", "-journal")
_PART: Final = ".part"


def create(path: Path, origin: sa.URL | Path, *sources: Path) -> int:
    """Make a file in place of what has its name, and return a descriptor to write to it.

    Whoever may read it may read the file of the database, and every other source as well; where that is a server, its
    owner alone may. The umask takes its part away too.

    Args:
        path: of the file.
        origin: the database whose rows it is for, or a file with them.
        sources: other files whose content goes into it.

    Raises:
        OSError: it cannot be made.
    """
    likes = _stats(origin, *sources)
    path.unlink(missing_ok=True)  # one that was left there may be open to all
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _mode(likes))
    if _is_of_another_group(os.fstat(fd), likes):
        os.fchmod(fd, os.fstat(fd).st_mode & ~_GROUP)
    return fd


def create_folder(path: Path, origin: sa.URL | Path) -> None:
    """Make a folder for such files, unless there is one, which keeps its mode.

    Raises:
        OSError: it cannot be made.
    """
    likes = _stats(origin)
    mode = _mode(likes)
    try:
        path.mkdir(mode | (mode & _READABLE) >> 2)  # a folder that is read is also gone into
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    made = path.stat()
    if _is_of_another_group(made, likes):
        path.chmod(made.st_mode & ~_GROUP)


def _stats(origin: sa.URL | Path, *sources: Path) -> list[os.stat_result | None]:
    first = Path(origin.database or "") if isinstance(origin, sa.URL) else origin
    return [path.stat() if path.is_absolute() and path.is_file() else None for path in (first, *sources)]


def _mode(likes: list[os.stat_result | None]) -> int:
    mode = 0o666
    for like in likes:
        mode &= _NOBODY_ELSE if like is None else like.st_mode | _NOBODY_ELSE
    return mode


def _is_of_another_group(made: os.stat_result, likes: list[os.stat_result | None]) -> bool:
    return any(like is not None and like.st_gid != made.st_gid for like in likes)


def take_after(path: Path, like: os.stat_result) -> None:
    """Give a file the owner and the mode of another; where that owner cannot be given, nobody but ours may read it."""
    mode = like.st_mode & 0o666
    now = path.stat()
    if (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
        try:
            os.chown(path, like.st_uid, like.st_gid)
        except PermissionError:
            mode &= _NOBODY_ELSE
    path.chmod(mode)


def named(name: str, kind: str) -> str:
    """Return the name of what is kept of a database now: ``NAME.KIND-TIME``, where names sort by time (UTC)."""
    return f"{name}.{kind}-{dt.datetime.now(dt.UTC).strftime(_TIME)}"


def is_named(given: str, name: str, kind: str) -> bool:
    """Tell whether a name is one of those that `named` returns."""
    return re.fullmatch(rf"{re.escape(name)}\.{kind}-{_TIME_PATTERN}", given) is not None


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
        part.touch(mode=_NOBODY_ELSE, exist_ok=False)
    held = Growing(part)
    try:
        yield held
    finally:
        held.let_go()
        remove(part)


def _remove_abandoned(target: Path) -> None:
    name = re.sub(rf"{_TIME_PATTERN}$", "", target.name)
    of_same = re.compile(rf"{re.escape(name)}({_TIME_PATTERN})?{re.escape(_PART)}")
    for path in target.parent.iterdir():
        if of_same.fullmatch(path.name):
            with contextlib.suppress(BlockingIOError):
                Growing(path).let_go()
                remove(path)


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


def remove(path: Path) -> None:
    """Remove a file or folder, with what SQLite has beside it."""
    if path.is_dir():
        shutil.rmtree(path)
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def store(path: Path) -> None:
    """Have the disk store a file, or the names in a folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
