"""W7: a hundred coroutines, one small call each at a time: one-row upserts, and reads of a few bars."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import ours
from benchmarks.crowd import Plan
from benchmarks.data import as_dicts, bars_of, digest_of
from benchmarks.databases import Place
from benchmarks.opponents import OF_KIND
from benchmarks.race import Heat, Measured, Track, difference
from benchmarks.targets import READS, UPSERTS
from benchmarks.workloads.states import copies, filled

_COROUTINES: Final = 100
_CALLS: Final = 10
_HISTORY: Final = 100
_LISTED: Final = 20
"""Sessions that a small read asks for."""


async def run(track: Track, place: Place, rows: int) -> None:
    """Run the workload on one database."""
    calls = max(1, min(_CALLS, rows // _COROUTINES))
    bars = bars_of(_COROUTINES, _HISTORY + calls)
    is_new = pc.less_equal(pc.rank(bars["date"], "descending", tiebreaker="dense"), calls)
    stored, new = bars.filter(pc.invert(is_new)), as_dicts(bars.filter(is_new))
    # Every coroutine writes the new bars of one ticker.
    writing = [new[start : start + calls] for start in range(0, len(new), calls)]
    reading = _questions(stored, calls)
    wanted = sum(1 if start is None else _LISTED for tasks in reading for _, start in tasks)

    def check_stored(url: str, _measured: Measured) -> str | None:
        return difference(digest_of(bars), place.digest(url))

    def check_answers(_url: str, measured: Measured) -> str | None:
        return None if measured.answered == wanted else f"{measured.answered} bars instead of {wanted}"

    module = OF_KIND[place.kind]
    async with filled(place, stored) as template:
        fresh = copies(place, template)
        for work, entries, check, plan in (
            (UPSERTS, [*ours.WRITES, *module.WRITE_CALLS], check_stored, writing),
            (READS, [*ours.READS, *module.READ_CALLS], check_answers, reading),
        ):
            heat = Heat(place.name, "W7", work, _COROUTINES * calls, entries, fresh, check, plan)
            await track.run(heat, warm_up=heat)


def _questions(stored: pa.Table, calls: int) -> Plan:
    """Have every coroutine ask for the last bars of a ticker, then for the latest bar of the next one, and so on."""
    since = sorted(stored["date"].unique().to_pylist())[-_LISTED]
    tickers: list[Any] = stored["ticker"].unique().to_pylist()
    return [
        [(tickers[(number + call) % len(tickers)], None if call % 2 else since) for call in range(calls)]
        for number in range(_COROUTINES)
    ]
