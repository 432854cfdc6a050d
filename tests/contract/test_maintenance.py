"""Backups, the way back and giving space back, on every database."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.bars import daily, days
from tests.filled import fill
from traderrr_data import (
    CopyMismatchError,
    DailyData,
    DatabaseManager,
    SchemaMismatchError,
    maintenance,
    market_data,
    schema,
    transfer,
)
from traderrr_data.models import Base

ROWS = 3_000


async def everything(db: DatabaseManager) -> dict[str, list[tuple[Any, ...]]]:
    async with db.engine.connect() as connection:
        return {
            table.name: [tuple(row) for row in await connection.execute(sa.select(table).order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        }


async def test_a_backup_brings_back_every_row_of_every_table(db: DatabaseManager, tmp_path: Path) -> None:
    await fill(db, bars=2_000)
    before = await everything(db)
    assert all(before.values())
    seen: list[float] = []
    made = await maintenance.backup(db, progress=seen.append)
    assert made.size_bytes > 10_000
    assert made.path.stat().st_mode & 0o077 == 0 or made.path.is_file()
    assert seen == sorted(seen)
    assert seen[-1] == 1
    async with db.session_context() as session:
        await session.execute(sa.delete(DailyData))
        await market_data.upsert_daily(session, [daily("LATER")])
    changed = await everything(db)
    restored = await maintenance.restore(db, made.path)
    assert await everything(db) == before
    assert restored.status.state is schema.State.CURRENT
    assert restored.replaced is not None
    await maintenance.restore(db, restored.replaced)
    assert await everything(db) == changed


async def test_a_backup_goes_into_an_empty_database_too(db: DatabaseManager, empty_url: str) -> None:
    await fill(db)
    made = await maintenance.backup(db)
    async with DatabaseManager(empty_url) as other:
        restored = await maintenance.restore(other, made.path)
        assert restored.replaced is None
        assert await everything(other) == await everything(db)


async def test_keep_removes_the_oldest_backups_and_nothing_else(db: DatabaseManager, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    made = [await maintenance.backup(db, folder) for _ in range(3)]
    mine = made[0].path.with_name(re.sub(r"-\d{8}T", "-20200101T", made[0].path.name))
    mine.mkdir()
    last = await maintenance.backup(db, folder, keep=2)
    assert last.removed == tuple(backup.path for backup in made[:2])
    assert sorted(folder.iterdir()) == sorted([mine, made[2].path, last.path])


@pytest.mark.parametrize("damage", ["a file is gone", "a file is cut", "it is not complete", "it is none"])
async def test_a_damaged_folder_is_refused_before_anything_is_changed(
    db: DatabaseManager, tmp_path: Path, damage: str
) -> None:
    await fill(db, bars=100)
    folder = tmp_path / "copy"
    await transfer.copy(db.settings, folder)
    (part, *_) = sorted((folder / "daily_data").glob("*.parquet"))
    match damage:
        case "a file is gone":
            part.unlink()
        case "a file is cut":
            part.write_bytes(part.read_bytes()[:-100])
        case "it is not complete":
            (folder / ".unfinished.json").write_text("{}")
        case _:
            (folder / "manifest.json").unlink()
    before = await everything(db)
    there = sorted(tmp_path.iterdir())
    with pytest.raises((SchemaMismatchError, CopyMismatchError)):
        await maintenance.restore(db, folder)
    assert await everything(db) == before
    assert [path for path in sorted(tmp_path.iterdir()) if path not in there] == []


async def test_a_backup_or_a_restore_that_was_cancelled_may_be_run_again(db: DatabaseManager, tmp_path: Path) -> None:
    await fill(db, bars=30_000)
    before = await everything(db)
    target = tmp_path / "backup"
    for delay in (0.01, 0.1, 0.3):
        if target.exists():
            break  # it was complete when it was cancelled
        task = asyncio.create_task(maintenance.backup(db, target))
        await asyncio.sleep(delay)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [path for path in tmp_path.iterdir() if "part" in path.name] == []
    if not target.exists():
        await maintenance.backup(db, target)
    for delay in (0.1, 0.5, 1):
        restoring = asyncio.create_task(maintenance.restore(db, target))
        await asyncio.sleep(delay)
        if restoring.cancel():
            with pytest.raises(asyncio.CancelledError):
                await restoring
    await maintenance.restore(db, target)
    assert await everything(db) == before


@pytest.mark.unpooled("a pooler cannot vacuum, which is refused")
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


@pytest.mark.unpooled("a pooler cannot vacuum, which is refused")
async def test_a_vacuum_goes_on_beside_an_idle_manager_and_a_reader_of_before(db: DatabaseManager) -> None:
    async with DatabaseManager(db.settings) as other:
        async with other.session_context(read_only=True) as session:
            await market_data.coverage(session)
        async with asyncio.timeout(20):
            await maintenance.vacuum(db)
        async with other.session_context() as session:
            await market_data.upsert_daily(session, [daily()])


@pytest.mark.unpooled("a pooler cannot vacuum, which is refused")
async def test_a_database_without_our_tables_is_not_vacuumed(empty_url: str) -> None:
    async with DatabaseManager(empty_url) as db:
        with pytest.raises(SchemaMismatchError):
            await maintenance.vacuum(db)
