"""A server that asks the client for a file, as only LOAD DATA LOCAL should make it do, gets nothing."""

from __future__ import annotations

import ast
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomysql
import pytest

from tests.project import ROOT
from traderrr_data import (
    ConfigurationError,
    DatabaseManager,
    DatabaseUnavailableError,
    Settings,
    market_data,
    schema,
)
from traderrr_data.dialects import EngineOptions
from traderrr_data.dialects.mysql import facts
from traderrr_data.dialects.mysql.load import Connection, connect, load_local
from traderrr_data.ingest import reader

QUERY, PING, INIT_DB = b"\3", b"\x0e", b"\2"  # https://mariadb.com/kb/en/2-text-protocol/
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
        self._request = b"\xfb" + str(path).encode()
        self._wanted: bytes | None = None
        self._answer = b""
        self._login_answer = packet(2, OK)

    def ask_at(self, statement: bytes, first: bytes = b"", *, command: bytes = QUERY) -> None:
        """Ask for the file when a command comes that begins so, behind what is to be answered `first`."""
        self._wanted = command + statement
        self._answer = packet(1, first) + packet(2, self._request) if first else packet(1, self._request)

    def ask_at_login(self) -> None:
        """Ask for the file instead of letting anybody in."""
        self._login_answer = packet(2, self._request)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            writer.write(packet(0, GREETING))
            await payload(reader)
            writer.write(self._login_answer)
            if self._login_answer != packet(2, OK):
                self.received += await reader.read()
            while not reader.at_eof():
                command = await payload(reader)
                if self._wanted is None or not command.startswith(self._wanted):
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


async def ping(connection: Connection) -> None:
    await connection.ping(reconnect=False)


async def change_database(connection: Connection) -> None:
    await connection.select_db("other")


async def commit(connection: Connection) -> None:
    await connection.commit()


async def roll_back(connection: Connection) -> None:
    await connection.rollback()


async def set_autocommit(connection: Connection) -> None:
    await connection.autocommit(False)


@pytest.mark.parametrize(
    ("wanted", "command", "use"),
    [
        (b"", PING, ping),
        (b"", INIT_DB, change_database),
        (b"COMMIT", QUERY, commit),
        (b"ROLLBACK", QUERY, roll_back),
        (b"SET AUTOCOMMIT", QUERY, set_autocommit),
    ],
)
async def test_a_server_that_asks_where_no_rows_are_expected_gets_nothing(
    hostile: HostileServer, wanted: bytes, command: bytes, use: Callable[[Connection], Awaitable[Any]]
) -> None:
    connection = await connect(host="127.0.0.1", port=hostile.port, user="u", password="p", connect_timeout=5)
    hostile.ask_at(wanted, command=command)
    with pytest.raises((aiomysql.Error, ConfigurationError)):
        await use(connection)
    connection.close()
    await asyncio.wait_for(hostile.finished.wait(), 5)
    assert hostile.received == b""


async def test_a_server_that_asks_at_the_login_gets_nothing_but_statements(hostile: HostileServer) -> None:
    """The driver takes any answer but an error for a welcome."""
    hostile.ask_at_login()
    settings = Settings(database_url=f"mysql://u:p@127.0.0.1:{hostile.port}/traderrr", db_connect_timeout=1)
    async with DatabaseManager(settings) as db:
        with pytest.raises(DatabaseUnavailableError):
            await db.ping()
    await asyncio.wait_for(hostile.finished.wait(), 5)
    assert b"the client's own" not in hostile.received


async def in_a_session(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.coverage(session)


async def in_a_reader(db: DatabaseManager) -> None:
    async with reader(db) as questions:
        await questions.latest_daily(["AAPL"])


async def in_a_unit_of_work(db: DatabaseManager) -> None:
    await db.run(market_data.coverage)


async def in_an_answer_to_ping(db: DatabaseManager) -> None:
    await db.ping()


async def in_a_migration(db: DatabaseManager) -> None:
    await db.init_db()


async def in_a_look_at_the_schema(db: DatabaseManager) -> None:
    await schema.status(db.engine)


async def in_the_diagnostics(db: DatabaseManager) -> None:
    found = await db.get_database_info()
    raise ConfigurationError(found["error"])


WAYS = (
    *(in_a_session, in_a_reader, in_a_unit_of_work, in_an_answer_to_ping),
    *(in_a_migration, in_a_look_at_the_schema, in_the_diagnostics),
)


@pytest.mark.parametrize("options", ["", "?local_infile=1"])
@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize("statement", [b"SET", b"SELECT"])
async def test_a_manager_gives_a_server_that_asks_for_a_file_nothing(
    hostile: HostileServer, statement: bytes, use: Callable[[DatabaseManager], Awaitable[None]], options: str
) -> None:
    hostile.ask_at(statement)
    async with DatabaseManager(f"mysql://u:p@127.0.0.1:{hostile.port}/traderrr{options}") as db:
        with pytest.raises(ConfigurationError, match="asked for a file"):
            await use(db)
    await asyncio.wait_for(hostile.finished.wait(), 5)
    assert hostile.received == b""


async def test_the_connection_that_stops_a_cancelled_statement_gives_nothing(hostile: HostileServer) -> None:
    hostile.ask_at(b"KILL")
    async with DatabaseManager(f"mysql://u:p@127.0.0.1:{hostile.port}/traderrr") as db:
        await facts._kill_query(db.engine.sync_engine, EngineOptions(), 1)
    await asyncio.wait_for(hostile.finished.wait(), 5)
    assert hostile.received == b""


def test_no_connection_is_made_but_by_the_class_that_sends_no_file() -> None:
    harmless = {"COMMAND", "CR", "EOFPacketWrapper", "MysqlPacket", "OperationalError"}  # nothing that connects
    named = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("traderrr_data/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(name.name.startswith(("aiomysql", "pymysql")) for name in node.names))
        or (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith(("aiomysql", "pymysql"))
            and not {name.name for name in node.names} <= harmless
        )
    }
    assert named == {"traderrr_data/dialects/mysql/load.py"}
