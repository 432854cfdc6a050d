"""What a format of files is, and what passes between a file, its format and the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from traderrr_data.bulk.arrow import cell_of
from traderrr_data.errors import TraderrrDataError


class Progress(NamedTuple):
    """How far a file is; all of it falls back where the file is begun again.

    Attributes:
        done: which part of the file has been read, from 0 to 1.
        rows: how many of its bars were dealt with.
        seconds: how long that took.
    """

    done: float
    rows: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """How many bars were dealt with in a second."""
        return self.rows / self.seconds if self.seconds else 0.0


UNNAMED_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index without a name in Parquet."""


class UnreadableFileError(TraderrrDataError, ValueError):
    """A file cannot be read, or its columns are of no known format; the message names the file."""


@dataclass(frozen=True)
class Options:
    """What the caller says of a file that does not say it itself; None where nothing is said."""

    ticker: str | None = None
    timeframe: str | None = None
    series: str = ""
    price_basis: str | None = None


@dataclass(frozen=True)
class Head:
    """The beginning of a file, by which its format is known.

    Attributes:
        path: of the file.
        rows: the first rows of a CSV file; of a Parquet file one row, its columns' names.
        is_text: every cell is text, as in CSV.
    """

    path: Path
    rows: tuple[tuple[str, ...], ...]
    is_text: bool


class Misshapen(NamedTuple):
    """A row of a CSV file that has not as many cells as the header."""

    number: int
    cells: list[str]
    reason: str


@dataclass(frozen=True)
class Block:
    """Some rows of a file.

    Attributes:
        batch: their cells, in the columns of the file.
        numbers: of the rows in the file; the first one under the header is 1.
        misshapen: rows that are not in the batch.
    """

    batch: pa.RecordBatch
    numbers: Sequence[int]
    misshapen: Sequence[Misshapen] = ()

    def cells(self, position: int) -> list[Any]:
        """Return one row as the file has it."""
        return [cell_of(column[position]) for column in self.batch.columns]


class Origin(NamedTuple):
    """Where a row for the database comes from: the position in its block, and its cells as the file has them."""

    position: int
    cells: list[Any]


class Chunk(NamedTuple):
    """The rows for the database that one block holds.

    Attributes:
        rows: a record batch, or rows by column name with NO_BAR for those without any price, which are no bars.
        origin: tells where the row at a position comes from.
    """

    rows: pa.RecordBatch | list[Any]
    origin: Callable[[int], Origin]


@dataclass(frozen=True)
class Reading:
    """How the rows of one file are to be understood.

    Attributes:
        header_rows: of a CSV file.
        cells: of a block, about; what becomes columns takes less memory than what becomes rows.
        intraday: the bars have instants, not dates.
        timeframe: of all bars; None if each says its own, or if they are daily.
        titles: what the cells of an `Origin` are.
        left_out: columns for which the database has no place.
        chunk: makes rows for the database out of a block.
    """

    header_rows: int
    cells: int
    intraday: bool
    timeframe: str | None
    titles: tuple[str, ...]
    left_out: tuple[str, ...]
    chunk: Callable[[Block], Chunk]


class Format(NamedTuple):
    """A format of files.

    Attributes:
        name: by which a caller may ask for it.
        recognises: tells by the columns' names whether a file is of this format.
        prepare: returns how to read a file; ConfigurationError if the caller must say more, UnreadableFileError if
            its columns make no sense.
    """

    name: str
    recognises: Callable[[Head], bool]
    prepare: Callable[[Head, Options], Reading]
