"""Backups of SQLite files and the way back: complete beside writers, and whole whatever is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import daily, days, flat
from tests.project import ROOT
from traderrr_data import (
    ConfigurationError,
    DatabaseManager,
    Metadata,
    SchemaMismatchError,
    Settings,
    TransactionConflictError,
    maintenance,
    market_data,
)

JOURNALS = ["wal", "delete"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "bars.db"


@pytest.fixture(params=JOURNALS)
async def db(request: pytest.FixtureRequest, file: Path) -> AsyncIterator[DatabaseManager]:
    """A database at head, with a write-ahead log and without."""
    async with manager(file, request.param) as db:
        await db.init_db()
        yield db


def manager(file: Path, journal: Any = "wal") -> DatabaseManager:
    return DatabaseManager(Settings(database_url=f"sqlite:///{file}", db_sqlite_journal=journal))


async def put(db: DatabaseManager, ticker: str) -> None:
    async with db.session_context() as session:
        session.add(Metadata(ticker=ticker))
        await market_data.upsert_daily(session, [daily(ticker)])


def tickers(path: Path, table: str = "metadata") -> list[str]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [ticker for (ticker,) in connection.execute(f"SELECT ticker FROM {table} ORDER BY ticker")]


def others_beside(file: Path, *known: Path | None) -> set[str]:
    expected = {file.name, f"{file.name}-wal", f"{file.name}-shm", *(path.name for path in known if path is not None)}
    return {path.name for path in file.parent.iterdir()} - expected


@contextlib.contextmanager
def another_process(file: Path, *statements: str) -> Iterator[None]:
    """Let another process run statements on a file, and keep it open."""
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    program += "for s in sys.argv[2:]: c.execute(s).fetchall()\nprint('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(file), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.kill()


def run_python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# --- backup -----------------------------------------------------------------------------------------------------------


async def test_a_backup_beside_writers_is_complete_and_of_one_instant(db: DatabaseManager, file: Path) -> None:
    async with db.session_context() as session:
        await session.execute(sa.text("CREATE TABLE large AS SELECT zeroblob(60000000) AS hole"))
    written = 0
    stop = asyncio.Event()

    async def write(name: str) -> None:
        nonlocal written
        for number in range(10_000):
            if stop.is_set():
                return
            await put(db, f"{name}{number:05}")
            written += 1

    writers = [asyncio.create_task(write(name)) for name in "AB"]
    backups = []
    for _ in range(5):
        before = written
        seen: list[float] = []
        made = await maintenance.backup(db, progress=seen.append)
        backups.append((before, made.path, written))
        assert len(seen) > 5
        assert seen == sorted(seen), "it began anew, as it would for ever beside a writer that is faster"
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*writers)
    assert written > 10
    for before, path, after in backups:
        found = tickers(path)
        assert before <= len(found) <= after + 2
        assert found == tickers(path, "daily_data")
    assert others_beside(file, *(path for _, path, _ in backups)) == set()


async def test_a_backup_has_what_is_only_in_the_log(tmp_path: Path) -> None:
    file = tmp_path / "bars.db"
    async with manager(file) as db:
        await db.init_db()
        with another_process(file, "PRAGMA wal_autocheckpoint=0", "INSERT INTO metadata (ticker) VALUES ('LOG')"):
            made = await maintenance.backup(db)
    assert tickers(made.path) == ["LOG"]
    assert made.path.name.startswith("bars.db.backup-2")
    assert (made.size_bytes, made.removed) == (made.path.stat().st_size, ())


async def test_a_backup_overwrites_nothing(db: DatabaseManager, file: Path) -> None:
    mine = file.with_name("mine")
    mine.write_text("mine")
    for _ in range(2):
        with pytest.raises(FileExistsError):
            await maintenance.backup(db, mine)
    assert mine.read_text() == "mine"
    assert others_beside(file, mine) == set()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400])
async def test_nobody_reads_a_backup_who_cannot_read_the_database(db: DatabaseManager, file: Path, mode: int) -> None:
    file.chmod(mode)
    before = os.umask(0)
    try:
        made = await maintenance.backup(db)
        file.chmod(mode | 0o200)
        restored = await maintenance.restore(db, made.path)
    finally:
        os.umask(before)
    assert made.path.stat().st_mode & 0o777 == mode
    assert restored.replaced is not None
    assert {path.stat().st_mode & 0o777 for path in (file, restored.replaced)} == {mode | 0o200}


async def test_keep_removes_the_oldest_backups_of_this_database_and_nothing_else(
    db: DatabaseManager, file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    # In the order of their names; a legacy file, as adopting keeps one, and a damaged one are none of ours.
    others = ["bars.db.backup-20200101T000000.000000Z", "bars.db.backup-2020", "b.db.backup-20200101T000000.000000Z"]
    for name in others:
        with contextlib.closing(sqlite3.connect(folder / name)) as legacy:
            legacy.execute("CREATE TABLE daily_data (ticker)")
    (folder / "bars.db.backup-20200102T000000.000000Z").write_text("no database")
    others.append("bars.db.backup-20200102T000000.000000Z")
    made = [await maintenance.backup(db, folder) for _ in range(4)]
    future = made[0].path.rename(folder / "bars.db.backup-29990101T000000.000000Z")
    last = await maintenance.backup(db, folder, keep=3)
    assert last.removed == tuple(backup.path for backup in made[1:3])
    assert {path.name for path in folder.iterdir()} == {*others, made[3].path.name, future.name, last.path.name}
    for path, keep in ((folder, 0), (folder / "mine", 2)):
        with pytest.raises(ConfigurationError, match="keep"):
            await maintenance.backup(db, path, keep=keep)


def damage(file: Path) -> None:
    """Overwrite some pages in the middle of a database."""
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2 // 4096 * 4096)
        damaged.write(b"\xff" * 4096 * 8)


async def test_a_backup_of_a_damaged_database_is_refused_and_leaves_the_older_ones(
    db: DatabaseManager, file: Path
) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=day) for day in days(3_000)])
    good = await maintenance.backup(db)
    await db.close()
    damage(file)
    with pytest.raises(ConfigurationError):
        await maintenance.backup(db, keep=1)
    assert others_beside(file, good.path) == set()
    await maintenance.restore(db, good.path)
    async with db.session_context(read_only=True) as session:
        assert len(await market_data.list_daily(session, "AAPL")) == 3_000


async def test_a_cancelled_backup_ends_at_once_and_leaves_nothing(db: DatabaseManager, file: Path) -> None:
    async with db.session_context() as session:
        await session.execute(sa.text("CREATE TABLE large AS SELECT zeroblob(150000000) AS hole"))
    for progress_wanted in (1, 3, 6):
        seen: list[float] = []
        half_way = asyncio.Event()

        def progress(done: float, seen: list[float] = seen, wanted: int = progress_wanted) -> None:
            seen.append(done)
            if len(seen) == wanted:
                half_way.set()  # noqa: B023 - it is called while this round lasts

        task = asyncio.create_task(maintenance.backup(db, progress=progress))
        await half_way.wait()
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 1
        assert seen == sorted(seen)
        assert others_beside(file) == set()
        with contextlib.closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")


# --- restore ----------------------------------------------------------------------------------------------------------


async def test_a_restored_database_is_what_was_backed_up_and_the_old_one_is_kept(
    db: DatabaseManager, file: Path
) -> None:
    await put(db, "OLD")
    made = await maintenance.backup(db)
    await put(db, "NEW")
    journal = await pragma(db, "journal_mode")
    restored = await maintenance.restore(db, made.path)
    assert restored.replaced is not None
    assert (tickers(file), tickers(restored.replaced)) == (["OLD"], ["NEW", "OLD"])
    await put(db, "GOES ON")
    assert await pragma(db, "journal_mode") == journal
    assert tickers(file) == ["GOES ON", "OLD"]
    assert others_beside(file, made.path, restored.replaced) == set()


async def pragma(db: DatabaseManager, name: str) -> Any:
    async with db.session_context(read_only=True) as session:
        return await session.scalar(sa.text(f"PRAGMA {name}"))


async def test_a_link_to_a_database_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "bars.db"
    link.symlink_to(tmp_path / "real" / "bars.db")
    async with manager(link) as db:
        await db.init_db()
        made = await maintenance.backup(db)
        restored = await maintenance.restore(db, made.path)
    assert link.is_symlink()
    assert {made.path.parent, restored.replaced and restored.replaced.parent} == {tmp_path / "real"}


@pytest.mark.parametrize("statements", [["SELECT count(*) FROM metadata"], ["BEGIN IMMEDIATE"]])
async def test_a_database_that_another_process_uses_is_not_replaced(
    db: DatabaseManager, file: Path, statements: list[str]
) -> None:
    made = await maintenance.backup(db)
    await put(db, "NEW")
    with another_process(file, *statements), pytest.raises(TransactionConflictError):
        await maintenance.restore(db, made.path)
    assert tickers(file) == ["NEW"]
    assert others_beside(file, made.path) == set()
    await maintenance.restore(db, made.path)
    assert tickers(file) == []


async def test_a_database_that_this_process_still_uses_is_not_replaced(db: DatabaseManager, file: Path) -> None:
    made = await maintenance.backup(db)
    async with manager(file) as other:
        await put(other, "NEW")
        with pytest.raises(TransactionConflictError, match="this one"):
            await maintenance.restore(db, made.path)

        async def work(session: AsyncSession) -> None:
            session.add(Metadata(ticker="OPEN"))
            await session.flush()
            with pytest.raises(TransactionConflictError, match="this one"):
                await maintenance.restore(db, made.path)
            # It has its lock still, and another process does not get it.
            rival = f"import sqlite3; sqlite3.connect({str(file)!r}, 0).execute('BEGIN IMMEDIATE')"
            locked = await asyncio.to_thread(run_python, rival)
            assert "database is locked" in locked.stderr

        await other.run(work)
    assert tickers(file) == ["NEW", "OPEN"]


@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated", "absent"])
async def test_a_damaged_database_is_replaced_and_kept_with_its_log(
    db: DatabaseManager, file: Path, damage: str
) -> None:
    await put(db, "OLD")
    made = await maintenance.backup(db)
    await db.close()
    whole = file.read_bytes()
    log = file.with_name("bars.db-wal")
    # A log that fits a database of the same pages: with the new file it would be written into it.
    with another_process(file, "PRAGMA journal_mode=WAL", "INSERT INTO metadata (ticker) VALUES ('STALE')"):
        stale = log.read_bytes()
    content = {"garbage": b"\xff" * 8192, "empty": b"", "truncated": whole[:50], "absent": None}[damage]
    log.write_bytes(stale)
    file.with_name("bars.db-shm").unlink(missing_ok=True)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    restored = await maintenance.restore(db, made.path)
    assert tickers(file) == ["OLD"]
    if content is not None:
        assert restored.replaced is not None
        assert restored.replaced.read_bytes() == content
        assert restored.replaced.with_name(f"{restored.replaced.name}-wal").read_bytes() == stale
    else:
        assert restored.replaced is None
    await put(db, "GOES ON")
    assert tickers(file) == ["GOES ON", "OLD"]


async def test_what_is_no_backup_is_refused_before_anything_is_changed(db: DatabaseManager, file: Path) -> None:
    await put(db, "OLD")
    await db.close()
    legacy, garbage, newer, damaged = (file.with_name(name) for name in ("legacy", "garbage", "newer", "damaged"))
    with contextlib.closing(sqlite3.connect(legacy)) as connection:
        connection.execute("CREATE TABLE daily_data (ticker)")
    garbage.write_bytes(b"\x01" * 5_000)
    made = await maintenance.backup(db, newer)
    with contextlib.closing(sqlite3.connect(made.path)) as connection:
        connection.execute("UPDATE traderrr_data_version SET version_num = '999'")
        connection.execute("UPDATE traderrr_data_compat SET oldest_code_revision = '999'")
        connection.commit()
    damage((await maintenance.backup(db, damaged)).path)
    await db.close()
    before = file.read_bytes()
    kinds: dict[Path, type[Exception]] = {
        legacy: SchemaMismatchError,
        garbage: ConfigurationError,
        newer: SchemaMismatchError,
        damaged: ConfigurationError,
    }
    kinds |= {file: ConfigurationError, file.with_name("absent"): FileNotFoundError}
    for path, kind in kinds.items():
        with pytest.raises(kind):
            await maintenance.restore(db, path)
    assert file.read_bytes() == before
    assert others_beside(file, legacy, garbage, newer, damaged) == set()


async def test_a_database_in_memory_has_no_backup() -> None:
    async with DatabaseManager("sqlite://") as db:
        await db.init_db()
        with pytest.raises(ConfigurationError, match="memory"):
            await maintenance.backup(db)


# Runs a command again and again in a child, and kills it with -9 at its first, second, ... look at a file.
KILLER = """
import asyncio, os, pathlib, shutil, signal, sqlite3, sys
from traderrr_data import DatabaseManager, maintenance
import traderrr_data.maintenance.sqlite

