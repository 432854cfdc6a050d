"""SQLite by Python's own sqlite3."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Final, TypeAlias

import pyarrow as pa

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
_ROWS_A_STATEMENT: Final = 500

_Cells: TypeAlias = list[tuple[Any, ...]]

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

_FEED: Final = (
    f"INSERT INTO intraday_data ({', '.join(MINUTE_COLUMNS)}, timeframe)"
    f" VALUES ({', '.join('?' * len(MINUTE_COLUMNS))}, '1m') ON CONFLICT (ticker, series, timeframe, datetime)"
    f" DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in MINUTE_VALUES)},"
    f" updated_at = CURRENT_TIMESTAMP WHERE {' OR '.join(f'{name} IS NOT excluded.{name}' for name in MINUTE_VALUES)}"
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
    connection.executemany(f"INSERT INTO daily_data ({_COLUMNS}) VALUES {_MARKS}{_ON_CONFLICT}", _cells(given))


def _many_rows_a_statement(connection: sqlite3.Connection, given: Given) -> None:
    """Some hundred rows a statement."""
    _execute_in_pieces(connection, _cells(given), _ON_CONFLICT)


def _load(connection: sqlite3.Connection, given: Given) -> None:
    """No upsert at all: rows into an empty table."""
    connection.executemany(f"INSERT INTO daily_data ({_COLUMNS}) VALUES {_MARKS}", _cells(given))


def _load_in_pieces(connection: sqlite3.Connection, given: Given) -> None:
    _execute_in_pieces(connection, _cells(given), "")


def _execute_in_pieces(connection: sqlite3.Connection, rows: _Cells, ending: str) -> None:
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        piece = rows[start : start + _ROWS_A_STATEMENT]
        connection.execute(
            f"INSERT INTO daily_data ({_COLUMNS}) VALUES {','.join([_MARKS] * len(piece))}{ending}",
            list(chain.from_iterable(piece)),
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
    """Return rows as sqlite3 takes them: doubles and dates as text."""
    if isinstance(given, pa.Table):
        columns = as_columns(given)
        cells = {name: columns[name].to_pylist() for name in ("ticker", "volume")}
        cells |= {name: (units_of(columns[name]) / UNIT).tolist() for name in DECIMALS}
        cells["date"] = columns["date"].cast(pa.string()).to_pylist()
        return list(zip(*(cells[name] for name in COLUMNS), strict=True))
    return [
        (
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
        for row in given
    ]


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
    connection.execute(f"INSERT INTO daily_data ({_COLUMNS}) VALUES {_MARKS}", _cells([row])[0])
    return 1


def _read_few(connection: sqlite3.Connection, question: Any) -> int:
    ticker, start = question
    if start is None:
        query = "SELECT * FROM daily_data WHERE ticker = ? ORDER BY date DESC LIMIT 1"
        return len(connection.execute(query, (ticker,)).fetchall())
    query = "SELECT * FROM daily_data WHERE ticker = ? AND date >= ? ORDER BY date"
    return len(connection.execute(query, (ticker, start.isoformat())).fetchall())


@contextlib.asynccontextmanager
async def _feeding(url: str) -> AsyncIterator[Feed]:
    """One connection for writing and one for reading, each with a thread of its own."""
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
            writer.executemany(_FEED, map(_minute_cells, rows))
            writer.execute("COMMIT")

        async def write(rows: Sequence[Row]) -> None:
            await loop.run_in_executor(writing, store, rows)

        async def read(ticker: str) -> Any:
            return await loop.run_in_executor(
                reading, lambda: reader.execute(_LAST_MINUTES, (ticker, LISTED)).fetchall()
            )

        yield Feed(write, read)


def _minute_cells(row: Row) -> tuple[Any, ...]:
    prices = (float(row[name]) for name in ("open", "high", "low", "close"))
    return (row["ticker"], f"{row['datetime']:%Y-%m-%d %H:%M:%S}", *prices, row["volume"])


UPSERTS: Final = (
    Contestant("sqlite3 executemany", "raw", _in_a_transaction(_executemany)),
    Contestant("500 rows a statement, one hop", "by hand", _in_a_transaction(_many_rows_a_statement, hop=True)),
)
LOADS: Final = (
    Contestant("executemany INSERT", "limit", _in_a_transaction(_load)),
    Contestant("500 rows a statement, INSERT", "limit", _in_a_transaction(_load_in_pieces)),
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
FEEDS: Final = (Contestant("sqlite3 executemany", "raw", trading_day(_feeding)),)
