"""W7: a hundred coroutines, one small call each at a time: one-row upserts, and reads of a few bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import ours
from benchmarks.crowd import Plan
from benchmarks.data import as_dicts, bars_of, digest_of
from benchmarks.databases import Place
from benchmarks.opponents import OF_KIND
from benchmarks.race import Heat, Measured, Track, by_size, difference
from benchmarks.targets import READS, UPSERTS
from benchmarks.workloads.states import copies, filled

_COROUTINES: Final = 100
_CALLS: Final = 100
"""With fewer, the first calls on new connections would be much of it."""
_HISTORY: Final = 100
_LISTED: Final = 20
"""Sessions that a small read asks for."""


async def run(track: Track, place: Place, rows: int) -> None:
    """Run the workload on one database."""
    most = _COROUTINES * max(1, min(_CALLS, rows // _COROUTINES))
    bars = bars_of(_COROUTINES, _HISTORY + most // _COROUTINES)
    session = pc.rank(bars["date"], "ascending", tiebreaker="dense")
    stored = bars.filter(pc.less_equal(session, _HISTORY))
    module = OF_KIND[place.kind]
    async with filled(place, stored) as template:
        fresh = copies(place, template)
        for count, entries in by_size([*ours.WRITES, *module.WRITE_CALLS], most):
            calls = count // _COROUTINES
            written = bars.filter(pc.less_equal(session, _HISTORY + calls))
            new = as_dicts(
                bars.filter(pc.and_(pc.greater(session, _HISTORY), pc.less_equal(session, _HISTORY + calls)))
            )
            # Every coroutine writes the new bars of one ticker.
            writing = [new[start : start + calls] for start in range(0, len(new), calls)]
            heat = Heat(place.name, "W7", UPSERTS, count, entries, fresh, _stores(place, written), writing)
            await track.run(heat, warm_up=heat)
        for count, entries in by_size([*ours.READS, *module.READ_CALLS], most):
            reading = _questions(stored, count // _COROUTINES)
            heat = Heat(place.name, "W7", READS, count, entries, fresh, _answers(reading), reading)
            await track.run(heat, warm_up=heat)


def _stores(place: Place, bars: pa.Table) -> Callable[[str, Measured], str | None]:
    return lambda url, _measured: difference(digest_of(bars), place.digest(url))


def _answers(questions: Plan) -> Callable[[str, Measured], str | None]:
    wanted = sum(1 if start is None else _LISTED for tasks in questions for _, start in tasks)

    def check(_url: str, measured: Measured) -> str | None:
        return None if measured.answered == wanted else f"{measured.answered} bars instead of {wanted}"

    return check


def _questions(stored: pa.Table, calls: int) -> Plan:
    """Have every coroutine ask for the last bars of a ticker, then for the latest bar of the next one, and so on."""
    since = sorted(stored["date"].unique().to_pylist())[-_LISTED]
    tickers: list[Any] = stored["ticker"].unique().to_pylist()
    return [
        [(tickers[(number + call) % len(tickers)], None if call % 2 else since) for call in range(calls)]
        for number in range(_COROUTINES)
    ]
