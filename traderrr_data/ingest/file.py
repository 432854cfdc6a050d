"""One file into the database, in one unit of work."""

from __future__ import annotations

import contextlib
import csv
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import files
from traderrr_data.access import market_data
from traderrr_data.bulk import Rejection, UpsertResult
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import ConfigurationError
from traderrr_data.ingest.base import Block, Chunk, Format, Head, Options, Progress, Reading, UnreadableFileError
from traderrr_data.ingest.options import canonical
from traderrr_data.ingest.own import OWN
from traderrr_data.ingest.source import open_source
from traderrr_data.ingest.yfinance import YFINANCE
from traderrr_data.models.types import shown
from traderrr_data.session import to_its_end

FORMATS: dict[str, Format] = {form.name: form for form in (OWN, YFINANCE)}
"""Every format by its name. A file belongs to the one that recognises its columns."""

_COUNTS = ("inserted", "updated", "unchanged", "skipped", "duplicates")


@dataclass(frozen=True)
class FileResult:
    """What became of a file's bars; the counts add up to `rows`.

    Attributes:
        path: of the file.
        format: its format's name.
        inserted: new rows.
        updated: stored rows that now differ.
        unchanged: stored rows that already read as the file's.
        skipped: kept back, since the stored bar is final or was observed later; and bars without any price.
        duplicates: rows whose key came again within the rows that were stored together.
        rejected: rows that cannot be stored.
        rejected_file: where the rejected rows are, with their reasons; None if there are none.
        left_out: columns of the file for which the database has no place.
        seconds: how long it took.
    """

    path: Path
    format: str
    inserted: int
    updated: int
    unchanged: int
    skipped: int
    duplicates: int
    rejected: int
    rejected_file: Path | None
    left_out: tuple[str, ...]
    seconds: float

    @property
    def rows(self) -> int:
        """How many bars the file has."""
        return self.inserted + self.updated + self.unchanged + self.skipped + self.duplicates + self.rejected

    @property
    def rows_per_second(self) -> float:
        """How many bars were dealt with in a second."""
        return self.rows / self.seconds if self.seconds else 0.0


async def ingest_file(
    db: DatabaseManager,
    path: str | Path,
    *,
    ticker: str | None = None,
    timeframe: str | None = None,
    series: str = "",
    price_basis: str | None = None,
    allow_inconsistent: bool = False,
    format: str | None = None,  # noqa: A002 - the word that a caller looks for
    progress: Callable[[Progress], None] | None = None,
) -> FileResult:
    """Store a file's bars in one unit of work: all that can be stored are, or none; commits.

    The file is read in pieces, so it may be larger than memory. Rows that cannot be stored are written with their
    number (the first one under the header is 1), column, reason and original values to ``FILE.rejected.csv`` beside
    it; a file of that name that an earlier run left is replaced, or removed if every row was stored. Repeating the
    call writes nothing.

    Args:
        db: of a database at head.
        path: a file that ends in .csv, .csv.gz or .parquet.
        ticker: of all bars, for a file that does not say it.
        timeframe: of intraday bars, such as ``1m``, for a file that does not say it.
        series: the line of bars of rows that do not name one; if it is not empty, a row that names another is invalid.
        price_basis: 'raw', 'split' or 'all', for a file that does not say it.
        allow_inconsistent: store bars whose prices are out of order, as they are.
        format: a name of `FORMATS`; None to tell it by the columns' names.
        progress: told now and then how far it is.

    Returns:
        The exact counts.

    Raises:
        UnreadableFileError: the file is not there, damaged, or of no known format.
        ConfigurationError: the file does not say all that must be known, or something is said twice or wrongly.
        TraderrrDataError: whatever the database has against it; nothing is stored.
    """
    path, began = _path_of(path), time.perf_counter()
    options = Options(
        ticker=canonical("ticker", ticker),
        timeframe=canonical("timeframe", timeframe),
        series=canonical("series", series) or "",
        price_basis=canonical("price_basis", price_basis),
    )
    chosen, reading = await to_its_end(_prepare, path, format, options)

    async def work(session: AsyncSession) -> tuple[Counter[str], Path | None]:
        async with contextlib.AsyncExitStack() as stack:
            source = stack.enter_context(open_source(path))
            rejects = stack.enter_context(_Rejects(path, reading.titles, db.engine.url))
            blocks = source.blocks(reading.header_rows, reading.cells)
            stack.push_async_callback(to_its_end, blocks.close)  # which may have to wait for a thread that reads ahead
            counts, started = Counter[str](), time.perf_counter()
            while (step := await to_its_end(_next, blocks, reading)) is not None:
                block, chunk = step
                result = await _store(session, reading, chunk, series, allow_inconsistent=allow_inconsistent)
                rejects.add(block, chunk, result.rejected)
                counts.update({name: getattr(result, name) for name in _COUNTS})
                counts["rejected"] += len(result.rejected) + len(block.misshapen)
                if progress is not None:
                    progress(Progress(source.done(), counts.total(), time.perf_counter() - started))
            # Before the commit: rows that could be neither stored nor set aside undo the whole.
            return counts, rejects.finish()

    counts, rejected_file = await db.run(work, idempotent=True)
    return FileResult(
        path=path,
        format=chosen.name,
        **{name: counts[name] for name in (*_COUNTS, "rejected")},
        rejected_file=rejected_file,
        left_out=reading.left_out,
        seconds=time.perf_counter() - began,
    )


