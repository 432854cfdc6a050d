"""The command ``python -m benchmarks``, on a few rows: what it prints and writes, not how fast anything is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command, and check how it ended."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.unpooled("the opponents prepare statements")
@pytest.mark.parametrize("workloads", [["W3", "W5", "W10"], ["W6", "W7"], ["W8", "W9"]], ids="-".join)
def test_every_workload_prints_ratios_and_writes_every_timing(
    workloads: list[str], database_url: str, tmp_path: Path
) -> None:
    document, timings = tmp_path / "performance.md", tmp_path / "timings.json"
    document.write_text(f"before\n{BEGIN}\nearlier tables\n{END}\nafter\n")
    wanted = [part for workload in workloads for part in ("--workload", workload)]
    small = ("--rows", "200", "--repeat", "1", "--minutes", "2")
    done = run("--database", database_url, *small, *wanted, "--json", timings, "--markdown", document)

    for workload in workloads:
        assert re.search(rf"^{workload}, ", done.stdout, re.MULTILINE)
    assert re.search(r"\d\.\d\d +\d\.\d\d to \d+\.\d\d +(faster|slower|tie)$", done.stdout, re.MULTILINE)
    assert "failed" not in done.stdout

    written = json.loads(timings.read_text())
    assert {"machine", "Python", "SQLAlchemy", "rows", "repetitions"} <= written["facts"].keys()
    assert {timing["workload"] for timing in written["timings"]} == set(workloads)
    assert {"ours", "raw", "by hand"} & {timing["role"] for timing in written["timings"]}
    assert all(timing["seconds"] > 0 for timing in written["timings"])
    assert not any(contestant["failed"] for contestant in written["left_out"])

    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "earlier tables" not in text
    assert text.count("### ") > len(workloads)


def test_a_word_that_names_no_database_or_workload_is_refused() -> None:
    assert "oracle is none of" in run("--database", "oracle", code=2).stderr
    assert "W11 is none of" in run("--workload", "W11", code=2).stderr


def test_a_document_without_a_place_for_the_tables_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("no marks\n")
    assert "has no place for the tables" in run("--markdown", document, code=2).stderr
    assert document.read_text() == "no marks\n"
