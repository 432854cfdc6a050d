"""PostgreSQL by asyncpg alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import asyncpg
import pgpq
import pyarrow as pa
from sqlalchemy import make_url

from benchmarks.crowd import Call, crowd
from benchmarks.data import (
    COLUMNS,
    MINUTE_COLUMNS,
    MINUTE_VALUES,
    STORED,
    VALUES,
    Given,
    Row,
    as_columns,
    as_tuples,
)
from benchmarks.feed import LISTED, Feed, trading_day
from benchmarks.race import Act, Contestant, Open

_COLUMNS: Final = ", ".join(COLUMNS)
_SET: Final = ", ".join(f"{name} = excluded.{name}" for name in VALUES) + ", updated_at = statement_timestamp()"
_EXCLUDED: Final = ", ".join(f"excluded.{name}" for name in VALUES)
_STORED: Final = ", ".join(f"t.{name}" for name in VALUES)
_UPSERT: Final = (
    f"INSERT INTO daily_data AS t ({_COLUMNS})"
    f" VALUES ({', '.join(f'${number}' for number in range(1, len(COLUMNS) + 1))}) ON CONFLICT (ticker, series, date)"
    f" DO UPDATE SET {_SET} WHERE ({_STORED}) IS DISTINCT FROM ({_EXCLUDED})"
)
_ANY_STORED: Final = (
    "SELECT EXISTS (SELECT FROM unnest($1::text[], $2::date[], $3::date[]) AS r (ticker, oldest, newest),"
    " LATERAL (SELECT FROM daily_data WHERE ticker = r.ticker AND series = '' AND date BETWEEN r.oldest AND r.newest"
    " LIMIT 1) s)"
)
_CREATE_STAGE: Final = (
    'CREATE TEMPORARY TABLE stage (ticker text COLLATE "C", date date,'
    f" {', '.join(f'{name} numeric' for name in VALUES)}) ON COMMIT DROP"
)
# Of what is new or differs. An ANALYZE of the stage before it costs more than a better plan saves.
_MERGE: Final = (
    f"INSERT INTO daily_data AS t ({_COLUMNS}) SELECT s.* FROM stage s"
    " LEFT JOIN daily_data t ON t.ticker = s.ticker AND t.series = '' AND t.date = s.date"
    f" WHERE t.ticker IS NULL OR ({_STORED}) IS DISTINCT FROM ({', '.join(f's.{name}' for name in VALUES)})"
    f" ON CONFLICT (ticker, series, date) DO UPDATE SET {_SET}"
)
_ROWS_A_MESSAGE: Final = 5_000
_SELECT: Final = f"SELECT {', '.join(STORED)} FROM daily_data WHERE series = ''"
_LATEST_BY_WINDOW: Final = (
    f"SELECT * FROM (SELECT {', '.join(STORED)}, row_number() OVER (PARTITION BY ticker ORDER BY date DESC) AS number"
    " FROM daily_data WHERE series = '' AND ticker = ANY($1::text[])) numbered WHERE number = 1"
)
_LATEST_BY_DISTINCT: Final = (
    f"SELECT DISTINCT ON (ticker) {', '.join(STORED)} FROM daily_data"
    " WHERE series = '' AND ticker = ANY($1::text[]) ORDER BY ticker, date DESC"
)
_LATEST_BY_LATERAL: Final = (
    "SELECT b.* FROM unnest($1::text[]) AS wanted (ticker) CROSS JOIN LATERAL"
    f" ({_SELECT} AND ticker = wanted.ticker ORDER BY date DESC LIMIT 1) b"
)
_INTO_MINUTES: Final = f"INSERT INTO intraday_data AS t ({', '.join(MINUTE_COLUMNS)}, timeframe)"
_ON_CONFLICT_OF_MINUTES: Final = (
    " ON CONFLICT (ticker, series, timeframe, datetime) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in MINUTE_VALUES)}, updated_at = statement_timestamp()"
    f" WHERE ({', '.join(f't.{name}' for name in MINUTE_VALUES)})"
    f" IS DISTINCT FROM ({', '.join(f'excluded.{name}' for name in MINUTE_VALUES)})"
)
_FEED: Final = (
    f"{_INTO_MINUTES} VALUES ({', '.join(f'${number}' for number in range(1, len(MINUTE_COLUMNS) + 1))}, '1m')"
    f"{_ON_CONFLICT_OF_MINUTES}"
)
_FEED_OF_ARRAYS: Final = (
    f"{_INTO_MINUTES} SELECT u.*, '1m' FROM unnest($1::text[], $2::timestamptz[],"
    f" {', '.join(f'${number}::numeric[]' for number in range(3, len(MINUTE_COLUMNS) + 1))}) AS u"
    f"{_ON_CONFLICT_OF_MINUTES}"
)
_LAST_MINUTES: Final = (
    "SELECT * FROM intraday_data WHERE ticker = $1 AND series = '' AND timeframe = '1m' ORDER BY datetime DESC LIMIT $2"
)

_Connection: TypeAlias = Any  # asyncpg says nothing that a type checker would understand


def dsn(url: str) -> str:
    """Return a URL as PostgreSQL's own programs understand it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[_Connection]:
    connection = await asyncpg.connect(dsn(url))
    try:
        await connection.fetchval("SELECT count(*) FROM daily_data WHERE ticker = ''")
        yield connection
    finally:
        await connection.close()


