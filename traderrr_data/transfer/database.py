"""A database as the source or the target of a copy."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from traderrr_data import schema
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import ConfigurationError, SchemaMismatchError, TransactionConflictError
from traderrr_data.models import Compatibility
from traderrr_data.models.base import VERSION_TABLE
from traderrr_data.models.types import table_options
from traderrr_data.schema import State
from traderrr_data.settings import Settings
from traderrr_data.transfer.digest import Digest, digest_of, total
from traderrr_data.transfer.ends import Source
from traderrr_data.transfer.layout import Layout, layouts
from traderrr_data.transfer.reading import Page, Span, pages
from traderrr_data.transfer.result import Ledger

OWN_ROWS = Compatibility.__tablename__
"""The table whose rows the migrations write, in an empty database, too."""

UNFINISHED_TABLE = "traderrr_data_copy"
"""The table that a target has until its copy is complete."""

_unfinished = sa.Table(
    UNFINISHED_TABLE,
    sa.MetaData(),
    sa.Column("run", sa.String(32), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    **table_options(),
)


@contextlib.asynccontextmanager
async def open_source(end: str | sa.URL | Settings, *, batch_rows: int) -> AsyncIterator[DatabaseSource]:
    """Give one snapshot of a database, which must be at this version's head and have no unfinished copy in it.

    Raises:
        SchemaMismatchError: it is not there, or not at head.
    """
    settings = Settings.of(end)
    _refuse_absent(settings.url)
    async with DatabaseManager(settings) as db:
        async with _reading(db) as connection:
            place = await _place(db, connection)
        found = await schema.status(db.engine)
        if found.state is State.FOREIGN:
            raise schema.foreign(found)
        if found.state is not State.CURRENT:
            raise SchemaMismatchError(f"the source cannot be copied: {schema.describe(found)}")
        async with db.dialect.copying.at_rest(db.engine.url) as url, contextlib.AsyncExitStack() as stack:
            resting = db
            if url != db.engine.url:
                resting = await stack.enter_async_context(DatabaseManager(url))
            connection = await stack.enter_async_context(_reading(resting))
            now = await resting.dialect.clock(connection)
            inside = await connection.run_sync(_what_is_inside)
            if UNFINISHED_TABLE in inside:
                raise SchemaMismatchError(f"{db.database_url} is itself a copy that is not complete: finish it first")
            others = tuple(_not_ours(inside))
            yield DatabaseSource(db, connection, place=place, snapshot_at=now, not_copied=others, batch_rows=batch_rows)


@contextlib.asynccontextmanager
async def open_target(end: str | sa.URL | Settings) -> AsyncIterator[DatabaseTarget]:
    """Give a database to write to; nothing is changed yet.

    Raises:
        ConfigurationError: it is in memory.
    """
    settings = Settings.of(end)
    if settings.url.database in (None, "", ":memory:"):
        raise ConfigurationError("the target is in memory, and would be gone with this process")
    async with DatabaseManager(settings) as db:
        async with _reading(db) as connection:
            place = await _place(db, connection)
        yield DatabaseTarget(db, place)


def _refuse_absent(url: sa.URL) -> None:
    """Connecting to a file that is not there would make it."""
    path = Path(url.database or "")
    if path.is_absolute() and not path.exists():
        raise SchemaMismatchError(f"there is no database {path}")


def _reading(db: DatabaseManager) -> AsyncConnection:
    return db.engine.execution_options(**db.dialect.reader_options).connect()


async def _place(db: DatabaseManager, connection: AsyncConnection) -> str:
    return f"{db.dialect.name} {await db.dialect.copying.identity(connection)}"


def _what_is_inside(connection: sa.Connection) -> dict[str, list[str]]:
    inspector = sa.inspect(connection)
    return {name: [column["name"] for column in inspector.get_columns(name)] for name in inspector.get_table_names()}


def _not_ours(inside: Mapping[str, Sequence[str]]) -> list[str]:
    known = {layout.name: layout.schema.names for layout in layouts()}
    others = sorted(inside.keys() - known.keys() - {VERSION_TABLE})
    return others + [f"{t}.{c}" for t in known for c in inside.get(t, ()) if c not in known[t]]


def _identity(db: DatabaseManager) -> str:
    """Return what a database is called in every run, whoever logs in."""
    url, options = db.engine.url, db.settings
    path = options.db_schema or ""
    return f"{db.dialect.name} {url.host or ''}:{url.port or ''}/{url.database} {path}".strip()


class DatabaseSource:
    """One snapshot of a database; see `ends.Source`."""

    def __init__(
        self,
        db: DatabaseManager,
        connection: AsyncConnection,
        *,
        place: str,
        snapshot_at: dt.datetime,
        not_copied: tuple[str, ...],
        batch_rows: int,
    ) -> None:
        self._connection, self._batch_rows = connection, batch_rows
        self.name, self.identity, self.place = db.database_url, _identity(db), place
        self.origin: sa.URL | Path = db.engine.url
        self.engine = " ".join([db.dialect.name, *map(str, (connection.dialect.server_version_info or ())[:3])])
        self.revision, self.snapshot_at, self.not_copied = schema.head(), snapshot_at, not_copied

    def layouts(self) -> list[Layout]:
        """Return all tables."""
        return layouts()

    async def count(self, layout: Layout) -> int:
        """Return the number of a table's rows."""
        return await _count(self._connection, layout)

    def pages(self, layout: Layout, ledger: Ledger) -> AsyncGenerator[Page, None]:
        """Yield a table's rows by their key."""
        return pages(self._connection, layout, ledger, most_rows=self._batch_rows)


