"""SQLite by Python's own sqlite3."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from benchmarks.crowd import Call, crowd
from benchmarks.data import (
    COLUMNS,
    MINUTE_COLUMNS,
    MINUTE_VALUES,
    STORED,
    UNIT,
    VALUES,
    Given,
    Row,
    units_of,
)
from benchmarks.databases import file_of
from benchmarks.feed import LISTED, Feed, trading_day
from benchmarks.race import Act, Contestant, Open

_COLUMNS: Final = ", ".join(COLUMNS)
_MARKS: Final = f"({', '.join('?' * len(COLUMNS))})"
_ON_CONFLICT: Final = (
    " ON CONFLICT (ticker, series, date) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in VALUES)
    + ", updated_at = CURRENT_TIMESTAMP WHERE "
    + " OR ".join(f"{name} IS NOT excluded.{name}" for name in VALUES)
)
_ROWS_A_STATEMENT: Final = 100  # of 25 to 500 the fastest

_Cells: TypeAlias = list[Any]

_SELECT: Final = f"SELECT {', '.join(STORED)} FROM daily_data WHERE series = ''"
_LATEST_BY_WINDOW: Final = (
    f"SELECT * FROM (SELECT {', '.join(STORED)}, row_number() OVER (PARTITION BY ticker ORDER BY date DESC) AS number"
    " FROM daily_data WHERE series = '' AND ticker IN (SELECT value FROM json_each(?))) WHERE number = 1"
)
_LATEST_BY_MAX: Final = (
    f"SELECT {', '.join(f'b.{name}' for name in STORED)} FROM json_each(?) AS w JOIN daily_data b"
    " ON b.ticker = w.value AND b.series = ''"
    " AND b.date = (SELECT max(date) FROM daily_data WHERE ticker = w.value AND series = '')"
)

_ON_CONFLICT_OF_MINUTES: Final = (
    " ON CONFLICT (ticker, series, timeframe, datetime)"
    f" DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in MINUTE_VALUES)},"
    f" updated_at = CURRENT_TIMESTAMP WHERE {' OR '.join(f'{name} IS NOT excluded.{name}' for name in MINUTE_VALUES)}"
)
_FEED: Final = (
    f"INSERT INTO intraday_data ({', '.join(MINUTE_COLUMNS)}, timeframe)"
    f" VALUES ({', '.join('?' * len(MINUTE_COLUMNS))}, '1m'){_ON_CONFLICT_OF_MINUTES}"
)
_LAST_MINUTES: Final = (
    "SELECT * FROM intraday_data WHERE ticker = ? AND series = '' AND timeframe = '1m' ORDER BY datetime DESC LIMIT ?"
)

# The bars of the application that this package takes over, with its index and the journal that its files have.
_AS_LEGACY: Final = f"""
    PRAGMA journal_mode = delete;
    BEGIN;
    CREATE TEMPORARY TABLE kept AS SELECT {_COLUMNS} FROM daily_data;
    DROP TABLE daily_data;
    CREATE TABLE daily_data (
        ticker TEXT, date DATE, open REAL, high REAL, low REAL, close REAL, volume INTEGER, dividends REAL,
        stock_splits REAL, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (ticker, date)
    );
    CREATE INDEX idx_daily_data_ticker_date ON daily_data (ticker, date DESC);
    INSERT INTO daily_data ({_COLUMNS}) SELECT {_COLUMNS} FROM kept;
    DROP TABLE kept;
    COMMIT;
"""


def _in_a_transaction(
    write: Callable[[sqlite3.Connection, Given], None], *, hop: bool = False, prepare: str = ""
) -> Open:
    """Write in one transaction, in this thread or by one hop to another one; `prepare` is run before."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        path = file_of(url)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
            connection.executescript(prepare)
            connection.execute("SELECT count(*) FROM daily_data WHERE ticker = ''").fetchall()

            def work(given: Given) -> None:
                connection.execute("BEGIN IMMEDIATE")
                write(connection, given)
                connection.execute("COMMIT")

            async def act(given: Given) -> None:
                await asyncio.to_thread(work, given) if hop else work(given)

            yield act

    return opened


def _executemany(connection: sqlite3.Connection, given: Given) -> None:
    """One statement for every row, which leaves alone what has not changed."""
    connection.executemany(f"INSERT INTO daily_data ({_COLUMNS}) VALUES {_MARKS}{_ON_CONFLICT}", _rows(given))


def _many_rows_a_statement(connection: sqlite3.Connection, given: Given) -> None:
    """A hundred rows a statement."""
    _execute_in_pieces(connection, "daily_data", COLUMNS, _cells(given), _ON_CONFLICT)