what, template, folder = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
file = folder / "bars.db"
EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.chmod", "os.chown", "sqlite3.connect", "os.mkdir"}

async def command():
    async with DatabaseManager(f"sqlite:///{file}") as db:
        if what == "backup":
            await maintenance.backup(db, keep=1)
        else:
            await maintenance.restore(db, folder / "backup")

def child(step):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in EVENTS and str(folder) in str(arguments):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    asyncio.run(command())
    os._exit(0)

def look(path):
    with sqlite3.connect(f"file:{path}?mode=rw", uri=True) as c:
        assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",), path
        found = [t for (t,) in c.execute("SELECT ticker FROM metadata ORDER BY ticker")]
        assert found == [t for (t,) in c.execute("SELECT ticker FROM daily_data ORDER BY ticker")]
    c.close()
    return found

def wait(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

for step in range(1, 1000):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    if not (process := os.fork()):
        child(step)
    code = wait(process)
    assert code in (0, -9), code
    backups = sorted(folder.glob("bars.db.backup-*Z"))
    print(code, *look(file), "|", *[len(look(path)) for path in backups], flush=True)
    if code == 0:
        break
    if not (process := os.fork()):
        child(0)
    assert wait(process) == 0
    assert not list(folder.glob("*.part*")), list(folder.iterdir())
    for path in folder.glob("bars.db.replaced-*Z"):
        assert look(path) == ["NEW", "OLD"] or what == "restore", path
    assert look(file) == (["OLD"] if what == "restore" else ["NEW", "OLD"])
"""


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("what", ["backup", "restore"])
async def test_killed_at_any_step_the_database_is_the_old_one_or_the_new_one(
    tmp_path: Path, what: str, journal: str
) -> None:
    template = tmp_path / "template"
    template.mkdir()
    async with manager(template / "bars.db", journal) as db:
        await db.init_db()
        await put(db, "OLD")
        await maintenance.backup(db, template / "backup")
        await put(db, "NEW")
        done = await asyncio.to_thread(run_python, KILLER, what, template, tmp_path / "work")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert len(lines) > 12
    assert lines[-1][0] == "0"
    states = {line for _, line in lines}
    if what == "restore":
        assert states == {"NEW OLD |", "OLD |"}
    else:
        assert states == {"NEW OLD |", "NEW OLD | 2"}


LATE = """
import asyncio, pathlib, sqlite3, sys
from traderrr_data import DatabaseManager, maintenance

file, late = pathlib.Path(sys.argv[1]), []

def hook(event, arguments):
    if event == "os.rename" and str(arguments[1]) == str(file):
        late.append(sqlite3.connect(file, check_same_thread=False))

async def main():
    async with DatabaseManager(f"sqlite:///{file}") as db:
        await maintenance.restore(db, sys.argv[2])

sys.addaudithook(hook)
asyncio.run(main())
(connection,) = late
try:
    connection.execute("INSERT INTO metadata (ticker) VALUES ('LOST')")
    connection.commit()
except sqlite3.DatabaseError as error:
    print(error)
connection.close()
"""


async def test_whoever_came_too_late_gets_an_error_and_writes_nothing_into_a_void(
    db: DatabaseManager, file: Path
) -> None:
    await put(db, "OLD")
    made = await maintenance.backup(db)
    await db.close()
    done = await asyncio.to_thread(run_python, LATE, file, made.path)
    assert done.stdout == "file is not a database\n", done.stderr
    assert tickers(file) == ["OLD"]


async def test_prices_come_back_as_they_were(db: DatabaseManager, file: Path) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(**flat("269.2799987793"))])
    made = await maintenance.backup(db)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(**flat(1))])
    await maintenance.restore(db, made.path)
    async with db.session_context(read_only=True) as session:
        (bar,) = await market_data.list_daily(session, "AAPL")
    assert str(bar.close.normalize()) == "269.2799987793"
