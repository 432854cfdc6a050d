"""W6: the latest bar of each of 500 tickers, also with ten times the history."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import ours
from benchmarks.data import UNIT, bars_of
from benchmarks.databases import Place
from benchmarks.opponents import OF_KIND
from benchmarks.race import Contestant, Heat, Track
from benchmarks.workloads.states import always, filled

_TICKERS: Final = 500
_TIMES: Final = 10


async def run(track: Track, place: Place, rows: int) -> None:
    """Run the workload on one database."""
    tickers = min(_TICKERS, rows // 2)
    days = rows // tickers
    large = bars_of(tickers, days * _TIMES)
    small = large.filter(pc.less_equal(pc.rank(large["date"], "descending", tiebreaker="dense"), days))
    entries = [ours.LATEST, *OF_KIND[place.kind].LATEST]
    async with filled(place, small) as small_url:
        await _run(track, place, small_url, small, entries)
        async with filled(place, large) as large_url:
            on_less = Contestant(f"ours, on {small.num_rows:,} rows", "ours on less", ours.latest_on(small_url))
            await _run(track, place, large_url, large, [*entries, on_less])


async def _run(track: Track, place: Place, url: str, bars: pa.Table, contestants: Sequence[Contestant]) -> None:
    newest = bars.filter(pc.equal(bars["date"], pc.max(bars["date"])))
    latest = zip(*(newest[name].to_pylist() for name in ("ticker", "date", "close")), strict=True)
    expected = sorted(map(_comparable, latest))

    def check(_url: str, found: Sequence[tuple[Any, ...]]) -> str | None:
        right = sorted(map(_comparable, found)) == expected
        return None if right else f"{len(found)} bars, which are not the latest ones"

    tickers = newest["ticker"].to_pylist()
    heat = Heat(place.name, "W6", f"{len(tickers)} tickers", bars.num_rows, contestants, always(url), check, tickers)
    await track.run(heat, warm_up=heat)


def _comparable(row: tuple[Any, ...]) -> tuple[str, str, int]:
    """Return a ticker, a date and a price in one form, since SQLite has text and doubles for the last two."""
    ticker, date, close = row
    return ticker, str(date), round(Decimal(str(close)) * UNIT)