async def _count(connection: AsyncConnection, layout: Layout) -> int:
    found = await connection.execute(sa.select(sa.func.count()).select_from(layout.plain))
    return int(found.scalar_one())


class DatabaseTarget:
    """A database that rows are copied into; see `ends.Target`."""

    def __init__(self, db: DatabaseManager, place: str) -> None:
        self._db = db
        self._run = secrets.token_hex(16)
        self.name, self.place, self.exact_decimals = db.database_url, place, db.dialect.exact_decimals
        self.writers = db.dialect.copying.writers

    async def prepare(self, source: Source) -> None:
        """Bring its tables to the source's revision; see `ends.Target`."""
        found = await schema.status(self._db.engine)
        match found.state:
            case State.FOREIGN:
                raise schema.foreign(found)
            case State.AHEAD | State.INCOMPATIBLE:
                raise SchemaMismatchError(f"the target cannot take a copy: {schema.describe(found)}")
        if found.revision == source.revision:
            return
        holding = await self._holding()
        if found.state is State.CURRENT and holding:
            return  # a copy that was upgraded since, or other rows: that is still to be seen
        if found.state is not State.EMPTY and source.revision != found.head:
            raise SchemaMismatchError(
                f"{source.name} is of revision {source.revision}, and {self.name} of {found.revision}: copy into a"
                " database without our tables, which is upgraded once the rows are there"
            )
        if found.state is State.BEHIND and holding:
            raise SchemaMismatchError(f"{schema.describe(found)} (the target holds rows in {', '.join(holding)})")
        await schema.upgrade(self._db.engine, source.revision)

    async def _holding(self) -> list[str]:
        """Return the tables of ours that have rows."""
        async with _reading(self._db) as connection:
            inside = await connection.run_sync(_what_is_inside)
            present = [layout for layout in layouts() if layout.name in inside and layout.name != OWN_ROWS]
            return [layout.name for layout in present if await _count(connection, layout)]

    async def settle(self) -> None:
        """Bring its tables to head."""
        await schema.upgrade(self._db.engine)

    async def unfinished(self) -> str | None:
        """Return the identity of the source whose copy has begun here and is not complete; None if there is none."""
        async with _reading(self._db) as connection:
            if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table(UNFINISHED_TABLE)):
                return None
            found = (await connection.execute(sa.select(_unfinished.c.source))).scalars().all()
            return found[0] if found else ""

    async def begin(self, source: Source) -> None:
        """Mark it as incomplete; a run that had begun may write no more."""
        async with self._db.engine.begin() as connection:
            await connection.run_sync(_unfinished.create, checkfirst=True)
        async with self._writing() as connection:
            await connection.execute(_unfinished.delete())
            await connection.execute(_unfinished.insert().values(run=self._run, source=source.identity))

    async def count(self, layout: Layout) -> int:
        """Return the number of a table's rows."""
        async with _reading(self._db) as connection:
            return await _count(connection, layout)

    async def write(self, layout: Layout, number: int, page: Page, digest: Digest, *, is_empty: bool) -> bool:
        """Make a page's range hold just its rows, in one transaction; False if it did already."""
        if not is_empty and await self.digest(layout, number, page.span) == digest:
            return False
        async with self._writing() as connection:
            await self._hold_mark(connection)
            if not is_empty:
                await connection.execute(sa.delete(layout.plain).where(*self._in_span(layout, page.span)))
            if page.batch.num_rows:
                await self.insert(connection, layout, pa.Table.from_batches([page.batch]))
        return True

    async def digest(self, layout: Layout, _number: int, span: Span) -> Digest:
        """Return the digest of what is really there in a span; that of no rows if a cell is none that we write."""
        async with (
            _reading(self._db) as connection,
            contextlib.aclosing(pages(connection, layout, within=span)) as found,
        ):
            try:
                return total([digest_of(page.batch, layout.key) async for page in found])
            except ValueError:
                return Digest()

    async def empty(self, layout: Layout) -> None:
        """Remove a table's rows."""
        async with self._writing() as connection:
            await self._hold_mark(connection)
            await connection.execute(sa.delete(layout.plain))

    async def finish(self, _source: Source, tables: Sequence[tuple[Layout, Sequence[Digest]]]) -> None:
        """Put the next ids behind those that were copied, and take the mark away."""
        await self.put_ids_behind([layout for layout, _ in tables])
        await self._remove_mark()

    async def put_ids_behind(self, found: Sequence[Layout]) -> None:
        """Have the next ids that the database gives come behind all that are there."""
        async with self._writing() as connection:
            for layout in found:
                await self._db.dialect.copying.put_ids_behind(connection, layout.table)

    async def clear(self, found: Sequence[Layout]) -> None:
        """Remove all rows and the mark."""
        for layout in reversed(found):
            if layout.name != OWN_ROWS:
                await self.empty(layout)
        await self._remove_mark()

    async def _hold_mark(self, connection: AsyncConnection) -> None:
        """Have no other run begin before this transaction has ended.

        The mark is shared among this run's writers; a run that begins takes it away, and waits for them.
        """
        mine = sa.select(_unfinished.c.run).where(_unfinished.c.run == self._run).with_for_update(read=True)
        if (await connection.execute(mine)).first() is None:
            raise TransactionConflictError(f"another process has begun to copy to {self.name}")

    async def _remove_mark(self) -> None:
        async with self._writing() as connection:
            await self._hold_mark(connection)
            await connection.execute(_unfinished.delete().where(_unfinished.c.run == self._run))
        async with self._db.engine.begin() as connection:
            await connection.run_sync(_unfinished.drop, checkfirst=True)

    def _in_span(self, layout: Layout, span: Span) -> list[sa.ColumnElement[bool]]:
        key = [layout.plain.c[name] for name in layout.key]
        behind = [] if span.after is None else [self._db.dialect.after_key(key, span.after)]
        return behind if span.until is None else [*behind, sa.not_(self._db.dialect.after_key(key, span.until))]

    async def insert(self, connection: AsyncConnection, layout: Layout, rows: pa.Table) -> None:
        """Insert rows as they are, in a transaction that has begun; a key that is stored is an error."""
        async with self._db.dialect.speaking_to_driver(connection):
            await self._db.dialect.copying.insert_columns(connection, layout.table, rows)

    def reading(self) -> AsyncConnection:
        """Return a connection for reading only, which is opened by `async with`."""
        return _reading(self._db)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Give a session that commits at the end; the tables may be of a revision that others may not use yet."""
        async with self._db.get_session() as session:
            yield session
            await session.commit()

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        async with self.session() as session:
            yield await session.connection()
