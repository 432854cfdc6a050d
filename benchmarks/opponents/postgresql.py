"""PostgreSQL by asyncpg alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import asyncpg
import pgpq
import pyarrow as pa
from sqlalchemy import make_url

from benchmarks.crowd import Call, crowd
from benchmarks.data import (
    COLUMNS,
    DECIMALS,
    MINUTE_COLUMNS,
    MINUTE_VALUES,
    STORED,
    UNIT,
    VALUES,
    Given,
    Row,
    as_columns,
    as_tuples,
    units_of,
)
from benchmarks.feed import LISTED, Feed, trading_day
from benchmarks.opponents import wire
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
_FEED: Final = (
    f"INSERT INTO intraday_data AS t ({', '.join(MINUTE_COLUMNS)}, timeframe)"
    f" VALUES ({', '.join(f'${number}' for number in range(1, len(MINUTE_COLUMNS) + 1))}, '1m')"
    " ON CONFLICT (ticker, series, timeframe, datetime) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in MINUTE_VALUES)}, updated_at = statement_timestamp()"
    f" WHERE ({', '.join(f't.{name}' for name in MINUTE_VALUES)})"
    f" IS DISTINCT FROM ({', '.join(f'excluded.{name}' for name in MINUTE_VALUES)})"
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


async def _copy_records(connection: _Connection, given: Given) -> None:
    """COPY into a temporary table as asyncpg encodes it, row by row, and a merge of what is new or differs."""
    types = dict.fromkeys(VALUES, "numeric") | {"ticker": 'text COLLATE "C"', "date": "date"}
    await _create_stage(connection, types)
    await connection.copy_records_to_table("stage", records=as_tuples(given), columns=COLUMNS)
    await _merge_stage(connection, dict.fromkeys(VALUES, "{}"))


async def _copy_columns(connection: _Connection, given: Given) -> None:
    """The same, with whole columns encoded by numpy, and prices as whole numbers that the server divides again.

    Where none of the tickers has a bar between the first and the last one given, straight into the table.
    """
    columns = as_columns(given)
    spans = columns.group_by("ticker").aggregate([("date", "min"), ("date", "max")])
    if not await connection.fetchval(_ANY_STORED, *(spans[name].to_pylist() for name in spans.column_names)):
        await _copy_into_table(connection, columns)
        return
    await _create_stage(connection, _STAGED_AS_INTEGERS)
    fields = {name: wire.integers(columns[name]) for name in VALUES}
    await connection.copy_to_table("stage", source=_chunks(wire.rows(columns, fields)), format="binary")
    await _merge_stage(connection, _FROM_INTEGERS)


async def _copy_pgpq(connection: _Connection, given: Given) -> None:
    """The same, with the columns encoded by pgpq."""
    columns = as_columns(given)
    for name in DECIMALS:
        columns = columns.set_column(columns.column_names.index(name), name, pa.array(units_of(columns[name])))
    await _create_stage(connection, _STAGED_AS_INTEGERS)
    encoder = pgpq.ArrowToPostgresBinaryEncoder(columns.schema)
    batches = (encoder.write_batch(batch) for batch in columns.to_batches(max_chunksize=20_000))
    source = _chunks(iter([encoder.write_header()]), batches, _late(encoder.finish))
    await connection.copy_to_table("stage", source=source, format="binary")
    await _merge_stage(connection, _FROM_INTEGERS)


async def _copy_into_table(connection: _Connection, given: Given) -> None:
    """No upsert at all: the table's own columns, in the form in which the server wants them, into an empty table."""
    columns = as_columns(given)
    fields = {name: wire.numerics(units_of(columns[name])) for name in DECIMALS}
    fields["volume"] = wire.numerics(columns["volume"].to_numpy() * UNIT)
    source = _chunks(wire.rows(columns, fields))
    await connection.copy_to_table("daily_data", columns=COLUMNS, source=source, format="binary")


_STAGED_AS_INTEGERS: Final = dict.fromkeys(VALUES, "int8") | {"ticker": 'text COLLATE "C"', "date": "date"}
_FROM_INTEGERS: Final = {name: f"({{}} * {1 / UNIT:f})" if name in DECIMALS else "{}" for name in VALUES}


async def _create_stage(connection: _Connection, types: Mapping[str, str]) -> None:
    columns = ", ".join(f"{name} {types[name]}" for name in COLUMNS)
    await connection.execute(f"CREATE TEMPORARY TABLE stage ({columns}) ON COMMIT DROP")


async def _merge_stage(connection: _Connection, forms: Mapping[str, str]) -> None:
    """Bring over what is new or differs; `forms` makes of a staged value what the table has."""
    staged = ", ".join(f"{form.format(f's.{name}')} AS {name}" for name, form in forms.items())
    await connection.execute("ANALYZE stage")
    await connection.execute(
        f"INSERT INTO daily_data AS t ({_COLUMNS})"
        f" SELECT s.* FROM (SELECT s.ticker, s.date, {staged} FROM stage s) s"
        f" LEFT JOIN daily_data t ON t.ticker = s.ticker AND t.series = '' AND t.date = s.date"
        f" WHERE t.ticker IS NULL OR ({_STORED}) IS DISTINCT FROM ({', '.join(f's.{name}' for name in VALUES)})"
        f" ON CONFLICT (ticker, series, date) DO UPDATE SET {_SET}"
    )


def _late(finish: Callable[[], bytes]) -> Iterator[bytes]:
    yield finish()


async def _chunks(*sources: Iterator[bytes]) -> AsyncIterator[bytes]:
    for source in sources:
        for chunk in source:
            yield chunk


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


@contextlib.asynccontextmanager
async def _feeding(url: str) -> AsyncIterator[Feed]:
    async with asyncpg.create_pool(dsn(url), min_size=6, max_size=6) as pool:

        async def write(rows: Sequence[Row]) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.executemany(_FEED, [tuple(row[name] for name in MINUTE_COLUMNS) for row in rows])

        async def read(ticker: str) -> Any:
            async with pool.acquire() as connection:
                return await connection.fetch(_LAST_MINUTES, ticker, LISTED)

        yield Feed(write, read)


UPSERTS: Final = (
    Contestant("asyncpg executemany", "raw", _in_a_transaction(_executemany)),
    Contestant("look, COPY of numpy columns, merge", "by hand", _in_a_transaction(_copy_columns)),
    Contestant("COPY through pgpq, merge", "by hand", _in_a_transaction(_copy_pgpq)),
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
FEEDS: Final = (Contestant("asyncpg executemany", "raw", trading_day(_feeding)),)
