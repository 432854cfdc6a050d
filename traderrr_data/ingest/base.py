"""What a format of files is, and what passes between a file, its format and the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from traderrr_data.errors import TraderrrDataError

Progress: TypeAlias = Callable[[float], None]
"""Called with the part of the file that is done, from 0 to 1; it falls back to 0 where a file is begun again."""


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
        return [column[position].as_py() for column in self.batch.columns]


class Origin(NamedTuple):
    """Where a row for the database comes from: the position in its block, and its cells as the file has them."""

    position: int
    cells: Callable[[], list[Any]]


@dataclass
class Chunk:
    """The rows for the database that one block holds.

    Attributes:
        rows: by column name.
        origins: one for each row.
        dropped: rows without any price, which are no bars.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    dropped: int = 0


@dataclass(frozen=True)
class Reading:
    """How the rows of one file are to be understood.

    Attributes:
        header_rows: of a CSV file.
        intraday: the bars have instants, not dates.
        timeframe: of all bars; None if each says its own, or if they are daily.
        titles: what the cells of an `Origin` are.
        left_out: columns for which the database has no place.
        chunk: makes rows for the database out of a block.
    """

    header_rows: int
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
