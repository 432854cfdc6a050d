"""A network that is not there: a proxy in a process of its own that holds every piece of bytes for a millisecond.

Each way, so a question and its answer take two. ``python -m benchmarks.delay HOST PORT`` prints the port that it
listens on, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from sqlalchemy import make_url

SECONDS: Final = 0.001


@contextlib.contextmanager
def delayed(url: str) -> Iterator[str]:
    """Give a URL behind which the same database is a millisecond away; a file stays where it is."""
    where = make_url(url)
    if where.host is None:
        yield url
        return
    command = [sys.executable, "-m", "benchmarks.delay", where.host, str(where.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:  # noqa: S603 - our own module
        assert proxy.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        port = int(proxy.stdout.readline())
        yield where.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        assert proxy.stdin is not None  # noqa: S101 - as above
        proxy.stdin.close()


class _Side(asyncio.Protocol):
    """One side of a connection: passes what comes on to the other side, a millisecond later."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker: it is a connection
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:  # the server has not been reached yet
            self._waiting.append(data)
        else:
            asyncio.get_running_loop().call_later(SECONDS, self.other.send, data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            asyncio.get_running_loop().call_later(SECONDS, self.other.transport.close)

    def join(self, other: _Side) -> None:
        """Begin to pass on."""
        self.other = other
        for data in self._waiting:
            self.data_received(data)

    def send(self, data: bytes) -> None:
        """Send to the peer of this side, if it is still there."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


async def _serve(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    joining: set[asyncio.Task[None]] = set()
    sides: list[_Side] = []

    async def join(client: _Side) -> None:
        _, server = await loop.create_connection(_Side, host, port)
        server.join(client)
        client.join(server)
        sides.extend((client, server))

    def accept() -> _Side:
        client = _Side()
        task = loop.create_task(join(client))
        joining.add(task)  # a task that nobody holds may be collected before it ran
        task.add_done_callback(joining.discard)
        return client

    listener = await loop.create_server(accept, "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    listener.close()
    for side in sides:
        if side.transport is not None:
            side.transport.abort()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
