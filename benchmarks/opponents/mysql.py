"""MySQL and MariaDB by aiomysql alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import aiomysql
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from sqlalchemy import make_url

from benchmarks.crowd import Call, crowd
from benchmarks.data import COLUMNS, MINUTE_COLUMNS, MINUTE_VALUES, STORED, VALUES, Given, Row, as_columns, as_tuples
from benchmarks.feed import LISTED, Feed, trading_day
from benchmarks.race import Act, Contestant, Open

_COLUMNS: Final = ", ".join(f"`{name}`" for name in COLUMNS)
_SET: Final = ", ".join(f"`{name}` = VALUES(`{name}`)" for name in VALUES)
_STAGE: Final = (
    "CREATE TEMPORARY TABLE stage (ticker VARCHAR(16) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,"
    " `date` DATE NOT NULL, open DECIMAL(20, 10), high DECIMAL(20, 10), low DECIMAL(20, 10), close DECIMAL(20, 10),"
    " volume DECIMAL(24, 8), dividends DECIMAL(20, 10), stock_splits DECIMAL(20, 10))"
    " ENGINE=MEMORY"
)
# The index is named, since what the server knows of a table's size is old while the table is filled.
_MERGE: Final = (
    f"INSERT INTO daily_data ({_COLUMNS}) SELECT {', '.join(f's.`{name}`' for name in COLUMNS)} FROM stage s"
    " LEFT JOIN daily_data t FORCE INDEX (PRIMARY) ON t.ticker = s.ticker AND t.series = '' AND t.`date` = s.`date`"
    f" WHERE t.ticker IS NULL OR NOT ({' AND '.join(f't.`{name}` <=> s.`{name}`' for name in VALUES)})"
    f" ON DUPLICATE KEY UPDATE updated_at = UTC_TIMESTAMP(6), {_SET}"
)
_SAME: Final = " AND ".join(f"`{name}` <=> VALUES(`{name}`)" for name in VALUES)
_UPSERT: Final = (
    f"INSERT INTO daily_data ({_COLUMNS}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
    f" ON DUPLICATE KEY UPDATE updated_at = IF({_SAME}, updated_at, UTC_TIMESTAMP(6)), {_SET}"
)
_SELECT: Final = f"SELECT {', '.join(f'`{name}`' for name in STORED)} FROM daily_data WHERE series = ''"
_LATEST_BY_WINDOW: Final = (
    f"SELECT * FROM (SELECT {', '.join(f'`{name}`' for name in STORED)},"
    " row_number() OVER (PARTITION BY ticker ORDER BY `date` DESC) AS number"
    " FROM daily_data WHERE series = '' AND ticker IN ({marks})) numbered WHERE number = 1"
)
_LATEST_BY_MAX: Final = (
    f"SELECT {', '.join(f'b.`{name}`' for name in STORED)} FROM (SELECT ticker, MAX(`date`) AS newest FROM daily_data"
    " WHERE series = '' AND ticker IN ({marks}) GROUP BY ticker, series) m"
    " JOIN daily_data b ON b.ticker = m.ticker AND b.series = '' AND b.`date` = m.newest"
)
_SAME_MINUTE: Final = " AND ".join(f"`{name}` <=> VALUES(`{name}`)" for name in MINUTE_VALUES)
_FEED: Final = (
    f"INSERT INTO intraday_data ({', '.join(f'`{name}`' for name in MINUTE_COLUMNS)}, timeframe)"
    # Nothing but %s: with a constant among them the driver would send every row by itself.
    f" VALUES ({', '.join(['%s'] * (len(MINUTE_COLUMNS) + 1))})"
    f" ON DUPLICATE KEY UPDATE updated_at = IF({_SAME_MINUTE}, updated_at, UTC_TIMESTAMP(6)),"
    f" {', '.join(f'`{name}` = VALUES(`{name}`)' for name in MINUTE_VALUES)}"
)
_LAST_MINUTES: Final = (
    "SELECT * FROM intraday_data WHERE ticker = %s AND series = '' AND timeframe = '1m'"
    " ORDER BY `datetime` DESC LIMIT %s"
)
_ROWS_A_PIECE: Final = 20_000

_Connection: TypeAlias = Any  # aiomysql says nothing about its types


def _arguments(url: str) -> dict[str, Any]:
    where = make_url(url)
    return {
        "host": where.host,
        "port": where.port or 3306,
        "user": where.username,
        "password": where.password or "",
        "db": where.database,
        "charset": "utf8mb4",
        "init_command": "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'",
    }


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[_Connection]:
    connection = await aiomysql.connect(local_infile=True, **_arguments(url))
    try:
        yield connection
    finally:
        await connection.ensure_closed()


def _in_a_transaction(write: Callable[[Any, Given], Awaitable[None]]) -> Open:
    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        async with _connected(url) as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT count(*) FROM daily_data WHERE ticker = ''")
            await connection.commit()

            async def act(given: Given) -> None:
                await write(cursor, given)
                await connection.commit()

            yield act

    return opened


async def _executemany(cursor: Any, given: Given) -> None:
    """Statements of many rows, which the driver makes of executemany; the clock moves on changed rows only."""
    await cursor.executemany(_UPSERT, as_tuples(given))


async def _load_and_merge(cursor: Any, given: Given) -> None:
    """LOAD DATA LOCAL of each piece into a table of the engine MEMORY, and a merge of what is new or differs."""
    await cursor.execute(_STAGE)
    async for text in _texts(as_columns(given)):
        await _load(cursor, "stage", COLUMNS, text)
        await cursor.execute(_MERGE)
        await cursor.execute("TRUNCATE stage")
    await cursor.execute("DROP TEMPORARY TABLE stage")


async def _look_and_load(cursor: Any, given: Given) -> None:
    """Where none of the tickers has a bar between the first and the last one given, pieces straight into the table."""
    columns = as_columns(given)
    spans = columns.group_by("ticker").aggregate([("date", "min"), ("date", "max")])
    between = " OR ".join(["(ticker = %s AND series = '' AND `date` BETWEEN %s AND %s)"] * spans.num_rows)
    limits = [limit for span in zip(*(column.to_pylist() for column in spans.columns), strict=True) for limit in span]
    await cursor.execute(f"SELECT 1 FROM daily_data WHERE {between} LIMIT 1 FOR UPDATE", limits)
    await (_load_and_merge if await cursor.fetchall() else _load_pieces_into_table)(cursor, given)


async def _load_into_table(cursor: Any, given: Given) -> None:
    """No upsert at all: LOAD DATA LOCAL into an empty table."""
    await _load(cursor, "daily_data", COLUMNS, _text(as_columns(given)))


async def _load_pieces_into_table(cursor: Any, given: Given) -> None:
    """No upsert at all, in pieces."""
    async for text in _texts(as_columns(given)):
        await _load(cursor, "daily_data", COLUMNS, text)


async def fill(url: str, table: str, pieces: Iterable[pa.Table]) -> None:
    """Store bars in an empty table by the fastest way there is."""
    async with _connected(url) as connection, connection.cursor() as cursor:
        for piece in pieces:
            await _load(cursor, table, piece.column_names, _text(piece))
            await connection.commit()


async def _texts(columns: pa.Table) -> AsyncIterator[pa.Buffer]:
    """Yield the text of each piece; while the server has one, a thread makes the next one."""
    pieces = [columns.slice(start, _ROWS_A_PIECE) for start in range(0, columns.num_rows, _ROWS_A_PIECE)]
    upcoming = asyncio.ensure_future(asyncio.to_thread(_text, pieces[0]))
    for piece in pieces[1:]:
        text = await upcoming
        upcoming = asyncio.ensure_future(asyncio.to_thread(_text, piece))
        yield text
    yield await upcoming


def _text(columns: pa.Table) -> pa.Buffer:
    """Return columns as CSV, without zeros that the server would have to read."""
    for position, (name, kind) in enumerate(zip(columns.column_names, columns.schema.types, strict=True)):
        if pa.types.is_decimal(kind):
            spelled = pc.utf8_rtrim(pc.utf8_rtrim(columns[name].cast(pa.string()), "0"), ".")
            columns = columns.set_column(position, name, spelled)
        elif pa.types.is_timestamp(kind):
            columns = columns.set_column(position, name, columns[name].cast(pa.timestamp("us")))  # without its zone
    text = pa.BufferOutputStream()
    pyarrow.csv.write_csv(columns, text, pyarrow.csv.WriteOptions(include_header=False, quoting_style="none"))
    return text.getvalue()


async def _load(cursor: Any, table: str, columns: Sequence[str], text: pa.Buffer) -> None:
    descriptor = os.memfd_create("bars")  # a file without a disk, since it is a file that the driver sends
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        await cursor.execute(
            f"LOAD DATA LOCAL INFILE '/proc/self/fd/{descriptor}' INTO TABLE {table} CHARACTER SET utf8mb4"
            " FIELDS TERMINATED BY ',' ESCAPED BY '' LINES TERMINATED BY '\\n'"
            f" ({', '.join(f'`{name}`' for name in columns)})"
        )


@contextlib.asynccontextmanager
async def _fetching(url: str) -> AsyncIterator[Act]:
    """Rows of the driver, turned into columns."""
    async with _connected(url) as connection, connection.cursor() as cursor:

        async def act(tickers: Sequence[str | None]) -> list[Any]:
            read = []
            for ticker in tickers:
                where, arguments = ("", ()) if ticker is None else (" AND ticker = %s", (ticker,))
                await cursor.execute(f"{_SELECT}{where} ORDER BY ticker, `date`", arguments)
                read.append(dict(zip(STORED, zip(*await cursor.fetchall(), strict=True), strict=True)))
            return read

        yield act


def _asking(query: str) -> Open:
    """Ask for the latest bars of a list of tickers."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        async with _connected(url) as connection, connection.cursor() as cursor:

            async def act(tickers: Sequence[str]) -> list[tuple[Any, ...]]:
                marks = ", ".join(["%s"] * len(tickers))
                await cursor.execute(query.format(marks=marks), tickers)
                at = [STORED.index(name) for name in ("ticker", "date", "close")]
                return [tuple(row[position] for position in at) for row in await cursor.fetchall()]

            yield act

    return opened


