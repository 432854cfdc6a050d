"""A server that asks the client for a file, as only LOAD DATA LOCAL should make it do, gets nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomysql
import pytest

from traderrr_data import ConfigurationError, DatabaseManager, market_data
from traderrr_data.dialects.mysql.load import Connection, connect, load_local

OK = b"\0\0\0\2\0\0\0"
GREETING = (
    b"\n8.0.99-hostile\0"
    b"\1\0\0\0"  # the connection's number
    b"saltsalt\0"
    b"\xff\xf7"  # capabilities, all but TLS
    b"\x2d\2\0"  # utf8mb4, autocommit
    b"\xff\xdf"
    b"\x15" + b"\0" * 10 + b"saltsaltsalt\0"
    b"mysql_native_password\0"
)


class HostileServer:
    """A server that lets everybody in, and answers all statements with OK, but for the one that it waits for.

    Attributes:
        port: where it listens.
        received: what a client sent for a file.
    """

    def __init__(self, path: Path) -> None:
        self.port = 0
        self.received = b""
        self.finished = asyncio.Event()
        self._path = path
        self._wanted: bytes | None = None
        self._answer = b""

    def ask_at(self, statement: bytes, first: bytes = b"") -> None:
        """Ask for the file when a statement comes that begins so, behind what is to be answered `first`."""
        request = b"\xfb" + str(self._path).encode()
        self._wanted = statement
        self._answer = packet(1, first) + packet(2, request) if first else packet(1, request)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            writer.write(packet(0, GREETING))
            await payload(reader)
            writer.write(packet(2, OK))
            while True:
                command = await payload(reader)
                if self._wanted is None or not command[1:].startswith(self._wanted):
                    writer.write(packet(1, OK))
                    continue
                writer.write(self._answer)
                self.received += await reader.read()
                break
        writer.close()
        self.finished.set()


def packet(number: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "little") + bytes([number]) + content


async def payload(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(4)
    return await reader.readexactly(int.from_bytes(header[:3], "little"))


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncIterator[HostileServer]:
    """A hostile server, which wants a file that there is."""
    secret = tmp_path / "secret"
    secret.write_text("the client's own")
    server = HostileServer(secret)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server


async def query(connection: Connection) -> None:
    await connection.query("SELECT 1")


async def query_in_parts(connection: Connection) -> None:
    async with connection.cursor(aiomysql.SSCursor) as cursor:
        await cursor.execute("SELECT 1")


async def show_warnings(connection: Connection) -> None:
    await connection.show_warnings()


async def load(connection: Connection) -> None:
    await load_local(connection, "bars", "ticker", memoryview(b"AAPL\n"))


async def second_result(connection: Connection) -> None:
    await connection.query("SELECT 1; SELECT 2")
    await connection.next_result()


@pytest.mark.parametrize(
    ("wanted", "use", "first"),
    [
        (b"SELECT", query, b""),
        (b"SELECT", query_in_parts, b""),
        (b"SELECT", second_result, b"\0\0\0\x0a\0\0\0"),
        (b"SHOW WARNINGS", show_warnings, b""),
        (b"LOAD DATA", load, b""),
    ],
)
async def test_a_server_that_asks_for_a_file_gets_nothing(
    hostile: HostileServer, wanted: bytes, use: Callable[[Connection], Awaitable[Any]], first: bytes
) -> None:
    connection = await connect(host="127.0.0.1", port=hostile.port, user="u", password="p", connect_timeout=5)
    hostile.ask_at(wanted, first)
    with pytest.raises(ConfigurationError, match="asked for a file"):
        await use(connection)
    assert connection.closed
    await asyncio.wait_for(hostile.finished.wait(), 5)
    assert hostile.received == b""


@pytest.mark.parametrize("statement", [b"SET", b"SELECT"])
async def test_a_manager_gives_a_server_that_asks_for_a_file_nothing(hostile: HostileServer, statement: bytes) -> None:
    hostile.ask_at(statement)
    async with DatabaseManager(f"mysql://u:p@127.0.0.1:{hostile.port}/traderrr") as db:
        with pytest.raises(ConfigurationError, match="asked for a file"):
            async with db.session_context() as session:
                await market_data.coverage(session)
    await asyncio.wait_for(hostile.finished.wait(), 5)
    assert hostile.received == b""
