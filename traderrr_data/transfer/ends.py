"""Where a copy comes from and where it goes: what either end of it must be able to do."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import sqlalchemy as sa

from traderrr_data.errors import ConfigurationError
from traderrr_data.settings import Settings
from traderrr_data.transfer.digest import Digest
from traderrr_data.transfer.layout import Layout
from traderrr_data.transfer.reading import Page, Span
from traderrr_data.transfer.result import Ledger

End: TypeAlias = str | Path | sa.URL | Settings
"""A database's URL or settings, or a directory: a Path, or text without ``://``."""


class Source(Protocol):
    """One snapshot of what is copied; nothing is written to it.

    Attributes:
        name: what it is called, without its secrets.
        identity: tells it from all other sources, also in a later run.
        place: tells it from the target, however either is spelled.
        origin: the database, or a file of the copy: who may not read it may not read what is made of it.
        engine: the kind of database, or of files.
        revision: the schema's.
        snapshot_at: its moment.
        not_copied: tables and columns that are none of ours.
    """

    name: str
    identity: str
    place: str
    origin: sa.URL | Path
    engine: str
    revision: str
    snapshot_at: dt.datetime
    not_copied: tuple[str, ...]

    def layouts(self) -> list[Layout]:
        """Return its tables, each behind those that it refers to."""

    async def count(self, layout: Layout) -> int:
        """Return the number of a table's rows."""

    def pages(self, layout: Layout, ledger: Ledger) -> AsyncGenerator[Page, None]:
        """Yield a table's rows by their key."""


class Target(Protocol):
    """Where the rows go.

    Attributes:
        name: what it is called, without its secrets.
        place: tells it from the source.
        exact_decimals: it holds every decimal of a column's precision.
        writers: how many pages it takes at once.
    """

    name: str
    place: str
    writers: int
    exact_decimals: bool

    async def prepare(self, source: Source) -> None:
        """Bring its tables to the source's revision.

        Raises:
            SchemaMismatchError: they are not ours, of another version, or hold rows that would be migrated first.
        """

    async def unfinished(self) -> str | None:
        """Return the identity of the source whose copy has begun here and is not complete; None if there is none."""

    async def begin(self, source: Source) -> None:
        """Mark it as incomplete, before the first row; a run that had begun may write no more."""

    async def count(self, layout: Layout) -> int:
        """Return the number of a table's rows."""

    async def write(self, layout: Layout, number: int, page: Page, digest: Digest, *, is_empty: bool) -> bool:
        """Make a page's range hold just its rows, as a whole or not at all; False if it did already.

        Args:
            layout: of the table.
            number: of the page, from 0.
            page: the rows.
            digest: theirs.
            is_empty: the table had no rows when the copy began.
        """

    async def digest(self, layout: Layout, number: int, span: Span) -> Digest:
        """Return the digest of what is really there in the span of a page."""

    async def empty(self, layout: Layout) -> None:
        """Remove a table's rows."""

    async def finish(self, source: Source, tables: Sequence[tuple[Layout, Sequence[Digest]]]) -> None:
        """Do what comes after the last row, and mark it as complete; each table comes with its pages' digests."""

    async def settle(self) -> None:
        """Bring its tables to this version's head, if they are of an older source's revision."""

    async def clear(self, layouts: Sequence[Layout]) -> None:
        """Remove the rows of tables, and the mark: it is as it was before the copy began."""


def directory_of(end: End) -> Path | None:
    """Return the directory that is meant; None if it is a database.

    Raises:
        ConfigurationError: it is a file.
    """
    if isinstance(end, sa.URL | Settings) or (isinstance(end, str) and "://" in end):
        return None
    path = Path(end).expanduser()
    if path.exists() and not path.is_dir():
        raise ConfigurationError(
            f"{path} is a file: a database is named by its URL (scheme:///path), and a copy in files by its directory"
        )
    return path
