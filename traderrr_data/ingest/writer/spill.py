"""The file in which accepted rows outlast an outage of the database, and the process.

It has one owner at a time. Each line is a record: its length, its checksum and JSON. The first says what the file is,
the others hold a row each, in the order of arrival, or say up to where the rows are in the database. Records are only
ever added at the end, until all rows are in the database and the file is cut back to its first line.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Self

from traderrr_data.bulk.rows import Row
from traderrr_data.errors import ConfigurationError, TraderrrDataError
from traderrr_data.files import store
from traderrr_data.models import DailyData, IntradayData

logger = logging.getLogger(__name__)

_FORMAT = "traderrr_data spill"
_TABLES = [DailyData.__tablename__, IntradayData.__tablename__]
_VERSION = 1
_FRAME = len("12345678 12345678 ")
_LONGEST = 1 << 20  # bytes of a record; a bar has a few hundred


class SpillError(TraderrrDataError):
    """A spill cannot be read or written, or is not what it should be; the message names the file."""


class Record(NamedTuple):
    """A row in the file: its table, its values with decimals and times as text, and where the record ends."""

    table: str
    values: Row
    end: int


class Spill:
    """An open spill file, which nobody else can open; all its methods block.

    Args:
        path: of the file; its name with ``.rejected`` behind it is the file for rows that are set aside.
        revision: this code's schema revision, for the header of a new file.
        known_revisions: whose rows this code understands.

    Raises:
        ConfigurationError: another writer has it open, or it cannot be created there.
        SpillError: it is not a spill, comes from a newer version, or is damaged.
    """

    def __init__(self, path: Path, *, revision: str, known_revisions: Sequence[str]) -> None:
        self.path = path
        self.rejected_path = path.with_name(f"{path.name}.rejected")
        self._fd = _open(path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._header = _framed({"format": _FORMAT, "version": _VERSION, "revision": revision})
            self._rows_done = 0
            self.done = self.end = 0
            self.unwritten_rows = 0
            self._load(known_revisions)
        except BlockingIOError:
            os.close(self._fd)
            raise ConfigurationError(f"the spill {path} belongs to another writer: give each its own") from None
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file free."""
        os.close(self._fd)

    def append(self, rows: Sequence[tuple[str, Row]], *, sync: bool) -> list[int]:
        """Add rows, each with its table's name, and return where each one's record ends.

        Args:
            rows: in the order of arrival.
            sync: return when they would survive a power failure.

        Raises:
            SpillError: they could not be written; none of them is in the file.
        """
        lines = [_framed({"table": table, "row": values}) for table, values in rows]
        self._write(b"".join(lines), sync=sync)
        end = self.end - sum(map(len, lines))
        return [end := end + len(line) for line in lines]

    def read(self, start: int, limit: int) -> list[Record]:
        """Return up to so many rows from where a record begins.

        Raises:
            SpillError: the file is damaged there.
        """
        records = []
        for content, end in self._contents(start):
            if "row" in content:
                records.append(Record(content["table"], content["row"], end))
            if len(records) == limit:
                break
        return records

    def mark_done(self, end: int, rows: int) -> None:
        """Note that so many rows more, up to where a record ends, are in the database."""
        self._rows_done += rows
        self.done = end
        self._write(_framed({"done": end, "rows": self._rows_done}), sync=False)

    def clear(self) -> None:
        """Forget all rows, for good: they are in the database."""
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise SpillError(f"the spill {self.path} cannot be cut back: {error.strerror}") from error
        self._rows_done = self.end = 0
        self._write(self._header, sync=True)
        self.done = self.end

    def set_aside(self, rows: Sequence[tuple[str, Row, str]]) -> None:
        """Add rows that can never be stored, each with its table's name and the reason, to the file for them."""
        now = dt.datetime.now(dt.UTC).isoformat()
        lines = [
            json.dumps({"at": now, "reason": reason, "table": table, "row": values}, default=_text) + "\n"
            for table, values, reason in rows
        ]
        try:
            fd = os.open(self.rejected_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(fd)
        except OSError as error:
            raise SpillError(f"{self.rejected_path} cannot be written: {error.strerror}") from error

    def _write(self, data: bytes, *, sync: bool) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            if sync:
                os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.end)
            raise SpillError(f"the spill {self.path} cannot be written: {error.strerror}") from error
        self.end += len(data)

    def _contents(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each record's content and end, from where one begins to the last that is whole."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(start)
            at = start
            while line := file.readline(_LONGEST):
                if not line.endswith(b"\n"):
                    if len(line) == _LONGEST:
                        raise _damaged(self.path, at)
                    return
                yield _content(line, self.path, at), (at := at + len(line))

    def _load(self, known_revisions: Sequence[str]) -> None:
        size = os.fstat(self._fd).st_size
        if size == 0:
            self._write(self._header, sync=True)
            store(self.path.parent)
            self.done = self.end
            return
        rows = first = 0
        for content, end in self._contents(0):
            if self.end == 0:
                self._check_header(content, known_revisions)
                self.done = first = end
            elif "row" in content:
                rows += 1
            elif content["done"] <= self.end and content["rows"] <= rows:
                self.done, self._rows_done = content["done"], content["rows"]
            else:
                raise _damaged(self.path, self.end)
            self.end = end
        if self.end == 0:
            raise SpillError(f"{self.path} is not a spill: name a file of the writer's own")
        self.unwritten_rows = rows - self._rows_done
        has_marks = (self.done, self._rows_done) != (first, 0)
        if has_marks and sum("row" in content for content, _ in self._contents(self.done)) != self.unwritten_rows:
            raise _damaged(self.path, self.done)
        if self.end < size:
            # Nobody was told that it is there: it ends before its line does.
            logger.warning("%s: dropped the torn last record of %d bytes", self.path, size - self.end)
            os.ftruncate(self._fd, self.end)

    def _check_header(self, content: dict[str, Any], known_revisions: Sequence[str]) -> None:
        if content.get("format") != _FORMAT:
            raise SpillError(f"{self.path} is not a spill: name a file of the writer's own")
        if content.get("version") != _VERSION or content.get("revision") not in known_revisions:
            raise SpillError(
                f"{self.path} was written by another version of traderrr-data (format {content.get('version')}, schema"
                f" {content.get('revision')}): let that version write its rows, or install a newer one"
            )


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"the spill {path} cannot be opened: {error.strerror}") from None


