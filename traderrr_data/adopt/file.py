"""The file itself: opening it without a trace, opening it to write, and the copy that is made before."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from traderrr_data import dialects
from traderrr_data.adopt.values import decoded
from traderrr_data.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    TraderrrDataError,
)
from traderrr_data.files import appear, growing, named, take_after

_HEADER = 100
_MAGIC = b"SQLite format 3\x00"
_WAL = 2
_PAGES_AT_ONCE = 2_000
_CACHE = 64 * 1024  # KiB; also what a sort holds before it goes to a temporary file


def checked(given: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file that is a SQLite database, as far as its header tells.

    Raises:
        ConfigurationError: it is absent, no file, empty, not SQLite's, encrypted, or cut off.
    """
    path = Path(os.path.abspath(given))  # noqa: PTH100 - resolve() would follow a link, and the copy belongs beside it
    if not path.exists():
        raise ConfigurationError(f"there is no file {path}")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ConfigurationError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except PermissionError:
        raise ConfigurationError(f"{path} cannot be read: permission denied") from None
    if not header:
        raise ConfigurationError(
            f"{path} is empty: there is nothing to adopt, and `traderrr-data upgrade` makes new tables"
        )
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        raise ConfigurationError(f"{path} is not a SQLite database, or it is encrypted")
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65_536 if page_size == 1 else page_size
    pages = int.from_bytes(header[28:32], "big")
    in_header = header[24:28] == header[92:96]  # otherwise an old program wrote it, and the size is not in it
    if in_header and path.stat().st_size < pages * page_size and not _beside(path, "-journal").exists():
        raise ConfigurationError(f"{path} is cut off: {path.stat().st_size} of {pages * page_size} bytes are there")
    return path


def _beside(path: Path, ending: str) -> Path:
    real = path.resolve()  # as SQLite names its files
    return real.with_name(real.name + ending)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file so that not one byte of it, nor of the files beside it, is changed.

    Raises:
        DatabaseUnavailableError: a program that was killed left a change in it that has to be undone first.
    """
    in_wal = journal_mode_of(path) == "wal"
    log, shared = _beside(path, "-wal"), _beside(path, "-shm")
    if not in_wal:
        uri = f"{path.as_uri()}?mode=ro"
    elif shared.exists() and log.exists():
        uri = f"{path.as_uri()}?mode=ro&readonly_shm=1"
    elif log.exists() and log.stat().st_size:
        with tempfile.TemporaryDirectory() as folder:  # its index is not there, and reading would make one beside it
            copy = Path(folder, "copy.db")
            shutil.copyfile(path, copy)
            shutil.copyfile(log, f"{copy}-wal")
            with _connected(f"{copy.as_uri()}?mode=rw") as connection:
                yield connection
        return
    else:
        uri = f"{path.as_uri()}?mode=ro&immutable=1"
    with _connected(uri) as connection:
        yield connection


@contextlib.contextmanager
def _connected(uri: str, timeout: float = 5.0) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(
        sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.text_factory = decoded
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        connection.execute("PRAGMA temp_store = FILE")  # some builds of SQLite keep temporary tables in memory
        yield connection


@contextlib.contextmanager
def writing(path: Path, timeout: float) -> Iterator[sqlite3.Connection]:
    """Open a file to write, with foreign keys off and names that nothing follows; what was left half done is undone.

    Raises:
        ConfigurationError: it, or its folder, cannot be written.
    """
    if not os.access(path, os.W_OK) or not os.access(path.resolve().parent, os.W_OK):
        raise ConfigurationError(f"{path} is read-only, or its folder is: nothing was changed")
    with _connected(f"{path.as_uri()}?mode=rw", timeout) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute("PRAGMA secure_delete = OFF")  # or the old tables' pages are written once more, as zeros
        connection.execute("PRAGMA trusted_schema = ON")
        yield connection


def recover(path: Path) -> None:
    """Let SQLite undo what a killed program left half done, as any program that opens the file would."""
    with writing(path, 5.0) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def journal_mode_of(path: Path) -> str:
    """Return 'wal' for a file with a write-ahead log, else 'delete'."""
    with path.open("rb") as file:
        return "wal" if file.read(_HEADER)[18] == _WAL else "delete"


def start_log(connection: sqlite3.Connection, timeout: float) -> None:
    """Give a file a write-ahead log; this does not wait for others by itself, so it is tried until the time is up."""
    until = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            with contextlib.suppress(sqlite3.OperationalError):  # this waits
                connection.execute("BEGIN EXCLUSIVE")
                connection.execute("ROLLBACK")
        else:
            return


def is_half_done(error: sqlite3.Error) -> bool:
    """Tell the error of a file that has to be recovered before it can be read."""
    return getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY)


def back_up(path: Path, copied: Callable[[float], None]) -> Path:
    """Copy a file beside it while the caller keeps writers away, and return the copy, which is complete and sound.

    The copy has the file's permissions, or fewer, and takes no other file's place. `copied` is told which part is
    copied; where it raises, nothing is left.

    Raises:
        ConfigurationError: the file is damaged.
        DatabaseUnavailableError: there is no room.
    """
    target = path.with_name(named(path.name, "backup"))
    with growing(target) as part:
        to = f"{part.path.as_uri()}?mode=rw"
        with (
            contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=5.0)) as source,
            contextlib.closing(sqlite3.connect(to, uri=True, isolation_level=None)) as copy,
        ):
            source.backup(
                copy,
                pages=_PAGES_AT_ONCE,
                progress=lambda _status, left, pages: copied(1 - left / max(pages, 1)),
                sleep=0.01,
            )
            (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise ConfigurationError(f"{path} is damaged, and nothing was changed: {verdict}")
        take_after(part.path, path.stat())
        appear(part.path, target)
    return target


def translated(error: sqlite3.Error, path: Path) -> TraderrrDataError:
    """Return our error for one of SQLite's, as a sentence that names the file."""
    kind = dialects.by_name("sqlite").classify_error(error) or ConfigurationError
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    sentence = {
        sqlite3.SQLITE_ERROR: "SQLite cannot work with it; nothing was changed",
        sqlite3.SQLITE_BUSY: "another process is using the file; nothing was changed",
        sqlite3.SQLITE_LOCKED: "another process is using the file; nothing was changed",
        sqlite3.SQLITE_FULL: "there is no room left on the disk; nothing was changed",
        sqlite3.SQLITE_IOERR: "reading or writing failed, perhaps for want of room; nothing was changed",
        sqlite3.SQLITE_NOTADB: "this is not a SQLite database, or it is encrypted",
        sqlite3.SQLITE_CORRUPT: "the file is damaged; nothing was changed",
        sqlite3.SQLITE_READONLY: "the file, or its folder, is read-only; nothing was changed",
        sqlite3.SQLITE_CANTOPEN: "the file, or one that SQLite needs beside it, cannot be opened",
    }.get(code)
    if is_half_done(error):
        kind = DatabaseUnavailableError
        sentence = (
            "a program that was killed left a change half done: open the file with it once, or run without --dry-run"
        )
    return kind(f"{path}: {sentence} ({error})" if sentence else f"{path}: {error}")
