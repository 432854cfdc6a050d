"""What others have in a file of the old application stays theirs, and goes on working."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests import legacy_files
from traderrr_data import DatabaseManager, SchemaMismatchError, market_data, schema
from traderrr_data.adopt import adopt

THINGS = """
CREATE TABLE notes (id INTEGER PRIMARY KEY, ticker TEXT REFERENCES metadata (ticker), body TEXT);
CREATE TABLE audit (what TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP);
INSERT INTO notes VALUES (1, 'AAPL', 'buy');
CREATE INDEX notes_of_ticker ON notes (ticker) WHERE body IS NOT NULL;
CREATE INDEX idx_daily_data_close ON daily_data (close);
CREATE UNIQUE INDEX [odd "name"] ON daily_data (date, lower(ticker)) WHERE ticker = 'BRK.B';
CREATE VIEW closes AS SELECT ticker, date, close FROM daily_data;
CREATE VIEW broken AS SELECT * FROM absent;
CREATE TRIGGER on_signal AFTER INSERT ON signal_history BEGIN
  INSERT INTO audit (what) VALUES ('signal ' || NEW.id); END;
CREATE TRIGGER adoption_of_signals BEFORE DELETE ON signal_history BEGIN SELECT 1; END;
CREATE VIEW signals AS SELECT id AS number, date FROM signal_history;
CREATE TRIGGER instead INSTEAD OF DELETE ON signals BEGIN DELETE FROM signal_history WHERE id = OLD.number; END;
CREATE TABLE pairs (a PRIMARY KEY, twice AS (a * 2) STORED, thrice AS (a * 3)) WITHOUT ROWID;
INSERT INTO pairs (a) VALUES (1);
CREATE VIRTUAL TABLE found USING fts5 (description, content = 'system_events', content_rowid = 'id');
CREATE TRIGGER on_event AFTER INSERT ON system_events BEGIN
  INSERT INTO found (rowid, description) VALUES (NEW.id, NEW.description); END;
CREATE TRIGGER on_note AFTER INSERT ON notes BEGIN
  UPDATE metadata SET industry = NEW.body WHERE ticker = NEW.ticker; END;