def _load(connection: sqlite3.Connection, given: Given) -> None:
    """No upsert at all: rows into an empty table."""
    connection.executemany(f"INSERT INTO daily_data ({_COLUMNS}) VALUES {_MARKS}", _rows(given))


def _load_in_pieces(connection: sqlite3.Connection, given: Given) -> None:
    _execute_in_pieces(connection, "daily_data", COLUMNS, _cells(given))


async def fill(url: str, table: str, pieces: Iterable[pa.Table]) -> None:
    """Store bars in an empty table by the fastest way there is."""
    with contextlib.closing(sqlite3.connect(file_of(url), isolation_level=None)) as connection:
        for piece in pieces:
            connection.execute("BEGIN IMMEDIATE")
            _execute_in_pieces(connection, table, piece.column_names, _cells_of_columns(piece))
            connection.execute("COMMIT")


def _execute_in_pieces(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], cells: _Cells, ending: str = ""
) -> None:
    marks = f"({', '.join('?' * len(columns))})"
    step = _ROWS_A_STATEMENT * len(columns)
    for start in range(0, len(cells), step):
        piece = cells[start : start + step]
        connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)})"
            f" VALUES {','.join([marks] * (len(piece) // len(columns)))}{ending}",
            piece,
        )


def _iterrows(connection: sqlite3.Connection, given: Given) -> None:
    """As the application did it: a row of a data frame at a time, which must all be new."""
    import pandas as pd

    frame = given.to_pandas() if isinstance(given, pa.Table) else pd.DataFrame(given)
    for _, row in frame.iterrows():
        prices = (float(row["open"]), float(row["high"]), float(row["low"]), float(row["close"]))
        actions = (float(row["dividends"]), float(row["stock_splits"]))
        connection.execute(
            f"INSERT INTO daily_data ({_COLUMNS}) VALUES {_MARKS}",
            (row["ticker"], row["date"].isoformat(), *prices, int(row["volume"]), *actions),
        )


def _cells(given: Given) -> _Cells:
    """Return the cells of all rows, one row after the other, as sqlite3 takes them: doubles, and dates as text."""
    if isinstance(given, pa.Table):
        return _cells_of_columns(given.select(COLUMNS))
    return [
        cell
        for row in given
        for cell in (
            row["ticker"],
            row["date"].isoformat(),
            float(row["open"]),
            float(row["high"]),
            float(row["low"]),
            float(row["close"]),
            row["volume"],
            float(row["dividends"]),
            float(row["stock_splits"]),
        )
    ]


def _rows(given: Given) -> Iterable[tuple[Any, ...]]:
    return zip(*[iter(_cells(given))] * len(COLUMNS), strict=True)


def _cells_of_columns(columns: pa.Table) -> _Cells:
    cells: _Cells = [None] * (columns.num_rows * columns.num_columns)
    for position, name in enumerate(columns.column_names):
        column = columns[name].combine_chunks()
        if pa.types.is_decimal(column.type):
            its = (units_of(columns[name]) / UNIT).tolist()
        elif pa.types.is_integer(column.type):
            its = column.to_numpy().tolist()
        else:  # few texts of many rows, each made once
            encoded = column.dictionary_encode()
            spellings = np.array([_spelled(value) for value in encoded.dictionary.to_pylist()], object)
            its = spellings[encoded.indices.to_numpy()].tolist()
        cells[position :: columns.num_columns] = its
    return cells


def _spelled(value: str | dt.date) -> str:
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return value if isinstance(value, str) else value.isoformat()


@contextlib.asynccontextmanager
async def _fetching(url: str) -> AsyncIterator[Act]:
    """Rows of the driver, turned into columns."""
    with contextlib.closing(sqlite3.connect(file_of(url), isolation_level=None)) as connection:

        async def act(tickers: Sequence[str | None]) -> list[Any]:
            read = []
            for ticker in tickers:
                where, arguments = ("", ()) if ticker is None else (" AND ticker = ?", (ticker,))
                rows = connection.execute(f"{_SELECT}{where} ORDER BY ticker, date", arguments).fetchall()
                read.append(dict(zip(STORED, zip(*rows, strict=True), strict=True)))
            return read

        yield act


