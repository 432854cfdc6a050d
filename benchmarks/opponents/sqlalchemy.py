"""All databases by SQLAlchemy, as its documentation shows it, with plain types and no listeners."""

from __future__ import annotations

import contextlib
import datetime as dt
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.data import MINUTE_VALUES, STORED, VALUES, Given, Row, as_rows
from benchmarks.feed import LISTED, Feed, trading_day
from benchmarks.race import Act, Contestant, Open

# SQLite has no decimals: SQLAlchemy stores doubles and says so.
warnings.filterwarnings("ignore", "Dialect sqlite.aiosqlite does .not. support Decimal", SAWarning)


class Base(DeclarativeBase):
    """The base of the model that is written."""


class _ReadBase(DeclarativeBase):
    """The base of the model that is read."""


class _Columns:
    ticker: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    series: Mapped[str] = mapped_column(sa.String(32), primary_key=True, default="")
    date: Mapped[dt.date] = mapped_column(primary_key=True)
    open: Mapped[Decimal] = mapped_column(sa.Numeric(20, 10))
    high: Mapped[Decimal] = mapped_column(sa.Numeric(20, 10))
    low: Mapped[Decimal] = mapped_column(sa.Numeric(20, 10))
    close: Mapped[Decimal] = mapped_column(sa.Numeric(20, 10))
    volume: Mapped[Decimal | None] = mapped_column(sa.Numeric(24, 8))
    dividends: Mapped[Decimal | None] = mapped_column(sa.Numeric(20, 10))
    stock_splits: Mapped[Decimal | None] = mapped_column(sa.Numeric(20, 10))


class Bar(_Columns, Base):
    """The table of daily bars, as an application would map it: with the columns that it writes."""

    __tablename__ = "daily_data"
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 - SQLAlchemy's own declaration

    updated_at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.FetchedValue())


class _StoredBar(_Columns, _ReadBase):
    __tablename__ = "daily_data"

    source: Mapped[str | None]
    price_basis: Mapped[str | None]
    is_final: Mapped[bool | None]
    observed_at: Mapped[dt.datetime | None] = mapped_column(sa.DateTime(timezone=True))


TABLE: Final = Base.metadata.tables["daily_data"]
# In SQLite without a fraction of the second, as the bars that are there.
_TEXT: Final = sqlite.DATETIME(truncate_microseconds=True)  # type: ignore[no-untyped-call] # SQLAlchemy's own gap
_INSTANT: Final = sa.DateTime(timezone=True).with_variant(_TEXT, "sqlite")
_MINUTES: Final = sa.Table(
    "intraday_data",
    sa.MetaData(),
    sa.Column("ticker", sa.String(64), primary_key=True),
    sa.Column("series", sa.String(32), primary_key=True),
    sa.Column("timeframe", sa.String(16), primary_key=True),
    sa.Column("datetime", _INSTANT, primary_key=True),
    *(sa.Column(name, sa.Numeric(20, 10)) for name in ("open", "high", "low", "close")),
    sa.Column("volume", sa.Numeric(24, 8)),
    sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.FetchedValue()),
)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncEngine]:
    """Give an engine that has connected once."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            await connection.execute(sa.select(TABLE.c.ticker).where(TABLE.c.ticker == ""))
        yield engine
    finally:
        await engine.dispose()


def _core(write: Callable[[AsyncConnection, Given], Awaitable[None]]) -> Open:
    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        async with connected(url) as engine:

            async def act(given: Given) -> None:
                async with engine.begin() as connection:
                    await write(connection, given)

            yield act

    return opened


def _orm(write: Callable[[AsyncSession, Given], Awaitable[None]]) -> Open:
    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        async with connected(url) as engine:

            async def act(given: Given) -> None:
                async with AsyncSession(engine) as session, session.begin():
                    await write(session, given)

            yield act

    return opened


async def _executemany(connection: AsyncConnection, given: Given) -> None:
    """One upsert statement with a list of dicts, which leaves alone what has not changed."""
    rows = [{**row, "series": ""} for row in as_rows(given)]
    await connection.execute(_upsert(connection.dialect.name, TABLE, VALUES), rows)


def _upsert(database: str, table: sa.Table, values: Sequence[str]) -> sa.Insert:
    if database in ("mysql", "mariadb"):
        insert = mysql.insert(table)
        same = sa.and_(*(table.c[name].is_not_distinct_from(insert.inserted[name]) for name in values))
        kept = sa.func.if_(same, table.c.updated_at, sa.func.utc_timestamp(sa.literal_column("6")))
        # In this order: an assignment sees what those before it have assigned.
        return insert.on_duplicate_key_update(
            [("updated_at", kept), *((name, insert.inserted[name]) for name in values)]
        )
    upsert: postgresql.Insert | sqlite.Insert
    upsert = postgresql.insert(table) if database == "postgresql" else sqlite.insert(table)
    changes = {name: upsert.excluded[name] for name in values} | {"updated_at": sa.func.current_timestamp()}
    differs = sa.or_(*(table.c[name].is_distinct_from(upsert.excluded[name]) for name in values))
    return upsert.on_conflict_do_update(index_elements=table.primary_key.columns, set_=changes, where=differs)


async def _add_all(session: AsyncSession, given: Given) -> None:
    """New objects, which must all be new rows."""
    session.add_all([Bar(**row) for row in as_rows(given)])


async def _merge(session: AsyncSession, given: Given) -> None:
    """Objects merged one by one: the ORM's own way to say insert or update."""
    for row in as_rows(given):
        await session.merge(Bar(**row, series=""))


