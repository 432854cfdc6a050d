"""A live feed: a bar of every ticker each minute, and readers who look at them meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.crowd import measured
from benchmarks.data import Row
from benchmarks.delay import delayed
from benchmarks.race import Act, Measured, Open

READERS: Final = 5
PAUSE: Final = 0.05
LISTED: Final = 60


@dataclass(frozen=True)
class Feed:
    """What a contestant does all day.

    Attributes:
        write: stores one minute's bars, all or none.
        read: returns the last `LISTED` bars of a ticker.
    """

    write: Callable[[Sequence[Row]], Awaitable[None]]
    read: Callable[[str], Awaitable[Any]]


def trading_day(opened: Callable[[str], contextlib.AbstractAsyncContextManager[Feed]]) -> Open:
    """Have a contestant write the minutes of a day, one after the other, while five readers read every 50 ms."""

    @contextlib.asynccontextmanager
    async def opened_for_a_day(url: str) -> AsyncIterator[Act]:
        with delayed(url) as away:
            async with opened(away) as feed:

                async def act(minutes: Sequence[Sequence[Row]]) -> Measured:
                    latencies = []
                    tickers = [row["ticker"] for row in minutes[0]]
                    readers = [asyncio.create_task(_read(feed, tickers[number:])) for number in range(READERS)]
                    for rows in minutes:
                        began = time.perf_counter()
                        await feed.write(rows)
                        latencies.append(time.perf_counter() - began)
                        failed = [reader for reader in readers if reader.done()]
                        await asyncio.gather(*failed)  # raises what stopped it
                    for reader in readers:
                        reader.cancel()
                    await asyncio.wait(readers)
                    day = measured(sum(latencies), latencies)
                    return Measured(day.seconds, {name: day.figures[name] for name in ("p50, ms", "p99, ms")})

                yield act

    return opened_for_a_day


async def _read(feed: Feed, tickers: Sequence[str]) -> None:
    while True:
        for ticker in tickers:
            await feed.read(ticker)
            await asyncio.sleep(PAUSE)