PRAGMA user_version = 7;
"""


def catalog(path: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))


async def test_tables_indexes_triggers_and_views_of_others_stay_as_they_are(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "T")
    with legacy_files.opened(path) as connection:
        connection.executescript(THINGS)
        pages = connection.execute("SELECT * FROM trade_log").fetchall()
    before = {name: sql for name, sql in catalog(path).items() if name not in legacy_files.TABLES}
    report = await adopt(path)
    after = catalog(path)
    assert {name: after.get(name) for name in before} == before
    assert report.notes == []
    with legacy_files.opened(path) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("SELECT * FROM trade_log").fetchall() == pages
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)
        assert connection.execute("SELECT count(*) FROM closes").fetchone()[0] > 0
        signal = {"ticker": "AAPL", "date": "2025-06-02", "signal_type": "BUY"}
        legacy_files.insert(connection, "signal_history", [signal])
        legacy_files.insert(connection, "notes", [{"ticker": "AAPL", "body": "Phones"}])
        assert connection.execute("SELECT what FROM audit").fetchall() == [("signal 6",)]
        assert connection.execute("SELECT industry FROM metadata WHERE ticker = 'AAPL'").fetchone() == ("Phones",)
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("DELETE FROM signal_history WHERE id = 2")
    async with DatabaseManager(f"sqlite:///{path}") as db:
        assert await schema.check(db.engine) == []
        await schema.upgrade(db.engine)


async def test_references_to_nothing_that_were_there_before_stop_neither_adopting_nor_migrating(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "T")
    with legacy_files.opened(path) as connection:
        legacy_files.insert(connection, "trade_log", [{"ticker": "AAPL", "signal_id": 99}])
    report = await adopt(path)
    assert report.notes == ["1 rows of trade_log referred to absent rows of signal_history before"]
    async with DatabaseManager(f"sqlite:///{path}") as db:
        await schema.upgrade(db.engine)
        assert await schema.check(db.engine) == []


async def test_a_row_that_others_refer_to_and_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    rows: dict[str, Any] = dict(legacy_files.ROWS)
    rows["signal_history"] = [rows["signal_history"][0], {**rows["signal_history"][1], "ticker": None}]
    path = legacy_files.make(tmp_path / "old.db", "T", rows)
    report = await adopt(path)
    assert report.notes == ["1 rows of trade_log refer to rows of signal_history that are in adoption_rejects now"]


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON daily_data BEGIN SELECT NEW.extra; END", "a trigger on daily_data"),
        ("CREATE TABLE c (t, d, FOREIGN KEY (t, d) REFERENCES daily_data (ticker, date))", "the foreign keys of c"),
    ],
)
async def test_what_would_make_every_write_fail_is_refused(statement: str, complaint: str, tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "A")
    with legacy_files.opened(path) as connection:
        connection.execute("ALTER TABLE daily_data ADD COLUMN extra TEXT")
        connection.execute(statement)
    before = catalog(path)
    with pytest.raises(SchemaMismatchError, match=complaint):
        await adopt(path)
    assert catalog(path) == before


async def test_a_unique_index_that_no_longer_holds_is_named(tmp_path: Path) -> None:
    rows: dict[str, Any] = dict(legacy_files.ROWS)
    rows["portfolio_performance"] = [{"date": "2025-01-02"}, {"date": "2025-01-02 00:00:00"}]
    path = legacy_files.make(tmp_path / "old.db", "A", rows)
    with legacy_files.opened(path) as connection:
        connection.execute("CREATE UNIQUE INDEX one_a_day ON portfolio_performance (date)")
    before = catalog(path)
    with pytest.raises(SchemaMismatchError, match=r"the unique index one_a_day tells apart .* nothing was changed"):
        await adopt(path)
    assert catalog(path) == before
    assert list(tmp_path.iterdir()) == [path]


async def test_ids_and_where_they_go_on_are_kept(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "A")
    with legacy_files.opened(path) as connection:
        connection.execute("DELETE FROM signal_history WHERE id IN (1, 5)")
        connection.execute("DELETE FROM system_events")
    await adopt(path)
    with legacy_files.opened(path) as connection:
        assert [row[0] for row in connection.execute("SELECT id FROM signal_history")] == [2, 3, 4]
        signal = {"ticker": "AAPL", "date": "2025-06-02", "signal_type": "BUY"}
        legacy_files.insert(connection, "signal_history", [signal])
        legacy_files.insert(connection, "system_events", [{"event_type": "a", "description": "b", "severity": "INFO"}])
        assert connection.execute("SELECT max(id) FROM signal_history").fetchone() == (6,)
        assert connection.execute("SELECT max(id) FROM system_events").fetchone() == (3,)


async def test_columns_that_ours_do_not_have_are_kept_beside(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "P")
    with legacy_files.opened(path) as connection:
        connection.execute('ALTER TABLE daily_data ADD COLUMN "Adj Close" REAL')
        connection.execute("UPDATE daily_data SET \"Adj Close\" = close * 2 WHERE ticker = 'BRK.B'")
    report = await adopt(path)
    daily = report.tables[0]
    assert (daily.extra_columns, daily.extra_table) == (("Adj Close",), "adoption_columns_of_daily_data")
    with legacy_files.opened(path) as connection:
        kept = connection.execute("SELECT * FROM adoption_columns_of_daily_data ORDER BY date").fetchall()
    assert kept == [("BRK.B", "", day, 270.3699951171875 * 2) for day in ("2025-01-02", "2025-01-03", "2025-01-06")]


@pytest.mark.parametrize(
    "names",
    [
        ["r", "why", "c", "s", "n", "key", "original_ticker", "select", 'we"ird', "a]b", "ü", "", " "],
        [f"indicator {number}" for number in range(1_500)],
    ],
    ids=["odd", "many"],
)
async def test_columns_of_any_name_and_number_are_kept(names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    columns = ["ticker", "date", "open", "high", "low", "close", "volume", *names]
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    extras = [f"value {number}" for number in range(len(names))]
    rows = [["AAPL", day, 1, 1, 1, price, 1, *extras] for day, price in (("2025-01-02", 1), ("20250103", 1), ("x", 1))]
    with legacy_files.opened(path) as connection:
        connection.execute(f"CREATE TABLE daily_data ({quoted})")
        connection.executemany(f"INSERT INTO daily_data VALUES ({', '.join('?' * len(columns))})", rows)
    report = await adopt(path)
    assert report.tables[0].extra_columns == tuple(names)
    with legacy_files.opened(path) as connection:
        kept = connection.execute(f"SELECT * FROM {report.tables[0].extra_table} ORDER BY date").fetchall()
        (rejected,) = connection.execute("SELECT original_values FROM adoption_rejects").fetchone()
    assert kept == [("AAPL", "", day, *extras) for day in ("2025-01-02", "2025-01-03")]
    assert list(json.loads(rejected).values()) == rows[2]


@pytest.mark.parametrize(
    "definition",
    [
        '"Ticker" TEXT, "Date" TEXT, "Open" REAL, "High" REAL, "Low" REAL, "Close" REAL, "Volume" INT, "Stock Splits"',
        "ticker, date, open, high, low, close, volume",
        "ticker TEXT, date TEXT, open REAL, high REAL, low REAL, close REAL, volume INT, PRIMARY KEY (ticker, date))"
        " WITHOUT ROWID /*",
        "ticker TEXT, date TEXT, open REAL, high REAL, low REAL, close REAL, volume INT) STRICT /*",
        "ticker TEXT, date TEXT, open REAL, high REAL, low REAL, close REAL, volume INT, rowid, oid, _rowid_",
        "ticker TEXT, date TEXT, open REAL, high REAL, low REAL, close REAL, volume INT, range AS (high - low) STORED",
        "ticker TEXT COLLATE NOCASE, date TEXT, open TEXT, high TEXT, low TEXT, close TEXT, volume TEXT",
        '"index" BIGINT, ticker TEXT, date TEXT, open REAL, high REAL, low REAL, close REAL, volume INT',
    ],
)
async def test_a_table_that_was_made_otherwise_is_taken_over_too(definition: str, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    names = "ticker, date, open, high, low, close, volume"
    with legacy_files.opened(path) as connection:
        connection.execute(f"CREATE TABLE Daily_Data ({definition}\n)")
        values = "('AAPL', '2025-01-02', 1.5, 2.5, 1.25, 2.0, 3000000000), ('aapl', '2025-01-02', 1, 1, 1, 1, 1)"
        connection.execute(f"INSERT INTO daily_data ({names}) VALUES {values}, ('AAPL', '2025-01-03', 1, 1, 1, 1, 1)")
    report = await adopt(path)
    assert (report.tables[0].rows, report.tables[0].kept) == (3, 3)
    async with DatabaseManager(f"sqlite:///{path}") as db, db.session_context(read_only=True) as session:
        assert await schema.check(db.engine) == []
        first, second = await market_data.list_daily(session, "AAPL")
        assert (first.open, first.volume, str(second.date)) == (Decimal("1.5"), Decimal(3_000_000_000), "2025-01-03")


async def test_ids_that_are_not_unique_are_given_anew_and_no_row_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with legacy_files.opened(path) as connection:
        connection.execute("CREATE TABLE signal_history (id BIGINT, ticker TEXT, date TEXT, signal_type TEXT)")
        rows = [(1, "A"), (1, "B"), (None, "C"), ("x", "D")]
        connection.executemany("INSERT INTO signal_history VALUES (?, ?, '2025-01-02', 'BUY')", rows)
    report = await adopt(path)
    assert {table.name: table.kept for table in report.tables}["signal_history"] == 4
    with legacy_files.opened(path) as connection:
        assert connection.execute("SELECT id, ticker FROM signal_history").fetchall() == list(enumerate("ABCD", 1))
        kept = connection.execute("SELECT * FROM adoption_columns_of_signal_history ORDER BY 1").fetchall()
    assert len(kept) == 3


async def test_what_was_set_aside_keeps_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with legacy_files.opened(path) as connection:
        connection.execute("CREATE TABLE portfolio_performance (id INTEGER PRIMARY KEY, date, portfolio_value, note)")
        row = (269.2799987792969, b"\x00\xff")
        connection.execute("INSERT INTO portfolio_performance VALUES (1, NULL, ?, ?)", row)
        connection.execute("INSERT INTO portfolio_performance VALUES (2, 'x', -9e999, CAST(x'ff41' AS TEXT))")
    await adopt(path)
    with legacy_files.opened(path) as connection:
        kept = [json.loads(row[0]) for row in connection.execute("SELECT original_values FROM adoption_rejects")]
    assert kept == [
        {"id": 1, "date": None, "portfolio_value": 269.2799987792969, "note": {"blob": "00ff"}},
        {"id": 2, "date": "x", "portfolio_value": {"real": "-inf"}, "note": {"text": "ff41"}},
    ]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
async def test_a_file_of_another_encoding_is_taken_over_too(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with legacy_files.opened(path) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        for table in legacy_files.TABLES:
            legacy_files.make_table(connection, table, "A", legacy_files.ROWS[table])
    plain = await adopt(legacy_files.make(tmp_path / "plain.db", "A"))
    report = await adopt(path)
    assert [table.kept for table in report.tables] == [table.kept for table in plain.tables]
