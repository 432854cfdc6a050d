"""Long work on files beside the event loop, which ends soon after its task was cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from traderrr_data.session import outlast_cancellation

T = TypeVar("T")

Progress: TypeAlias = Callable[[float], None]
"""Is called on the event loop with the part that is done, from 0 to 1."""


class _StoppedError(Exception):
    """The task that waits for this work was cancelled."""


class Watch:
    """What a thread asks now and then, and tells."""

    def __init__(self, progress: Progress | None) -> None:
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._progress = progress

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopped.set()

    def is_stopped(self) -> bool:
        """Tell whether the thread should end."""
        return self._stopped.is_set()

    def refuse_to_go_on(self) -> None:
        """Raise if the thread should end."""
        if self.is_stopped():
            raise _StoppedError

    def tell(self, done: float) -> None:
        """Report how much is done."""
        if self._progress is not None:
            self._loop.call_soon_threadsafe(self._progress, done)


async def in_thread(work: Callable[[Watch], T], progress: Progress | None = None) -> T:
    """Return what blocking work returns; when cancelled, ask it to end and wait until it has."""
    watch = Watch(progress)
    running = asyncio.ensure_future(asyncio.to_thread(work, watch))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        watch.stop()
        await outlast_cancellation(running)
        if not running.cancelled():
            running.exception()  # is looked at, so that nobody complains that it never was
        raise
