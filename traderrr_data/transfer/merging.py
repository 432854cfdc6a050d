"""Bringing the rows of a source into a database that has others.

A row is known by its natural key: a bar's primary key, a ticker, a dedupe_key. Where the target has none of that key it
is inserted as it is; where it has one, `bulk.upsert` decides, as for any batch. A row that has no such key, as a signal
without a dedupe_key, is known by all that is in it but its id: once more is the same row. It keeps its id where that is
free, and else gets a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from traderrr_data import bulk, schema
from traderrr_data.errors import ConfigurationError, CopyMismatchError, SchemaMismatchError
from traderrr_data.models import Base
from traderrr_data.transfer.database import OWN_ROWS, DatabaseTarget
from traderrr_data.transfer.digest import Digest, digest_of, row_hashes, total
from traderrr_data.transfer.ends import Source
from traderrr_data.transfer.layout import Layout
from traderrr_data.transfer.reading import EVERYTHING, Page, Span, pages
from traderrr_data.transfer.result import Ledger, Phase, TableCopy

Hash: TypeAlias = tuple[int, int]
Tell: TypeAlias = Callable[[Phase, Layout, int], None]

_KEYS_A_STATEMENT = 1_000
_TIMESTAMPS = ("created_at", "updated_at")


@dataclass
class Identified:
    """How the rows of a table are known, and what became of them.

    Attributes:
        layout: of the table.
        key: the columns of the natural key; none if only the content tells.
        largest_id: the largest id of the source, or of the target once it was asked.
    """

    layout: Layout
    key: tuple[str, ...]
    largest_id: int = 0
    inserted: int = 0
    replaced: int = 0
    unchanged: int = 0
    kept: int = 0
    renumbered: int = 0

    @property
    def id_name(self) -> str | None:
        """The column that numbers the rows."""
        column = self.layout.table.autoincrement_column
        return None if column is None else column.name

    @property
    def content(self) -> list[str]:
        """All columns but the id."""
        return [name for name in self.layout.schema.names if name != self.id_name]

    @property
    def compared(self) -> list[str]:
        """The columns that must be equal in both, where rows have a natural key."""
        return [name for name in self.content if name not in _TIMESTAMPS]


def identified(layout: Layout) -> Identified:
    """Return how a table's rows are known."""
    if layout.table.autoincrement_column is None:
        return Identified(layout, layout.key)
    unique = [c for c in layout.table.constraints if isinstance(c, sa.UniqueConstraint)]
    return Identified(layout, tuple(unique[0].columns.keys()) if unique else ())