def _framed(content: dict[str, Any]) -> bytes:
    data = json.dumps(content, default=_text).encode("ascii")
    return b"%08x %08x %b\n" % (len(data), zlib.crc32(data), data)


def _content(line: bytes, path: Path, at: int) -> dict[str, Any]:
    data = line[_FRAME:-1]
    if line[:_FRAME] != b"%08x %08x " % (len(data), zlib.crc32(data)):
        raise _damaged(path, at)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise _damaged(path, at) from None
    is_record = isinstance(content, dict) and (_is_row(content) or _is_mark(content) or at == 0)
    if not is_record:
        raise _damaged(path, at)
    return content  # type: ignore[no-any-return]


def _is_row(content: dict[str, Any]) -> bool:
    return content.get("table") in _TABLES and isinstance(content.get("row"), dict)


def _is_mark(content: dict[str, Any]) -> bool:
    """Tell whether it says up to where the rows are in the database."""
    return all(type(content.get(name)) is int and content[name] >= 0 for name in ("done", "rows"))


def _damaged(path: Path, at: int) -> SpillError:
    return SpillError(f"{path} is not a spill, or damaged at byte {at}: nothing was read from it or changed")


def _text(value: object) -> str:
    """Return a decimal, a date or an instant in the form that their column types read again as the same."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    raise TypeError(f"no column holds a {type(value).__name__}")
