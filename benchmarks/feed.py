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
        write: stores the bars that arrive together, and returns when they are committed.
        read: returns the last `LISTED` bars of a ticker.
    """

    write: Callable[[Sequence[Row]], Awaitable[None]]
    read: Callable[[str], Awaitable[Any]]


def trading_day(opened: Callable[[str], contextlib.AbstractAsyncContextManager[Feed]]) -> Open:
    """Have a contestant write one batch after the other, such as a minute's, while five readers read every 50 ms."""

    @contextlib.asynccontextmanager
    async def opened_for_a_day(url: str) -> AsyncIterator[Act]:
        with delayed(url) as away:
            async with opened(away) as feed:

                async def act(batches: Sequence[Sequence[Row]]) -> Measured:
                    latencies: list[float] = []
                    reading: list[float] = []
                    tickers = list(dict.fromkeys(row["ticker"] for row in batches[0]))
                    readers = [asyncio.create_task(_read(feed, tickers[number:], reading)) for number in range(READERS)]
                    for rows in batches:
                        began = time.perf_counter()
                        await feed.write(rows)
                        latencies.append(time.perf_counter() - began)
                        failed = [reader for reader in readers if reader.done()]
                        await asyncio.gather(*failed)  # raises what stopped it
                    for reader in readers:
                        reader.cancel()
                    await asyncio.wait(readers)
                    figures = _percentiles(latencies)
                    if reading:  # else the day was over before anybody had an answer
                        figures |= {f"readers' {name}": figure for name, figure in _percentiles(reading).items()}
                    return Measured(sum(latencies), figures)

                yield act

    return opened_for_a_day


def _percentiles(latencies: Sequence[float]) -> dict[str, float]:
    figures = measured(sum(latencies), latencies).figures
    return {name: figures[name] for name in ("p50, ms", "p99, ms")}


async def _read(feed: Feed, tickers: Sequence[str], latencies: list[float]) -> None:
    while True:
        for ticker in tickers:
            began = time.perf_counter()
            await feed.read(ticker)
            latencies.append(time.perf_counter() - began)
            await asyncio.sleep(PAUSE)
