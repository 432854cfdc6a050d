"""Files of the old application in all their shapes, made by raw sqlite3 as their owners' files were."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_STAMP: Final = "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"
_ID: Final = "id INTEGER PRIMARY KEY AUTOINCREMENT"
_PRICES: Final = "open REAL, high REAL, low REAL, close REAL, volume INTEGER"
_USER: Final = "user_id INTEGER NOT NULL REFERENCES users (id)"
_BOTH: Final = f"created_at {_STAMP}, updated_at {_STAMP}"

TABLES: Final = (
    "daily_data",
    "intraday_data",
    "metadata",
    "signal_history",
    "portfolio_performance",
    "system_events",
    "portfolio_positions",
)

_A: Final[Mapping[str, str]] = {
    "daily_data": f"ticker TEXT, date DATE, {_PRICES}, dividends REAL, stock_splits REAL, updated_at {_STAMP},"
    " PRIMARY KEY (ticker, date)",
    "intraday_data": f"ticker TEXT, datetime TIMESTAMP, {_PRICES}, updated_at {_STAMP}, PRIMARY KEY (ticker, datetime)",
    "metadata": "ticker TEXT PRIMARY KEY, company_name TEXT, sector TEXT, industry TEXT, market_cap REAL,"
    " last_updated TIMESTAMP",
    "signal_history": f"{_ID}, ticker TEXT, date DATE, signal_type TEXT, signal_value REAL, confidence REAL,"
    f" entry_price REAL, target_price REAL, stop_loss REAL, regime TEXT, reasons TEXT, created_at {_STAMP}",
    "portfolio_performance": f"{_ID}, date DATE, portfolio_value REAL, daily_return REAL, volatility REAL,"
    f" sharpe_ratio REAL, max_drawdown REAL, created_at {_STAMP}",
    "system_events": f"{_ID}, event_type TEXT, description TEXT, details TEXT, severity TEXT, created_at {_STAMP}",
    "portfolio_positions": f"ticker TEXT PRIMARY KEY, shares REAL, {_BOTH}",
}
_S: Final[Mapping[str, str]] = {
    "signal_history": f"{_ID}, ticker TEXT, date DATE, signal_type TEXT, signal_value REAL, confidence REAL,"
    f" created_at {_STAMP}",
}
_P: Final[Mapping[str, str]] = {
    "daily_data": "ticker TEXT, date TIMESTAMP, open REAL, high REAL, low REAL, close REAL, volume INTEGER,"
    " dividends REAL, stock_splits REAL",
    "intraday_data": "ticker TEXT, datetime TIMESTAMP, open REAL, high REAL, low REAL, close REAL, volume INTEGER",
}
_O: Final[Mapping[str, str]] = {
    "daily_data": f"id INTEGER PRIMARY KEY, ticker TEXT, date DATE, {_PRICES}, dividends REAL, stock_splits REAL,"
    f" {_BOTH}, {_USER}",
    "intraday_data": f"id INTEGER PRIMARY KEY, ticker TEXT, datetime TIMESTAMP, {_PRICES}, {_BOTH}, {_USER}",
    "metadata": "id INTEGER PRIMARY KEY, ticker TEXT, company_name TEXT, sector TEXT, industry TEXT, market_cap REAL,"
    f" last_updated TIMESTAMP, {_BOTH}",
    "signal_history": "id INTEGER PRIMARY KEY, ticker TEXT, date DATE, signal_type TEXT, signal_value REAL,"
    f" confidence REAL, entry_price REAL, target_price REAL, stop_loss REAL, regime TEXT, reasons TEXT, {_BOTH},"
    f" {_USER}",
    "portfolio_performance": "id INTEGER PRIMARY KEY, date DATE, portfolio_value REAL, daily_return REAL,"
    f" volatility REAL, sharpe_ratio REAL, max_drawdown REAL, {_BOTH}, {_USER}",
    "system_events": f"id INTEGER PRIMARY KEY, event_type TEXT, description TEXT, details TEXT, severity TEXT, {_BOTH}",
    "portfolio_positions": f"id INTEGER PRIMARY KEY, ticker TEXT, shares REAL, {_BOTH}, {_USER}",
}

DEFINITIONS: Final[Mapping[str, Mapping[str, str]]] = {"A": _A, "S": _S, "P": _P, "O": _O}
"""For each shape that tables of their own have, the columns of those tables."""

INDEXES: Final[Mapping[str, str]] = {
    "daily_data": "CREATE INDEX IF NOT EXISTS idx_daily_data_ticker_date ON daily_data (ticker, date DESC)",
    "signal_history": "CREATE INDEX IF NOT EXISTS idx_signal_history_ticker_date ON signal_history (ticker, date DESC)",
}

_TRADE_LOG: Final = (
    f"CREATE TABLE trade_log ({_ID}, ticker TEXT, action TEXT, quantity REAL, price REAL, total_value REAL,"
    f" signal_id INTEGER, executed_at {_STAMP}, FOREIGN KEY (signal_id) REFERENCES signal_history (id))",
    "CREATE INDEX idx_trade_log_ticker ON trade_log (ticker, executed_at DESC)",
)
_USERS: Final = (
    "CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT UNIQUE, email TEXT, password_hash TEXT)",
    "INSERT INTO users VALUES (1, 'ada', 'ada@example.org', 'x'), (2, 'bob', 'bob@example.org', 'y')",
)
_ROLES: Final = (
    "CREATE TABLE roles (id INTEGER PRIMARY KEY, name TEXT)",
    "CREATE TABLE permissions (id INTEGER PRIMARY KEY, name TEXT)",
    "CREATE TABLE role_permissions (role_id INTEGER REFERENCES roles (id), permission_id INTEGER)",
    "CREATE TABLE api_keys (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (id), key_hash TEXT)",
    "CREATE TABLE user_audit_logs (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (id), action TEXT)",
    "CREATE TABLE system_audit_logs (id INTEGER PRIMARY KEY, action TEXT)",
)

SHAPES: Final[Mapping[str, Mapping[str, str]]] = {
    "A": dict.fromkeys(TABLES, "A"),
    "T": dict.fromkeys([name for name in TABLES if name != "portfolio_positions"], "A"),
    "S": {"daily_data": "A", "metadata": "A", "signal_history": "S"},
    "S2": dict.fromkeys(TABLES, "A") | {"signal_history": "S"},
    "P": {"daily_data": "P", "intraday_data": "P"},
    "P2": dict.fromkeys(TABLES, "A") | {"daily_data": "P", "intraday_data": "P"},
    "A2": dict.fromkeys(TABLES, "A"),
    "H": dict.fromkeys(TABLES, "A"),
    "O": dict.fromkeys(TABLES, "O"),
}
"""For each of the nine shapes of a file, its tables and their shapes."""

_OTHERS: Final[Mapping[str, Sequence[str]]] = {
    "T": _TRADE_LOG,
    "A2": ("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",),
    "H": (*_USERS, *_ROLES),
    "O": _USERS,
}

_BAR: Final = {
    "open": 269.2799987792969,
    "high": 271.0,
    "low": 268.5,
    "close": 270.3699951171875,
    "volume": 3_000_000_000,
}
FLOAT32: Final = struct.pack("<f", -0.15)
"""What sqlite3 stores of a numpy.float32."""

_DATED: Final = {"created_at": "2025-01-03 22:15:01", "updated_at": "2025-01-04 22:15:01"}
_DAYS: Final = ("2025-01-02", "2025-01-03", "2025-01-06 00:00:00")

ROWS: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "daily_data": [
        *({"ticker": "AAPL", "date": day, **_BAR, "dividends": 0.0, "stock_splits": 0.0} for day in _DAYS),
        *({"ticker": "BRK.B", "date": day, **_BAR, "dividends": 0.0, "stock_splits": 0.0} for day in _DAYS),
        {"ticker": "AAPL", "date": "2025-01-02", **_BAR, "close": 1.5, "dividends": 0.24, "stock_splits": 0.0},
        {"ticker": "AAPL", "date": "2025-01-03 00:00:00", **_BAR},
        {"ticker": None, "date": "2025-01-02", **_BAR},
        {"ticker": None, "date": "2025-01-02", **_BAR},
        {"ticker": "AAPL", "date": "2025-01-07", **_BAR, "close": None},
        {"ticker": "AAPL", "date": "2025-01-08", **_BAR, "low": 999.0},
    ],
    "intraday_data": [
        {"ticker": "AAPL", "datetime": "2025-10-31 09:30:00-04:00", **_BAR},
        {"ticker": "AAPL", "datetime": "2025-11-03 09:30:00-05:00", **_BAR},
    ],
    "metadata": [
        {"ticker": "AAPL", "company_name": "Apple Inc.", "sector": "Technology", "industry": "Consumer Electronics",
         "market_cap": 4.0e12, "last_updated": "2025-10-31 18:01:02.345678"},
        {"ticker": "ZZZZ", "company_name": "", "sector": "", "industry": "", "market_cap": 0.0,
         "last_updated": "2025-10-31 18:01:02"},
    ],
    "signal_history": [
        {"ticker": "AAPL", "date": "2025-01-02", "signal_type": kind, "confidence": 0.7, "entry_price": 270.1,
         "target_price": 290.0, "stop_loss": 250.0, "regime": "TRENDING_UP", "reasons": "RSI low, MACD crosses, " * 100}
        for kind in ("BUY", "SELL", "HOLD", "STRONG_BUY", "STRONG_SELL")
    ],
    "portfolio_performance": [
        {"date": "2025-01-02", "portfolio_value": 100_000.5, "daily_return": 0.01, "volatility": 0.2,
         "sharpe_ratio": 1.1, "max_drawdown": -0.15},
        {"date": "2025-01-02", "portfolio_value": 100_001.5, "max_drawdown": float("-inf")},
        {"date": "2025-01-03", "portfolio_value": 100_002.5, "max_drawdown": FLOAT32},
    ],
    "system_events": [
        {"event_type": "update", "description": "x" * 300, "details": "{'rows': 4, 'é': None}", "severity": "INFO"},
        {"event_type": "update", "description": "failed", "details": None, "severity": "ERROR"},
    ],
    "portfolio_positions": [{"ticker": "AAPL", "shares": 12.5}, {"ticker": "MSFT", "shares": 0}],
}  # fmt: skip
"""Rows that a real file has: each table's, without what its shape adds."""


