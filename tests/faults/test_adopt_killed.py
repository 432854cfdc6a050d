"""Adopting a file that is interrupted in any way: the file is as before or adopted, and the next run finishes."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import legacy_files
from tests.project import ROOT
from traderrr_data import ConfigurationError, DatabaseUnavailableError, TransactionConflictError, schema
from traderrr_data.adopt import adopt
from traderrr_data.adopt.head import head_of
from traderrr_data.adopt.work import Work

# Kills itself at the step whose number it is given; without one it prints how many there are.
PROGRAM = """
import os, signal, sys
import sqlalchemy as sa
from traderrr_data import schema
from traderrr_data.adopt.head import head_of
from traderrr_data.adopt.work import Work

path, fatal = sys.argv[1], int(sys.argv[2])
steps = 0

def step(name, done):
    global steps
    if steps == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    steps += 1

Work(path, head_of(schema.sql(sa.make_url("sqlite://"))), step=step).run()
print(steps)
"""


def dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def is_adopted(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'traderrr_data_version'").fetchone()
    return found is not None


def total(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (rejected,) = connection.execute("SELECT count(*) FROM adoption_rejects").fetchone()
    return sum(legacy_files.counts(path).values()) + int(rejected)


def run(path: Path, fatal: int, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(path), str(fatal)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.backup-*"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with some rows of each kind."""
    rows = dict(legacy_files.ROWS)
    bar = rows["daily_data"][0]
    rows["daily_data"] = [*rows["daily_data"], *({**bar, "ticker": f"T{n}"} for n in range(2_000))]
    return legacy_files.make(tmp_path_factory.mktemp("original") / "old.db", "T", rows)


async def test_killed_at_any_step_the_file_is_as_before_or_adopted(original: Path, tmp_path: Path) -> None:
    before, rows = dump(original), sum(legacy_files.counts(original).values())
    steps = int(run(Path(shutil.copy2(original, tmp_path / "whole.db")), -1).stdout)
    assert steps > 15
    outcomes = set()
    for fatal in range(steps):
        path = tmp_path / str(fatal) / "old.db"
        path.parent.mkdir()
        shutil.copy2(original, path)
        assert run(path, fatal).returncode == -signal.SIGKILL
        left = backups(path)
        outcomes.add(is_adopted(path))
        if not is_adopted(path):
            assert dump(path) == before
        report = await adopt(path)
        assert total(path) == rows
        assert report.revision == schema.head()
        for copy in {*left, *backups(path)} - {one for one in left if one.name.endswith(".part")}:
            assert dump(copy) == before, f"the copy of a run that was killed at step {fatal}"
        assert not list(path.parent.glob("*.part*"))
        assert (await adopt(path)).changed is False
    assert outcomes == {False, True}  # the last step is after the commit


async def test_killed_at_any_time_the_file_is_as_before_or_adopted(original: Path, tmp_path: Path) -> None:
    before, rows = dump(original), sum(legacy_files.counts(original).values())
    command = [sys.executable, "-c", PROGRAM.replace("steps = 0\n", "steps = 0\nprint('go', flush=True)\n", 1)]
    for part in range(12):
        path = tmp_path / str(part) / "old.db"
        path.parent.mkdir()
        shutil.copy2(original, path)
        child = await asyncio.create_subprocess_exec(
            *command, str(path), "-1", env={"PYTHONPATH": str(ROOT), "PATH": ""}, stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        await child.stdout.readline()
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            await asyncio.wait_for(child.wait(), part * 0.02)
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        if not is_adopted(path):
            assert dump(path) == before
        await adopt(path)
        assert total(path) == rows


@pytest.mark.parametrize("pages", [10, 90])
def test_without_room_the_file_stays_as_it_was(original: Path, tmp_path: Path, pages: int) -> None:
    path = Path(shutil.copy2(original, tmp_path / "old.db"))
    before = dump(path)
    limit = pages * 4096

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert (path.stat().st_size < limit) == (pages == 90)  # the copy fits, what is written after it does not
    done = subprocess.run(
        [sys.executable, "-m", "traderrr_data", "adopt", str(path)],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert dump(path) == before
    assert backups(path) == []


async def test_a_file_that_another_process_holds_is_left_alone(original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy2(original, tmp_path / "old.db"))
    before = dump(path)
    for statement in ("BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM daily_data"):
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            for part in statement.split(";"):
                other.execute(part).fetchall()
            with pytest.raises(
                TransactionConflictError, match="another process is using the file; nothing was changed"
            ):
                await adopt(path, lock_timeout=0.3)
    assert dump(path) == before
    assert backups(path) == []


def test_nobody_writes_while_the_file_is_copied(original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy2(original, tmp_path / "old.db"))
    program = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    errors = []

    def write(name: str, _done: float) -> None:
        if name == "copying the file":
            done = subprocess.run(
                [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
            )
            errors.append(done.stderr.splitlines()[-1:])

    Work(path, head_of(schema.sql(sa.make_url("sqlite://"))), step=write).run()
    assert len(errors) > 1
    assert {*map(tuple, errors)} == {("sqlite3.OperationalError: database is locked",)}


async def test_two_that_adopt_at_once_do_it_once(original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy2(original, tmp_path / "old.db"))
    reports = await asyncio.gather(adopt(path), adopt(path))
    assert sorted(report.changed for report in reports) == [False, True]
    assert len(backups(path)) == 1


@pytest.mark.parametrize("at", ["looking", "copying the file", "writing daily_data", "checking", "committing"])
async def test_cancelled_it_leaves_the_file_as_it_was(original: Path, tmp_path: Path, at: str) -> None:
    path = Path(shutil.copy2(original, tmp_path / "old.db"))
    before = dump(path)
    reached = asyncio.Event()
    task = asyncio.create_task(adopt(path, progress=lambda name, _: reached.set() if name == at else None))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("adopt")]
    if is_adopted(path):  # the loop may be told of a step after it
        assert at in ("checking", "committing")
    else:
        assert dump(path) == before
        assert backups(path) == []


async def test_a_change_that_was_left_half_done_is_undone_first_but_not_by_a_dry_run(tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", "A")
    program = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
                   " INSERT INTO system_events (description) SELECT 'x' || i FROM n")
os.kill(os.getpid(), signal.SIGKILL)
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False)
    assert (tmp_path / "old.db-journal").stat().st_size > 0
    bytes_before = [(file.name, file.read_bytes()) for file in sorted(tmp_path.iterdir())]
    with pytest.raises(DatabaseUnavailableError, match="half done"):
        await adopt(path, dry_run=True)
    assert [(file.name, file.read_bytes()) for file in sorted(tmp_path.iterdir())] == bytes_before
    report = await adopt(path)
    assert {table.name: table.rows for table in report.tables}["system_events"] == 2


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    rows = dict(legacy_files.ROWS)
    rows["daily_data"] = [{**rows["daily_data"][0], "ticker": f"T{n}"} for n in range(2_000)]
    path = legacy_files.make(tmp_path / "old.db", "A", rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match="cut off"):
        await adopt(path)
    path.write_bytes(whole[:8192] + b"\xa5" * 40_960 + whole[49_152:])
    damaged = path.read_bytes()
    for dry_run in (True, False):
        with pytest.raises(ConfigurationError, match="damaged"):
            await adopt(path, dry_run=dry_run)
    assert path.read_bytes() == damaged
    assert backups(path) == []
