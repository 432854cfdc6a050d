"""What came of the races: ratios with their spread, held against the targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from benchmarks.race import LeftOut, Role, Timing, Track
from benchmarks.targets import MOST_MEMORY, TARGETS

TITLES: Final = {
    "W1": "new bars into an empty table",
    "W2": "the same bars again",
    "W3": "a tenth changed, a tenth new",
    "W4": "one ticker to columns",
    "W5": "the whole table to exact columns",
    "W6": "the latest bar of each of 500 tickers",
    "W7": "100 coroutines, one small call each at a time",
    "W8": "bounded memory",
    "W9": "a trading day",
    "W10": "what keeping the overwritten costs",
}
_TIE: Final = 1.15
"""Two that are closer than this are called equal."""


@dataclass(frozen=True)
class Comparison:
    """Ours and one opponent at the same work.

    Attributes:
        opponent: its name.
        role: what it stands for.
        ours: our median, in seconds.
        theirs: its median, in seconds.
        ratio: the median of the repetitions' ratios; 1.4 means that ours is 1.4 times as fast.
        low: the smallest ratio of a repetition.
        high: the largest.
    """

    opponent: str
    role: Role
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float

    @property
    def spread(self) -> str:
        """The smallest and the largest ratio of a repetition."""
        return f"{self.low:.2f} to {self.high:.2f}"

    @property
    def verdict(self) -> str:
        """Who is faster."""
        if 1 / _TIE < self.ratio < _TIE:
            return "tie"
        return "faster" if self.ratio > 1 else "slower"


@dataclass(frozen=True)
class Sheet:
    """A table of the report.

    Attributes:
        title: above it.
        columns: their titles; the first ones hold words, those after `words` numbers.
        rows: the cells.
        words: how many columns hold words.
        notes: below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    notes: Sequence[str] = ()


def facts_sheet(facts: Mapping[str, Any]) -> Sheet:
    """Return where and with what it ran."""
    return Sheet("Where it ran", ("fact", "value"), [(name, str(value)) for name, value in facts.items()], words=2)


def workload_sheet(track: Track, database: str, workload: str) -> Sheet:
    """Return what came of one workload on one database."""
    timings = [t for t in track.timings if (t.workload, t.database) == (workload, database)]
    make = _figures if {timing.role for timing in timings} == {"ours"} else _comparisons
    return make(f"{workload}, {TITLES[workload]}: {database}", timings, list(_notes(track, workload, database)))


def target_sheet(track: Track) -> Sheet:
    """Return the targets that can be held against what was measured."""
    columns = ("target", "database", "opponent", "rows", "ratio", "spread", "wanted", "")
    return Sheet("Targets", columns, list(_held_targets(track.timings)), words=3)


def compare(timings: Iterable[Timing]) -> list[Comparison]:
    """Compare ours, in the timings of one work and one number of rows, with everybody else, the fastest first."""
    taken: dict[tuple[str, Role], dict[int, float]] = {}
    for timing in timings:
        taken.setdefault((timing.contestant, timing.role), {})[timing.repetition] = timing.seconds
    ours = next((seconds for (_, role), seconds in taken.items() if role == "ours"), {})
    compared = []
    for (name, role), theirs in taken.items():
        ratios = [theirs[number] / ours[number] for number in theirs.keys() & ours.keys()]
        if role != "ours" and ratios:
            our_time, their_time = statistics.median(ours.values()), statistics.median(theirs.values())
            ratio = statistics.median(ratios)
            compared.append(Comparison(name, role, our_time, their_time, ratio, min(ratios), max(ratios)))
    return sorted(compared, key=attrgetter("ratio"))


def _grouped(timings: Iterable[Timing], *names: str) -> list[tuple[Any, list[Timing]]]:
    """Return the timings that agree in these attributes together, in the order in which they began."""
    groups: dict[Any, list[Timing]] = {}
    for timing in timings:
        groups.setdefault(attrgetter(*names)(timing), []).append(timing)
    return list(groups.items())


