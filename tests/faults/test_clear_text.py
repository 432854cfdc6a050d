"""A server that asks for the password in clear text, as anybody in between could, does not get it."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.test_local_infile import GREETING, packet, payload
from traderrr_data import ConfigurationError, DatabaseManager

CLEAR_TEXT = b"mysql_clear_password\0"
PASSWORD = "S3cret-Pa55word"  # noqa: S105 - what the test looks for


@pytest.mark.parametrize("first", [True, False])
async def test_a_server_that_asks_for_the_password_in_clear_text_does_not_get_it(first: bool) -> None:
    received: list[bytes] = []
    greeting = GREETING.replace(b"mysql_native_password\0", CLEAR_TEXT) if first else GREETING
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(packet(0, greeting))
        try:
            received.append(await payload(reader))
            writer.write(packet(2, b"\xfe" + CLEAR_TEXT))
            received.append(await reader.read())
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()
            done.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with DatabaseManager(f"mysql://u:{PASSWORD}@127.0.0.1:{port}/n") as db:
            with pytest.raises(ConfigurationError, match="in clear text"):
                await db.ping()
        await done.wait()
    assert PASSWORD.encode() not in b"".join(received)
