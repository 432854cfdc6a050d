"""The copy itself: read, check, write, read back, compare."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from traderrr_data import schema
from traderrr_data.errors import ConfigurationError, CopyMismatchError, SchemaMismatchError
from traderrr_data.models import Compatibility
from traderrr_data.schema import State
from traderrr_data.transfer import database
from traderrr_data.transfer.cells import refuse_unfit
from traderrr_data.transfer.database import DatabaseTarget
from traderrr_data.transfer.digest import Digest, digest_of, total
from traderrr_data.transfer.ends import End, Source, Target, directory_of
from traderrr_data.transfer.layout import Layout, layouts, shown_key
from traderrr_data.transfer.reading import Page, Span
from traderrr_data.transfer.result import CopyProgress, CopyResult, Ledger, Progress, TableCopy

_OWN_ROWS = Compatibility.__tablename__
"""The table whose rows the migrations write, in an empty database too."""


async def copy(
    source: End,
    target: End,
    *,
    merge: bool = False,
    round_noise: bool = False,
    progress: Progress | None = None,
) -> CopyResult:
    """Copy all rows of all tables, with their ids and timestamps, and compare both sides; commits."""
    began = time.monotonic()
    async with _open_source(source) as origin, _open_target(target) as goal:
        if origin.place == goal.place:
            raise ConfigurationError(f"source and target are the same: {origin.name}")
        work = _Work(origin, goal, Ledger(round_noise), progress)
        return await work.run(began)


@contextlib.asynccontextmanager
async def _open_source(end: End) -> AsyncIterator[Source]:
    directory = directory_of(end)
    async with database.open_source(end) as source:
        yield source


@contextlib.asynccontextmanager
async def _open_target(end: End) -> AsyncIterator[DatabaseTarget]:
    directory = directory_of(end)
    async with database.open_target(end) as target:
        yield target


@dataclass
class _TableWork:
    """What is known of one table on its way."""

    layout: Layout
    rows: int
    is_empty: bool
    spans: list[Span] = field(default_factory=list)
    digests: list[Digest] = field(default_factory=list)
    written: int = 0


class _Work:
    """One copy on its way."""

    def __init__(self, source: Source, target: DatabaseTarget, ledger: Ledger, progress: Progress | None) -> None:
        self._source, self._target, self._ledger, self._progress = source, target, ledger, progress
        self._tables: list[_TableWork] = []
        self._done = 0

    async def run(self, began: float) -> CopyResult:
        await self._prepare_schema()
        resumed = await self._claim()
        for table in self._tables:
            await self._copy_table(table)
        if self._ledger.count:
            await self._target.clear([table.layout for table in self._tables if table.layout.name != _OWN_ROWS])
            raise self._ledger.error()
        self._done = 0
        found = [await self._verified(table) for table in self._tables]
        await self._target.finish(self._source, {table.layout.name: table.digests for table in self._tables})
        return CopyResult(
            source=self._source.name,
            target=self._target.name,
            revision=self._source.revision,
            snapshot_at=self._source.snapshot_at,
            tables=tuple(found),
            not_copied=self._source.not_copied,
            resumed=resumed,
            seconds=time.monotonic() - began,
        )

    async def _prepare_schema(self) -> None:
        found = await self._target.status()
        match found.state:
            case State.FOREIGN:
                raise schema.foreign(found)
            case State.AHEAD | State.INCOMPATIBLE:
                raise SchemaMismatchError(f"the target cannot take a copy: {schema.describe(found)}")
            case State.BEHIND | State.EMPTY:
                await self._target.upgrade()

    async def _claim(self) -> bool:
        """Make the target ours to write to, and tell whether an earlier run had begun."""
        unfinished = await self._target.unfinished()
        for layout in layouts():
            rows = await self._source.count(layout)
            self._tables.append(_TableWork(layout, rows, await self._target.count(layout) == 0))
        holds = [table.layout.name for table in self._tables if not table.is_empty and table.layout.name != _OWN_ROWS]
        if holds and unfinished is None:
            raise ConfigurationError(f"{self._target.name} holds rows in {', '.join(holds)}: nothing was copied")
        if holds and unfinished != self._source.identity:
            raise ConfigurationError(f"{self._target.name} holds an unfinished copy of {unfinished}")
        await self._target.begin(self._source)
        return unfinished is not None

    async def _copy_table(self, table: _TableWork) -> None:
        layout = table.layout
        async with contextlib.aclosing(_ahead(self._source.pages(layout, self._ledger))) as found:
            number = 0
            async for page in found:
                digest = await asyncio.to_thread(self._check, layout, page)
                if not self._ledger.count and await self._target.write(
                    layout, number, page, digest, is_empty=table.is_empty
                ):
                    table.written += page.batch.num_rows
                table.spans.append(page.span)
                table.digests.append(digest)
                number += 1
                self._tell("copying", table, total(table.digests).rows)
        self._done += table.rows

    def _check(self, layout: Layout, page: Page) -> Digest:
        refuse_unfit(layout, page.batch, self._ledger, exact_decimals=self._target.exact_decimals)
        return digest_of(page.batch, layout.key)

    async def _verified(self, table: _TableWork) -> TableCopy:
        """Compare what the target gives back, page by page."""
        layout, found = table.layout, []
        for number, span in enumerate(table.spans):
            found.append(await self._target.digest(layout, number, span))
            self._tell("verifying", table, total(found).rows)
        source, target = total(table.digests), total(found)
        if source != target:
            wrong = next(n for n, digest in enumerate(table.digests) if digest != found[n])
            raise CopyMismatchError(_difference(layout, table.spans[wrong], table.digests[wrong], found[wrong]))
        self._done += table.rows
        return TableCopy(
            table=layout.name,
            source=source,
            target=target,
            written=table.written,
            found=target.rows - table.written,
            rounded=self._ledger.rounded.get(layout.name, 0),
            largest_rounding=self._ledger.largest.get(layout.name, Decimal(0)),
        )

    def _tell(self, phase: str, table: _TableWork, rows: int) -> None:
        if self._progress is not None:
            every = sum(each.rows for each in self._tables)
            self._progress(CopyProgress(phase, table.layout.name, rows, table.rows, self._done + rows, every))


def _difference(layout: Layout, span: Span, source: Digest, target: Digest) -> str:
    after = "the first row" if span.after is None else f"behind {shown_key(layout.key, span.after)}"
    until = "the last row" if span.until is None else shown_key(layout.key, span.until)
    return (
        f"{layout.name} differs between {after} and {until}: {source.rows:,} rows with checksum {source.content_text}"
        f" in the source, {target.rows:,} with {target.content_text} in the target"
    )


async def _ahead(pages: AsyncGenerator[Page, None]) -> AsyncGenerator[Page, None]:
    """Yield pages while the next one is being read."""

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
