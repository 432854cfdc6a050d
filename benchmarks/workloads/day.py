"""W9: a trading day as it is: 500 tickers, a bar a minute each, into a long history, with readers and a network."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

from benchmarks import ours
from benchmarks.data import Row, as_dicts, minutes_of
from benchmarks.databases import Place
from benchmarks.opponents import OF_KIND
from benchmarks.race import Act, Contestant, Heat, Measured, Track
from benchmarks.workloads.states import always
from traderrr_data import DatabaseManager, market_data

_TICKERS: Final = 500
_TICKERS_A_PIECE: Final = 10
_MINUTES_A_PIECE: Final = 20_000
_OPENING: Final = dt.datetime(2025, 12, 31, 14, 30, tzinfo=dt.UTC)


async def run(track: Track, place: Place, rows: int, minutes: int) -> None:
    """Run the workload on one database."""
    tickers = min(_TICKERS, rows // 2)
    history = rows // tickers
    url = await place.migrated()
    try:
        await _store_history(url, tickers, history)
        place.settle(url)
        calendar = _Calendar(place, tickers, history, minutes)
        entries = track.admit(place.name, "W9", [ours.FEED, *OF_KIND[place.kind].FEEDS])
        heat = Heat(
            database=place.name,
            workload="W9",
            work=f"{minutes} minutes, {tickers} tickers, {tickers * history:,} rows of history",
            rows=tickers * minutes,
            contestants=[calendar.on_a_new_day(entry) for entry in entries],
            arena=always(url),
            check=calendar.check,
        )
        await track.run(heat)
    finally:
        place.drop(url)


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

    def on_a_new_day(self, contestant: Contestant) -> Contestant:
        """Return the contestant with a day of its own at every start, and what that cost the server."""

        @contextlib.asynccontextmanager
        async def opened(url: str) -> AsyncIterator[Act]:
            async with contestant.open(url) as act:

                async def act_on_its_day(_given: None) -> Measured:
                    rows = self._next_day()
                    log, catalog = self.place.log_bytes(url), self.place.catalog_bytes(url)
                    measured: Measured = await act(rows)
                    figures = dict(measured.figures)
                    if log is not None:
                        now = self.place.log_bytes(url) or 0
                        figures["log bytes a row"] = (now - log) / (self.tickers * self.minutes)
                    if catalog is not None:
                        figures["catalog grew, bytes"] = (self.place.catalog_bytes(url) or 0) - catalog
                    return replace(measured, figures=figures)

                yield act_on_its_day

        return replace(contestant, open=opened)

    def _next_day(self) -> list[list[Row]]:
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


async def _store_history(url: str, tickers: int, minutes: int) -> None:
    """Store the minutes before the first day, some tickers and weeks at a time."""
    begin = _OPENING - dt.timedelta(minutes=minutes)
    async with DatabaseManager(url) as db:
        for first in range(0, tickers, _TICKERS_A_PIECE):
            some = min(_TICKERS_A_PIECE, tickers - first)
            for start in range(0, minutes, _MINUTES_A_PIECE):
                since = begin + dt.timedelta(minutes=start)
                piece = minutes_of(some, min(_MINUTES_A_PIECE, minutes - start), first=first, since=since)
                async with db.session_context() as session:
                    await market_data.upsert_intraday(session, piece, timeframe="1m")
