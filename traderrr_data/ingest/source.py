"""Files of cells: CSV and Parquet, read in pieces that fit into memory."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self, TextIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from traderrr_data.errors import TraderrrDataError
from traderrr_data.ingest.base import Block, Head, Misshapen, UnreadableFileError

ENDINGS = (".csv", ".csv.gz", ".parquet")
_HEADER_ROWS = 3  # the most that any format has
_BYTES_A_CELL = 8  # of CSV, about
_PATIENCE = 0.2  # seconds that a reader ahead is given to end
_BUFFER = 1 << 20  # bytes of a Parquet column that are read at a time
_LONGEST_HEAD = 8 << 20  # characters; 60,000 columns of yfinance's take three millions
_MOST_MISSHAPEN = 100_000  # rows at a time, beside those of a block; a table has not so many
_LONGEST_REASON = 300  # characters; what is wrong may quote the file


def ending_of(path: Path) -> str | None:
    """Return the ending that says how a file is packed, in lower case; None if it is none of `ENDINGS`."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)


def ticker_of_name(path: Path) -> str:
    """Return a file's name without its ending, for files that are named after their ticker."""
    return path.name[: -len(ending_of(path) or "") or None]


def open_source(path: Path) -> Source:
    """Open a file of bars.

    Raises:
        UnreadableFileError: it is not there, or is not what its ending says.
    """
    with unreadable_is_said(path):
        match ending_of(path):
            case ".parquet":
                return ParquetSource(path)
            case ".csv" | ".csv.gz":
                return CsvSource(path)
            case _:
                raise UnreadableFileError(f"{path}: its name ends in none of {', '.join(ENDINGS)}")


@contextlib.contextmanager
def unreadable_is_said(path: Path) -> Iterator[None]:
    """Turn what reading a file may raise into one error that names the file."""
    try:
        yield
    except TraderrrDataError:
        raise
    except UnicodeDecodeError:
        raise UnreadableFileError(f"{path} is not UTF-8 text") from None
    except (csv.Error, EOFError, zlib.error, pa.ArrowException, OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error) or "it ends too early"
        if "straddling object" in said:  # Arrow's word, which helps nobody; it has no code
            said = "one of its rows does not end: it has no line ends, or a quote that is not closed"
        reason = " ".join(said[:_LONGEST_REASON].split()).rstrip(".")
        raise UnreadableFileError(f"{path} cannot be read: {reason}{'...' * (len(said) > _LONGEST_REASON)}") from error