def _path_of(path: str | Path) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise ConfigurationError(f"{shown(path)} is no path") from None


def _prepare(path: Path, name: str | None, options: Options) -> tuple[Format, Reading]:
    with open_source(path) as source:
        chosen = _format_of(source.head, name)
        return chosen, chosen.prepare(source.head, options)


def _format_of(head: Head, name: Any) -> Format:
    if name is not None:
        if not isinstance(name, str) or name not in FORMATS:
            raise ConfigurationError(f"{shown(name)} is no format; known are {', '.join(FORMATS)}")
        return FORMATS[name]
    for form in FORMATS.values():
        if form.recognises(head):
            return form
    columns = ", ".join(map(ascii, head.rows[0][:12])) + (", ..." if len(head.rows[0]) > 12 else "")
    raise UnreadableFileError(
        f"{head.path} is of none of the formats {', '.join(FORMATS)}: its columns are {columns}"
        " (if it is one of them all the same, say --format)"
    )


def _next(blocks: Iterator[Block], reading: Reading) -> tuple[Block, Chunk] | None:
    block = next(blocks, None)
    return None if block is None else (block, reading.chunk(block))


async def _store(
    session: AsyncSession, reading: Reading, chunk: Chunk, series: str, *, allow_inconsistent: bool
) -> UpsertResult:
    if reading.intraday:
        return await market_data.upsert_intraday(
            session,
            chunk.rows,
            timeframe=reading.timeframe,
            series=series,
            on_invalid="reject",
            allow_inconsistent=allow_inconsistent,
        )
    return await market_data.upsert_daily(
        session, chunk.rows, series=series, on_invalid="reject", allow_inconsistent=allow_inconsistent
    )


class _Rejects:
    """The rejected rows of one file, in a file beside it that appears only when it is complete."""

    def __init__(self, path: Path, titles: Sequence[str], database: sa.URL) -> None:
        self._source, self._database = path, database
        self._path = path.with_name(f"{path.name}.rejected.csv")
        self._unfinished = path.with_name(f".{path.name}.rejected.csv.part")
        self._titles = titles
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)

    def add(self, block: Block, chunk: Chunk, rejected: Sequence[Rejection]) -> None:
        """Write the rows of one block that were rejected, in the order of the file."""
        lines: list[tuple[int, list[Any]]] = [(row.number, ["", row.reason, *row.cells]) for row in block.misshapen]
        for row, column, reason in rejected:
            position, cells = chunk.origin(row)
            lines.append((block.numbers[position], [column or "", reason, *cells]))
        if not lines:
            return
        with _beside(self._path):
            if self._file is None:
                fd = files.create(self._unfinished, self._database, self._source)
                self._file = os.fdopen(fd, "w", encoding="utf-8", newline="")
                csv.writer(self._file).writerow(["row", "column", "reason", *self._titles])
            csv.writer(self._file).writerows(
                [number, *cells] for number, cells in sorted(lines, key=lambda line: line[0])
            )
            self._file.flush()

    def finish(self) -> Path | None:
        """Put the file in its place and return where that is; None, with nothing there, if no row was rejected."""
        with _beside(self._path):
            if self._file is None:
                self._path.unlink(missing_ok=True)
                return None
            self._file.close()
            self._file = None
            self._unfinished.replace(self._path)
        return self._path


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{path}, for the rejected rows, cannot be written: {error.strerror}") from error
