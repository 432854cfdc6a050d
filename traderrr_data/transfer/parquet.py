"""A directory of Parquet files as the source or the target of a copy.

Each table has a folder with its rows in one file or more, and ``manifest.json`` says what they hold. It is written
last: a directory without it is no copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from traderrr_data import schema
from traderrr_data.errors import ConfigurationError, CopyMismatchError, SchemaMismatchError, TransactionConflictError
from traderrr_data.files import create, create_folder, store
from traderrr_data.session import to_its_end
from traderrr_data.transfer.digest import Digest, digest_of, total
from traderrr_data.transfer.ends import Source
from traderrr_data.transfer.layout import Layout, key_of, layouts
from traderrr_data.transfer.reading import Key, Page, Span
from traderrr_data.transfer.result import Ledger

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished.json"
"""The file that a directory has until its copy is complete."""

_FORMAT = 1
_PART = re.compile(r"\.?part-\d+\.parquet(\.new)?")


@contextlib.asynccontextmanager
async def open_source(directory: Path, *, batch_rows: int) -> AsyncIterator[ParquetSource]:
    """Give the copy that a directory holds.

    Raises:
        SchemaMismatchError: it holds none that is complete, or one of another version's tables.
    """
    manifest = await asyncio.to_thread(_read_manifest, directory)
    try:
        _refuse_other_tables(directory, manifest)
        source = ParquetSource(directory, manifest, batch_rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SchemaMismatchError(f"{directory / MANIFEST} is not as it was written: {error!r}") from error
    yield source


@contextlib.asynccontextmanager
async def open_target(directory: Path) -> AsyncIterator[ParquetTarget]:
    """Give a directory to write to, which need not be there; nothing is changed yet."""
    yield ParquetTarget(directory)


def _read_manifest(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise SchemaMismatchError(f"there is no directory {directory}")
    if (directory / UNFINISHED).exists():
        raise SchemaMismatchError(f"{directory} holds a copy that is not complete: run the command that began it again")
    try:
        manifest: Any = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SchemaMismatchError(f"{directory} holds no copy: it has no {MANIFEST}") from None
    except ValueError as error:
        raise SchemaMismatchError(f"{directory / MANIFEST} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise SchemaMismatchError(f"{directory / MANIFEST} is not of the format {_FORMAT}, which this version reads")
    return dict(manifest)


def _refuse_other_tables(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse what this version's tables have no place for, or other types."""
    if manifest["revision"] not in {revision.revision for revision in schema.history()}:
        raise SchemaMismatchError(
            f"{directory} is of revision {manifest['revision']}, which this version (up to {schema.head()}) does not"
            " know: install a newer traderrr-data"
        )
    known = {layout.name: {field.name: str(field.type) for field in layout.schema} for layout in layouts()}
    for name, table in manifest["tables"].items():
        for column in table["columns"]:
            if known.get(name, {}).get(column["name"]) != column["type"]:
                raise SchemaMismatchError(
                    f"{directory} has the column {name}.{column['name']} of type {column['type']}, for which this"
                    " version has no place"
                )


def _place(directory: Path) -> str:
    return f"directory {directory.resolve()}"


