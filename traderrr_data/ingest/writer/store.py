"""Store some rows in one transaction and tell of each what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias, cast

from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import bulk
from traderrr_data.bulk.rows import Row, Shape
from traderrr_data.db import DatabaseManager
from traderrr_data.dialects.base import RowByRow
from traderrr_data.errors import ConstraintViolationError, InvalidRowError, TraderrrDataError
from traderrr_data.ingest.writer.accepted import DAILY, INTRADAY, Accepted, Outcome

Fate: TypeAlias = Outcome | TraderrrDataError
"""What became of a row, or why the database refused it."""


async def store(db: DatabaseManager, rows: Sequence[Accepted]) -> list[Fate]:
    """Upsert rows in one transaction, commit it, and return the fate of each in their order.

    A row that the database refuses, though its check let it pass, fails alone.

    Raises:
        TraderrrDataError: what is not the fault of a row.
    """
    try:
        return await db.run(partial(_store, rows=rows, savepoints=False), retries=0)
    except (ConstraintViolationError, InvalidRowError, RowByRow):
        return await db.run(partial(_store, rows=rows, savepoints=True), retries=0)  # which tell whose fault it was


async def _store(session: AsyncSession, rows: Sequence[Accepted], *, savepoints: bool) -> list[Fate]:
    fates: dict[int, Fate] = {}
    for shape in (DAILY, INTRADAY):
        at = [position for position, row in enumerate(rows) if row.shape is shape]
        if at:
            values = [rows[position].values for position in at]
            upsert = _upsert_or_blame if savepoints else _upsert
            fates.update(zip(at, await upsert(session, shape, values), strict=True))
    return [fates[position] for position in range(len(rows))]


async def _upsert_or_blame(session: AsyncSession, shape: Shape, rows: Sequence[Row]) -> Sequence[Fate]:
    try:
        return await _upsert(session, shape, rows, savepoint=True)
    except (ConstraintViolationError, InvalidRowError) as error:
        if len(rows) == 1:
            return [error]
        half = len(rows) // 2
        first = await _upsert_or_blame(session, shape, rows[:half])
        return [*first, *await _upsert_or_blame(session, shape, rows[half:])]


async def _upsert(
    session: AsyncSession, shape: Shape, rows: Sequence[Row], *, savepoint: bool = False
) -> Sequence[Outcome]:
    # The rows were checked when they were accepted; whether their prices may be out of order was said then.
    result = await bulk.upsert(
        session,
        shape.model,
        rows,
        key=shape.key,
        allow_inconsistent=True,
        verdicts=True,
        is_checked=True,
        savepoint=savepoint,
    )
    return cast("Sequence[Outcome]", result.verdicts)
