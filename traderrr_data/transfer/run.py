"""The copy itself: read, check, write, read back, compare."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc
import sqlalchemy as sa

from traderrr_data.errors import ConfigurationError, CopyMismatchError
from traderrr_data.settings import Settings
from traderrr_data.transfer import database, parquet
from traderrr_data.transfer.cells import refuse_unfit
from traderrr_data.transfer.crew import Crew
from traderrr_data.transfer.database import OWN_ROWS
from traderrr_data.transfer.digest import Digest, digest_of, total
from traderrr_data.transfer.ends import End, Source, Target, directory_of
from traderrr_data.transfer.layout import Layout, shown_key
from traderrr_data.transfer.merging import Merging, identified
from traderrr_data.transfer.reading import Page, Span
from traderrr_data.transfer.result import CopyProgress, CopyResult, Ledger, Phase, Progress, TableCopy

_READERS = 4


async def copy(
    source: str | Path | sa.URL | Settings,
    target: str | Path | sa.URL | Settings,
    *,
    merge: bool = False,
    round_noise: bool = False,
    progress: Callable[[CopyProgress], object] | None = None,
    batch_rows: int = 50_000,
) -> CopyResult:
    """Copy all rows of all tables, with their ids and timestamps, and compare both sides; commits.

    The source is read in one snapshot and never written; whoever writes to it meanwhile is not held up. A run that was
    killed is run again with the same arguments: what the target has of it already is compared with the source as it is
    by then, and only what differs is written. Run again after that, it writes nothing.

    Args:
        source: a database at head (its URL or settings), or the directory of an earlier copy (a Path, or a text without
            ``://``).
        target: a database without rows in our tables, which is brought to head if it is not; or a directory that is
            empty or not there, for a folder of Parquet files per table.
        merge: bring the rows into a database that has others.
        round_noise: round what a legacy file holds beyond a column's decimals; the result says how much.
        progress: is told how far it is, after each batch.
        batch_rows: how many rows are in memory, and in a transaction or a file, at most; fewer where they are long.

    Raises:
        ConfigurationError: the target holds other rows, or the end of another copy; or it is the source.
        SchemaMismatchError: the source is not there or not at head, or the tables of the target are not ours.
        CopyRefusedError: values cannot be copied exactly; the target is as it was before.
        CopyMismatchError: the target does not give back what was written, or a file of the source is not what it was.
        TransactionConflictError: another process has begun to copy to the target.
    """
    began = time.monotonic()
    if batch_rows < 1:
        raise ConfigurationError(f"batch_rows is a number of rows, not {batch_rows}")
    async with contextlib.AsyncExitStack() as stack:
        directory = directory_of(target)  # refused before anything is opened
        origin = await stack.enter_async_context(_open_source(source, batch_rows))
        goal: Target = await stack.enter_async_context(
            database.open_target(target) if directory is None else parquet.open_target(directory)  # type: ignore[arg-type]
        )
        if origin.place == goal.place:
            raise ConfigurationError(f"source and target are the same: {origin.name}")
        work = _Work(origin, goal, Ledger(round_noise), progress)
        if not merge:
            return await work.run(began)
        if not isinstance(goal, database.DatabaseTarget):
            raise ConfigurationError("only a database can be merged into: a directory holds one copy")
        return await work.merge(goal, began)


def _open_source(end: End, batch_rows: int) -> contextlib.AbstractAsyncContextManager[Source]:
    directory = directory_of(end)
    if directory is None:
        return database.open_source(end, batch_rows=batch_rows)  # type: ignore[arg-type]
    return parquet.open_source(directory, batch_rows=batch_rows)


@dataclass
class _Table:
    """One table on its way, and what is known of its pages.

    Attributes:
        layout: of the table.
        rows: how many the source has.
        is_empty: the target had none when the copy began.
        spans: of the pages that were read.
        digests: of their rows.
        written: rows that were brought into the target.
        largest_id: of all rows.
    """

    layout: Layout
    rows: int
    is_empty: bool
    spans: list[Span] = field(default_factory=list)
    digests: list[Digest] = field(default_factory=list)
    written: int = 0
    largest_id: int = 0


class _Work:
    """One copy on its way."""

    def __init__(self, source: Source, target: Target, ledger: Ledger, progress: Progress | None) -> None:
        self._source, self._target, self._ledger, self._progress = source, target, ledger, progress
        self._tables: list[_Table] = []
        self._done: dict[Phase, dict[str, int]] = {}

    async def run(self, began: float) -> CopyResult:
        await self._target.prepare(self._source)
        unfinished = await self._target.unfinished()
        for layout in self._source.layouts():
            rows = await self._source.count(layout)
            self._tables.append(_Table(layout, rows, is_empty=await self._target.count(layout) == 0))
        resumed = unfinished == self._source.identity
        holding = [table for table in self._tables if not table.is_empty and table.layout.name != OWN_ROWS]
        if holding and not resumed:
            found = await self._already_copied(holding, unfinished)
        else:
            found = await self._copied(resumed=resumed)
        await self._target.settle()
        return self._result(found, began, resumed=resumed)

    async def merge(self, target: database.DatabaseTarget, began: float) -> CopyResult:
        """Bring the rows into a target that has others; all are checked before the first is written."""
        merging = Merging(self._source, target, rounds=self._ledger.rounds, tell=self._tell)
        await merging.refuse_wrong_ends()
        tables = [identified(layout) for layout in self._source.layouts()]
        for table in tables:
            self._tables.append(_Table(table.layout, await self._source.count(table.layout), is_empty=False))
        for read, table in zip(self._tables, tables, strict=True):
            await self._read(read, "checking")
            table.largest_id = read.largest_id
        if self._ledger.count:
            raise self._ledger.error()
        for table in tables:
            await merging.merge(table)
        await target.put_ids_behind([table.layout for table in tables])
        return self._result([await merging.verified(table) for table in tables], began, resumed=False)

    def _result(self, found: Sequence[TableCopy], began: float, *, resumed: bool) -> CopyResult:
        rounded, largest = self._ledger.rounded, self._ledger.largest
        tables = tuple(
            dataclasses.replace(
                table, rounded=rounded.get(table.table, 0), largest_rounding=largest.get(table.table, Decimal(0))
            )
            for table in found
        )
        return CopyResult(
            source=self._source.name,
            target=self._target.name,
            revision=self._source.revision,
            snapshot_at=self._source.snapshot_at,
            tables=tables,
            not_copied=self._source.not_copied,
            resumed=resumed,
            seconds=time.monotonic() - began,
        )

    async def _already_copied(self, holding: Sequence[_Table], unfinished: str | None) -> list[TableCopy]:
        """Return what is there if it is a complete copy already; the rows of others are refused."""
        if unfinished is not None:
            raise ConfigurationError(f"{self._target.name} holds the unfinished copy of another source: {unfinished}")
        names = ", ".join(table.layout.name for table in holding)
        refusal = ConfigurationError(f"{self._target.name} holds other rows, in {names}: nothing was copied")
        for table in self._tables:
            if await self._target.count(table.layout) != table.rows:
                raise refusal
        try:
            for table in self._tables:
                await self._read(table, "checking")
            return await self._all_verified()
        except CopyMismatchError:
            raise refusal from None

    async def _copied(self, *, resumed: bool) -> list[TableCopy]:
        await self._target.begin(self._source)
        for table in self._tables:  # a run that was still going on may have written until now
            table.is_empty = await self._target.count(table.layout) == 0
        layouts = [table.layout for table in self._tables]
        try:
            for table in self._tables:
                await self._read(table, "copying")
        except CopyMismatchError:
            await self._target.clear(layouts)
            raise
        if self._ledger.count:
            await self._target.clear(layouts)
            raise self._ledger.error()
        try:
            found = await self._all_verified()
        except CopyMismatchError:
            if not resumed:
                raise
            # What the earlier run left lies in another order than the source's keys: all anew.
            for table in self._tables:
                await self._target.empty(table.layout)
                table.spans, table.digests = [], []
            return await self._copied(resumed=False)
        await self._target.finish(self._source, [(table.layout, table.digests) for table in self._tables])
        return found

    async def _read(self, table: _Table, phase: Literal["checking", "copying"]) -> None:
        """Read a table and check its rows; copying them ends once a value was refused."""
        # Spans that are there already are mended one by one: two deletions at once may be in each other's way.
        writers = self._target.writers if table.is_empty else 1
        pages = _ahead(self._source.pages(table.layout, self._ledger))
        async with contextlib.aclosing(pages) as found, Crew(writers) as crew:
            async for page in found:
                digest = await asyncio.to_thread(self._checked, table, page)
                number = len(table.spans)
                table.spans.append(page.span)
                table.digests.append(digest)
                if phase == "copying" and not self._ledger.count:
                    await crew.do(self._write(table, number, page))
                else:
                    self._tell(phase, table.layout, page.batch.num_rows)

    async def _write(self, table: _Table, number: int, page: Page) -> None:
        digest = table.digests[number]
        if await self._target.write(table.layout, number, page, digest, is_empty=table.is_empty):
            table.written += page.batch.num_rows
        self._tell("copying", table.layout, page.batch.num_rows)

    def _checked(self, table: _Table, page: Page) -> Digest:
        layout = table.layout
        refuse_unfit(layout, page.batch, self._ledger, exact_decimals=self._target.exact_decimals)
        if (numbered := layout.table.autoincrement_column) is not None:
            table.largest_id = max(table.largest_id, pc.max(page.batch[numbered.name]).as_py() or 0)
        return digest_of(page.batch, layout.key)

    async def _all_verified(self) -> list[TableCopy]:
        return [await self._verified(table) for table in self._tables]

    async def _verified(self, table: _Table) -> TableCopy:
        """Compare the rows read with those that the target gives back, a page's span at a time."""
        layout = table.layout
        found = [Digest()] * len(table.spans)

        async def read_back(number: int) -> None:
            found[number] = await self._target.digest(layout, number, table.spans[number])
            self._tell("verifying", layout, found[number].rows)

        async with Crew(_READERS) as crew:
            for number in range(len(table.spans)):
                await crew.do(read_back(number))
        source, target = total(table.digests), total(found)
        if source != target:
            wrong = next(number for number, digest in enumerate(table.digests) if digest != found[number])
            raise CopyMismatchError(_difference(layout, table.spans[wrong], table.digests[wrong], found[wrong]))
        return TableCopy(layout.name, source, target, written=table.written, found=target.rows - table.written)

    def _tell(self, phase: Phase, layout: Layout, rows: int) -> None:
        """Tell of some rows more."""
        if self._progress is None:
            return
        done = self._done.setdefault(phase, {})
        done[layout.name] = done.get(layout.name, 0) + rows
        of_rows = {table.layout.name: table.rows for table in self._tables}
        self._progress(
            CopyProgress(
                phase, layout.name, done[layout.name], of_rows[layout.name], sum(done.values()), sum(of_rows.values())
            )
        )


def _difference(layout: Layout, span: Span, source: Digest, target: Digest) -> str:
    after = "the first row" if span.after is None else f"the row behind {shown_key(layout.key, span.after)}"
    until = "the last" if span.until is None else shown_key(layout.key, span.until)
    return (
        f"{layout.name} differs from {after} to {until}: {source.rows:,} rows with the checksum {source.content_text}"
        f" in the source, {target.rows:,} with {target.content_text} in the target"
    )


async def _ahead(pages: AsyncGenerator[Page, None]) -> AsyncGenerator[Page, None]:
    """Yield pages, and read the next one meanwhile."""

    async def following() -> Page | None:
        return await anext(pages, None)

    upcoming = asyncio.create_task(following())
    try:
        while (page := await upcoming) is not None:
            upcoming = asyncio.create_task(following())
            yield page
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)
        await pages.aclose()