def _asking(query: str) -> Open:
    """Ask for the latest bars of a list of tickers."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        with contextlib.closing(sqlite3.connect(file_of(url), isolation_level=None)) as connection:

            async def act(tickers: Sequence[str]) -> list[tuple[Any, ...]]:
                at = [STORED.index(name) for name in ("ticker", "date", "close")]
                return [
                    tuple(row[position] for position in at) for row in connection.execute(query, (json.dumps(tickers),))
                ]

            yield act

    return opened


def _calling(call: Callable[[sqlite3.Connection, Any], int], *, prepare: str = "") -> Open:
    """As the application did it: every call has a connection and a thread of its own, ten at a time."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Call]:
        path = file_of(url)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(prepare)
        loop = asyncio.get_running_loop()

        def work(task: Any) -> int:
            with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
                answered = call(connection, task)
                connection.commit()
                return answered

        with ThreadPoolExecutor(10) as threads:

            async def call_in_thread(task: Any) -> int:
                return await loop.run_in_executor(threads, work, task)

            yield call_in_thread

    return crowd(opened)


def _write_new(connection: sqlite3.Connection, row: Any) -> int:
    connection.execute(f"INSERT INTO daily_data ({_COLUMNS}) VALUES {_MARKS}", _cells([row]))
    return 1


def _read_few(connection: sqlite3.Connection, question: Any) -> int:
    ticker, start = question
    if start is None:
        query = "SELECT * FROM daily_data WHERE ticker = ? ORDER BY date DESC LIMIT 1"
        return len(connection.execute(query, (ticker,)).fetchall())
    query = "SELECT * FROM daily_data WHERE ticker = ? AND date >= ? ORDER BY date"
    return len(connection.execute(query, (ticker, start.isoformat())).fetchall())


def _feeding(write_rows: Callable[[sqlite3.Connection, Sequence[Row]], None]) -> Open:
    """Store each minute in one transaction; writing and reading have a connection and a thread each."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Feed]:
        path = file_of(url)
        options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "timeout": 60}
        loop = asyncio.get_running_loop()
        with (
            contextlib.closing(sqlite3.connect(path, **options)) as writer,
            contextlib.closing(sqlite3.connect(path, **options)) as reader,
            ThreadPoolExecutor(1) as writing,
            ThreadPoolExecutor(1) as reading,
        ):

            def store(rows: Sequence[Row]) -> None:
                writer.execute("BEGIN IMMEDIATE")
                write_rows(writer, rows)
                writer.execute("COMMIT")

            async def write(rows: Sequence[Row]) -> None:
                await loop.run_in_executor(writing, store, rows)

            async def read(ticker: str) -> Any:
                return await loop.run_in_executor(
                    reading, lambda: reader.execute(_LAST_MINUTES, (ticker, LISTED)).fetchall()
                )

            yield Feed(write, read)

    return trading_day(opened)


def _feed_by_executemany(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    connection.executemany(_FEED, map(_minute_cells, rows))


def _feed_in_pieces(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """A hundred rows a statement."""
    cells = list(chain.from_iterable((*_minute_cells(row), "1m") for row in rows))
    _execute_in_pieces(connection, "intraday_data", (*MINUTE_COLUMNS, "timeframe"), cells, _ON_CONFLICT_OF_MINUTES)


def _minute_cells(row: Row) -> tuple[Any, ...]:
    prices = (float(row[name]) for name in ("open", "high", "low", "close"))
    return (row["ticker"], f"{row['datetime']:%Y-%m-%d %H:%M:%S}", *prices, row["volume"])


UPSERTS: Final = (
    Contestant("sqlite3 executemany", "raw", _in_a_transaction(_executemany)),
    Contestant("100 rows a statement, one hop", "by hand", _in_a_transaction(_many_rows_a_statement, hop=True)),
)
LOADS: Final = (
    Contestant("executemany INSERT", "limit", _in_a_transaction(_load)),
    Contestant("100 rows a statement, INSERT", "limit", _in_a_transaction(_load_in_pieces)),
    Contestant(
        "the old application",
        "legacy",
        _in_a_transaction(_iterrows, prepare=_AS_LEGACY),
        most_rows=100_000,
    ),
)
READS: Final = (Contestant("sqlite3 fetchall, columns", "raw", _fetching),)
LATEST: Final = (
    Contestant("window query", "raw", _asking(_LATEST_BY_WINDOW)),
    Contestant("json_each and max by hand", "by hand", _asking(_LATEST_BY_MAX)),
)
WRITE_CALLS: Final = (
    Contestant("the old application, ten threads", "legacy", _calling(_write_new, prepare=_AS_LEGACY), most_rows=1_000),
)
READ_CALLS: Final = (Contestant("the old application, ten threads", "legacy", _calling(_read_few, prepare=_AS_LEGACY)),)
FEEDS: Final = (
    Contestant("sqlite3 executemany", "raw", _feeding(_feed_by_executemany)),
    Contestant("100 rows a statement", "by hand", _feeding(_feed_in_pieces)),
)
