"""How statements and rows get to the server: several statements in one round trip, and rows as text."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from traderrr_data.dialects.base import RowByRow
from traderrr_data.dialects.mysql.statements import LIMITS, Statements

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")

_LOAD_FROM = 2_000  # rows; fewer are about as fast in one statement, which takes three round trips less
_ROWS_A_STATEMENT = 1_000  # more take the server longer a row
_INLINE = 500  # rows that cost the event loop a millisecond
_LIMITS = "traderrr_data_limits"
# LOCAL is not allowed on the server, or switched off there (MySQL, MariaDB), or the client did not offer it.
_LOCAL_FORBIDDEN = (1148, 3948, 4166, 2068)
_REST_OF_STATEMENT = 20_000  # bytes beside the rows
_SAVEPOINT = "traderrr_data_load"
_NO_BACKSLASH_ESCAPES = 0x200  # of the driver's server_status


@dataclass
class Limits:
    """What the server of one connection allows.

    Attributes:
        local: LOAD DATA LOCAL.
        packet: the bytes of a packet.
        heap: the bytes of a table in memory.
        logged: what an INSERT brings into such a table goes to the binary log, as a statement.
    """

    local: bool
    packet: int
    heap: int
    logged: bool

    def heap_for(self, rows: int) -> int:
        """Return the bytes that a staging table of so many rows may take in memory."""
        return 0 if self.logged and not self.loads(rows) else self.heap

    def loads(self, rows: int) -> bool:
        """Tell whether so many rows are loaded, and not inserted."""
        return self.local and rows >= _LOAD_FROM

    @property
    def rows_bytes(self) -> int:
        """How long the rows of one statement may be."""
        return self.packet - _REST_OF_STATEMENT

    def refuse_local(self, error: Exception) -> bool:
        """Tell whether an error says that LOCAL is forbidden, and remember it."""
        self.local = self.local and error.args[0] not in _LOCAL_FORBIDDEN
        return not self.local


async def limits_of(driver: Any, info: MutableMapping[Any, Any]) -> Limits:
    """Return the limits; `info` is the connection's, and keeps them."""
    from traderrr_data.dialects.mysql.load import Connection  # noqa: PLC0415 - loaded only where aiomysql is the driver

    if _LIMITS not in info:
        ((local, packet, heap, logged),) = (await run(driver, [LIMITS.encode()]))[0]
        info[_LIMITS] = Limits(bool(local) and isinstance(driver, Connection), packet, heap, bool(logged))
    limits: Limits = info[_LIMITS]
    return limits


async def made(rows: int, make: Callable[[], _T]) -> _T:
    """Return what is made of so many rows; of many in a thread, so that the event loop goes on."""
    return make() if rows <= _INLINE else await asyncio.to_thread(make)


async def run(driver: Any, statements: Sequence[bytes]) -> list[Sequence[Any]]:
    """Run statements in one round trip, and return the rows of each."""
    await driver.query(b";".join(statements))
    results = [driver._result.rows or ()]
    while driver._result.has_next:
        await driver.next_result()
        results.append(driver._result.rows or ())
    return results


def backslash_escapes(driver: Any) -> bool:
    """Tell what a backslash in quotes means on a connection."""
    return not driver.server_status & _NO_BACKSLASH_ESCAPES


def fitting_values(rows: pa.Table, *, most_bytes: int, backslash_escapes: bool) -> list[bytes]:
    """Return rows as they stand behind VALUES, each with a comma before it, in as many parts as are best."""
    from traderrr_data.dialects.mysql import texts  # noqa: PLC0415 - loaded only where Arrow is used

    def fitting(part: pa.Table) -> list[bytes]:
        text = texts.literals(part, backslash_escapes=backslash_escapes)
        half = part.num_rows // 2
        if half and len(text) > most_bytes:
            return [*fitting(part.slice(0, half)), *fitting(part.slice(half))]
        return [bytes(text)]

    parts = (rows.slice(start, _ROWS_A_STATEMENT) for start in range(0, rows.num_rows, _ROWS_A_STATEMENT))
    return [values for part in parts for values in fitting(part)]


@dataclass
class Piece:
    """Some rows of a batch, numbered from 0, and the text of which a staging table is filled."""

    rows: pa.Table
    lines: memoryview | None
    values: list[bytes]

    @property
    def size(self) -> int:
        """Return the number of rows."""
        return int(self.rows.num_rows)