class Source(ABC):
    """An open file of cells; to be used in a ``with`` block."""

    path: Path
    head: Head

    @abstractmethod
    def blocks(self, header_rows: int, cells: int) -> Generator[Block, None, None]:
        """Yield the rows below the header, in order, so many at a time as make about that many cells.

        Raises:
            UnreadableFileError: the file is damaged.
        """

    @abstractmethod
    def done(self) -> float:
        """Return which part of the file has been read, from 0 to 1."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CsvSource(Source):
    """A CSV file in UTF-8, plain or packed by gzip. Its cells are text; one that is empty is None, ``""`` is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size
        self._file = path.open("rb")
        try:
            rows, self._lines = self._read_head()
        except BaseException:
            self._file.close()
            raise
        if not rows:
            self._file.close()
            raise UnreadableFileError(f"{path} is empty")
        self.head = Head(path, tuple(rows), is_text=True)

    def _unpacked(self) -> IO[bytes]:
        self._file.seek(0)
        packed = ending_of(self.path) == ".csv.gz"
        return gzip.GzipFile(fileobj=self._file, mode="rb") if packed else self._file  # type: ignore[return-value]

    def _read_head(self) -> tuple[list[tuple[str, ...]], list[int]]:
        """Return the first rows, and after how many lines of the file each of them ends."""
        rows: list[tuple[str, ...]] = []
        lines: list[int] = []
        text = io.TextIOWrapper(self._unpacked(), encoding="utf-8-sig", newline="")
        reader = csv.reader(_beginning_of(text, self.path))
        for row in reader:
            if row:
                rows.append(tuple(row))
                lines.append(reader.line_num)
            if len(rows) > _HEADER_ROWS:
                break
        text.detach()  # closing it would close the file
        return rows, lines

    def blocks(self, header_rows: int, cells: int) -> Generator[Block, None, None]:
        """Yield blocks of rows, and with each the rows among them that are misshapen."""
        if len(self.head.rows) <= header_rows:
            return
        lines = self._lines[header_rows - 1]
        width = len(self.head.rows[0])
        # Text, whatever it looks like: a number of more digits than a float has must stay what it is.
        columns = {str(position): pa.string() for position in range(width)}
        bad: list[Misshapen] = []

        def set_aside(row: Any) -> str:  # what it raised would be printed, and forgotten
            if len(bad) >= _MOST_MISSHAPEN:
                return "error"
            reason = f"has {row.actual_columns} cells, not the header's {width}"
            bad.append(Misshapen(row.number - lines, _cells_of(row.text), reason))
            return "skip"

        with unreadable_is_said(self.path), contextlib.closing(_Utf8(self._unpacked())) as text:
            reader = pa_csv.open_csv(
                text,
                # One thread: only then does a bad row say its number.
                read_options=pa_csv.ReadOptions(
                    use_threads=False, skip_rows=lines, column_names=list(columns), block_size=cells * _BYTES_A_CELL
                ),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside),
                convert_options=pa_csv.ConvertOptions(
                    column_types=columns,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            yield from _numbered(reader, pa.schema(columns), bad)

    def done(self) -> float:
        """Return which part of the bytes has been read."""
        return min(self._file.tell() / self._size, 1.0) if self._size else 1.0

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Utf8:
    """A file that is read by its bytes, and must be text; Arrow would look only at the cells of well-shaped rows."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._reading = threading.Lock()
        self._has_ended = False
        self._was_read = threading.Event()

    def read(self, size: int) -> bytes:
        """Return the next bytes; UnicodeDecodeError if they are no text."""
        with self._reading:
            data = b"" if self._has_ended else self._file.read(size)
        if not data:
            self._was_read.set()
        self._decoder.decode(data, final=not data and not self._has_ended)
        return data

    def close(self) -> None:
        """End for Arrow's thread that reads ahead, and let it come to its own end.

        One that is still there when the program ends takes it down (pyarrow 26: "terminate called without an active
        exception"), and nothing tells when it has gone.
        """
        with self._reading:
            self._has_ended = True
        if not self._was_read.is_set():
            self._was_read.wait(_PATIENCE)
            time.sleep(_PATIENCE)


def _beginning_of(text: TextIO, path: Path) -> Iterator[str]:
    """Yield lines, but no more than any head has: a few packed bytes may be a line without end."""
    left = _LONGEST_HEAD
    while line := text.readline(left + 1):
        left -= len(line)
        if left < 0:
            raise UnreadableFileError(f"{path} is no table: its first rows have more than {_LONGEST_HEAD} characters")
        yield line


def _cells_of(row: str) -> list[str]:
    try:
        return next(csv.reader([row]))
    except (csv.Error, StopIteration):
        return [row]


def _numbered(batches: Iterator[pa.RecordBatch], schema: pa.Schema, bad: list[Misshapen]) -> Iterator[Block]:
    """Give rows their numbers; `bad` holds those that were left out, and grows while batches are read."""
    following = 1
    for batch in batches:
        left_out = {row.number for row in bad}
        taken: Sequence[int] = range(following, following + batch.num_rows)
        if left_out:
            every = (number for number in itertools.count(following) if number not in left_out)
            taken = list(itertools.islice(every, batch.num_rows))
        following = taken[-1] + 1 if taken else following
        while following in left_out:
            following += 1
        yield Block(batch, taken, [row for row in bad if row.number < following])
        bad[:] = [row for row in bad if row.number >= following]
    if bad:
        yield Block(pa.RecordBatch.from_pylist([], schema=schema), (), bad)


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Buffered: without it, a column's whole part of a row group is read at once, however many rows that has.
        self._file = pq.ParquetFile(path, memory_map=False, buffer_size=_BUFFER, pre_buffer=False)
        self._rows = self._file.metadata.num_rows
        self._read = 0
        self.head = Head(path, (tuple(self._file.schema_arrow.names),), is_text=False)

    def blocks(self, header_rows: int, cells: int) -> Generator[Block, None, None]:
        """Yield blocks of rows."""
        size = max(1, cells // max(1, len(self.head.rows[0])))
        with unreadable_is_said(self.path):
            for batch in self._file.iter_batches(batch_size=size):
                first, self._read = self._read + 1, self._read + batch.num_rows
                yield Block(batch, range(first, self._read + 1))

    def done(self) -> float:
        """Return which part of the rows has been read."""
        return self._read / self._rows if self._rows else 1.0

    def close(self) -> None:
        """Close the file."""
        self._file.close()
