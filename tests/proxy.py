"""A network between the package and a server that a test can stall, cut, or have lose an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, Literal, TypeAlias

from sqlalchemy import URL, make_url

Part: TypeAlias = Literal["request", "answer"]

_CHUNK: Final = 1 << 16


class Proxy:
    """Passes bytes between clients and one server, until it is told otherwise.

    Attributes:
        port: where it listens, on the loopback.
        lost: set when what `lose` waited for has been lost.
    """

    def __init__(self, server: URL) -> None:
        self.port = 0
        self.lost = asyncio.Event()
        self._server = server
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._statement: bytes | None = None
        self._loses: Part = "answer"

    def url(self, url: str) -> str:
        """Return a database's URL by way of this proxy."""
        return make_url(url).set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    def stall(self) -> None:
        """Hold back every byte, in both directions, and of new connections too, without closing anything."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on what was held back."""
        self._flowing.set()

    def cut(self) -> None:
        """Break all connections, as a reset does."""
        for writer in list(self._writers):
            writer.transport.abort()

    def lose(self, statement: bytes, part: Part) -> None:
        """Break the next connection that sends a statement: before the server gets it, or before its answer comes."""
        self._statement, self._loses = statement, part
        self.lost.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        self._writers.add(writer)
        try:
            upstream, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(to_server)
        answering = asyncio.create_task(self._pass_on(upstream, writer))
        self._tasks.add(answering)
        with contextlib.suppress(OSError):
            await self._pass_requests(reader, to_server, upstream, answering)
        answering.cancel()
        for each in (writer, to_server):
            each.transport.abort()
            self._writers.discard(each)

    async def _pass_requests(
        self,
        reader: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        upstream: asyncio.StreamReader,
        answering: asyncio.Task[None],
    ) -> None:
        while chunk := await reader.read(_CHUNK):
            await self._flowing.wait()
            if self._statement is not None and self._statement in chunk:
                self._statement = None
                if self._loses == "answer":
                    answering.cancel()
                    await asyncio.wait([answering])
                    to_server.write(chunk)
                    await upstream.read(1)  # the server has done it
                self.lost.set()
                return
            to_server.write(chunk)
            await to_server.drain()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()  # whether the server closed the connection or reset it

    async def finish(self) -> None:
        """Break everything and wait until no task is left."""
        self.flow()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    """Give a proxy to the server of a URL."""
    proxy = Proxy(make_url(url))
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
        proxy.port = listening.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            await proxy.finish()
