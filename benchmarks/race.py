"""Contestants that do the same work in turns, and the time that each of them took."""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from benchmarks.data import Digest

Role: TypeAlias = Literal[
    "ours",
    "raw",
    "by hand",
    "limit",
    "core",
    "orm",
    "legacy",
    "pandas",
    "peer",
    "connectorx",
    "adbc",
    "ours on less",
    "without history",
    "plain",
    "writer",
]
"""What a contestant stands for: the targets are set against roles, not against names."""
Act: TypeAlias = Callable[[Any], Awaitable[Any]]
"""The work that is timed: takes the batch of its heat, and returns what was read."""
Open: TypeAlias = Callable[[str], contextlib.AbstractAsyncContextManager[Act]]
"""Connects to the database of a URL, outside of the clock."""

OURS: Final = "traderrr_data"
_SHUFFLE: Final = 20251231


@dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    Attributes:
        name: what the tables call it.
        role: what it stands for.
        open: connects, and gives the work.
        most_rows: the largest batch it is given; a slower one runs in a heat of its own, against ours on as many.
    """

    name: str
    role: Role
    open: Open
    most_rows: int | None = None


@dataclass(frozen=True)
class Measured:
    """What work returns that has measured itself.

    Attributes:
        seconds: the time it took.
        figures: what else it found out, by the names that the tables show.
        answered: how many rows were read, for the check.
    """

    seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    answered: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A contestant that did not run, or not to the end.

    Attributes:
        name: what the tables would call it.
        reason: in one sentence.
        failed: it tried, and did not do the work.
    """

    name: str
    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Heat:
    """The work that contestants do in turns.

    Attributes:
        database: the name of the database system.
        workload: W1 and so on.
        work: which of the workload's cases, for people to read.
        rows: how many rows are written or read.
        contestants: who does it; the first is ours.
        arena: gives the URL of the database for one start, outside of the clock.
        check: what is wrong with the database or what was read, None if nothing.
        given: the batch to write, or what is to be read.
    """

    database: str
    workload: str
    work: str
    rows: int
    contestants: Sequence[Contestant]
    arena: Callable[[], contextlib.AbstractContextManager[str]]
    check: Callable[[str, Any], str | None]
    given: Any = None


@dataclass(frozen=True)
class Timing:
    """One start of one contestant.

    Attributes:
        database: as of the heat.
        workload: as of the heat.
        work: as of the heat.
        rows: as of the heat.
        contestant: its name.
        role: its role.
        repetition: from 0; timings of one repetition were taken right after each other.
        seconds: the time it took.
        figures: what else was measured.
    """

    database: str
    workload: str
    work: str
    rows: int
    contestant: str
    role: Role
    repetition: int
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Track:
    """Runs heats and keeps what came of them.

    Attributes:
        repeat: how often every contestant starts.
        timings: of all starts that counted.
        left_out: who did not run, by database and workload.
        say: told what is going on.
    """

    repeat: int
    say: Callable[[str], None]
    timings: list[Timing] = field(default_factory=list)
    left_out: dict[tuple[str, str, str], list[LeftOut]] = field(default_factory=dict)

    def admit(
        self, database: str, workload: str, entries: Sequence[Contestant | LeftOut], work: str = "all"
    ) -> list[Contestant]:
        """Return who can run, and note who is left out."""
        for entry in entries:
            if isinstance(entry, LeftOut):
                noted = self.left_out.setdefault((database, workload, work), [])
                if entry not in noted:
                    noted.append(entry)
        return [entry for entry in entries if isinstance(entry, Contestant)]

    async def run(self, heat: Heat, *, warm_up: Heat | None = None) -> None:
        """Let everybody do the work in turns, in another order every time.

        Args:
            heat: the work.
            warm_up: work that everybody does once before, uncounted; who cannot do it does not run.
        """
        running = list(heat.contestants)
        laps = [(-1, warm_up)] if warm_up else []
        for repetition, lap in [*laps, *((number, heat) for number in range(self.repeat))]:
            order = list(running)
            random.Random(_SHUFFLE + repetition).shuffle(order)  # noqa: S311 - an order, not a secret
            for contestant in order:
                self.say(f"{heat.database}  {heat.workload} {heat.work}, {lap.rows:,} rows: {contestant.name}")
                try:
                    timing = await _start(lap, contestant, repetition)
                except Exception as error:  # whatever stops an opponent is reported, and the others go on
                    running.remove(contestant)
                    failure = LeftOut(contestant.name, f"{type(error).__name__}: {error}", failed=True)
                    self.admit(heat.database, heat.workload, [failure], heat.work)
                else:
                    if repetition >= 0:
                        self.timings.append(timing)


async def _start(heat: Heat, contestant: Contestant, repetition: int) -> Timing:
    with heat.arena() as url:
        async with contestant.open(url) as act:
            gc.collect()
            began = time.perf_counter()
            result = await act(heat.given)
            seconds = time.perf_counter() - began
        if wrong := heat.check(url, result):
            raise WrongResultError(wrong)
    measured = result if isinstance(result, Measured) else Measured(seconds)
    return Timing(
        database=heat.database,
        workload=heat.workload,
        work=heat.work,
        rows=heat.rows,
        contestant=contestant.name,
        role=contestant.role,
        repetition=repetition,
        seconds=measured.seconds,
        figures=measured.figures,
    )


class WrongResultError(Exception):
    """A contestant did not do the work it was timed for."""


def difference(expected: Digest, found: Digest) -> str | None:
    """Return what is wrong with what was found."""
    return None if expected == found else f"rows and sums are {found} instead of {expected}"


def by_size(contestants: Sequence[Contestant], rows: int) -> Iterator[tuple[int, list[Contestant]]]:
    """Yield how many rows which contestants get: the slow ones fewer, and ours among all."""
    ours, *others = contestants
    for most in sorted({min(rows, contestant.most_rows or rows) for contestant in contestants}, reverse=True):
        same = [contestant for contestant in others if min(rows, contestant.most_rows or rows) == most]
        if same:
            yield most, [ours, *same]