@contextlib.contextmanager
def opened(path: Path) -> Any:
    """Open a file as the old code does: one transaction, foreign keys off."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


def insert(connection: sqlite3.Connection, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows, each with the columns that it names."""
    for row in rows:
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def make_table(connection: sqlite3.Connection, table: str, shape: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Make one table in a shape, with those of the rows that it takes; the others break its key."""
    connection.execute(f"CREATE TABLE {table} ({DEFINITIONS[shape][table]})")
    if shape in ("A", "S") and table in INDEXES:
        connection.execute(INDEXES[table])
    known = {column[1] for column in connection.execute(f"PRAGMA table_info({table})")}
    for row in rows:
        added = {**({"user_id": 1} if "user_id" in known else {}), **(_DATED if shape == "O" else {})}
        with contextlib.suppress(sqlite3.IntegrityError):
            insert(connection, table, [{name: value for name, value in {**added, **row}.items() if name in known}])


def make(path: Path, shape: str, rows: Mapping[str, Sequence[Mapping[str, Any]]] = ROWS) -> Path:
    """Make a file in one of the nine shapes."""
    with opened(path) as connection:
        for statement in _OTHERS.get(shape, ()):
            connection.execute(statement)
        for table, of_table in SHAPES[shape].items():
            make_table(connection, table, of_table, rows[table])
        if shape == "T":
            insert(connection, "trade_log", [{"ticker": "AAPL", "action": "BUY", "quantity": 1.0, "signal_id": 2}])
    return path


def counts(path: Path) -> dict[str, int]:
    """Return how many rows each table of the old application has."""
    with opened(path) as connection:
        present = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES if name in present
        }
