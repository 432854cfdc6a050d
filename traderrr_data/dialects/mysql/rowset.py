"""The rows of a query as the server sends them: packets, of which nothing is taken apart before all have come.

https://mariadb.com/kb/en/result-set-packets/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from aiomysql import OperationalError
from aiomysql.connection import COMMAND, CR, EOFPacketWrapper, MysqlPacket

from traderrr_data.dialects.cells import PADDING
from traderrr_data.dialects.mysql.load import Connection, refuse

_BYTES_A_BLOCK = 1 << 18
_HEAD = 4  # bytes of a packet's size and number
_MOST_BYTES = 0xFFFFFF  # of a packet; a longer row goes on in the next one
_ERROR, _EOF = 0xFF, 0xFE
_LONGEST_EOF = 8  # in a longer packet this is the size of a cell


@dataclass
class Rowset:
    """Rows that have been received.

    Attributes:
        packets: what the server sent, between two paddings.
        begins: where each row's packet begins.
        end: where the last one ends.
        has_long_rows: some take more than one packet, each of which then counts as a row.
        goes_on: the last one goes on in the next packet.
    """

    packets: bytearray = field(default_factory=lambda: bytearray(PADDING))
    begins: list[int] = field(default_factory=list)
    end: int = len(PADDING)
    has_long_rows: bool = False
    goes_on: bool = False

    def last(self) -> Rowset:
        """Return the last row alone."""
        begin = self.begins[-1]
        packet = bytearray(PADDING + self.packets[begin : self.end] + PADDING)
        return Rowset(packet, [len(PADDING)], len(PADDING) + self.end - begin, self.has_long_rows)


async def query(connection: Connection, statement: str) -> Rowset:
    """Return the rows of a query, each cell as its text.

    Args:
        connection: an idle one.
        statement: one SELECT.

    Raises:
        aiomysql.Error: it failed, or the connection was lost.
        ConfigurationError: the server did not answer a query; the connection is closed.
    """
    await connection._execute_command(COMMAND.COM_QUERY, statement)
    first = await connection._read_packet()
    if not first.is_resultset_packet():
        refuse(connection)
    for _ in range(first.read_length_encoded_integer()):
        await connection._read_packet()
    if not (await connection._read_packet()).is_eof_packet():
        refuse(connection)
    rowset = Rowset()
    is_end = False
    while not is_end:
        rowset.packets += await _received(connection)
        is_end = _followed(rowset)
    _end(connection, bytes(rowset.packets[rowset.end :]))
    rowset.packets += PADDING
    return rowset


async def _received(connection: Connection) -> bytes:
    try:
        block: bytes = await connection._reader.read(_BYTES_A_BLOCK)
    except OSError as error:
        _lost(connection, str(error))
    return block or _lost(connection, "it was closed")


def _lost(connection: Connection, reason: str) -> NoReturn:
    connection.close()
    raise OperationalError(CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({reason})")


def _followed(rowset: Rowset) -> bool:
    """Go from packet to packet as far as they have come; tell whether the next one is the server's last."""
    packets, begins, at, has = rowset.packets, rowset.begins, rowset.end, len(rowset.packets)
    is_end = False
    while at + _HEAD < has:
        size = packets[at] | packets[at + 1] << 8 | packets[at + 2] << 16
        if at + _HEAD + size > has:
            break
        letter = packets[at + _HEAD]
        if letter >= _EOF and not rowset.goes_on and (letter == _ERROR or size <= _LONGEST_EOF):
            is_end = True
            break
        rowset.goes_on = size == _MOST_BYTES
        rowset.has_long_rows |= rowset.goes_on
        begins.append(at)
        at += _HEAD + size
    rowset.end = at
    return is_end


def _end(connection: Connection, packet: bytes) -> None:
    """Take note of what the server says in the end; raise the error, if it is one."""
    last = MysqlPacket(packet[_HEAD:], connection._encoding)
    last.check_error()
    connection.server_status = EOFPacketWrapper(last).server_status