def _comparisons(title: str, timings: Sequence[Timing], notes: Sequence[str]) -> Sheet:
    extra = list(dict.fromkeys(name for timing in timings for name in timing.figures))
    rows = []
    for (work, size), same in _grouped(timings, "work", "rows"):
        for row in compare(same):
            times = (_shown(row.ours * 1000), _shown(row.theirs * 1000))
            pairs = [_pair(same, row.opponent, name) for name in extra]
            rows.append((work, row.opponent, f"{size:,}", *times, *pairs, f"{row.ratio:.2f}", row.spread, row.verdict))
    pairs = [f"{name}, ours / theirs" for name in extra]
    return Sheet(
        title,
        ("work", "opponent", "rows", "ours, ms", "theirs, ms", *pairs, "ratio", "spread", "ours is"),
        rows,
        2,
        notes,
    )


def _figures(title: str, timings: Sequence[Timing], notes: Sequence[str]) -> Sheet:
    """Return what was measured where there is nobody to compare with."""
    names = list(dict.fromkeys(name for timing in timings for name in timing.figures))
    rows = [
        (
            work,
            f"{size:,}",
            _shown(statistics.median(t.seconds for t in same)),
            *(_median(same, name) for name in names),
        )
        for (work, size), same in _grouped(timings, "work", "rows")
    ]
    return Sheet(title, ("work", "rows", "seconds", *names), rows, 1, notes)


def _pair(timings: Sequence[Timing], opponent: str, figure: str) -> str:
    ours = [timing for timing in timings if timing.role == "ours"]
    theirs = [timing for timing in timings if timing.contestant == opponent]
    return f"{_median(ours, figure)} / {_median(theirs, figure)}"


def _median(timings: Sequence[Timing], figure: str) -> str:
    values = [timing.figures[figure] for timing in timings if figure in timing.figures]
    return _shown(statistics.median(values)) if values else "-"


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _notes(track: Track, workload: str, database: str) -> Iterator[str]:
    works: dict[LeftOut, list[str]] = {}
    for (where, which, work), absent in track.left_out.items():
        if (where, which) == (database, workload):
            for contestant in absent:
                works.setdefault(contestant, []).append(work)
    for contestant, without in works.items():
        what = "failed" if contestant.failed else "left out"
        yield f"{contestant.name} ({', '.join(without)}): {what}: {contestant.reason}"


def _held_targets(timings: Sequence[Timing]) -> Iterator[Sequence[str]]:
    """Hold each target against the best opponent of its role."""
    for target in TARGETS:
        about = [timing for timing in timings if target.is_about(timing)]
        for (database, rows), same in _grouped(about, "database", "rows"):
            wanted = target.ratio_on(database)
            rivals = [row for row in compare(same) if row.role == target.role]
            if wanted is None or not rivals:
                continue
            row = min(rivals, key=attrgetter("ratio"))
            verdict = "met" if row.ratio >= wanted else "missed"
            ratio, least = f"{row.ratio:.2f}", f"{wanted:.3g}"
            yield target.title, database, row.opponent, f"{rows:,}", ratio, row.spread, least, verdict


def memory_sheet(track: Track) -> Sheet:
    """Return the largest peaks of W8, held against what they may be."""
    columns = ("work", "database", "rows", "largest peak, MB", "at most, MB", "")
    return Sheet("Targets of memory", columns, list(_held_memory(track.timings)), words=2)


def _held_memory(timings: Sequence[Timing]) -> Iterator[Sequence[str]]:
    with_peak = [timing for timing in timings if "peak, MB" in timing.figures]
    for (work, database, rows), same in _grouped(with_peak, "work", "database", "rows"):
        peak = max(timing.figures["peak, MB"] for timing in same)
        verdict = "met" if peak <= MOST_MEMORY else "missed"
        yield f"W8 {work}", database, f"{rows:,}", f"{peak:,.0f}", str(MOST_MEMORY), verdict
