"""What a copy tells: how far it is, what became of each table, and which values could not be copied."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias

from traderrr_data.errors import CopyRefusedError, RefusedValue
from traderrr_data.transfer.digest import Digest

_LISTED = 100


Phase: TypeAlias = Literal["checking", "copying", "verifying"]


class CopyProgress(NamedTuple):
    """How far a copy is: in which table, how many of its rows are done, and how many there are."""

    phase: Phase
    table: str
    rows: int
    of_rows: int
    total_rows: int
    of_total_rows: int


Progress: TypeAlias = Callable[[CopyProgress], object]


@dataclass(frozen=True)
class TableCopy:
    """One table after it was copied.

    Attributes:
        table: its name.
        source: rows and checksums of the source's snapshot.
        target: rows and checksums of what the target holds; after a merge, of those rows that the source has, too.
        written: rows that this run brought into the target.
        found: rows that the target held already.
        replaced: of those written, the ones that took the place of another version of theirs (a merge's conflicts).
        kept: rows that the target holds in another version, which is final or was observed later (a merge's, too).
        renumbered: of those written, the ones whose id was another row's in the target (only a merge's).
        rounded: numbers that were rounded to their column's decimals.
        largest_rounding: by how much the most.
    """

    table: str
    source: Digest
    target: Digest
    written: int = 0
    found: int = 0
    replaced: int = 0
    kept: int = 0
    renumbered: int = 0
    rounded: int = 0
    largest_rounding: Decimal = Decimal(0)


@dataclass(frozen=True)
class CopyResult:
    """A copy that is complete and was verified.

    Attributes:
        source: what was copied, without its secrets.
        target: where to.
        revision: the schema's, of both.
        snapshot_at: the moment at which the source was as it was copied, by its own clock, in UTC.
        tables: each table of ours, in the order in which they were copied.
        not_copied: tables (`name`) and columns (`table.name`) of the source that are none of ours.
        resumed: an earlier run had begun this copy.
        seconds: how long this run took.
    """

    source: str
    target: str
    revision: str
    snapshot_at: dt.datetime
    tables: tuple[TableCopy, ...]
    not_copied: tuple[str, ...]
    resumed: bool
    seconds: float

    @property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(table.source.rows for table in self.tables)

    @property
    def written(self) -> int:
        """The rows that this run brought into the target."""
        return sum(table.written for table in self.tables)


@dataclass
class Ledger:
    """What was refused, and what was rounded by table."""

    rounds: bool
    count: int = 0
    refused: list[RefusedValue] = field(default_factory=list)
    rounded: dict[str, int] = field(default_factory=dict)
    largest: dict[str, Decimal] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether further refusals are only counted."""
        return len(self.refused) >= _LISTED

    def refuse(self, value: RefusedValue) -> None:
        """Note a value that cannot be copied."""
        self.count += 1
        if not self.is_full:
            self.refused.append(value)

    def round(self, table: str, count: int, largest: Decimal) -> None:
        """Note numbers that were rounded."""
        self.rounded[table] = self.rounded.get(table, 0) + count
        self.largest[table] = max(self.largest.get(table, Decimal(0)), largest)

    def error(self) -> CopyRefusedError:
        """Return the error that lists what was refused."""
        return CopyRefusedError(tuple(self.refused), self.count)