class Carrier:
    """Takes the rows and statements of one batch to the server."""

    def __init__(self, driver: Any, limits: Limits, statements: Statements) -> None:
        self._driver = driver
        self._limits = limits
        self._sql = statements

    def loads(self, rows: int) -> bool:
        """Tell whether so many rows are loaded, and not inserted."""
        return self._limits.loads(rows)

    def pieces(self, columns: pa.Table, size: int) -> AsyncGenerator[Piece, None]:
        """Yield a batch in pieces; while the server has one, the text of the next is made."""
        return _each_made(columns, size, self._prepare)

    def _prepare(self, rows: pa.Table) -> Piece:
        import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

        from traderrr_data.dialects.mysql import texts  # noqa: PLC0415 - as above

        numbered = rows.select(self._sql.sent).add_column(0, "n", pa.array(range(rows.num_rows), pa.int32()))
        if self._limits.loads(rows.num_rows):
            return Piece(rows, texts.lines(numbered), [])
        return Piece(rows, None, self._values(numbered))

    def _values(self, rows: pa.Table) -> list[bytes]:
        return fitting_values(rows, most_bytes=self._limits.rows_bytes, backslash_escapes=self._sql.backslash_escapes)

    async def run(self, statements: Sequence[str | bytes]) -> list[Sequence[Any]]:
        """Run statements in as few round trips as the size of a packet allows, and return the rows of each."""
        results: list[Sequence[Any]] = []
        group: list[bytes] = []
        for statement in statements:
            encoded = statement.encode() if isinstance(statement, str) else statement
            if group and sum(map(len, group)) + len(encoded) > self._limits.packet - _REST_OF_STATEMENT // 2:
                results += await run(self._driver, group)
                group = []
            group.append(encoded)
        return results + await run(self._driver, group)

    async def stage(self, piece: Piece) -> list[str | bytes]:
        """Bring a piece into a new staging table, if the statements returned are run, too."""
        statements: list[str | bytes] = list(self._sql.create)
        if piece.lines is not None:
            await self.run(statements)
            outcome = await self._load(self._sql.stage, self._sql.stage_columns, piece.lines)
            if outcome == (piece.size, 0):
                return []
            if outcome is not None:
                raise RowByRow  # a LOCAL load turns every error into a warning
            piece = await made(piece.size, lambda: self._prepare(piece.rows))
            statements = []
        return [*statements, *map(self._sql.stage_values, piece.values)]

    async def inserts(self, rows: pa.Table) -> list[bytes]:
        """Return the statements that insert rows which are not taken from the staging table."""
        return [self._sql.insert_values(values) for values in await made(rows.num_rows, lambda: self._values(rows))]

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """Tell whether nobody else loads into this table, and keep others from it meanwhile; nobody waits."""
        lock = f"SHA1(CONCAT('traderrr_data load ', DATABASE(), '.{self._sql.table}'))"
        (((taken,),),) = await self.run([f"SELECT GET_LOCK({lock}, 0)"])
        try:
            yield bool(taken)
        finally:
            if taken and not self._driver.closed:  # a connection that ends frees it
                await self.run([f"DO RELEASE_LOCK({lock})"])

    async def load_into_table(self, columns: pa.Table, size: int) -> bool:
        """Load a batch straight into its table; False, with nothing done, if a row of it was not taken."""
        from traderrr_data.dialects.mysql import texts  # noqa: PLC0415 - loaded only where Arrow is used

        await self.run([f"SAVEPOINT {_SAVEPOINT}"])
        async with contextlib.aclosing(_each_made(columns, size, texts.lines)) as parts:
            taken = 0
            async for text in parts:
                rows = min(size, columns.num_rows - taken)
                if await self._load(self._sql.table, self._sql.names, text) != (rows, 0):
                    await self.run([f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}"])
                    return False
                taken += rows
        await self.run([f"RELEASE SAVEPOINT {_SAVEPOINT}"])
        return True

    async def _load(self, table: str, names: str, text: memoryview) -> tuple[int, int] | None:
        """Load lines and return how many rows and warnings that made; None if the server forbids it."""
        from traderrr_data.dialects.mysql import load  # noqa: PLC0415 - loaded only where aiomysql is the driver

        try:
            return await load.load_local(self._driver, table, names, text)
        except load.Error as error:
            if not self._limits.refuse_local(error):
                raise
            return None


async def _each_made(columns: pa.Table, size: int, make: Callable[[pa.Table], _T]) -> AsyncGenerator[_T, None]:
    """Yield what is made of so many rows each; while the server has one, the next is made."""

    def begun(start: int) -> asyncio.Future[_T]:
        rows = columns.slice(start, size)
        return asyncio.ensure_future(made(rows.num_rows, lambda: make(rows)))

    upcoming = begun(0)
    try:
        for following in range(size, columns.num_rows + size, size):
            part = await upcoming
            if following < columns.num_rows:
                upcoming = begun(following)
            yield part
    finally:
        upcoming.cancel()
