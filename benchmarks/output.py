"""The report on a terminal, in a document and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.race import Track
from benchmarks.report import Sheet

BEGIN: Final = "<!-- benchmark: begin -->"
END: Final = "<!-- benchmark: end -->"

_PACKAGES: Final = (
    "traderrr-data",
    "SQLAlchemy",
    "asyncpg",
    "aiomysql",
    "aiosqlite",
    "pyarrow",
    "numpy",
    "pgpq",
    "pandas",
    "psycopg",
    "PyMySQL",
    "polars",
    "connectorx",
    "adbc-driver-postgresql",
    "advanced-alchemy",
)
_UNLIMITED: Final = 1_000_000
"""Columns of a line that goes to a pipe or a file: rich would cut it at 80."""


def facts(**options: object) -> dict[str, Any]:
    """Return where, with what packages and with which options a run is done."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {_memory()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": sys.version.split()[0],
        **options,
        **{name: version for name in _PACKAGES if (version := _version(name))},
    }


def _memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def show(sheets: Iterable[Sheet], console: Console) -> None:
    """Print tables for people."""
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for position, column in enumerate(sheet.columns):
            table.add_column(column, justify="left" if position < sheet.words else "right", overflow="fold")
        for row in sheet.rows:
            table.add_row(*row)
        console.print()
        console.print(table)
        for note in sheet.notes:
            console.print(f"  {note}", soft_wrap=True)


def console() -> Console:
    """Return where the report is printed; a pipe gets whole lines."""
    return Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else _UNLIMITED)


def write_json(path: Path, track: Track, facts: Mapping[str, Any]) -> None:
    """Write every single timing, and where they were taken."""
    left_out = [
        {"database": database, "workload": workload, "work": work, **asdict(contestant)}
        for (database, workload, work), contestants in track.left_out.items()
        for contestant in contestants
    ]
    document = {"facts": facts, "timings": [asdict(timing) for timing in track.timings], "left_out": left_out}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def place_in(path: Path) -> tuple[str, str]:
    """Return what stands before and after the tables in a document; nothing for one that is not there.

    Raises:
        ValueError: the document has no marks for them.
    """
    if not path.exists():
        return "", "\n"
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path.name} has no place for the tables between {BEGIN} and {END}")
    return before, after


def write_markdown(path: Path, sheets: Iterable[Sheet]) -> None:
    """Write the tables into a document, between its two marks."""
    before, after = place_in(path)
    tables = "\n".join(_markdown(sheet) for sheet in sheets)
    path.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}", encoding="utf-8")


def _markdown(sheet: Sheet) -> str:
    ruler = ["---" if position < sheet.words else "---:" for position in range(len(sheet.columns))]
    lines = [f"### {sheet.title}", ""]
    if sheet.rows:
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in (sheet.columns, ruler, *sheet.rows)]
        lines.append("")
    for note in sheet.notes:
        lines += [f"- {_cell(note)}"]
    return "\n".join([*lines, ""] if sheet.notes else lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
