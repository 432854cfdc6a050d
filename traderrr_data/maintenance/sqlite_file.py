"""Copying a SQLite file while others write to it, and putting another in its place."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import sqlalchemy as sa

from traderrr_data import dialects
from traderrr_data.errors import ConfigurationError, TransactionConflictError
from traderrr_data.files import Growing, growing, store, take_after
from traderrr_data.maintenance.threads import Watch
from traderrr_data.models.base import VERSION_TABLE

_PAGES = 2048  # of a step, after which a cancelled copy ends
_INSTRUCTIONS = 100_000  # of SQLite's machine, after which a cancelled check ends
_PATIENCE = 30.0  # seconds to wait for somebody's lock before copying
_SHORT_PATIENCE = 1.0  # before replacing: whoever uses the file has to be stopped by a person
_MAGIC = b"SQLite format 3\0"
_IN_WAL = b"\2\2"  # bytes 18 and 19 of the header, https://www.sqlite.org/fileformat2.html
_REPLACED = b"This file was replaced by a backup; its content is beside the new one.".ljust(100)


def file_of(url: sa.URL) -> Path:
    """Return the file of a URL, links followed.

    Raises:
        ConfigurationError: the database is in memory.
    """
    name = url.database or ""
    if name.startswith("file:"):
        name = "" if url.query.get("mode") == "memory" else unquote(urlsplit(name).path)
    if name in ("", ":memory:"):
        raise ConfigurationError("a database in memory has no file: there is nothing to back up or to restore")
    return Path(os.path.realpath(name))


def is_ours(path: Path) -> bool:
    """Tell whether a file is a SQLite database with our tables."""
    try:
        with _open(path) as connection:
            query = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?"
            return bool(connection.execute(query, [VERSION_TABLE]).fetchone()[0])
    except sqlite3.Error:
        return False


def copy(source: Path, target: Path, watch: Watch) -> None:
    """Make a file a checked copy of a database as it is at one instant, its write-ahead log included.

    Writers go on meanwhile where the database has a write-ahead log; elsewhere they wait until it is copied.

    Args:
        source: the database.
        target: an empty file; it does not need any other file beside it afterwards.
        watch: ends it.

    Raises:
        ConfigurationError: the source is no database, or a damaged one.
        TransactionConflictError: somebody holds the source's lock.
    """
    with _translated(source), _open(source) as origin, _open(target) as result:
        # Whatever becomes of an unfinished copy, it is thrown away.
        result.execute("PRAGMA synchronous=OFF")
        result.execute("PRAGMA journal_mode=OFF")
        # A transaction around all steps: otherwise the copy would begin anew after each write of somebody else.
        origin.execute("BEGIN")
        origin.execute("SELECT count(*) FROM sqlite_schema").fetchone()

        def after_step(_status: int, remaining: int, total: int) -> None:
            watch.refuse_to_go_on()
            watch.tell(1 - remaining / max(1, total))

        origin.backup(result, pages=_PAGES, progress=after_step)
        result.execute("PRAGMA journal_mode=DELETE")
        _check(result, source, watch)


def _check(connection: sqlite3.Connection, source: Path, watch: Watch) -> None:
    connection.set_progress_handler(watch.is_stopped, _INSTRUCTIONS)
    (finding,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if finding != "ok":
        raise ConfigurationError(f"{source} is damaged: {finding}")


def replace(target: Path, new: Growing, kept: Path, *, journal_mode: str, watch: Watch) -> Path | None:
    """Put a complete file in the place of a database, and keep what was there.

    Killed at any instant, it leaves the one or the other under the database's name.

    Args:
        target: the database, which may be absent or damaged.
        new: a complete one, in the same folder.
        kept: the name for what is replaced.
        journal_mode: of the new one, where the old does not say it.
        watch: ends it, until the old one is replaced.

    Returns:
        The kept file; None if there was none.

    Raises:
        TransactionConflictError: somebody uses the database; nothing was changed.
    """
    _refuse_users(target)
    with contextlib.ExitStack() as stack:
        # Open from before SQLite opens it until after: closing any descriptor of it drops all locks of this process.
        # Unbuffered: what was read before the log was written back is not what is there after it.
        old = stack.enter_context(target.open("r+b", buffering=0)) if target.exists() else None
        header = old.read(100) if old is not None else b""
        # One that is none any more is not even opened: SQLite might remove the log beside it.
        is_whole = header.startswith(_MAGIC) and stack.enter_context(_locked(target))
        if is_whole:
            journal_mode = "wal" if header[18:20] == _IN_WAL else "delete"
        with _translated(new.path), _open(new.path) as connection:
            connection.execute(f"PRAGMA journal_mode={journal_mode}")
        if old is not None:
            _keep(old, kept, watch)
            take_after(new.path, os.fstat(old.fileno()))
        store(new.path)
        watch.refuse_to_go_on()
        if not is_whole:
            _put_logs_aside(target, kept)
        new.let_go()
        new.path.replace(target)
        store(target.parent)
        if old is not None and os.fstat(old.fileno()).st_nlink == 0:
            # Whoever has it open unseen would write into a file without a name: this way his next statement fails.
            old.seek(0)
            old.write(_REPLACED)
    return kept if old is not None else None


def _keep(old: FileIO, kept: Path, watch: Watch) -> None:
    with growing(kept) as copied:
        _copy_open_file(old, copied.path, watch)
        copied.path.rename(kept)
    store(kept.parent)


def _copy_open_file(source: FileIO, target: Path, watch: Watch) -> None:
    """Copy a file that stays open: closing any descriptor of it would drop the locks that this process has on it."""
    source.seek(0)
    with target.open("wb") as out:
        while chunk := source.read(1 << 22):
            watch.refuse_to_go_on()
            out.write(chunk)
    take_after(target, os.fstat(source.fileno()))
    store(target)


def _put_logs_aside(target: Path, kept: Path) -> None:
    """Keep the logs of a database that SQLite could not open: it would write their pages into the new one."""
    for suffix in ("-journal", "-wal", "-shm"):
        log = target.with_name(target.name + suffix)
        if log.exists():
            log.rename(kept.with_name(kept.name + suffix))
    store(target.parent)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """Keep everybody else out of a database whose log is written back; give False if it cannot be read at all."""
    with _translated(target), _open(target, _SHORT_PATIENCE) as connection:
        try:
            # Only the last user of a write-ahead log can leave it, and leaving it writes all of it back.
            (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            connection.execute("BEGIN EXCLUSIVE")
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        except sqlite3.Error as error:
            if dialects.by_name("sqlite").classify_error(error) is not ConfigurationError:
                raise
            yield False
            return
        if mode == "wal":
            raise TransactionConflictError(f"somebody else uses {target}: stop them first; nothing was changed")
        yield True


def _refuse_users(target: Path) -> None:
    """Refuse a file that a process has open, where the system tells (Linux, the processes that we may look into)."""
    if not target.exists():
        return
    wanted, found = target.stat(), set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.path.samestat(link.stat(), wanted):
                found.add(int(link.parts[2]))
    if found:
        users = ", ".join(f"{number}{' (this one)' * (number == os.getpid())}" for number in sorted(found))
        raise TransactionConflictError(f"{target} is open in process {users}: stop it first; nothing was changed")


@contextlib.contextmanager
def _open(path: Path, patience: float = _PATIENCE) -> Iterator[sqlite3.Connection]:
    """Open a file that must be there; where it may not be written, for reading."""
    with contextlib.closing(
        sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=patience,
            isolation_level=None,
            check_same_thread=False,
        )
    ) as connection:
        yield connection


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        translated = dialects.by_name("sqlite").translate(error)
        if translated is None:
            raise
        raise type(translated)(f"{path}: {error}") from error
