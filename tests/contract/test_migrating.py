"""Files of the old application, taken over, moved to every database, and back to where the old code goes on."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import legacy_files
from tests.migrations.test_adopt_old_code import old_code
from traderrr_data import DailyData, DatabaseManager, market_data, portfolio, schema, transfer
from traderrr_data.adopt import adopt

NUMPY = {"date": "2025-06-02", "portfolio_value": 1e5, "max_drawdown": legacy_files.FLOAT32}


@pytest.mark.parametrize("shape", legacy_files.SHAPES)
async def test_an_adopted_file_goes_to_any_database_and_back(shape: str, empty_url: str, tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", shape)
    file = f"sqlite:///{path}"
    kept = {table.name: table.kept for table in (await adopt(path)).tables}
    copied = await transfer.copy(file, empty_url, round_noise=True)
    assert {table.table: table.target.rows for table in copied.tables if table.table in kept} == kept
    with legacy_files.opened(path) as connection:  # the old code goes on meanwhile
        legacy_files.insert(connection, "portfolio_positions", [{"ticker": "OLD", "shares": 1.5}])
        legacy_files.insert(connection, "portfolio_performance", [NUMPY])
    assert (await transfer.copy(file, empty_url, round_noise=True, merge=True)).written == 2
    async with DatabaseManager(empty_url) as db:
        async with db.session_context() as session:
            assert {one.ticker: one.shares for one in await portfolio.list_positions(session)}["OLD"] == Decimal("1.5")
            await portfolio.upsert_position(session, "NEW", 2)
            if kept["daily_data"]:
                bar = (await market_data.list_daily(session, "BRK.B"))[0]
                assert bar.open == Decimal("269.2799987793")
        assert await schema.check(db.engine) == []
    back = await transfer.copy(empty_url, file, merge=True)
    assert back.written == 1
    with legacy_files.opened(path) as connection:
        shares = dict(connection.execute("SELECT ticker, shares FROM portfolio_positions"))
        assert (shares["OLD"], shares["NEW"]) == (1.5, 2)
        if kept["daily_data"]:
            query = "SELECT open FROM daily_data WHERE ticker = 'BRK.B' ORDER BY date LIMIT 1"
            assert connection.execute(query).fetchone() == (269.2799987792969,)
        legacy_files.insert(connection, "portfolio_performance", [NUMPY])  # what the triggers are for
    await asyncio.to_thread(old_code, path)


async def test_the_old_code_goes_on_in_a_file_that_is_made_of_a_server(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = legacy_files.make(tmp_path / "old.db", "A")
    await adopt(path)
    await transfer.copy(f"sqlite:///{path}", empty_url, round_noise=True)
    monkeypatch.setenv("DB_SQLITE_JOURNAL", "delete")
    await transfer.copy(empty_url, f"sqlite:///{tmp_path}/back.db")
    answers = await asyncio.to_thread(old_code, tmp_path / "back.db")
    assert answers[-2:] == [[("delete",)], [("ok",)]]
    async with DatabaseManager(f"sqlite:///{tmp_path}/back.db") as db, db.session_context(read_only=True) as session:
        assert len((await session.scalars(sa.select(DailyData).where(DailyData.ticker == "NEW"))).all()) == 5
