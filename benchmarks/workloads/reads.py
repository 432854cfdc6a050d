"""W4 the bars of one ticker, and W5 the whole table, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import ours
from benchmarks.data import Digest, daily_bars, digest_of, digest_of_read
from benchmarks.databases import Place
from benchmarks.opponents import OF_KIND, peers, sqlalchemy
from benchmarks.race import Heat, Track, by_size, difference
from benchmarks.workloads.states import always, filled

_TICKERS: Final = 5
"""How many tickers are asked for in turn in W4: one alone is a matter of milliseconds."""


async def run(track: Track, place: Place, workload: str, rows: int) -> None:
    """Run one of the two workloads on one database."""
    entries = [ours.FRAME, *OF_KIND[place.kind].READS, *sqlalchemy.READS, *peers.reads(place.kind)]
    contestants = track.admit(place.name, workload, entries)
    whole = workload == "W5"
    for size, group in by_size(contestants, rows) if whole else [(rows, contestants)]:
        bars = daily_bars(size)
        wanted = [None] if whole else bars["ticker"].unique().to_pylist()[:_TICKERS]
        expected = [digest_of(_bars_of(bars, ticker)) for ticker in wanted]
        async with filled(place, bars) as url:
            heat = Heat(
                database=place.name,
                workload=workload,
                work="whole table" if whole else f"{len(wanted)} tickers in turn",
                rows=sum(digest[0] for digest in expected),
                contestants=group,
                arena=always(url),
                check=_Comparison(expected),
                given=wanted,
            )
            await track.run(heat, warm_up=heat)


def _bars_of(bars: pa.Table, ticker: str | None) -> pa.Table:
    return bars if ticker is None else bars.filter(pc.equal(bars["ticker"], ticker))


@dataclass(frozen=True)
class _Comparison:
    """Compares what was read with what is stored."""

    expected: Sequence[Digest]

    def __call__(self, _url: str, read: Sequence[Any]) -> str | None:
        pairs = zip(self.expected, map(digest_of_read, read), strict=True)
        return next(filter(None, (difference(*pair) for pair in pairs)), None)