def _in_a_pool(call: Callable[[Any, Any], Awaitable[int]]) -> Open:
    """Make every call on a connection of a pool of ten."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Call]:
        async with aiomysql.create_pool(minsize=10, maxsize=10, autocommit=True, **_arguments(url)) as pool:

            async def call_in_pool(task: Any) -> int:
                async with pool.acquire() as connection, connection.cursor() as cursor:
                    return await call(cursor, task)

            yield call_in_pool

    return crowd(opened)


async def _write_one(cursor: Any, row: Any) -> int:
    await cursor.execute(_UPSERT, [row[name] for name in COLUMNS])
    return 1


async def _read_few(cursor: Any, question: Any) -> int:
    ticker, start = question
    if start is None:
        await cursor.execute(f"{_SELECT} AND ticker = %s ORDER BY `date` DESC LIMIT 1", (ticker,))
    else:
        await cursor.execute(f"{_SELECT} AND ticker = %s AND `date` >= %s ORDER BY `date`", (ticker, start))
    return len(await cursor.fetchall())


@contextlib.asynccontextmanager
async def _feeding(url: str) -> AsyncIterator[Feed]:
    """Store each minute in one statement, which the driver makes of executemany, and read on other connections."""
    async with aiomysql.create_pool(minsize=6, maxsize=6, **_arguments(url)) as pool:

        async def write(rows: Sequence[Row]) -> None:
            cells = [(*(row[name] for name in MINUTE_COLUMNS), "1m") for row in rows]
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.executemany(_FEED, cells)
                await connection.commit()

        async def read(ticker: str) -> Any:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute(_LAST_MINUTES, (ticker, LISTED))
                found = await cursor.fetchall()
                await connection.commit()
                return found

        yield Feed(write, read)


UPSERTS: Final = (
    Contestant("aiomysql executemany", "raw", _in_a_transaction(_executemany)),
    Contestant("LOAD DATA LOCAL into MEMORY, merge", "by hand", _in_a_transaction(_load_and_merge)),
    Contestant("look, LOAD DATA or merge", "by hand", _in_a_transaction(_look_and_load)),
)
LOADS: Final = (
    Contestant("LOAD DATA into the table", "limit", _in_a_transaction(_load_into_table)),
    Contestant("LOAD DATA into the table, in pieces", "limit", _in_a_transaction(_load_pieces_into_table)),
)
READS: Final = (Contestant("aiomysql fetchall, columns", "raw", _fetching),)
LATEST: Final = (
    Contestant("window query", "raw", _asking(_LATEST_BY_WINDOW)),
    Contestant("GROUP BY max by hand", "by hand", _asking(_LATEST_BY_MAX)),
)
WRITE_CALLS: Final = (Contestant("aiomysql, a pool of 10", "raw", _in_a_pool(_write_one)),)
READ_CALLS: Final = (Contestant("aiomysql, a pool of 10", "raw", _in_a_pool(_read_few)),)
FEEDS: Final = (Contestant("aiomysql executemany, one statement", "raw", trading_day(_feeding)),)
