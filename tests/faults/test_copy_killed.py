"""A copy that is killed with -9, at any step and again and again, ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.filled import fill
from tests.project import ROOT
from traderrr_data import Base, DatabaseManager, TraderrrDataError, schema, transfer

BARS = 200
BATCH = 40
COPYING = f"""
import asyncio, sys
from traderrr_data import transfer

def tell(at):
    print(at.phase, at.table, flush=True)

print("begun", flush=True)
merge = sys.argv[3] == "merge"
asyncio.run(transfer.copy(sys.argv[1], sys.argv[2], batch_rows={BATCH}, progress=tell, merge=merge))
print("done", flush=True)
"""


@pytest.fixture
def target_url(backend: Backend) -> Iterator[str]:
    """The URL of another new, empty database, where it does not matter of which kind."""
    url = backend.create_database()
    yield url
    backend.drop_database(url)


@contextlib.contextmanager
def copying(source: str, target: str, how: str = "alone") -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", COPYING, source, target, how], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def steps_of_a_copy(source: str, target: str) -> list[str]:
    """Return what a copy that nobody kills says."""
    with copying(source, target) as process:
        assert process.stdout is not None
        return process.stdout.read().split("\n")[:-1]


def kill_at(source: str, target: str, step: int, how: str = "alone") -> None:
    """Kill a copy as soon as it has said so many lines; it is a little further by then, each time another little."""
    with copying(source, target, how) as process:
        assert process.stdout is not None
        for _ in range(step):
            if not process.stdout.readline():
                break


async def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    async with DatabaseManager(url) as db, db.session_context(read_only=True) as session:
        return {
            table.name: [tuple(row) for row in await session.execute(sa.select(table).order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        }


async def filled(url: str) -> dict[str, list[tuple[Any, ...]]]:
    async with DatabaseManager(url) as db:
        await db.init_db()
        await fill(db, bars=BARS)
    return await rows_of(url)


def some_of(steps: list[str]) -> list[int]:
    """Return the first and the last step, the turn from copying to verifying, and two at random."""
    turn = next(number for number, step in enumerate(steps) if step.startswith("verifying"))
    chosen = {1, turn, len(steps) - 1, *random.sample(range(2, turn), 2)}
    return sorted(chosen)


async def test_a_killed_copy_goes_on_where_it_was_on_every_pair(empty_url: str, other_url: str, tmp_path: Path) -> None:
    rows = await filled(empty_url)
    steps = steps_of_a_copy(empty_url, str(tmp_path / "files"))
    assert (steps[0], steps[-1]) == ("begun", "done")
    for step in some_of(steps):
        kill_at(empty_url, other_url, step)
    result = await transfer.copy(empty_url, other_url, batch_rows=BATCH)
    assert await rows_of(other_url) == rows
    assert all(table.source == table.target for table in result.tables)
    async with DatabaseManager(other_url) as db:
        assert await schema.check(db.engine) == []
        async with db.engine.connect() as connection:
            assert "traderrr_data_copy" not in await connection.run_sync(
                lambda sync: sa.inspect(sync).get_table_names()
            )
    assert (await transfer.copy(empty_url, other_url, batch_rows=BATCH)).written == 0


async def test_a_killed_copy_to_files_is_whole_or_no_copy(empty_url: str, target_url: str, tmp_path: Path) -> None:
    rows = await filled(empty_url)
    steps = steps_of_a_copy(empty_url, str(tmp_path / "whole"))
    directory = tmp_path / "files"
    for step in some_of(steps):
        kill_at(empty_url, str(directory), step)
        if not (directory / "manifest.json").exists():
            with pytest.raises(TraderrrDataError, match=r"no copy|not complete|no directory"):
                await transfer.copy(directory, target_url)
    await transfer.copy(empty_url, directory, batch_rows=BATCH)
    names = [
        sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (directory, tmp_path / "whole")
    ]
    assert names[0] == names[1]
    for step in some_of(steps)[1::2]:
        kill_at(str(directory), target_url, step)
    await transfer.copy(directory, target_url, batch_rows=BATCH)
    assert await rows_of(target_url) == rows


async def test_a_killed_merge_can_be_run_again(empty_url: str, target_url: str) -> None:
    await filled(empty_url)
    async with DatabaseManager(target_url) as db:
        await db.init_db()
        await fill(db)
    for step in (20, 26, 32):
        kill_at(empty_url, target_url, step, "merge")
    await transfer.copy(empty_url, target_url, merge=True, batch_rows=BATCH)
    merged = await rows_of(target_url)
    again = await transfer.copy(empty_url, target_url, merge=True)
    assert again.written == 0
    assert await rows_of(target_url) == merged
