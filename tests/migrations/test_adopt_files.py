"""What adopt says of a file before it touches it, and what it leaves beside it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests import legacy_files
from tests.project import ROOT
from traderrr_data import ConfigurationError, DatabaseManager, SchemaMismatchError
from traderrr_data.adopt import adopt


def folder_of(path: Path) -> dict[str, str]:
    """Return a digest of every file beside a file, itself included."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.iterdir() if file.is_file()
    }


def command(*arguments: str | Path, cwd: Path, code: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "traderrr_data", *map(str, arguments)],
        env={"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PATH": ""},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"ticker,date,close\nAAPL,2025-01-02,1\n", "is not a SQLite database"),
        (os.urandom(8192), "is not a SQLite database"),
        (b"SQLite format 3\x00", "is not a SQLite database"),
        (b"SQLite format 3\x00" + b"\xff" * 8176, "is not a SQLite database|damaged|cut off"),
    ],
)
async def test_what_is_no_database_is_refused(content: bytes | None, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    if content is not None:
        path.write_bytes(content)
    for dry_run in (True, False):
        with pytest.raises(ConfigurationError, match=complaint):
            await adopt(path, dry_run=dry_run)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if content is None else [content])


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a file"):
        await adopt(tmp_path)


@pytest.mark.parametrize("name", ["a b.db", "100%25.db", "what?.db", "#1.db", "ä[1]*.db", "file:x.db", "a'b\".db"])
async def test_any_name_will_do(name: str, tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / name, "A")
    report = await adopt(path)
    assert report.backup is not None
    assert {file.name for file in tmp_path.iterdir()} == {name, report.backup.name}


async def test_the_copy_of_a_linked_file_is_beside_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = legacy_files.make(tmp_path / "real" / "old.db", "A")
    link = tmp_path / "link.db"
    link.symlink_to(path)
    report = await adopt(link)
    assert report.backup is not None
    assert report.backup.parent == tmp_path
    assert link.is_symlink()
    assert not (await adopt(path)).changed


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
async def test_the_copy_is_the_file_as_it_was_with_its_permissions(mode: int, tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "A")
    path.chmod(mode)
    with legacy_files.opened(path) as connection:
        before = list(connection.iterdump())
    report = await adopt(path)
    assert report.backup is not None
    assert stat.S_IMODE(report.backup.stat().st_mode) == mode == stat.S_IMODE(path.stat().st_mode)
    with contextlib.closing(sqlite3.connect(report.backup)) as copy:
        assert list(copy.iterdump()) == before


async def make_refused(path: Path, reason: str) -> str:
    """Make a file that cannot be adopted, and return what is said of it."""
    with legacy_files.opened(path) as connection:
        if reason == "users":
            for shares, user in ((1.0, 1), (2.0, 2)):
                row = {"ticker": "AAPL", "shares": shares, "user_id": user, "created_at": "2025-01-02 00:00:00"}
                legacy_files.insert(connection, "portfolio_positions", [{**row, "updated_at": "2025-01-02 00:00:00"}])
            return "--user.*user 1 .ada.*user 2 .bob"
        if reason == "zone":
            row = {"ticker": "SAP.DE", "datetime": "2025-10-31 09:30:00", "open": 1, "high": 1, "low": 1, "close": 1}
            legacy_files.insert(connection, "intraday_data", [row])
            return "2025-10-31 09:30:00.*--timezone.*Europe/Berlin"
        if reason == "column":
            connection.execute("DROP TABLE metadata")
            connection.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
            return "metadata has no column ticker"
        if reason == "view":
            connection.execute("DROP TABLE metadata")
            connection.execute("CREATE VIEW metadata AS SELECT ticker FROM daily_data")
            return "metadata is a view"
        connection.execute("CREATE TABLE bar_revisions (a)")
        return "the name bar_revisions is wanted"


@pytest.mark.parametrize("reason", ["users", "zone", "column", "view", "name"])
@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_looking_and_refusing_change_not_one_byte(reason: str, journal: str, tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "O" if reason == "users" else "A")
    complaint = await make_refused(path, reason)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    before = folder_of(path)
    with pytest.raises(ConfigurationError, match=complaint):
        await adopt(path)
    assert folder_of(path) == before
    report = await adopt(path, dry_run=True)
    assert report.refusals
    assert not report.changed
    assert folder_of(path) == before


