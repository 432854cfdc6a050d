"""A server that is killed while a client greets it is one that is away for a while."""

from __future__ import annotations

import asyncio

import pytest

from traderrr_data import DatabaseManager, DatabaseUnavailableError


async def test_a_server_that_is_killed_while_it_is_asked_for_encryption_is_unavailable() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N\0\0\0\5\0")  # a notice; the one letter alone would say that there is no encryption
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as dying:
        port = dying.sockets[0].getsockname()[1]
        async with DatabaseManager(f"postgresql://u:p@127.0.0.1:{port}/d") as db:
            with pytest.raises(DatabaseUnavailableError):
                await db.ping()