class Merging:
    """One merge: its pages must have been checked, and are read twice, to write them and to find them again."""

    def __init__(self, source: Source, target: DatabaseTarget, *, rounds: bool, tell: Tell) -> None:
        self._source, self._target, self._tell = source, target, tell
        self._ledger = Ledger(rounds)
        self._models = {mapper.class_.__tablename__: mapper.class_ for mapper in Base.registry.mappers}

    async def refuse_wrong_ends(self) -> None:
        """Raise if the two ends do not fit each other."""
        if self._source.revision != schema.head():
            raise SchemaMismatchError(
                f"{self._source.name} is of revision {self._source.revision}: copy it into an empty database, which is"
                " then upgraded, and merge that one"
            )
        await self._target.prepare(self._source)
        if (unfinished := await self._target.unfinished()) is not None:
            raise ConfigurationError(f"{self._target.name} holds the unfinished copy of {unfinished}: finish it first")

    async def merge(self, table: Identified) -> None:
        """Bring a table's rows in, each page in a transaction."""
        if table.layout.name == OWN_ROWS:
            return
        async with self._target.reading() as connection:
            known = await _contents(connection, table)
            table.largest_id = max(table.largest_id, await _largest_id(connection, table))
        async with contextlib.aclosing(self._source.pages(table.layout, self._ledger)) as found:
            async for page in found:
                async with self._target.session() as session:
                    await self._merge_page(session, table, page, known)
                self._tell("copying", table.layout, page.batch.num_rows)

    async def _merge_page(self, session: AsyncSession, table: Identified, page: Page, known: Counter[Hash]) -> None:
        connection = await session.connection()
        keyed, unkeyed = _parted(table, page.batch)
        stored = await _stored(connection, table, page, keyed)
        present = np.array([key in stored for key in _hashes(keyed, table.key)], dtype=np.bool_)
        is_known = np.array(list(_taken(known, _hashes(unkeyed, table.content))), dtype=np.bool_)
        absent = pa.concat_tables([keyed.filter(pa.array(~present)), unkeyed.filter(pa.array(~is_known))])
        table.inserted += absent.num_rows
        table.unchanged += int(is_known.sum())
        if absent.num_rows:
            await self._target.insert(connection, table.layout, await self._with_free_ids(connection, table, absent))
        given = keyed.filter(pa.array(present)).select(table.compared)
        if given.num_rows:
            model = self._models[table.layout.name]
            result = await bulk.upsert(session, model, given, key=table.key, allow_inconsistent=True)
            table.replaced += result.updated
            table.unchanged += result.unchanged
            table.kept += result.skipped

    async def _with_free_ids(self, connection: AsyncConnection, table: Identified, rows: pa.Table) -> pa.Table:
        """Give the rows whose id another row of the target has the next ones behind all."""
        if table.id_name is None:
            return rows
        column = table.layout.plain.c[table.id_name]
        ids: list[int] = rows[table.id_name].to_pylist()
        taken: set[int] = set()
        for some in _chunks(ids):
            taken.update((await connection.scalars(sa.select(column).where(column.in_(some)))).all())
        for position, number in enumerate(ids):
            if number in taken:
                table.largest_id += 1
                ids[position] = table.largest_id
                table.renumbered += 1
        at = rows.schema.get_field_index(table.id_name)
        return rows.set_column(at, rows.schema.field(at), pa.array(ids, pa.int64()))

    async def verified(self, table: Identified) -> TableCopy:
        """Find all rows of the source again in the target.

        Raises:
            CopyMismatchError: one is not there, or differs.
        """
        source, target, differing = [], [], 0
        if table.layout.name != OWN_ROWS:
            async with self._target.reading() as connection:
                known = await _contents(connection, table)
                async with contextlib.aclosing(self._source.pages(table.layout, self._ledger)) as found:
                    async for page in found:
                        mine, theirs, others = await self._found_again(connection, table, page, known)
                        source.append(mine)
                        target.append(theirs)
                        differing += others
                        self._tell("verifying", table.layout, page.batch.num_rows)
        result = TableCopy(
            table=table.layout.name,
            source=total(source),
            target=total(target),
            written=table.inserted + table.replaced,
            found=table.unchanged,
            replaced=table.replaced,
            kept=table.kept,
            renumbered=table.renumbered,
        )
        if result.source != result.target or differing != table.kept:
            raise CopyMismatchError(
                f"{table.layout.name}: of {result.source.rows:,} rows of the source {result.target.rows:,} are in the"
                f" target, and {differing:,} differ there, of which {table.kept:,} were to be kept"
            )
        return result

    async def _found_again(
        self, connection: AsyncConnection, table: Identified, page: Page, known: Counter[Hash]
    ) -> tuple[Digest, Digest, int]:
        """Return the digests of a page's rows and of theirs in the target, and how many are kept otherwise there.

        These are in neither digest.
        """
        keyed, unkeyed = _parted(table, page.batch)
        stored = await _stored(connection, table, page, keyed)
        keys, contents = _hashes(keyed, table.key), _hashes(keyed, table.compared)
        differs = np.array([stored.get(k, c) != c for k, c in zip(keys, contents, strict=True)], dtype=np.bool_)
        is_there = np.array([k in stored for k in keys], dtype=np.bool_)
        alike = keyed.filter(pa.array(~differs))
        there = keyed.filter(pa.array(~differs & is_there))
        is_known = np.array(list(_taken(known, _hashes(unkeyed, table.content))), dtype=np.bool_)
        source = digest_of(alike.select(table.compared), table.key) + digest_of(
            unkeyed.select(table.content), table.content
        )
        target = digest_of(there.select(table.compared), table.key) + digest_of(
            unkeyed.filter(pa.array(is_known)).select(table.content), table.content
        )
        return source, target, int(differs.sum())


