"""Many rows out: the pages of a query as Arrow columns, in the caller's transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from traderrr_data import dialects
from traderrr_data.bulk.loading import loaded
from traderrr_data.dialects.base import CellByCell, Key, Page
from traderrr_data.errors import ConfigurationError
from traderrr_data.models import Base

if TYPE_CHECKING:
    import pyarrow as pa


_ROWS_A_PAGE = 25_000
_FIRST_GROUP = 16  # values of a list that are asked for together at first
_ROWS_A_TURN = 1_000  # that are read cell by cell before the event loop has its turn


@dataclass(frozen=True)
class Columns:
    """What is read of which rows.

    Attributes:
        model: whose columns they are.
        names: the columns, in the order in which they come out.
        query: the rows, in no order: a SELECT of these columns but the constant ones, in the same order, by name.
        key: the columns of the query's FROM by which the rows are ordered; no two rows are alike in all of them.
        constants: columns that hold the same text in all rows.
        among: which values the first column of the key has, in their order; None for any.
    """

    model: type[Base]
    names: Sequence[str]
    query: sa.Select[Any]
    key: Sequence[sa.ColumnElement[Any]]
    constants: Mapping[str, str]
    among: Sequence[str] | None = None


async def stream(
    session: AsyncSession, wanted: Columns, *, exact: bool, batch_rows: int
) -> AsyncIterator[pa.RecordBatch]:
    """Yield record batches by key, each found from where the last one ended.

    No cursor stays open between them, so whoever stops early leaves nothing behind.
    """
    if batch_rows < 1:
        raise ConfigurationError(f"batch_rows is a number of rows, not {batch_rows}")
    async for page in _pages(session, wanted, exact=exact, rows=batch_rows):
        batch = await page.batch()
        for start in range(0, batch.num_rows, batch_rows):
            yield batch.slice(start, batch_rows)


async def frame(session: AsyncSession, wanted: Columns, *, exact: bool) -> pa.Table:
    """Return all rows by key; a page is built while the next one is fetched, where it is known where that begins."""
    await loaded()
    from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

    batches: list[pa.RecordBatch] = []
    waiting: list[_Page] = []
    try:
        first = dialects.for_session(session).short_page
        async for page in _pages(session, wanted, exact=exact, rows=_ROWS_A_PAGE, first=first):
            batches += [await earlier.batch() for earlier in waiting]
            page.begin()
            waiting = [page]
        batches += [await last.batch() for last in waiting]
    finally:
        for page in waiting:
            page.stop()
    return arrow.table_of(arrow.schema_of(wanted.model, wanted.names, exact=exact), batches)


async def _pages(
    session: AsyncSession, wanted: Columns, *, exact: bool, rows: int, first: int | None = None
) -> AsyncGenerator[_Page, None]:
    """Yield pages of so many rows, the first one of `first`.

    What is among many values is asked for a group of them at a time, with about a page's rows: PostgreSQL 15 does not
    read an index in its order for a list of values, and would sort all their rows anew for every page.
    """
    match_keys = dialects.for_session(session).match_keys
    at, size, query = 0, _FIRST_GROUP, wanted.query
    while True:
        if wanted.among is not None:
            query = wanted.query.where(match_keys(wanted.key[:1], [(value,) for value in wanted.among[at : at + size]]))
        count = 0
        pages = _pages_of(query, session, wanted, exact=exact, rows=rows, first=None if at else first)
        async with contextlib.aclosing(pages):
            async for page in pages:
                yield page
                count += 1
        at += size
        if wanted.among is None or at >= len(wanted.among):
            return
        size = size * 2 if count == 1 else max(1, size // count)


async def _pages_of(
    chosen: sa.Select[Any], session: AsyncSession, wanted: Columns, *, exact: bool, rows: int, first: int | None
) -> AsyncGenerator[_Page, None]:
    await loaded()
    from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

    dialect = dialects.for_session(session)
    stored = arrow.schema_of(wanted.model, [name for name in wanted.names if name not in wanted.constants], exact=True)
    after: list[sa.ColumnElement[bool]] = []
    following, rows = rows, first or rows
    while True:
        if session.autoflush:
            await session.flush()
        connection = await session.connection()
        query = chosen.where(*after)
        async with dialect.speaking_to_driver(connection):
            found = await dialect.fetch_page(connection, query, wanted.key, stored, rows)
        cells = query.order_by(*wanted.key)
        if found is not None and found.end is not None:
            last = dialect.after_key(wanted.key, _ordered(wanted, found.end))
            cells = cells.where(sa.not_(last))
        elif found is None or not found.is_last:
            cells = cells.limit(rows)
        page = _Page(connection, wanted, stored, exact=exact, found=found or _UNREAD, cells=cells)
        yield page
        if await page.is_last(rows):
            return
        rows = following
        after = [dialect.after_key(wanted.key, await page.end())]


def _ordered(wanted: Columns, end: Mapping[str, Any]) -> Key:
    known = {**end, **wanted.constants}
    return tuple(known[column.name] for column in wanted.key)


def _not_by_columns() -> pa.RecordBatch:
    raise CellByCell


_UNREAD = Page(_not_by_columns, is_last=False)


class _Page:
    """One page of a query, and the columns that become of it; `cells` finds the same rows."""

    def __init__(
        self,
        connection: AsyncConnection,
        wanted: Columns,
        stored: pa.Schema,
        *,
        exact: bool,
        found: Page,
        cells: sa.Select[Any],
    ) -> None:
        self._cells = cells
        self._connection = connection
        self._wanted = wanted
        self._stored = stored
        self._exact = exact
        self._found = found
        self._building: asyncio.Task[pa.RecordBatch] | None = None
        self._batch: pa.RecordBatch | None = None

    def begin(self) -> None:
        """Begin to build it in a thread."""
        if self._batch is None and not self._found.is_quick:
            self._building = asyncio.create_task(asyncio.to_thread(self._built, self._found.build))

    def stop(self) -> None:
        """Wait for it no longer."""
        if self._building is not None:
            self._building.cancel()

    async def batch(self) -> pa.RecordBatch:
        """Return its columns; the connection must be free, since some pages are read anew, cell by cell."""
        if self._batch is None:
            try:
                self._batch = await self._by_columns()
            except CellByCell:
                self._batch = await self._from_cells()
        return self._batch

    async def _by_columns(self) -> pa.RecordBatch:
        if self._found.is_quick:
            return self._built(self._found.build)
        return await (self._building or asyncio.to_thread(self._built, self._found.build))

    async def is_last(self, rows: int) -> bool:
        """Tell whether no row follows."""
        return self._found.is_last or (self._found.end is None and (await self.batch()).num_rows < rows)

    async def end(self) -> Key:
        """Return the key after which the next page begins."""
        end: Mapping[str, Any] | None = self._found.end
        if end is None:
            batch = await self.batch()
            [end] = batch.slice(batch.num_rows - 1).to_pylist()
        return _ordered(self._wanted, end)

    def _built(self, build: Callable[[], pa.RecordBatch]) -> pa.RecordBatch:
        from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

        schema = arrow.schema_of(self._wanted.model, self._wanted.names, exact=self._exact)
        return arrow.completed(build(), schema, self._wanted.constants)

    async def _from_cells(self) -> pa.RecordBatch:
        from traderrr_data.bulk import arrow  # noqa: PLC0415 - loaded only where Arrow is used

        rows: list[sa.Row[Any]] = []
        result = await self._connection.execute(self._cells)
        for part in result.partitions(_ROWS_A_TURN):
            rows += part
            await asyncio.sleep(0)
        return await asyncio.to_thread(self._built, lambda: arrow.batch_of(self._stored, rows))
