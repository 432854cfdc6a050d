"""Giving space back on every database."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.bars import daily, days
from traderrr_data import DailyData, DatabaseManager, SchemaMismatchError, maintenance, market_data

ROWS = 3_000


async def test_a_vacuum_takes_no_row_and_says_what_it_did(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=day) for day in days(ROWS)])
    async with db.session_context() as session:
        await session.execute(sa.delete(DailyData).where(DailyData.date >= days(ROWS)[100]))
    done = await maintenance.vacuum(db)
    assert done.statements
    assert 0 < done.bytes_after <= done.bytes_before
    assert backend.run_sql(database_url, "SELECT count(*) FROM daily_data") == [("100",)]
    assert (await maintenance.vacuum(db)).bytes_after <= done.bytes_before


async def test_a_vacuum_goes_on_beside_an_idle_manager_and_a_reader_of_before(db: DatabaseManager) -> None:
    async with DatabaseManager(db.settings) as other:
        async with other.session_context(read_only=True) as session:
            await market_data.coverage(session)
        async with asyncio.timeout(20):
            await maintenance.vacuum(db)
        async with other.session_context() as session:
            await market_data.upsert_daily(session, [daily()])


async def test_a_database_without_our_tables_is_not_vacuumed(empty_url: str) -> None:
    async with DatabaseManager(empty_url) as db:
        with pytest.raises(SchemaMismatchError):
            await maintenance.vacuum(db)
