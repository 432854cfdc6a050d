"""The old application's statements on an adopted file: the same answers as before, and rows that this layer reads."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests import legacy_files
from traderrr_data import DatabaseManager, UpsertResult, market_data, portfolio, schema, trading
from traderrr_data.adopt import adopt

BAR = (269.2799987792969, 271.0, 268.5, 270.3699951171875, 3_000_000_000)
SIGNAL = ("AAPL", "2025-06-02", "BUY", 0.7, 200.5, 220.0, 190.25, "SIDEWAYS", "RSI, MACD, " * 500)
NOW = re.compile(r"20(2[6-9]|[3-9]\d)-\d\d-\d\d \d\d:\d\d:\d\d")
TODAY = dt.datetime.now(dt.UTC)


def plain(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows with the moment at which they were written under one name."""
    return [
        tuple(
            "now" if isinstance(cell, str) and cell >= f"{TODAY:%Y-%m-%d}" and NOW.fullmatch(cell) else cell
            for cell in r
        )
        for r in rows
    ]


def old_code(path: Path) -> list[Any]:
    """Run every statement that the old application sends, and return its answers."""
    answers: list[Any] = []
    with contextlib.closing(sqlite3.connect(path)) as connection:

        def ask(sql: str, *parameters: Any) -> None:
            answers.append(plain(connection.execute(sql, parameters).fetchall()))

        for table in legacy_files.TABLES:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({legacy_files.DEFINITIONS['A'][table]})")
        for index in legacy_files.INDEXES.values():
            connection.execute(index)
        daily = "INSERT INTO daily_data (ticker, date, open, high, low, close, volume, dividends, stock_splits)"
        daily += " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        connection.executemany(daily, [("NEW", f"2025-06-0{day}", *BAR, 0.0, 0.0) for day in range(2, 7)])
        connection.commit()
        batch = [("NEW", "2025-06-09", *BAR, 0.0, 0.0), ("NEW", "2025-06-02", *BAR, 0.0, 0.0)]
        with pytest.raises(sqlite3.IntegrityError) as failure:
            connection.executemany(daily, batch)
        connection.rollback()
        answers.append(failure.value.sqlite_errorname in ("SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE"))
        ask("SELECT date, open, high, low, close, volume, dividends, stock_splits, updated_at FROM daily_data"
            " WHERE ticker = 'NEW' AND date >= '2025-01-01' AND date < '2025-06-06' ORDER BY date")  # fmt: skip
        connection.execute("INSERT INTO intraday_data (ticker, datetime, open, high, low, close, volume)"
                           " VALUES ('NEW', '2025-06-02 13:30:00', ?, ?, ?, ?, ?)", BAR)  # fmt: skip
        ask("SELECT ticker, open, close, volume FROM intraday_data WHERE ticker = 'NEW'")
        for name in ("Old name", "New name"):
            connection.execute("INSERT OR REPLACE INTO metadata (ticker, company_name, sector, industry, market_cap,"
                               " last_updated) VALUES ('AAPL', ?, '', '', 0.0, '2025-06-02 10:00:00.123456')",
                               (name,))  # fmt: skip
        answers.append([row[:5] for row in connection.execute("SELECT * FROM metadata ORDER BY ticker")])
        answers.append(connection.execute("SELECT * FROM metadata WHERE ticker = 'AAPL'").fetchone()[1])
        for shares in (1.5, 0.0):
            connection.execute("INSERT OR REPLACE INTO portfolio_positions (ticker, shares, updated_at)"
                               " VALUES ('NVDA', ?, CURRENT_TIMESTAMP)", (shares,))  # fmt: skip
        ask("DELETE FROM portfolio_positions WHERE ticker = 'MSFT'")
        ask("SELECT ticker, shares, created_at, updated_at FROM portfolio_positions ORDER BY ticker")
        cursor = connection.execute("INSERT INTO signal_history (ticker, date, signal_type, confidence, entry_price,"
                           " target_price, stop_loss, regime, reasons) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                           SIGNAL)  # fmt: skip
        answers.append(cursor.lastrowid)
        answers.append(plain([row[:12] for row in connection.execute("SELECT * FROM signal_history ORDER BY id")]))
        cursor = connection.execute("INSERT INTO portfolio_performance (date, portfolio_value, daily_return,"
                           " volatility, sharpe_ratio, max_drawdown) VALUES ('2025-06-02', 1e5, 0.1, 0.2, 1.1, ?)",
                           (-0.2,))  # fmt: skip
        answers.append(cursor.lastrowid)
        rows = connection.execute("SELECT * FROM portfolio_performance WHERE id NOT IN (2, 3) ORDER BY id")
        answers.append(plain([row[:8] for row in rows]))
        connection.execute("INSERT INTO system_events (event_type, description, details, severity)"
                           " VALUES ('update', ?, ?, 'INFO')", ("d" * 300, "{'a': 1}"))  # fmt: skip
        ask("SELECT * FROM (SELECT id, event_type, description, details, severity, created_at FROM system_events)")
        ask("DELETE FROM signal_history WHERE created_at < '2025-08-01 00:00:00'")
        ask("SELECT count(*), max(created_at) FROM signal_history")
        connection.commit()
        connection.execute("VACUUM")
        ask("PRAGMA journal_mode")
        ask("PRAGMA integrity_check")
    return answers


@pytest.mark.parametrize("shape", ["A", "T", "A2", "H"])
async def test_the_old_code_gets_the_same_answers_as_before(shape: str, tmp_path: Path) -> None:
    rows = dict(legacy_files.ROWS)
    rows["daily_data"] = rows["daily_data"][:2]  # one row of each key: which of two is kept is not asked here
    path = legacy_files.make(tmp_path / "old.db", shape, rows)
    untouched = Path(shutil.copy2(path, tmp_path / "untouched.db"))
    await adopt(path, timezone="UTC")
    assert old_code(path) == old_code(untouched)
    async with DatabaseManager(f"sqlite:///{path}") as db, db.session_context(read_only=True) as session:
        assert await schema.check(db.engine) == []
        bar = (await market_data.list_daily(session, "NEW"))[0]
        assert (bar.close, bar.volume, bar.series) == (Decimal("270.3699951172"), Decimal(3_000_000_000), "")
        (signal,) = [s for s in await trading.list_signals(session, ticker="AAPL") if s.regime == "SIDEWAYS"]
        assert (signal.signal_value, signal.entry_price) == (None, Decimal("200.5"))
        assert {p.ticker: p.shares for p in await portfolio.list_positions(session)}.get("NVDA") == 0


async def test_the_copy_that_the_old_code_makes_is_complete_and_can_be_put_back(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "A")
    await adopt(path)
    async with DatabaseManager(f"sqlite:///{path}") as db:
        async with db.session_context() as session:
            await portfolio.upsert_position(session, "COPIED", 1)
        copy = shutil.copy2(path, tmp_path / "copy.db")
        async with db.session_context() as session:
            await portfolio.delete_position(session, "COPIED")
    shutil.copy2(copy, path)
    async with DatabaseManager(f"sqlite:///{path}") as db, db.session_context(read_only=True) as session:
        assert await portfolio.find_position(session, "COPIED") is not None


@pytest.fixture
async def adopted(tmp_path: Path) -> Path:
    """An adopted file, in which NVDA has a currency, as only our table has it."""
    path = legacy_files.make(tmp_path / "old.db", "A")
    await adopt(path)
    async with DatabaseManager(f"sqlite:///{path}") as db, db.session_context() as session:
        await market_data.upsert_metadata(session, [{"ticker": "NVDA", "currency": "USD", "company_name": "Nvidia"}])
    return path


async def test_numpy_values_that_the_old_code_writes_are_read_as_their_numbers(adopted: Path) -> None:
    with legacy_files.opened(adopted) as connection:
        rows = [{"ticker": "NEW", "date": "2025-06-02 00:00:00", "open": struct.pack("<f", 1.5), "high": 2, "low": 1,
                 "close": 1.5, "volume": struct.pack("<q", 3_000_000_000)}]  # fmt: skip
        legacy_files.insert(connection, "daily_data", rows)
        drawdown = {"date": "2025-06-02", "max_drawdown": legacy_files.FLOAT32}
        legacy_files.insert(connection, "portfolio_performance", [drawdown])
    async with DatabaseManager(f"sqlite:///{adopted}") as db, db.session_context(read_only=True) as session:
        (bar,) = await market_data.list_daily(session, "NEW")
        assert (bar.date, bar.open, bar.volume) == (dt.date(2025, 6, 2), Decimal("1.5"), Decimal(3_000_000_000))
        newest = await trading.find_latest_performance(session)
        assert newest is not None
        assert newest.max_drawdown == Decimal("-0.150000006")


async def test_a_bar_without_a_price_is_set_aside_and_the_rest_of_its_batch_stored(adopted: Path) -> None:
    bars = [
        {"ticker": "NEW", "date": f"2025-06-0{n}", "open": price, "high": 2, "low": 1, "close": price, "volume": 1}
        for n, price in ((2, 1.5), (3, None), (4, 1.5))
    ]
    with legacy_files.opened(adopted) as connection:
        legacy_files.insert(connection, "daily_data", bars)
        (kept,) = connection.execute(
            "SELECT original_values FROM adoption_rejects WHERE reason LIKE 'the old application%'"
        ).fetchone()
    assert '"date":"2025-06-03"' in kept
    async with DatabaseManager(f"sqlite:///{adopted}") as db, db.session_context(read_only=True) as session:
        assert len(await market_data.list_daily(session, "NEW")) == 2


async def test_an_instant_with_an_offset_is_brought_to_utc_and_still_known_as_a_duplicate(adopted: Path) -> None:
    bar = {"ticker": "AAPL", "open": 1, "high": 2, "low": 1, "close": 1.5, "volume": 1}
    with legacy_files.opened(adopted) as connection:
        legacy_files.insert(connection, "intraday_data", [{**bar, "datetime": "2025-10-31 09:31:00.250000-04:00"}])
        with pytest.raises(sqlite3.IntegrityError):
            legacy_files.insert(connection, "intraday_data", [{**bar, "datetime": "2025-10-31 09:30:00-04:00"}])
    async with DatabaseManager(f"sqlite:///{adopted}") as db, db.session_context(read_only=True) as session:
        times = [b.datetime for b in await market_data.list_intraday(session, "AAPL", timeframe="unknown")]
    assert times[1] == dt.datetime(2025, 10, 31, 13, 31, 0, 250_000, tzinfo=dt.UTC)


async def test_local_time_that_the_old_code_writes_is_read_as_the_instant(adopted: Path) -> None:
    program = f"""
import sqlite3
connection = sqlite3.connect({str(adopted)!r})
connection.execute("INSERT OR REPLACE INTO metadata (ticker, company_name, sector, industry, market_cap, last_updated)"
                   " VALUES ('NVDA', 'NVIDIA', '', '', 1e12, '2025-07-01 10:00:00.123456')")
connection.commit()
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], env={"TZ": "America/New_York"}, check=True)
    async with DatabaseManager(f"sqlite:///{adopted}") as db, db.session_context() as session:
        nvidia = await market_data.get_metadata(session, "NVDA")
        assert nvidia.last_updated == dt.datetime(2025, 7, 1, 14, 0, 0, 123_456, tzinfo=dt.UTC)
        assert (nvidia.company_name, nvidia.currency) == ("NVIDIA", "USD")  # which INSERT OR REPLACE would have lost
        ours = dt.datetime(2025, 7, 2, 10, tzinfo=dt.UTC)
        await market_data.upsert_metadata(session, [{"ticker": "OURS", "last_updated": ours}])
        assert (await market_data.get_metadata(session, "OURS")).last_updated == ours


async def test_a_bar_that_reads_as_it_is_given_counts_as_unchanged(adopted: Path) -> None:
    async with DatabaseManager(f"sqlite:///{adopted}") as db, db.session_context() as session:
        stored = await market_data.list_daily(session, "BRK.B")
        names = ("ticker", "date", "open", "high", "low", "close", "volume", "dividends", "stock_splits")
        rows = [{name: getattr(bar, name) for name in names} for bar in stored]
        assert rows[0]["open"] == Decimal("269.2799987793")
        assert await market_data.upsert_daily(session, rows) == UpsertResult(unchanged=len(rows))
    (noise,) = {
        row[0] for row in sqlite3.connect(adopted).execute("SELECT open FROM daily_data WHERE ticker = 'BRK.B'")
    }
    assert noise == 269.2799987792969


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])  # waits 5 seconds for a lock, as the old code does
print("ready", flush=True)
sys.stdin.readline()
for n in range(150):
    connection.execute("INSERT INTO system_events (event_type, description, severity) VALUES ('old', 'x', 'INFO')")
    connection.execute("INSERT OR REPLACE INTO portfolio_positions (ticker, shares) VALUES ('OLD', ?)", (n,))
    connection.commit()
    connection.execute("SELECT count(*) FROM daily_data").fetchone()
"""


async def test_both_write_at_once_without_an_error(adopted: Path) -> None:
    old = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER, str(adopted)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert old.stdin is not None
    assert old.stdout is not None
    assert await old.stdout.readline() == b"ready\n"
    old.stdin.write(b"go\n")
    ends = asyncio.create_task(old.wait())
    written = 0
    async with DatabaseManager(f"sqlite:///{adopted}") as db:
        while not ends.done() or written < 20:
            async with db.session_context() as session:
                await portfolio.upsert_position(session, "OURS", written)
            async with db.session_context(read_only=True) as session:
                await market_data.list_daily(session, "AAPL")
            written += 1
    assert await ends == 0
    with legacy_files.opened(adopted) as connection:
        assert connection.execute("SELECT count(*) FROM system_events WHERE event_type = 'old'").fetchone() == (150,)


async def test_finishing_ends_the_changeover(adopted: Path) -> None:
    with legacy_files.opened(adopted) as connection:
        legacy_files.insert(
            connection, "portfolio_performance", [{"date": "2025-06-02", "max_drawdown": float("-inf")}]
        )
    report = await adopt(adopted, finish=True)
    assert (report.finished, report.journal_mode, report.rejected) == (True, "wal", 0)
    again = await adopt(adopted, finish=True)
    assert (again.changed, again.backup) == (False, None)
    with legacy_files.opened(adopted) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").fetchone() == (0,)
        with pytest.raises(sqlite3.IntegrityError, match="is_a_number"):
            legacy_files.insert(
                connection, "portfolio_performance", [{"date": "2025-06-02", "max_drawdown": legacy_files.FLOAT32}]
            )
    async with DatabaseManager(f"sqlite:///{adopted}") as db:
        assert await schema.check(db.engine) == []
