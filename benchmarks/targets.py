"""What the project has set itself: ratios to reach, against whom, at which work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.databases import KINDS
from benchmarks.race import Role, Timing

ARROW, DICTS, WITHOUT_LOCAL = "Arrow", "dicts", "Arrow, LOCAL INFILE forbidden"
UPSERTS, READS = "one-row upserts", "small reads"
NEW, UNCHANGED, CHANGED = "new", "unchanged", "every bar changed"

MOST_MEMORY: Final = 400
"""MB that W8 may take, whatever its number of rows."""


@dataclass(frozen=True)
class Target:
    """A ratio to reach against the best opponent of some roles.

    Attributes:
        title: in words.
        workload: W1 and so on.
        work: the workload's case; None for all.
        role: of the opponents.
        ratios: by kind of database; absent where nothing is wanted.
    """

    title: str
    workload: str
    work: str | None
    role: Role
    ratios: Mapping[str, float]

    def is_about(self, timing: Timing) -> bool:
        """Tell whether a timing belongs to the work."""
        return timing.workload == self.workload and self.work in (None, timing.work)

    def ratio_on(self, database: str) -> float | None:
        """Return what is wanted on a database."""
        return self.ratios.get(KINDS[database])


def _each(postgresql: float, mysql: float, sqlite: float) -> dict[str, float]:
    return {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}


def _against_raw() -> list[Target]:
    wanted: dict[tuple[str, str, str], dict[str, float]] = {
        (ARROW, "W1", "new"): _each(1.4, 1.0, 1.1),
        (ARROW, "W2", "unchanged"): _each(5, 2.5, 1.3),
        (ARROW, "W3", "mixed"): _each(3, 1.9, 1.2),
        (DICTS, "W1", "new"): _each(1.25, 1.0, 0.9),
        (DICTS, "W2", "unchanged"): _each(3, 2, 1.0),
        (DICTS, "W3", "mixed"): _each(2.3, 1.5, 1.0),
        (WITHOUT_LOCAL, "W1", "new"): {"mysql": 1.5},
        (WITHOUT_LOCAL, "W2", "unchanged"): {"mysql": 2},
        (WITHOUT_LOCAL, "W3", "mixed"): {"mysql": 1.7},
    }
    return [
        Target(f"{workload} {state} rows from {work}, against raw", workload, work, "raw", ratios)
        for (work, workload, state), ratios in wanted.items()
    ]


def _by_hand() -> list[Target]:
    return [
        Target(f"{workload} from {work}, against the same by hand", workload, work, "by hand", _each(0.95, 0.95, 0.95))
        for workload in ("W1", "W2", "W3")
        for work in (ARROW, DICTS)
    ]


TARGETS: Final = (
    *_against_raw(),
    Target("W1 new rows from Arrow, against a load without upsert", "W1", ARROW, "limit", _each(0.7, 0.75, 0.9)),
    *_by_hand(),
    Target("W4 one ticker to columns, against the ORM", "W4", None, "orm", _each(5, 5, 5)),
    Target("W4 one ticker to columns, against pandas", "W4", None, "pandas", _each(4, 3, 2)),
    Target("W5 whole table, against connectorx", "W5", None, "connectorx", {"postgresql": 1.6, "mysql": 1.0}),
    Target("W5 whole table, against ADBC", "W5", None, "adbc", {"postgresql": 1.9}),
    Target("W5 whole table, against pandas", "W5", None, "pandas", {"sqlite": 3}),
    Target("W6 latest of 500 tickers, 10 times the history", "W6", None, "ours on less", _each(*[1 / 1.3] * 3)),
    Target("W7 one-row upserts, against a raw pool of 10", "W7", UPSERTS, "raw", {"postgresql": 4.5, "mysql": 2.5}),
    Target("W7 one-row upserts, against the old application", "W7", UPSERTS, "legacy", {"sqlite": 20}),
    Target("W7 small reads, against a raw pool of 10", "W7", READS, "raw", {"postgresql": 0.95, "mysql": 0.8}),
    Target("W7 small reads, against the old application", "W7", READS, "legacy", {"sqlite": 1.0}),
    Target("W10 new rows, against without a history", "W10", NEW, "without history", _each(0.95, 0.95, 0.95)),
    Target("W10 unchanged rows, against without a history", "W10", UNCHANGED, "without history", _each(*[0.95] * 3)),
    Target("W10 changed rows, against without a history", "W10", CHANGED, "without history", _each(0.5, 0.5, 0.5)),
)
