"""W1 new bars, W2 the same bars again, W3 a tenth changed and a tenth new: from Arrow, and from dicts with Decimals.

W10 is ours alone: the same work with and without the history of what is overwritten.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from benchmarks import ours
from benchmarks.data import Digest, all_changed, as_dicts, daily_bars, digest_of, mixture
from benchmarks.databases import MysqlPlace, Place
from benchmarks.opponents import OF_KIND, peers, sqlalchemy
from benchmarks.race import Contestant, Heat, Track, by_size, difference
from benchmarks.targets import ARROW, CHANGED, DICTS, NEW, UNCHANGED, WITHOUT_LOCAL
from benchmarks.workloads.states import copies, filled

_WARM_UP_ROWS: Final = 2_000


@dataclass(frozen=True)
class _Case:
    """What is stored and what comes.

    Attributes:
        stored: the bars that are there; None for an empty table.
        batch: the bars that are given.
        result: the digest of all bars afterwards.
    """

    stored: pa.Table | None
    batch: pa.Table
    result: Digest


def _new(rows: int) -> _Case:
    bars = daily_bars(rows)
    return _Case(None, bars, digest_of(bars))


def _unchanged(rows: int) -> _Case:
    bars = daily_bars(rows)
    return _Case(bars, bars, digest_of(bars))


def _mixed(rows: int) -> _Case:
    stored, batch = mixture(daily_bars(rows))
    return _Case(stored, batch, digest_of(batch))


def _all_changed(rows: int) -> _Case:
    bars = daily_bars(rows)
    batch = all_changed(bars)
    return _Case(bars, batch, digest_of(batch))


_CASES: Final[dict[str, Callable[[int], _Case]]] = {"W1": _new, "W2": _unchanged, "W3": _mixed}
_HISTORY: Final[dict[str, Callable[[int], _Case]]] = {NEW: _new, UNCHANGED: _unchanged, CHANGED: _all_changed}


async def run(track: Track, place: Place, workload: str, rows: int) -> None:
    """Run one of the three workloads on one database."""
    contestants = _contestants(track, place, workload)
    make = _CASES[workload]
    async with _arena(place, make(min(rows, _WARM_UP_ROWS))) as warm:
        for size, group in by_size(contestants, rows):
            async with _arena(place, make(size)) as arena:
                for work in (ARROW, DICTS):
                    await track.run(arena.heat(workload, work, group), warm_up=warm.heat(workload, work, group))
                if isinstance(place, MysqlPlace):
                    raw = [contestant for contestant in group if contestant.role in ("ours", "raw")]
                    with _local_infile_forbidden(place):
                        heat = arena.heat(workload, WITHOUT_LOCAL, raw)
                        await track.run(heat, warm_up=warm.heat(workload, WITHOUT_LOCAL, raw))


async def run_with_and_without_history(track: Track, place: Place, rows: int) -> None:
    """Run what the history of overwritten bars may cost on one database."""
    contestants = track.admit(place.name, "W10", [ours.UPSERT, ours.UPSERT_WITHOUT_HISTORY])
    for work, make in _HISTORY.items():
        async with _arena(place, make(min(rows, _WARM_UP_ROWS))) as warm, _arena(place, make(rows)) as arena:
            await track.run(arena.heat("W10", work, contestants), warm_up=warm.heat("W10", work, contestants))


def _contestants(track: Track, place: Place, workload: str) -> list[Contestant]:
    module = OF_KIND[place.kind]
    entries = [ours.UPSERT, *module.UPSERTS, *sqlalchemy.UPSERTS, *peers.upserts()]
    if workload == "W1":
        entries += [*module.LOADS, *sqlalchemy.LOADS, *peers.loads(place.kind)]
    return track.admit(place.name, workload, entries)


@contextlib.contextmanager
def _local_infile_forbidden(place: MysqlPlace) -> Iterator[None]:
    place.allow_local_infile(False)
    try:
        yield
    finally:
        place.allow_local_infile(True)


@dataclass(frozen=True)
class _Arena:
    """Databases in the state of a case, a new one for every start."""

    place: Place
    case: _Case
    template: str

    def heat(self, workload: str, work: str, contestants: Sequence[Contestant]) -> Heat:
        """Return the heat of a case and a form of input."""
        return Heat(
            database=self.place.name,
            workload=workload,
            work=work,
            rows=self.case.batch.num_rows,
            contestants=contestants,
            arena=copies(self.place, self.template),
            check=lambda url, _result: difference(self.case.result, self.place.digest(url)),
            given=as_dicts(self.case.batch) if work == DICTS else self.case.batch,
        )


@contextlib.asynccontextmanager
async def _arena(place: Place, case: _Case) -> AsyncIterator[_Arena]:
    async with filled(place, case.stored) as template:
        yield _Arena(place, case, template)
