"""What the commands say: tables for a person, one JSON document for a machine, and nothing that is cut off."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from traderrr_data.errors import DatabaseUnavailableError, TraderrrDataError

_UNLIMITED = 1_000_000
"""Columns of a line that goes to a pipe or a file: rich would cut it at 80."""

_TITLES = {"stock_splits": "splits", "last_final": "last final"}
_RIGHT = {"open", "high", "low", "close", "volume", "dividends", "stock_splits", "rows"}
_COUNTED = {"volume", "rows"}


class Moved(Protocol):
    """Moves a bar of progress."""

    def __call__(self, done: float | None, note: str = "") -> None:
        """Say which part is done, from 0 to 1, None where that is not known; and anything else worth knowing."""


def show(document: Any, *parts: RenderableType, as_json: bool) -> None:
    """Print to stdout either the document, as JSON, or its parts for a person."""
    if as_json:
        print(json.dumps(document, default=_plain, indent=2))
        return
    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else _UNLIMITED)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return plain_number(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def plain_number(value: Decimal) -> str:
    """Return all digits of a decimal, without the zeros that the column's scale appends."""
    return f"{value.normalize():f}"


def table_of(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    """Return rows as a table; a column that says nothing in any row is left out, except the first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    kept = [name for name in names if name == names[0] or any(row[name] not in (None, "", 0) for row in rows)]
    for name in kept:
        table.add_column(_TITLES.get(name, name), justify="right" if name in _RIGHT else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(name, row[name])) for name in kept))
    return table


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in _COUNTED:
        return f"{value.normalize():,f}" if isinstance(value, Decimal) else f"{value:,d}"
    if isinstance(value, Decimal):
        whole, _, decimals = plain_number(value).partition(".")
        return f"{whole}.{decimals:0<2}"
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    return str(value)


def pairs(values: Iterable[tuple[str, Any]]) -> Table:
    """Return names and values as two columns."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in values:
        table.add_row(Text(name), Text("" if value is None else str(value)))
    return table


@contextlib.contextmanager
def progress(description: str) -> Iterator[Moved | None]:
    """Show a bar on stderr while the block runs, if stderr is a terminal; give what moves it, else None."""
    if not sys.stderr.isatty():
        yield None
        return
    name, note = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[note]"))
    columns = (SpinnerColumn(), name, BarColumn(bar_width=20), TaskProgressColumn(), TimeElapsedColumn(), note)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None, note="")
        yield lambda done, note="": bar.update(
            task, completed=done or 0.0, total=None if done is None else 1.0, note=note
        )


def complain(sentence: str) -> None:
    """Print one line to stderr."""
    print(f"traderrr-data: {sentence}", file=sys.stderr)


def sentence_of(error: BaseException) -> str:
    """Return an error as one line that a person can act on."""
    match error:
        case DatabaseUnavailableError():
            text = f"the database is not available: {error}"
        case TraderrrDataError():
            text = str(error)
        case DBAPIError():
            text = f"the database says: {error.orig}"
        case SQLAlchemyError():
            text = str(error).partition("\n")[0]
        case OSError(filename=str() | PurePath() as name, strerror=str() as reason):
            text = f"{name}: {reason}"
        case _:
            text = str(error)
    return " ".join(text.split()) or type(error).__name__
