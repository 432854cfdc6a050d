"""The command `copy`, as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.project import ROOT


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "traderrr_data", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done


def answer(*arguments: str | Path, code: int = 0) -> Any:
    return json.loads(run("--json", *arguments, code=code).stdout)


def test_both_sides_are_shown_for_every_table(empty_url: str, tmp_path: Path) -> None:
    run("--database-url", empty_url, "quickstart")
    done = run("copy", empty_url, tmp_path / "files")
    lines = [line.split() for line in done.stdout.splitlines()]
    [bars] = [line for line in lines if line[:2] == ["daily_data", "source"]]
    assert ["target", *bars[2:]] in lines
    assert (bars[2], len(bars[3]), len(bars[4])) == ("5,452", 32, 32)
    assert "both sides have the same checksums" in done.stdout
    found = answer("copy", tmp_path / "files", empty_url)
    assert (found["rows"], found["written"], found["not_copied"]) == (5465, 0, [])
    daily = next(table for table in found["tables"] if table["table"] == "daily_data")
    assert daily["source"] == daily["target"] == {"rows": 5452, "keys": bars[3], "checksum": bars[4]}
    merged = answer("copy", tmp_path / "files", empty_url, "--merge")
    assert merged["written"] == 0


def test_what_is_refused_is_listed_with_exit_code_1(empty_url: str, tmp_path: Path) -> None:
    run("--database-url", empty_url, "quickstart")
    changed = "UPDATE daily_data SET observed_at = '0900-01-01 00:00:00' WHERE ticker = 'AAPL'"
    program = (
        "import asyncio, sqlalchemy as sa, sys\n"
        "from traderrr_data import DatabaseManager\n"
        "async def change():\n"
        "    async with DatabaseManager(sys.argv[1]) as db, db.session_context() as session:\n"
        "        await session.execute(sa.text(sys.argv[2]))\n"
        "asyncio.run(change())\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, empty_url, changed], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    done = run("copy", empty_url, tmp_path / "files", code=1)
    assert "daily_data  ticker=AAPL, series=, date=2013-01-02  observed_at" in done.stdout
    assert "and 484 more" in done.stdout
    assert done.stderr == "traderrr-data: 504 values cannot be copied exactly, so nothing was copied\n"
    found = answer("copy", empty_url, tmp_path / "files", code=1)
    assert (found["error"]["type"], found["refused_count"], len(found["refused"])) == ("CopyRefusedError", 504, 100)
    assert found["refused"][0]["reason"] == "0900-01-01 00:00:00+00:00 is before the year 1000"
    assert not (tmp_path / "files").exists()


def test_what_cannot_be_copied_at_all_is_one_sentence(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "file.db").touch()
    run("--database-url", empty_url, "upgrade", "001")
    ends: list[tuple[str | Path, str | Path, str]] = [
        (tmp_path / "file.db", empty_url, "is a file: a database is named by its URL"),
        (tmp_path / "nothing", empty_url, "there is no directory"),
        (empty_url, tmp_path / "files", "run `traderrr-data upgrade`"),
    ]
    for source, target, sentence in ends:
        done = run("copy", source, target, code=1)
        assert sentence in done.stderr
        assert done.stderr.startswith("traderrr-data: ")
        assert done.stderr.count("\n") == 1
    assert run("copy", empty_url, code=2).stderr.startswith("traderrr-data: ")