HOLDER = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1])
other.execute("PRAGMA journal_mode = WAL")
other.execute("INSERT INTO portfolio_positions (ticker, shares) VALUES ('IN THE LOG', 1)")
other.commit()
print("ready", flush=True)
sys.stdin.readline()
"""


@contextlib.asynccontextmanager
async def held_by_another(path: Path) -> AsyncIterator[None]:
    """Let another process have a file open, with a row in its write-ahead log."""
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDER, str(path), stdin=pipe, stdout=pipe)
    assert other.stdout is not None
    try:
        assert await other.stdout.readline() == b"ready\n"
        yield
    finally:
        await other.communicate(b"\n")


async def test_a_log_that_others_use_or_left_is_read_and_not_touched(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "A")
    left = tmp_path / "left"
    left.mkdir()
    async with held_by_another(path):
        before = folder_of(path)
        assert set(before) == {"old.db", "old.db-wal", "old.db-shm"}
        report = await adopt(path, dry_run=True)
        assert {table.name: table.rows for table in report.tables}["portfolio_positions"] == 3
        assert folder_of(path) == before
        for name in ("old.db", "old.db-wal"):
            (left / name).write_bytes((tmp_path / name).read_bytes())
    before = folder_of(left / "old.db")
    report = await adopt(left / "old.db", dry_run=True)
    assert {table.name: table.rows for table in report.tables}["portfolio_positions"] == 3
    assert folder_of(left / "old.db") == before
    report = await adopt(left / "old.db")
    assert (report.journal_mode, report.tables[-1].kept) == ("wal", 3)


async def test_a_dry_run_says_what_adopting_does(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "P2")
    before = folder_of(path)
    dry = await adopt(path, dry_run=True)
    assert folder_of(path) == before
    real = await adopt(path)
    for said, done in zip(dry.tables, real.tables, strict=True):
        assert said == done


@pytest.mark.parametrize("shape", ["A", "P", "O"])
@pytest.mark.parametrize("dry_run", [True, False])
async def test_it_is_told_how_far_the_work_is_within_one_table(shape: str, dry_run: bool, tmp_path: Path) -> None:
    bar = legacy_files.ROWS["daily_data"][0]
    many = [{**bar, "ticker": f"T{number}", "close": 1.5} for number in range(30_000)]
    path = legacy_files.make(tmp_path / "old.db", shape, {**legacy_files.ROWS, "daily_data": many})
    told: list[tuple[str, float]] = []
    await adopt(path, dry_run=dry_run, progress=lambda name, done: told.append((name, done)))
    parts = [done for _, done in told]
    assert parts == sorted(parts)
    for name in ("looking at daily_data", *([] if dry_run else ["writing daily_data"])):
        within = {done for said, done in told if said == name}
        assert len(within) > 2
        assert max(within) - min(within) > 0.1


async def test_one_user_is_chosen_and_the_others_rows_are_kept(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "O")
    await make_refused(path, "users")
    with pytest.raises(ConfigurationError, match="there is no user 3"):
        await adopt(path, user=3)
    report = await adopt(path, user=2)
    tables = {table.name: table for table in report.tables}
    assert (tables["portfolio_positions"].rows, tables["portfolio_positions"].kept) == (4, 1)
    assert tables["signal_history"].kept == 0
    assert tables["daily_data"].kept > 0  # bars are everybody's
    with legacy_files.opened(path) as connection:
        assert connection.execute("SELECT ticker, shares FROM portfolio_positions").fetchall() == [("AAPL", 2)]
        kept = connection.execute(
            "SELECT original_values FROM adoption_rejects WHERE table_name = 'portfolio_positions'"
        )
        assert {json.loads(text)["user_id"] for (text,) in kept} == {1}


async def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    async with DatabaseManager(f"sqlite:///{path}") as db:
        await db.init_db()
    for revision, complaint in (("001", "run `traderrr-data upgrade`"), ("999", "install a newer")):
        with legacy_files.opened(path) as connection:
            connection.execute("UPDATE traderrr_data_version SET version_num = ?", (revision,))
        with pytest.raises(SchemaMismatchError, match=complaint):
            await adopt(path)


async def test_the_zone_that_is_said_is_that_of_local_times(tmp_path: Path) -> None:
    rows: dict[str, Any] = dict(legacy_files.ROWS)
    bar = rows["intraday_data"][0]
    times = ("2025-07-01 09:30:00", "2025-12-01 09:30:00", "2025-11-02 01:30:00", "2025-10-31 09:30:00-04:00")
    rows["intraday_data"] = [{**bar, "datetime": time} for time in times]
    path = legacy_files.make(tmp_path / "old.db", "A", rows)
    with pytest.raises(ConfigurationError, match="no time zone 'Mars'"):
        await adopt(path, timezone="Mars")
    report = await adopt(path, timezone="America/New_York", timeframe="60m")
    with legacy_files.opened(path) as connection:
        stored = connection.execute("SELECT datetime, timeframe FROM intraday_data").fetchall()
        assert [time for time, _ in stored] == [
            "2025-07-01 13:30:00",
            "2025-10-31 13:30:00",
            "2025-11-02 05:30:00",
            "2025-12-01 14:30:00",
        ]
        assert {timeframe for _, timeframe in stored} == {"1h"}
        (updated,) = connection.execute("SELECT last_updated FROM metadata WHERE ticker = 'AAPL'").fetchone()
    assert updated == "2025-10-31 22:01:02.345678"
    changes = {table.name: table.changes + table.notes for table in report.tables}["intraday_data"]
    assert changes["datetime: an instant that the clock showed twice, or not at all, was read as the first"] == 1


def test_the_command_says_what_it_found_and_did(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "T")
    looked = command("adopt", path, "--dry-run", cwd=tmp_path, code=0)
    assert "nothing was changed" in looked.stdout
    assert "table trade_log" in looked.stdout
    document = json.loads(command("--json", "adopt", path, cwd=tmp_path, code=3).stdout)
    assert (document["changed"], document["rejected"]) == (True, 4)
    assert Path(document["backup"]).exists()
    assert "nothing is to be done" in command("adopt", path, cwd=tmp_path, code=0).stdout
    assert "changeover is over" in command("adopt", path, "--finish", cwd=tmp_path, code=0).stdout
    command("--database-url", f"sqlite:///{path}", "check", cwd=tmp_path, code=0)
    assert command("adopt", "absent.db", cwd=tmp_path, code=1).stderr.startswith("traderrr-data: there is no file")


def test_the_command_asks_for_what_only_the_owner_knows(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "A")
    asyncio.run(make_refused(path, "zone"))
    for options in ((), ("--dry-run",)):
        assert "--timezone" in command("adopt", path, *options, cwd=tmp_path, code=1).stderr
