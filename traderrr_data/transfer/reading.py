"""The rows of a database's table by their key, a page at a time, each cell as what it stands for exactly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data import dialects
from traderrr_data.dialects import Dialect
from traderrr_data.dialects.base import CellByCell, Doubts
from traderrr_data.dialects.base import Page as Fetched
from traderrr_data.transfer.cells import batch_of_raw
from traderrr_data.transfer.layout import Layout, key_of
from traderrr_data.transfer.result import Ledger

Key: TypeAlias = tuple[Any, ...]

_ROWS_A_PAGE = 50_000
_ROWS_OF_LONG_TEXTS = 1_000  # the longest may come behind many short ones
_FIRST_ROWS_OF_LONG_TEXTS = 100
_FEWEST_ROWS = 20
_BYTES_A_PAGE = 8 << 20


class Span(NamedTuple):
    """The keys behind one up to another: None for the first of them, or for no end."""

    after: Key | None = None
    until: Key | None = None


EVERYTHING = Span()


@dataclass(frozen=True)
class Page:
    """All rows of a table whose keys are in a span."""

    batch: pa.RecordBatch
    span: Span


async def pages(
    connection: AsyncConnection,
    layout: Layout,
    ledger: Ledger | None = None,
    *,
    within: Span = EVERYTHING,
    where: Sequence[sa.ColumnElement[bool]] = (),
    most_rows: int = _ROWS_A_PAGE,
) -> AsyncGenerator[Page, None]:
    """Yield all rows by key, in the connection's transaction; the last page may have none.

    Args:
        connection: it is used for nothing else meanwhile.
        layout: of the table.
        ledger: notes what cannot be read exactly, and whether to round.
        within: the keys wanted.
        where: what else the rows must be.
        most_rows: of a page; there are fewer where they are long.

    Raises:
        ValueError: a cell cannot be read exactly, and there is no ledger.
    """
    reader = _Reader(connection, layout, ledger)
    bounds = [*where, *([] if within.until is None else [reader.not_after(within.until)])]
    most_rows = min(most_rows, _ROWS_OF_LONG_TEXTS) if layout.has_long_texts else most_rows
    rows = min(most_rows, _FIRST_ROWS_OF_LONG_TEXTS) if layout.has_long_texts else most_rows
    begin, stored = within.after, within.after
    while True:
        behind = [] if stored is None else [reader.after(stored)]
        batch, stored, is_last = await reader.read([*bounds, *behind], rows)
        if is_last:
            yield Page(batch, Span(begin, within.until))
            return
        end = key_of(layout, batch.slice(batch.num_rows - 1).select(list(layout.key)).to_pylist()[0])
        yield Page(batch, Span(begin, end))
        begin = end
        rows = min(most_rows, max(_FEWEST_ROWS, _BYTES_A_PAGE // (batch.nbytes // batch.num_rows + 1)))


class _Reader:
    def __init__(self, connection: AsyncConnection, layout: Layout, ledger: Ledger | None) -> None:
        self._connection, self._layout, self._ledger = connection, layout, ledger
        self._dialect: Dialect = dialects.for_connection(connection.sync_engine)
        self._key = [layout.plain.c[name] for name in layout.key]

    def after(self, key: Key) -> sa.ColumnElement[bool]:
        return self._dialect.after_key(self._key, key)

    def not_after(self, key: Key) -> sa.ColumnElement[bool]:
        return sa.not_(self.after(key))

    async def read(self, where: Sequence[sa.ColumnElement[bool]], rows: int) -> tuple[pa.RecordBatch, Key | None, bool]:
        """Return the first rows, the key of the last one in a form to go on from, and whether none follows."""
        query = sa.select(*self._layout.plain.c).where(*where)
        async with self._dialect.speaking_to_driver(self._connection):
            found = await self._dialect.fetch_page(self._connection, query, self._key, self._layout.schema, rows)
        batch = None if found is None else await self._built(found)
        if found is None or batch is None or (not found.is_last and found.end is None):
            return await self._by_cells(query.order_by(*self._key).limit(rows), rows)
        end = None if found.end is None else self._typed(found.end)
        if not found.is_last and end is not None:
            where = [*where, self.not_after(end)]
        if await self._must_look_closer(where):
            closer = sa.select(*self._layout.plain.c).where(*where).order_by(*self._key)
            batch, _, _ = await self._by_cells(closer, rows)
        return batch, end, found.is_last

    def _typed(self, end: Any) -> Key:
        kinds = {field.name: field.type for field in self._layout.schema}
        return tuple(int(end[name]) if pa.types.is_integer(kinds[name]) else end[name] for name in self._layout.key)

    async def _built(self, found: Fetched) -> pa.RecordBatch | None:
        def build() -> pa.RecordBatch:
            batch = found.build()
            batch.validate(full=True)  # a text may be no UTF-8
            return batch

        try:
            return await asyncio.to_thread(build)
        except (CellByCell, pa.ArrowInvalid):
            return None

    async def _must_look_closer(self, where: Sequence[sa.ColumnElement[bool]]) -> bool:
        """Ask what the rows hold that is not exactly what they read as; what is only noise is settled here."""
        if (ask := self._dialect.copying.doubts) is None:
            return False
        doubts: Doubts = await ask(self._connection, self._layout.plain, self._layout.schema, where)
        if doubts.others or (doubts.noise and self._ledger is None):
            return True
        if doubts.noise and self._ledger is not None:
            if self._ledger.rounds:
                self._ledger.round(self._layout.name, doubts.noise, Decimal(f"{doubts.largest:.2g}"))
            elif not self._ledger.is_full:
                return True
            else:
                self._ledger.count += doubts.noise
        return False

    async def _by_cells(self, query: sa.Select[Any], rows: int) -> tuple[pa.RecordBatch, Key | None, bool]:
        raw = await self._dialect.copying.raw_cells(self._connection, query)
        batch = await asyncio.to_thread(batch_of_raw, self._layout, raw, self._ledger)
        if not raw:
            return batch, None, True
        if self._dialect.copying.doubts is None:
            end = key_of(self._layout, batch.slice(batch.num_rows - 1).to_pylist()[0])
        else:  # what is stored sorts by its own form, whatever it reads as
            end = key_of(self._layout, dict(zip(self._layout.schema.names, raw[-1], strict=True)))
        return batch, end, len(raw) < rows
