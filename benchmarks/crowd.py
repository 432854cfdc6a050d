"""Many coroutines at once: how long the last one waits, and how long a call takes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from benchmarks.race import Act, Measured, Open

Call: TypeAlias = Callable[[Any], Awaitable[int]]
"""One small call: writes the row, or answers the question, that it is given, and returns with how many rows."""
Plan: TypeAlias = Sequence[Sequence[Any]]
"""For each coroutine what it does, one after the other."""


def crowd(opened: Callable[[str], contextlib.AbstractAsyncContextManager[Call]]) -> Open:
    """Have a crowd of coroutines make calls, each coroutine one at a time."""

    @contextlib.asynccontextmanager
    async def opened_for_all(url: str) -> AsyncIterator[Act]:
        async with opened(url) as call:

            async def act(plan: Plan) -> Measured:
                latencies: list[float] = []
                answered = 0

                async def one(tasks: Sequence[Any]) -> None:
                    nonlocal answered
                    for task in tasks:
                        began = time.perf_counter()
                        rows = await call(task)
                        answered += rows
                        latencies.append(time.perf_counter() - began)

                began = time.perf_counter()
                async with asyncio.TaskGroup() as group:
                    for tasks in plan:
                        group.create_task(one(tasks))
                return measured(time.perf_counter() - began, latencies, answered)

            yield act

    return opened_for_all


def measured(seconds: float, latencies: Sequence[float], answered: int = 0) -> Measured:
    """Return calls per second, and what half and all but one of a hundred took at most."""
    half, most = np.percentile(latencies, [50, 99]) * 1000
    figures = {"calls/s": len(latencies) / seconds, "p50, ms": float(half), "p99, ms": float(most)}
    return Measured(seconds, figures, answered)