def _in_a_transaction(write: Callable[[_Connection, Given], Awaitable[None]]) -> Open:
    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        async with _connected(url) as connection:

            async def act(given: Given) -> None:
                async with connection.transaction():
                    await write(connection, given)

            yield act

    return opened


async def _executemany(connection: _Connection, given: Given) -> None:
    """One prepared statement for all rows, which leaves alone what has not changed."""
    await connection.executemany(_UPSERT, as_tuples(given))


async def _look_and_copy(connection: _Connection, given: Given) -> None:
    """A look whether keys lie apart, then COPY through pgpq into the table, or else into a stage that is merged.

    They lie apart where none of the tickers has a bar between the first and the last one given.
    """
    columns = _as_stored(given)
    spans = columns.group_by("ticker").aggregate([("date", "min"), ("date", "max")])
    if await connection.fetchval(_ANY_STORED, *(spans[name].to_pylist() for name in spans.column_names)):
        await _stage_and_merge(connection, columns)
    else:
        await _copy(connection, "daily_data", columns)


async def _copy_and_merge(connection: _Connection, given: Given) -> None:
    """COPY through pgpq into a stage and the merge, without a look before."""
    await _stage_and_merge(connection, _as_stored(given))


async def _copy_records(connection: _Connection, given: Given) -> None:
    """COPY into a stage as asyncpg encodes it, row by row, and the merge."""
    await connection.execute(_CREATE_STAGE)
    await connection.copy_records_to_table("stage", records=as_tuples(given), columns=COLUMNS)
    await connection.execute(_MERGE)


async def _copy_into_table(connection: _Connection, given: Given) -> None:
    """No upsert at all: COPY through pgpq into an empty table."""
    await _copy(connection, "daily_data", _as_stored(given))


async def fill(url: str, table: str, pieces: Iterable[pa.Table]) -> None:
    """Store bars in an empty table by the fastest way there is."""
    connection = await asyncpg.connect(dsn(url))
    try:
        for piece in pieces:
            await _copy(connection, table, _with_numeric_volume(piece))
        await connection.execute(f"VACUUM ANALYZE {table}")  # here, where no client's patience ends
    finally:
        await connection.close()


def _as_stored(given: Given) -> pa.Table:
    return _with_numeric_volume(as_columns(given))


def _with_numeric_volume(columns: pa.Table) -> pa.Table:
    """Return the columns in the table's own types: COPY BINARY converts nothing, and volumes are NUMERIC."""
    at = columns.column_names.index("volume")
    return columns.set_column(at, "volume", columns["volume"].cast(pa.decimal128(19, 0)))


async def _stage_and_merge(connection: _Connection, columns: pa.Table) -> None:
    await connection.execute(_CREATE_STAGE)
    await _copy(connection, "stage", columns)
    await connection.execute(_MERGE)


async def _copy(connection: _Connection, table: str, columns: pa.Table) -> None:
    names, source = columns.column_names, _encoded(columns)
    await connection.copy_to_table(table, columns=names, source=source, format="binary")


async def _encoded(columns: pa.Table) -> AsyncIterator[bytes]:
    """Encode columns by pgpq; while one piece is sent, a thread makes the next one."""
    encoder = pgpq.ArrowToPostgresBinaryEncoder(columns.schema)
    upcoming = asyncio.ensure_future(asyncio.to_thread(encoder.write_header))
    for batch in columns.to_batches(max_chunksize=_ROWS_A_MESSAGE):
        encoded = await upcoming
        upcoming = asyncio.ensure_future(asyncio.to_thread(encoder.write_batch, batch))
        yield encoded
    yield await upcoming
    yield encoder.finish()


