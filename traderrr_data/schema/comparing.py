"""Compare a database's tables with the models."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from traderrr_data import dialects
from traderrr_data.errors import SchemaMismatchError
from traderrr_data.models import Base
from traderrr_data.schema.standing import State, describe, status


async def check(engine: AsyncEngine) -> list[str]:
    """Return the differences between the models and the database's tables, as text; empty if there are none.

    Everything that the database's own catalog says is compared: columns with their types, decimals, fractions of
    seconds, collations, defaults and order, keys, indexes and CHECKs. On a server that takes the right to make
    temporary tables; nothing is left of them.

    Raises:
        SchemaMismatchError: the database is not at this code's head, so that they cannot be compared.
    """
    stands = await status(engine)
    if stands.state is not State.CURRENT:
        raise SchemaMismatchError(describe(stands))
    dialect = dialects.for_connection(engine.sync_engine)
    async with engine.execution_options(**dialect.catalog_options).connect() as connection:
        found, expected = await connection.run_sync(dialect.catalogs, Base.metadata.sorted_tables)
    parts = sorted(found.keys() | expected.keys())
    return [
        _difference(f"{table}, {part}", found.get((table, part)), expected.get((table, part)))
        for table, part in parts
        if found.get((table, part)) != expected.get((table, part))
    ]


def _difference(part: str, found: str | None, expected: str | None) -> str:
    if expected is None:
        return f"{part}: not expected ({found})"
    return f"{part}: missing ({expected})" if found is None else f"{part}: {found}, expected {expected}"
