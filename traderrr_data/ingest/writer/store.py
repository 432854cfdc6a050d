"""Store some rows in one transaction and tell of each what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import bulk
from traderrr_data.bulk.rows import Row, Shape
from traderrr_data.errors import ConstraintViolationError, InvalidRowError, TraderrrDataError
from traderrr_data.ingest.writer.accepted import DAILY, INTRADAY, Accepted, Outcome

Fate: TypeAlias = Outcome | TraderrrDataError
"""What became of a row, or why the database refused it."""


async def store(session: AsyncSession, rows: Sequence[Accepted]) -> list[Fate]:
    """Upsert rows and return the fate of each, in their order; the caller commits.

    A row that the database refuses, though its check let it pass, fails alone.

    Raises:
        TraderrrDataError: what is not the fault of a row.
    """
    fates: dict[int, Fate] = {}
    for shape in (DAILY, INTRADAY):
        at = [position for position, row in enumerate(rows) if row.shape is shape]
        if at:
            fates.update(zip(at, await _store(session, shape, [rows[position].values for position in at]), strict=True))
    return [fates[position] for position in range(len(rows))]


async def _store(session: AsyncSession, shape: Shape, rows: Sequence[Row]) -> Sequence[Fate]:
    try:
        # The rows were checked when they were accepted; whether their prices may be out of order was said then.
        result = await bulk.upsert(
            session, shape.model, rows, key=shape.key, allow_inconsistent=True, verdicts=True, is_checked=True
        )
    except (ConstraintViolationError, InvalidRowError) as error:
        if len(rows) == 1:
            return [error]
        half = len(rows) // 2
        return [*await _store(session, shape, rows[:half]), *await _store(session, shape, rows[half:])]
    return cast("Sequence[Outcome]", result.verdicts)