@contextlib.asynccontextmanager
async def _fetching(url: str) -> AsyncIterator[Act]:
    """Rows of the driver, turned into columns."""
    async with _connected(url) as connection:

        async def act(tickers: Sequence[str | None]) -> list[Any]:
            read = []
            for ticker in tickers:
                where, arguments = ("", ()) if ticker is None else (" AND ticker = $1", (ticker,))
                rows = await connection.fetch(f"{_SELECT}{where} ORDER BY ticker, date", *arguments)
                read.append(dict(zip(STORED, zip(*rows, strict=True), strict=True)))
            return read

        yield act


def _asking(query: str) -> Open:
    """Ask for the latest bars of a list of tickers."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        async with _connected(url) as connection:

            async def act(tickers: Sequence[str]) -> list[tuple[Any, ...]]:
                rows = await connection.fetch(query, tickers)
                return [(row["ticker"], row["date"], row["close"]) for row in rows]

            yield act

    return opened


def _in_a_pool(call: Callable[[_Connection, Any], Awaitable[int]]) -> Open:
    """Make every call on a connection of a pool of ten."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Call]:
        async with asyncpg.create_pool(dsn(url), min_size=10, max_size=10) as pool:

            async def call_in_pool(task: Any) -> int:
                async with pool.acquire() as connection:
                    return await call(connection, task)

            yield call_in_pool

    return crowd(opened)


async def _write_one(connection: _Connection, row: Any) -> int:
    await connection.execute(_UPSERT, *(row[name] for name in COLUMNS))
    return 1


async def _read_few(connection: _Connection, question: Any) -> int:
    ticker, start = question
    if start is None:
        return len(await connection.fetch(f"{_SELECT} AND ticker = $1 ORDER BY date DESC LIMIT 1", ticker))
    return len(await connection.fetch(f"{_SELECT} AND ticker = $1 AND date >= $2 ORDER BY date", ticker, start))


def _feeding(store: Callable[[_Connection, Sequence[Row]], Awaitable[None]]) -> Open:
    """Store each minute in one transaction, and read on the other connections of a pool."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Feed]:
        async with asyncpg.create_pool(dsn(url), min_size=6, max_size=6) as pool:

            async def write(rows: Sequence[Row]) -> None:
                async with pool.acquire() as connection, connection.transaction():
                    await store(connection, rows)

            async def read(ticker: str) -> Any:
                async with pool.acquire() as connection:
                    return await connection.fetch(_LAST_MINUTES, ticker, LISTED)

            yield Feed(write, read)

    return trading_day(opened)


async def _feed_by_executemany(connection: _Connection, rows: Sequence[Row]) -> None:
    await connection.executemany(_FEED, [tuple(row[name] for name in MINUTE_COLUMNS) for row in rows])


async def _feed_by_arrays(connection: _Connection, rows: Sequence[Row]) -> None:
    """One statement for all rows, whose columns come as arrays."""
    await connection.execute(_FEED_OF_ARRAYS, *([row[name] for row in rows] for name in MINUTE_COLUMNS))


UPSERTS: Final = (
    Contestant("asyncpg executemany", "raw", _in_a_transaction(_executemany)),
    Contestant("look, COPY through pgpq, merge of NUMERIC", "by hand", _in_a_transaction(_look_and_copy)),
    Contestant("COPY through pgpq, merge of NUMERIC", "by hand", _in_a_transaction(_copy_and_merge)),
    Contestant("COPY of records, merge", "by hand", _in_a_transaction(_copy_records)),
)
LOADS: Final = (Contestant("COPY into the table", "limit", _in_a_transaction(_copy_into_table)),)
READS: Final = (Contestant("asyncpg fetch, columns", "raw", _fetching),)
LATEST: Final = (
    Contestant("window query", "raw", _asking(_LATEST_BY_WINDOW)),
    Contestant("DISTINCT ON", "raw", _asking(_LATEST_BY_DISTINCT)),
    Contestant("LATERAL by hand", "by hand", _asking(_LATEST_BY_LATERAL)),
)
WRITE_CALLS: Final = (Contestant("asyncpg, a pool of 10", "raw", _in_a_pool(_write_one)),)
READ_CALLS: Final = (Contestant("asyncpg, a pool of 10", "raw", _in_a_pool(_read_few)),)
FEEDS: Final = (
    Contestant("asyncpg executemany", "raw", _feeding(_feed_by_executemany)),
    Contestant("one statement, unnest of arrays", "by hand", _feeding(_feed_by_arrays)),
)
