"""What adopting found and did."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

REJECTS = "adoption_rejects"
"""The table of the rows that could not become rows of ours."""

DUPLICATE = (
    "another row has the same key: the one with the newest updated_at was kept, else the one with the highest rowid"
)


@dataclass
class TableReport:
    """What became of one table.

    Attributes:
        name: the table.
        shape: in which shape it was: 'A', 'S', 'P', 'O', 'absent', 'ours', or 'other'.
        rows: how many rows it had.
        kept: how many of them are rows now.
        rejected: how many rows went to `adoption_rejects`, by reason; duplicates included.
        changes: how many values were brought into form, by column and kind of change.
        notes: how many values or rows were kept as they are though they are remarkable, by kind.
        extra_columns: columns that our table does not have; their values are in `extra_table`.
        extra_table: where they are, None if there is none.
        left_out: columns that are in the backup only.
        rebuilt: whether the table was, or in a dry run would be, made anew.
    """

    name: str
    shape: str
    rows: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    extra_columns: tuple[str, ...] = ()
    extra_table: str | None = None
    left_out: tuple[str, ...] = ()
    rebuilt: bool = False

    @property
    def duplicates(self) -> int:
        """How many rows lost against another with the same key."""
        return self.rejected[DUPLICATE]


@dataclass
class AdoptionReport:
    """What `adopt` found and did.

    Attributes:
        path: the file.
        dry_run: nothing was changed, only looked at.
        changed: the file was changed; False also where nothing was to be done.
        revision: the file's revision now, None before adoption.
        backup: the copy that was made before anything was changed.
        tables: what became of each table of ours.
        others: tables, views and triggers of others, which are left as they are.
        notes: what else its owner should know.
        refusals: why it is not adopted as it is; empty unless this is a dry run.
        zone: the zone in which metadata.last_updated without an offset was read.
        finished: the changeover is over.
        journal_mode: of the file now.
        adopted_at: when, in UTC.
        seconds: how long it took.
    """

    path: Path
    dry_run: bool
    changed: bool = False
    revision: str | None = None
    backup: Path | None = None
    tables: list[TableReport] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    zone: str | None = None
    finished: bool = False
    journal_mode: str = ""
    adopted_at: dt.datetime | None = None
    seconds: float = 0.0

    @property
    def rejected(self) -> int:
        """How many rows went to `adoption_rejects`."""
        return sum(table.rejected.total() for table in self.tables)