@contextlib.asynccontextmanager
async def _selecting(url: str) -> AsyncIterator[Act]:
    """Rows of Core, turned into columns."""
    async with connected(url) as engine:

        async def act(tickers: Sequence[str | None]) -> list[Any]:
            read = []
            async with engine.connect() as connection:
                for ticker in tickers:
                    rows = (await connection.execute(_query(sa.select(_StoredBar.__table__), ticker))).all()
                    read.append(dict(zip(_StoredBar.__table__.columns.keys(), zip(*rows, strict=True), strict=True)))
            return read

        yield act


@contextlib.asynccontextmanager
async def _loading(url: str) -> AsyncIterator[Act]:
    """Objects of the ORM, turned into columns."""
    async with connected(url) as engine:

        async def act(tickers: Sequence[str | None]) -> list[Any]:
            read = []
            for ticker in tickers:
                async with AsyncSession(engine) as session:
                    bars = (await session.scalars(_query(sa.select(_StoredBar), ticker))).all()
                    read.append({name: [getattr(bar, name) for bar in bars] for name in STORED})
            return read

        yield act


def _query(query: sa.Select[Any], ticker: str | None) -> sa.Select[Any]:
    query = query.where(_StoredBar.series == "").order_by(_StoredBar.ticker, _StoredBar.date)
    return query if ticker is None else query.where(_StoredBar.ticker == ticker)


@contextlib.asynccontextmanager
async def _feeding(url: str) -> AsyncIterator[Feed]:
    """The bars that arrive together by one upsert statement with a list of dicts."""
    async with connected(url) as engine:
        upsert = _upsert(engine.dialect.name, _MINUTES, MINUTE_VALUES)
        columns, key = sa.select(_MINUTES), _MINUTES.c

        async def write(rows: Sequence[Row]) -> None:
            async with engine.begin() as connection:
                await connection.execute(upsert, [{**row, "series": "", "timeframe": "1m"} for row in rows])

        async def read(ticker: str) -> Any:
            minutes = columns.where(key.ticker == ticker, key.series == "", key.timeframe == "1m")
            async with engine.connect() as connection:
                return (await connection.execute(minutes.order_by(key.datetime.desc()).limit(LISTED))).all()

        yield Feed(write, read)


FEEDS: Final = (Contestant("SQLAlchemy Core executemany", "core", trading_day(_feeding)),)
UPSERTS: Final = (
    Contestant("SQLAlchemy Core executemany", "core", _core(_executemany), most_rows=100_000),
    Contestant("SQLAlchemy ORM merge", "orm", _orm(_merge), most_rows=1_000),
)
LOADS: Final = (Contestant("SQLAlchemy ORM add_all", "orm", _orm(_add_all), most_rows=10_000),)
READS: Final = (
    Contestant("SQLAlchemy Core, columns", "core", _selecting),
    Contestant("SQLAlchemy ORM, columns", "orm", _loading, most_rows=100_000),
)