class ParquetSource:
    """The copy in a directory; see `ends.Source`."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any], batch_rows: int) -> None:
        self._directory, self._manifest, self._batch_rows = directory, manifest, batch_rows
        self.origin: sa.URL | Path = directory.absolute() / MANIFEST
        self.name, self.identity, self.place = str(directory), _place(directory), _place(directory)
        self.engine: str = manifest["engine"]
        self.revision: str = manifest["revision"]
        self.snapshot_at = dt.datetime.fromisoformat(manifest["snapshot_at"])
        self.not_copied: tuple[str, ...] = ()

    def layouts(self) -> list[Layout]:
        """Return the tables that it has, with the columns that they had at its revision."""
        found = []
        for layout in layouts():
            if (table := self._manifest["tables"].get(layout.name)) is not None:
                names = {column["name"] for column in table["columns"]}
                found.append(Layout(layout.table, pa.schema([field for field in layout.schema if field.name in names])))
        return found

    async def count(self, layout: Layout) -> int:
        """Return the number of a table's rows."""
        return int(self._table(layout)["rows"])

    async def pages(self, layout: Layout, _ledger: Ledger) -> AsyncGenerator[Page, None]:
        """Yield a table's rows by their key.

        Raises:
            CopyMismatchError: a file is not what the manifest says.
        """
        begin: Key | None = None
        last: pa.RecordBatch | None = None
        for part in self._table(layout)["parts"]:
            for batch in await asyncio.to_thread(self._checked_part, layout, part):
                if last is not None:
                    end = key_of(layout, last.slice(last.num_rows - 1).to_pylist()[0])
                    yield Page(last, Span(begin, end))
                    begin = end
                last = batch
        yield Page(pa.RecordBatch.from_pylist([], schema=layout.schema) if last is None else last, Span(begin, None))

    def _checked_part(self, layout: Layout, part: Mapping[str, Any]) -> list[pa.RecordBatch]:
        path = self._directory / layout.name / Path(part["file"]).name
        rows = _read_part(path, layout)
        digest = digest_of(rows, layout.key)
        if (digest.rows, digest.content_text) != (part["rows"], part["checksum"]):
            raise CopyMismatchError(f"{path} is not as it was written: its checksum differs from {MANIFEST}'s")
        return list(rows.to_batches(max_chunksize=self._batch_rows))

    def _table(self, layout: Layout) -> Mapping[str, Any]:
        table: Mapping[str, Any] = self._manifest["tables"][layout.name]
        return table


def _read_part(path: Path, layout: Layout) -> pa.Table:
    try:
        table = pq.read_table(path, columns=layout.schema.names, partitioning=None)
        return table.select(layout.schema.names).cast(layout.schema)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CopyMismatchError(f"{path} cannot be read: {error}") from error


