"""LOAD DATA LOCAL from memory, by a client that never opens a file.

In this protocol it is the server that names the file which the client then sends, and a hostile server may name any
(https://mariadb.com/kb/en/load-data-infile/#load-data-local-infile). The connection says that it can do LOCAL, but
what it sends is only the text that one call of `load_local` was given, and only for the name that this call made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from typing import Any, NoReturn

import aiomysql
from aiomysql import Error
from aiomysql.connection import CLIENT, COMMAND, CR, LoadLocalPacketWrapper, OKPacketWrapper

from traderrr_data.errors import ConfigurationError

__all__ = ["Connection", "Error", "connect", "load_local", "refuse"]

_BYTES_A_PACKET = 1 << 18
_PATIENCE = 1.0  # seconds
_REFUSED = "the server asked for a file of this machine: it is not one to be trusted, and the connection was closed"


class Connection(aiomysql.Connection):  # type: ignore[misc] # the driver says nothing about its types
    """A connection that offers LOCAL to the server, and refuses to send what it asks for."""

    def __init__(self, *, client_flag: int = 0, **arguments: Any) -> None:
        super().__init__(client_flag=client_flag | CLIENT.LOCAL_FILES, **arguments | {"local_infile": False})

    def __del__(self) -> None:
        """Close, unless the event loop has gone before: when a program ends, its system closes the socket."""
        with contextlib.suppress(RuntimeError):
            super().__del__()

    async def ensure_closed(self) -> None:
        """Close in good order, and return when that is done: with TLS the server has to answer."""
        writer = self._writer
        await super().ensure_closed()
        if writer is None:
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                await writer.wait_closed()
        except (OSError, TimeoutError):
            writer.transport.abort()

    async def _request_authentication(self) -> None:
        if self._ssl_context and not self.server_capabilities & CLIENT.SSL:
            # The driver would go on without a word, and somebody in between need only strip this one bit.
            raise ConfigurationError("DB_SSL asks for encryption, and the server does not offer it")
        _refuse_clear_text(self, self._client_auth_plugin or self._server_auth_plugin)
        await super()._request_authentication()

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any:
        _refuse_clear_text(self, plugin_name.decode(errors="replace"))
        return await super()._process_auth(plugin_name, auth_packet)

    async def _read_query_result(self, unbuffered: bool = False) -> None:
        with _given_up_when_refused(self):
            await super()._read_query_result(unbuffered=unbuffered)

    async def show_warnings(self) -> Any:
        """Return what the driver's own method does."""
        with _given_up_when_refused(self):
            return await super().show_warnings()


def _refuse_clear_text(connection: Connection, plugin: str) -> None:
    """Refuse to send the password as it is over a connection that anybody may read, as a server may ask."""
    if plugin == "mysql_clear_password" and not connection._ssl_context:
        raise ConfigurationError("the server asks for the password in clear text: encrypt the connection (DB_SSL)")


@contextlib.contextmanager
def _given_up_when_refused(connection: Connection) -> Iterator[None]:
    """Close the connection where the driver refuses a file by a RuntimeError: the server is waiting for it."""
    try:
        yield
    except RuntimeError as error:
        connection.close()
        raise ConfigurationError(_REFUSED) from error


async def connect(**arguments: Any) -> Connection:
    """Return an open connection; the arguments are those of `aiomysql.connect`."""
    connection = Connection(**arguments)
    await connection._connect()
    return connection


async def load_local(connection: Connection, table: str, columns: str, text: memoryview) -> tuple[int, int]:
    r"""Load lines of tab-separated UTF-8, and return how many rows that made and how many warnings.

    Args:
        connection: an idle one.
        table: as it stands in SQL.
        columns: what the fields are, as it stands in SQL.
        text: ``\N`` for NULL; backslashes, tabs and line feeds in a field are escaped by a backslash.

    Raises:
        aiomysql.Error: the server does not allow it, or the statement failed.
        ConfigurationError: the server asked for another file; the connection is closed.
    """
    name = f"memory-{secrets.token_hex(16)}"
    # Hexadecimal, since what a backslash in quotes means depends on sql_mode.
    statement = (
        f"LOAD DATA LOCAL INFILE '{name}' INTO TABLE {table} CHARACTER SET utf8mb4"
        f" FIELDS TERMINATED BY 0x09 ESCAPED BY 0x5C LINES TERMINATED BY 0x0A ({columns})"
    )
    await connection._execute_command(COMMAND.COM_QUERY, statement)
    request = await connection._read_packet()
    if not request.is_load_local_packet() or LoadLocalPacketWrapper(request).filename != name.encode():
        refuse(connection)
    await _send(connection, text)
    outcome = await connection._read_packet()
    if not outcome.is_ok_packet():
        refuse(connection)
    answer = OKPacketWrapper(outcome)
    connection.server_status = answer.server_status
    return answer.affected_rows, answer.warning_count


def refuse(connection: Connection) -> NoReturn:
    """Close a connection whose server sends what was not asked for, and raise ConfigurationError."""
    connection.close()
    raise ConfigurationError(_REFUSED)


async def _send(connection: Connection, text: memoryview) -> None:
    try:
        for start in range(0, len(text), _BYTES_A_PACKET):
            connection.write_packet(bytes(text[start : start + _BYTES_A_PACKET]))
            await connection._writer.drain()
        connection.write_packet(b"")  # the end of the file
    except asyncio.CancelledError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise aiomysql.OperationalError(CR.CR_SERVER_LOST, f"the connection was lost ({error})") from error
