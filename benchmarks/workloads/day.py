"""W9: a trading day as it is: 500 tickers, a bar a minute each, into a long history, with readers and a network.

And the corrections of a day, in batches that are large enough for a staging table.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import ours
from benchmarks.data import UNIT, Row, as_dicts, corrected, minutes_of, units_of
from benchmarks.databases import Place
from benchmarks.opponents import OF_KIND, sqlalchemy
from benchmarks.race import Act, Contestant, Heat, Measured, Track
from benchmarks.workloads.states import always

_TICKERS: Final = 500
_TICKERS_A_PIECE: Final = 10
_MINUTES_A_PIECE: Final = 20_000
_OPENING: Final = dt.datetime(2025, 12, 31, 14, 30, tzinfo=dt.UTC)
_CORRECTIONS: Final = 20
"""Batches of the corrections."""
_MINUTES_A_CORRECTION: Final = 10

_Batches: TypeAlias = list[Sequence[Row]]


async def run(track: Track, place: Place, rows: int, minutes: int) -> None:
    """Run the workload on one database."""
    tickers = min(_TICKERS, rows // 2)
    history = rows // tickers
    module = OF_KIND[place.kind]
    entries = track.admit(place.name, "W9", [*ours.FEEDS, *module.FEEDS, *sqlalchemy.FEEDS])
    with place.with_every_log() as logged:
        url = await logged.migrated()
        try:
            await module.fill(url, "intraday_data", _history(tickers, history))
            logged.settle(url)
            calendar = _Calendar(logged, tickers, history, minutes)
            heat = Heat(
                database=place.name,
                workload="W9",
                work=f"{minutes} minutes, {tickers} tickers, {tickers * history:,} rows of history",
                rows=tickers * minutes,
                contestants=[_weighed(logged, entry, calendar.next_day) for entry in entries],
                arena=always(url),
                check=calendar.check,
            )
            await track.run(heat)
            corrections = _Corrections(logged, minutes_of(tickers, minutes, since=_OPENING), minutes)
            heat = replace(
                heat,
                work=f"{_CORRECTIONS} corrections of {tickers * min(minutes, _MINUTES_A_CORRECTION):,} rows",
                rows=_CORRECTIONS * tickers * min(minutes, _MINUTES_A_CORRECTION),
                contestants=[_weighed(logged, entry, corrections.next_batches) for entry in entries],
                check=corrections.check,
            )
            await track.run(heat)
        finally:
            logged.drop(url)


def _weighed(place: Place, contestant: Contestant, batches: Callable[[], _Batches]) -> Contestant:
    """Return the contestant with batches of its own at every start, and what they cost the server."""

    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        async with contestant.open(url) as act:

            async def act_on_its_own(_given: None) -> Measured:
                given = batches()
                logs, catalog = place.log_bytes(url), place.catalog_bytes(url)
                measured: Measured = await act(given)
                figures, rows = dict(measured.figures), sum(map(len, given))
                for log, now in place.log_bytes(url).items():
                    figures[f"{log}, bytes a row"] = (now - logs[log]) / rows
                if catalog is not None:
                    figures["catalog grew, bytes"] = (place.catalog_bytes(url) or 0) - catalog
                return replace(measured, figures=figures)

            yield act_on_its_own

    return replace(contestant, open=opened)


@dataclass
class _Calendar:
    """Days that follow each other in one table, each the day of one contestant.

    Attributes:
        place: where the table is.
        tickers: that have a bar every minute.
        history: minutes of each before the first day.
        minutes: of a day.
        begun: how many days there were.
    """

    place: Place
    tickers: int
    history: int
    minutes: int
    begun: int = 0

    def next_day(self) -> _Batches:
        """Return the bars of each minute of the next day."""
        since = _OPENING + dt.timedelta(days=self.begun)
        rows = as_dicts(minutes_of(self.tickers, self.minutes, since=since))
        self.begun += 1
        return [rows[minute :: self.minutes] for minute in range(self.minutes)]

    def check(self, url: str, _measured: Measured) -> str | None:
        """Count one ticker's bars: counting all of a long history would take longer than the day."""
        expected = self.history + self.begun * self.minutes
        last = f"T{self.tickers - 1:05d}"
        query = f"SELECT count(*) FROM intraday_data WHERE ticker = '{last}' AND timeframe = '1m';"
        found = int(str(self.place.backend.run_sql(url, query)[0][0]))
        return None if found == expected else f"{last} has {found} bars instead of {expected}"


@dataclass
class _Corrections:
    """What a provider corrects of the first day, again and again: some minutes at a time, a tenth of their bars.

    Attributes:
        place: where the table is.
        bars: of the day, by ticker and time, as they were corrected last.
        minutes: of the day.
    """

    place: Place
    bars: pa.Table
    minutes: int

    def next_batches(self) -> _Batches:
        """Return all bars of the minutes of each correction."""
        number = np.arange(self.bars.num_rows)
        piece = number % self.minutes // _MINUTES_A_CORRECTION
        whole = max(1, self.minutes // _MINUTES_A_CORRECTION)  # pieces
        batches: _Batches = []
        for correction in range(_CORRECTIONS):
            given = piece == correction % whole
            self.bars = corrected(self.bars, pa.array(given & (number * 7919 % 10 == correction % 10)))
            batches.append(as_dicts(self.bars.filter(pa.array(given))))
        return batches

    def check(self, url: str, _measured: Measured) -> str | None:
        """Sum up the day's prices."""
        expected = int(units_of(self.bars["close"]).sum())
        end = _OPENING + dt.timedelta(minutes=self.minutes)
        tickers = ", ".join(f"'{ticker}'" for ticker in pc.unique(self.bars["ticker"]).to_pylist())
        query = (
            f"SELECT sum(round(close * {UNIT})) FROM intraday_data WHERE ticker IN ({tickers})"
            " AND series = '' AND timeframe = '1m'"
            f" AND datetime >= '{_OPENING:%Y-%m-%d %H:%M:%S}{self.place.utc}'"
            f" AND datetime < '{end:%Y-%m-%d %H:%M:%S}{self.place.utc}';"
        )
        found = int(float(str(self.place.backend.run_sql(url, query)[0][0])))
        return None if found == expected else f"the closing prices sum up to {found} instead of {expected}"


def _history(tickers: int, minutes: int) -> Iterator[pa.Table]:
    """Yield the minutes before the first day, some tickers and weeks at a time, in the order of their key."""
    begin = _OPENING - dt.timedelta(minutes=minutes)
    for first in range(0, tickers, _TICKERS_A_PIECE):
        some = min(_TICKERS_A_PIECE, tickers - first)
        for start in range(0, minutes, _MINUTES_A_PIECE):
            since = begin + dt.timedelta(minutes=start)
            piece = minutes_of(some, min(_MINUTES_A_PIECE, minutes - start), first=first, since=since)
            yield piece.append_column("timeframe", pa.repeat("1m", piece.num_rows))
