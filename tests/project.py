"""The project's own files: a copy of them that a test may change, and the commands that people run in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_COPIED: Final = ("traderrr_data", "migrations", "alembic.ini", "pyproject.toml")
_SECONDS: Final = 120


@dataclass(frozen=True)
class Project:
    """A checkout of the project.

    Attributes:
        root: the folder with alembic.ini.
    """

    root: Path

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this interpreter's in the project; a failure is for the caller to look at."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.root,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def environment(self, **variables: str) -> dict[str, str]:
        """Return this process's variables, with some of a command's own."""
        return {**os.environ, "PYTHONPATH": str(self.root), **variables}

    def alembic(self, url: str, *arguments: str) -> str:
        """Run `alembic` and return what it printed; AssertionError with its complaint if it fails."""
        done = self.run("-m", "alembic", *arguments, DATABASE_URL=url)
        assert done.returncode == 0, f"alembic {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def add_revision(self, number: str, *, after: str, upgrade: str, downgrade: str = "pass") -> None:
        """Write one more migration, with one statement a line."""
        indented = {"up": upgrade.strip().replace("\n", "\n    "), "down": downgrade.strip().replace("\n", "\n    ")}
        (self.root / "migrations/versions" / f"{number}_of_a_test.py").write_text(
            f'"""A migration of a test."""\n\n'
            f"import sqlalchemy as sa\nfrom alembic import op\n\n"
            f"revision, down_revision, branch_labels, depends_on = {number!r}, {after!r}, None, None\n\n\n"
            f"def upgrade():\n    {indented['up']}\n\n\n"
            f"def downgrade():\n    {indented['down']}\n",
            encoding="utf-8",
        )

    def replace(self, file: str, old: str, new: str) -> None:
        """Change a file; AssertionError unless the text is in it once."""
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")


def copy_to(folder: Path) -> Project:
    """Return a copy of the project that a test may change."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "sample"))
        else:
            shutil.copy2(source, folder / name)
    return Project(folder)
