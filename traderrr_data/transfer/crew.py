"""Some pieces of work at a time, and the first error as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Crew:
    """Runs coroutines side by side, at most so many; its block ends when all are done, or at the first error.

    A task group would wrap the error, and take any number.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            while self._tasks and kind is None:
                await self._one_done()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a piece of work as soon as one of the crew is free."""
        self._tasks.add(asyncio.create_task(work))
        while len(self._tasks) >= self._size:
            await self._one_done()

    async def _one_done(self) -> None:
        done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        errors = [error for task in done if (error := task.exception()) is not None]
        if errors:
            raise errors[0]
