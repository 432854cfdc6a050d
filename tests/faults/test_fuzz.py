"""The driver of the nox session `fuzz`, for a short while, and that it finds what is broken."""

from __future__ import annotations

import subprocess
import sys

from tests.project import ROOT


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.fuzz", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_partly_bad_files_are_read_or_refused_and_nothing_else() -> None:
    done = fuzz("--seconds", "15", "--seed", "1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "0 of them broke something" in done.stdout


def test_a_case_can_be_made_again() -> None:
    first, again = (fuzz("--only", "7").stdout.splitlines()[:-1] for _ in range(2))
    assert first == again
