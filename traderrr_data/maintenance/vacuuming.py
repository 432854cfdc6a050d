"""How each kind of database gives back the space of deleted rows, and renews its planner's statistics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.errors import DatabaseUnavailableError


async def _sqlite(connection: AsyncConnection, _tables: Sequence[str]) -> tuple[list[str], list[str]]:
    statements = ["VACUUM", "PRAGMA optimize=0x10002", "PRAGMA wal_checkpoint(TRUNCATE)"]
    for statement in statements[:-1]:
        await connection.exec_driver_sql(statement)
    busy, *_ = (await connection.exec_driver_sql(statements[-1])).one()
    remark = "the write-ahead log was not cut back, since somebody reads from it; the next writer does that"
    return statements, [remark] if busy else []


async def _postgresql(connection: AsyncConnection, tables: Sequence[str]) -> tuple[list[str], list[str]]:
    statements = [f"VACUUM (ANALYZE) {name}" for name in tables]
    await connection.exec_driver_sql("SET statement_timeout = 0")  # meant for queries
    for statement in statements:
        await connection.exec_driver_sql(statement)
    await connection.exec_driver_sql("RESET statement_timeout")
    return statements, ["the space is free for new rows of these tables; the files shrink only at their ends"]


async def _mysql(connection: AsyncConnection, tables: Sequence[str]) -> tuple[list[str], list[str]]:
    # Otherwise MySQL 8 tells sizes of up to a day ago; only MariaDB has a time-out for such statements.
    await connection.exec_driver_sql("/*!80000 SET SESSION information_schema_stats_expiry = 0 */")
    statements = [f"{verb} TABLE {name}" for name in tables for verb in ("OPTIMIZE", "ANALYZE")]
    for statement in statements:
        for answer in (await connection.exec_driver_sql(statement)).mappings():
            if str(answer["Msg_type"]).lower() == "error":
                raise DatabaseUnavailableError(f"{statement}: {answer['Msg_text']}")
    return statements, []


WAYS: dict[str, Callable[[AsyncConnection, Sequence[str]], Awaitable[tuple[list[str], list[str]]]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
}
"""For a connection without a transaction and the names of our tables: what was run, and what is worth knowing."""