class ParquetTarget:
    """A directory that rows are copied into; see `ends.Target`."""

    exact_decimals = True
    writers = 2

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._new = not directory.exists()
        self._run = secrets.token_hex(16)
        self._origin: sa.URL | Path = Path()
        self.name, self.place = str(directory), _place(directory)

    async def prepare(self, _source: Source) -> None:
        """Find nothing to do: the folders are made with the mark."""

    async def settle(self) -> None:
        """Find nothing to do: files have no revision of their own."""

    async def unfinished(self) -> str | None:
        """Return the identity of the source whose copy has begun here and is not complete; None if there is none.

        Raises:
            ConfigurationError: the directory holds something else.
        """
        return await asyncio.to_thread(self._unfinished)

    def _unfinished(self) -> str | None:
        mark = self._directory / UNFINISHED
        if not self._directory.exists():
            return None
        if mark.exists():
            with contextlib.suppress(ValueError, KeyError):
                return str(json.loads(mark.read_text(encoding="utf-8"))["source"])
            return ""
        known = {MANIFEST, *(layout.name for layout in layouts())}
        others = sorted(path.name for path in self._directory.iterdir() if path.name not in known)
        if others:
            raise ConfigurationError(f"{self._directory} holds other things than a copy, such as {others[0]}")
        return None

    async def begin(self, source: Source) -> None:
        """Mark it as incomplete."""
        await to_its_end(self._begin, source)

    def _begin(self, source: Source) -> None:
        self._origin = source.origin
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        create_folder(self._directory, self._origin)
        self._write_whole(UNFINISHED, {"source": source.identity, "run": self._run})
        (self._directory / MANIFEST).unlink(missing_ok=True)
        for layout in source.layouts():
            create_folder(self._directory / layout.name, self._origin)

    async def count(self, layout: Layout) -> int:
        """Return the number of a table's rows."""
        parts = await asyncio.to_thread(lambda: sorted((self._directory / layout.name).glob("part-*.parquet")))
        return sum([await asyncio.to_thread(_rows_of, path) for path in parts])

    async def write(self, layout: Layout, number: int, page: Page, digest: Digest, *, is_empty: bool) -> bool:
        """Make a file hold just a page's rows; False if it did already."""
        if not is_empty and await self.digest(layout, number, page.span) == digest:
            return False
        await asyncio.to_thread(self._refuse_another_run)
        await to_its_end(self._write_part, self._path(layout, number), page.batch)
        return True

    def _write_part(self, path: Path, batch: pa.RecordBatch) -> None:
        with self._whole(path) as file:
            pq.write_table(pa.Table.from_batches([batch]), file, compression="zstd")

    def _write_whole(self, name: str, document: Mapping[str, Any]) -> None:
        with self._whole(self._directory / name) as file:
            file.write(json.dumps(document, indent=2).encode())
        store(self._directory)

    @contextlib.contextmanager
    def _whole(self, path: Path) -> Iterator[IO[bytes]]:
        unfinished = path.with_name(f".{path.name}.new")
        with os.fdopen(create(unfinished, self._origin), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    def _refuse_another_run(self) -> None:
        try:
            run = json.loads((self._directory / UNFINISHED).read_text(encoding="utf-8"))["run"]
        except (OSError, ValueError, KeyError):
            run = None
        if run != self._run:
            raise TransactionConflictError(f"another process has begun to copy to {self.name}")

    async def digest(self, layout: Layout, number: int, _span: Span) -> Digest:
        """Return the digest of what is really in a page's file."""
        try:
            rows = await asyncio.to_thread(_read_part, self._path(layout, number), layout)
        except CopyMismatchError:
            return Digest()
        return await asyncio.to_thread(digest_of, rows, layout.key)

    def _path(self, layout: Layout, number: int) -> Path:
        return self._directory / layout.name / f"part-{number:06}.parquet"

    async def empty(self, layout: Layout) -> None:
        """Remove a table's rows."""
        folder = self._directory / layout.name
        await to_its_end(shutil.rmtree, folder, ignore_errors=True)
        await to_its_end(create_folder, folder, self._origin)

    async def finish(self, source: Source, tables: Sequence[tuple[Layout, Sequence[Digest]]]) -> None:
        """Remove what no page has written, write the manifest, and take the mark away."""
        await to_its_end(self._finish, source, tables)

    def _finish(self, source: Source, tables: Sequence[tuple[Layout, Sequence[Digest]]]) -> None:
        self._refuse_another_run()
        described = {}
        for layout, digests in tables:
            paths = [self._path(layout, number) for number in range(len(digests))]
            folder = self._directory / layout.name
            for path in set(folder.iterdir()) - set(paths):
                if _PART.fullmatch(path.name):
                    path.unlink()
            store(folder)
            described[layout.name] = _described(layout, [path.name for path in paths], digests)
        store(self._directory)
        manifest = {
            "format": _FORMAT,
            "revision": source.revision,
            "engine": source.engine,
            "source": source.name,
            "snapshot_at": source.snapshot_at.isoformat(),
            "not_copied": source.not_copied,
            "tables": described,
        }
        self._write_whole(MANIFEST, manifest)
        (self._directory / UNFINISHED).unlink()
        store(self._directory)

    async def clear(self, found: Sequence[Layout]) -> None:
        """Remove all files and the mark."""
        await to_its_end(self._clear, found)

    def _clear(self, found: Sequence[Layout]) -> None:
        self._refuse_another_run()
        for layout in found:
            shutil.rmtree(self._directory / layout.name, ignore_errors=True)
        (self._directory / UNFINISHED).unlink(missing_ok=True)
        if self._new:
            with contextlib.suppress(OSError):
                self._directory.rmdir()


def _described(layout: Layout, files: Sequence[str], digests: Sequence[Digest]) -> dict[str, Any]:
    every = total(digests)
    return {
        "columns": [{"name": f.name, "type": str(f.type), "nullable": f.nullable} for f in layout.schema],
        "key": layout.key,
        "rows": every.rows,
        "keys": every.keys_text,
        "checksum": every.content_text,
        "parts": [
            {"file": file, "rows": digest.rows, "checksum": digest.content_text}
            for file, digest in zip(files, digests, strict=True)
        ],
    }


def _rows_of(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 0
