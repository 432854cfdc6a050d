"""What the session's helpers promise, without a database."""

from __future__ import annotations

import asyncio
import threading

import pytest

from traderrr_data.session import to_its_end


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_task_goes_on_only_when_its_thread_has_ended(*, fails: bool) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        assert may_end.wait(10)
        ended.set()
        if fails:
            raise OSError("the disk is full")

    task = asyncio.create_task(to_its_end(write))
    assert await asyncio.to_thread(begun.wait, 10)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
