"""Writing bars to a file that `ingest` reads back without a difference."""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
import typer

from traderrr_data import files
from traderrr_data.cli.output import plain_number
from traderrr_data.ingest.source import ENDINGS, ending_of
from traderrr_data.session import to_its_end

Write = Callable[[pa.RecordBatch], None]


def check_ending(path: Path) -> None:
    """Refuse a file's name that does not say how to write it."""
    if ending_of(path) is None:
        raise typer.BadParameter(f"--output: {path.name!r} ends in none of {', '.join(ENDINGS)}")


async def write_bars(path: Path, database: sa.URL, schema: pa.Schema, batches: AsyncIterator[pa.RecordBatch]) -> int:
    """Write record batches to a file, which appears, or replaces the old one, only when complete; return the rows.

    Args:
        path: its ending says the format.
        database: where they come from; the file is open to nobody to whom that is not.
        schema: of the batches, of which there may be none.
        batches: one is in memory at a time.

    Raises:
        OSError: the file cannot be written.
    """
    rows = 0
    with _whole(path, database) as file, _writer(path, file, schema) as write:
        async for batch in batches:
            await to_its_end(write, batch)
            rows += batch.num_rows
    return rows


@contextlib.contextmanager
def _whole(path: Path, database: sa.URL) -> Iterator[IO[bytes]]:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(files.create(unfinished, database), "wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _writer(path: Path, file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    match ending_of(path):
        case ".parquet":
            with pq.ParquetWriter(file, schema, compression="zstd") as parquet:
                yield parquet.write_batch
        case ".csv.gz":
            # Without a name and a time inside, the same bars make the same file.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield _csv_writer(packed, schema)
        case _:
            yield _csv_writer(file, schema)


def _csv_writer(file: IO[bytes] | gzip.GzipFile, schema: pa.Schema) -> Write:
    file.write((",".join(schema.names) + "\n").encode())

    def write(batch: pa.RecordBatch) -> None:
        text = io.StringIO()
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            text.write(",".join(map(_cell, row)) + "\n")
        file.write(text.getvalue().encode())

    return write


def _cell(value: Any) -> str:
    """Return a value as CSV; None is an empty cell, and an empty text is a quoted one."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return plain_number(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if not text or any(sign in text for sign in ',"\r\n') else text