def _parted(table: Identified, batch: pa.RecordBatch) -> tuple[pa.Table, pa.Table]:
    """Return the rows that have a natural key, and those that have none."""
    rows = pa.Table.from_batches([batch])
    if not table.key:
        return rows.slice(0, 0), rows
    has_key = np.ones(rows.num_rows, dtype=np.bool_)
    for name in table.key:
        has_key &= np.asarray(rows[name].is_valid())
    return rows.filter(pa.array(has_key)), rows.filter(pa.array(~has_key))


def _hashes(rows: pa.Table | pa.RecordBatch, names: Sequence[str]) -> list[Hash]:
    high, low = row_hashes(rows, names)
    return list(zip(high.tolist(), low.tolist(), strict=True))


def _taken(known: Counter[Hash], hashes: Sequence[Hash]) -> Iterator[bool]:
    """Tell of each row whether it is known; one that is there once is known once."""
    for row in hashes:
        known[row] -= 1
        yield known[row] >= 0


def _rows(
    connection: AsyncConnection,
    table: Identified,
    *,
    within: Span = EVERYTHING,
    where: Sequence[sa.ColumnElement[bool]] = (),
) -> AsyncGenerator[Page, None]:
    """Yield rows of the target as this layer reads them: a legacy file has noise, and infinities, which are NULL."""
    return pages(connection, table.layout, Ledger(rounds=True), within=within, where=where)


async def _stored(connection: AsyncConnection, table: Identified, page: Page, keyed: pa.Table) -> dict[Hash, Hash]:
    """Return what the target holds under the natural keys of a page, by the keys."""
    found: dict[Hash, Hash] = {}
    if table.id_name is None:
        async with contextlib.aclosing(_rows(connection, table, within=page.span)) as stored:
            async for theirs in stored:
                found |= await asyncio.to_thread(_by_key, table, theirs.batch)
        return found
    values = list(zip(*(keyed[name].to_pylist() for name in table.key), strict=True))
    for some in _chunks(values):
        columns = [table.layout.plain.c[name] for name in table.key]
        where = sa.tuple_(*columns).in_(some)
        async with contextlib.aclosing(_rows(connection, table, where=[where])) as stored:
            async for theirs in stored:
                found |= _by_key(table, theirs.batch)
    return found


def _by_key(table: Identified, batch: pa.RecordBatch) -> dict[Hash, Hash]:
    return dict(zip(_hashes(batch, table.key), _hashes(batch, table.compared), strict=True))


async def _contents(connection: AsyncConnection, table: Identified) -> Counter[Hash]:
    """Return how often the target holds each row that has no natural key; none if the table has no such rows."""
    known: Counter[Hash] = Counter()
    if table.id_name is None or (table.key and not any(table.layout.table.c[name].nullable for name in table.key)):
        return known
    async with contextlib.aclosing(_rows(connection, table)) as stored:
        async for theirs in stored:
            known.update(await asyncio.to_thread(_hashes, _parted(table, theirs.batch)[1], table.content))
    return known


async def _largest_id(connection: AsyncConnection, table: Identified) -> int:
    if table.id_name is None:
        return 0
    return int((await connection.scalar(sa.select(sa.func.max(table.layout.plain.c[table.id_name])))) or 0)


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[at : at + _KEYS_A_STATEMENT] for at in range(0, len(values), _KEYS_A_STATEMENT))
