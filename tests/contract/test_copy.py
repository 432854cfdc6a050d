"""A copy holds what its source held at one moment, cell by cell, whichever two databases they are."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.bars import DAY, daily, flat
from tests.filled import fill, many_bars
from traderrr_data import (
    Base,
    ConfigurationError,
    CopyMismatchError,
    DailyData,
    DatabaseManager,
    PortfolioPosition,
    SchemaMismatchError,
    Settings,
    SignalHistory,
    SystemEvent,
    TransactionConflictError,
    market_data,
    schema,
    system,
    trading,
    transfer,
)
from traderrr_data.transfer import CopyProgress, CopyResult

MARK = "traderrr_data_copy"
Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
def target_url(backend: Backend) -> Iterator[str]:
    """The URL of another new, empty database, where it does not matter of which kind."""
    url = backend.create_database()
    yield url
    backend.drop_database(url)


async def rows_of(url: str) -> Rows:
    """Return all rows of all tables, read one by one through the models."""
    async with DatabaseManager(url) as db, db.session_context(read_only=True) as session:
        return {
            table.name: [tuple(row) for row in await session.execute(sa.select(table).order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        }


async def filled(url: str, *, bars: int = 0) -> Rows:
    async with DatabaseManager(url) as db:
        await db.init_db()
        await fill(db, bars=bars)
    rows = await rows_of(url)
    assert all(rows.values()), "a table has no rows"
    return rows


def checksums(result: CopyResult) -> dict[str, Any]:
    assert all(table.source == table.target for table in result.tables)
    return {table.table: table.source for table in result.tables}


async def empty(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        for table in reversed(Base.metadata.sorted_tables):
            if not table.name.startswith("traderrr_data_"):
                await session.execute(sa.delete(table))


async def has_mark(url: str) -> bool:
    async with DatabaseManager(url) as db, db.engine.connect() as connection:
        return await connection.run_sync(lambda sync: sa.inspect(sync).has_table(MARK))


async def test_every_row_of_every_table_arrives_with_its_id_and_its_timestamps(empty_url: str, other_url: str) -> None:
    rows = await filled(empty_url)
    result = await transfer.copy(empty_url, other_url, batch_rows=7)
    assert await rows_of(other_url) == rows
    assert await rows_of(empty_url) == rows
    assert {table.table: table.source.rows for table in result.tables} == {name: len(its) for name, its in rows.items()}
    assert len({table.source.content for table in result.tables}) == len(result.tables)
    assert (result.rows, result.not_copied, result.resumed) == (sum(map(len, rows.values())), (), False)
    assert not await has_mark(other_url)
    async with DatabaseManager(other_url) as db:
        assert await schema.check(db.engine) == []


async def test_the_next_ids_come_behind_those_that_were_copied(empty_url: str, other_url: str) -> None:
    rows = await filled(empty_url)
    await transfer.copy(empty_url, other_url)
    async with DatabaseManager(other_url) as db, db.session_context() as session:
        session.add(PortfolioPosition(ticker="NEXT", shares=1))
        await trading.add_signal(session, "NEXT", date=DAY, signal_type="BUY")
        await system.add_event(session, "next", "")
        await market_data.upsert_daily(session, [daily("AAPL", **flat(1))])
    after = await rows_of(other_url)
    for name in ("portfolio_positions", "signal_history", "system_events", "bar_revisions"):
        number = list(Base.metadata.tables[name].c).index(Base.metadata.tables[name].c.id)
        assert after[name][-1][number] == max(row[number] for row in rows[name]) + 1, name


async def test_a_directory_takes_a_copy_and_gives_it_to_any_database(
    empty_url: str, other_url: str, tmp_path: Path
) -> None:
    rows = await filled(empty_url)
    directory = tmp_path / "backups" / "today"
    out = await transfer.copy(empty_url, directory, batch_rows=7)
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["revision"], manifest["tables"].keys()) == (schema.head(), rows.keys())
    assert manifest["snapshot_at"] == out.snapshot_at.isoformat()
    for name, its in rows.items():
        table = pq.read_table(directory / name)  # as any program would read it
        assert (table.num_rows, manifest["tables"][name]["rows"]) == (len(its), len(its))
        assert table.column_names == list(Base.metadata.tables[name].c.keys())
    back = await transfer.copy(str(directory), other_url, batch_rows=5)
    assert await rows_of(other_url) == rows
    assert checksums(back) == checksums(out)


async def test_a_copy_through_all_databases_and_files_ends_as_it_began(
    every_backend: Sequence[Backend], tmp_path: Path
) -> None:
    urls = [backend.create_database() for backend in every_backend]
    last = every_backend[0].create_database()
    try:
        rows = await filled(urls[0], bars=300)
        stations: list[str | Path] = [*urls, tmp_path / "files", last]
        results = [
            await transfer.copy(source, target, batch_rows=100) for source, target in itertools.pairwise(stations)
        ]
        assert len({json.dumps([[t.table, t.target.content] for t in result.tables]) for result in results}) == 1
        assert await rows_of(last) == rows
    finally:
        for backend, url in zip([*every_backend, every_backend[0]], [*urls, last], strict=True):
            backend.drop_database(url)


async def test_a_complete_copy_is_left_alone(empty_url: str, target_url: str, tmp_path: Path) -> None:
    await filled(empty_url)
    for target in (target_url, tmp_path / "files"):
        first = await transfer.copy(empty_url, target)
        again = await transfer.copy(empty_url, target)
        assert first.written > 0
        assert (again.written, checksums(again)) == (0, checksums(first))


async def test_other_rows_in_the_target_are_refused_and_stay(
    database_url: str, target_url: str, tmp_path: Path
) -> None:
    rows = await filled(target_url)
    async with DatabaseManager(database_url) as db, db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
    with pytest.raises(ConfigurationError, match=r"holds other rows, in .*daily_data"):
        await transfer.copy(database_url, target_url)
    assert await rows_of(target_url) == rows
    assert not await has_mark(target_url)
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"holds other things than a copy, such as letter\.txt"):
        await transfer.copy(database_url, tmp_path)
    await transfer.copy(target_url, tmp_path / "files")
    with pytest.raises(ConfigurationError, match="holds other rows"):
        await transfer.copy(database_url, tmp_path / "files")
    assert (await transfer.copy(tmp_path / "files", target_url)).written == 0


async def test_a_changed_cell_shows(empty_url: str, target_url: str) -> None:
    await filled(empty_url)
    await transfer.copy(empty_url, target_url)
    changes = [
        "UPDATE daily_data SET source = NULL WHERE source = ''",
        "UPDATE daily_data SET close = close + 0.0001 WHERE ticker = 'P09'",
        "UPDATE system_events SET details = '' WHERE details = 'a'",
        "UPDATE signal_history SET dedupe_key = NULL WHERE dedupe_key = 'signal 0'",
        "UPDATE metadata SET id = id + 100 WHERE ticker = 'C0'",
        "UPDATE portfolio_performance SET updated_at = '2001-01-01 00:00:00'",
    ]
    async with DatabaseManager(target_url) as db:
        for change in changes:
            async with db.engine.connect() as connection, connection.begin() as transaction:
                assert (await connection.exec_driver_sql(change)).rowcount > 0
                await transaction.commit()
            with pytest.raises(ConfigurationError, match="holds other rows"):
                await transfer.copy(empty_url, target_url)
            await empty(db)
            await transfer.copy(empty_url, target_url)


class StopError(Exception):
    pass


def stop_after(batches: int) -> Callable[[CopyProgress], None]:
    def progress(_at: CopyProgress) -> None:
        nonlocal batches
        batches -= 1
        if batches < 0:
            raise StopError

    return progress


@pytest.mark.parametrize("batches", [0, 12])
async def test_a_copy_that_ended_early_goes_on_and_ends_as_the_source_is_by_then(
    empty_url: str, other_url: str, batches: int
) -> None:
    await filled(empty_url, bars=200)
    with pytest.raises(StopError):
        await transfer.copy(empty_url, other_url, batch_rows=20, progress=stop_after(batches))
    assert await has_mark(other_url)
    async with DatabaseManager(empty_url) as db, db.session_context() as session:
        await market_data.upsert_daily(session, [daily("AAAA"), daily("M000", many_bars(9)[8]["date"], **flat(3))])
        await session.execute(sa.delete(DailyData).where(DailyData.ticker == "P03"))
        await session.execute(sa.delete(SystemEvent).where(SystemEvent.id == 0))
        await session.execute(sa.update(SignalHistory).values(regime="SIDEWAYS"))
    rows = await rows_of(empty_url)
    result = await transfer.copy(empty_url, other_url, batch_rows=20)
    assert await rows_of(other_url) == rows
    assert (result.resumed, await has_mark(other_url)) == (True, False)


async def test_what_an_ended_run_had_copied_is_not_written_again(empty_url: str, target_url: str) -> None:
    rows = await filled(empty_url, bars=500)
    with pytest.raises(StopError):
        await transfer.copy(empty_url, target_url, batch_rows=20, progress=stop_after(20))
    there = await rows_of(target_url)
    result = await transfer.copy(empty_url, target_url, batch_rows=20)
    copied = sum(map(len, there.values()))
    assert copied > 300
    assert result.written == sum(map(len, rows.values())) - copied


async def test_a_directory_goes_on_too_and_is_no_copy_until_it_is_complete(
    empty_url: str, target_url: str, tmp_path: Path
) -> None:
    rows = await filled(empty_url, bars=200)
    with pytest.raises(StopError):
        await transfer.copy(empty_url, tmp_path / "files", batch_rows=20, progress=stop_after(8))
    assert not (tmp_path / "files" / "manifest.json").exists()
    with pytest.raises(SchemaMismatchError, match="not complete"):
        await transfer.copy(tmp_path / "files", target_url)
    result = await transfer.copy(empty_url, tmp_path / "files", batch_rows=20)
    assert result.resumed
    assert 0 < result.written < result.rows
    await transfer.copy(tmp_path / "files", target_url)
    assert await rows_of(target_url) == rows


async def test_another_source_does_not_go_on_with_what_one_began(
    empty_url: str, target_url: str, backend: Backend
) -> None:
    rows = await filled(empty_url)
    third = backend.create_database()
    try:
        await transfer.copy(empty_url, third)
        with pytest.raises(StopError):
            await transfer.copy(empty_url, target_url, batch_rows=20, progress=stop_after(3))
        with pytest.raises(ConfigurationError, match="holds the unfinished copy of another source"):
            await transfer.copy(third, target_url)
        with pytest.raises(ConfigurationError, match="holds the unfinished copy of"):
            await transfer.copy(third, target_url, merge=True)
        with pytest.raises(SchemaMismatchError, match="is itself a copy that is not complete"):
            await transfer.copy(target_url, third)
        await transfer.copy(empty_url, target_url)
        assert await rows_of(target_url) == rows
    finally:
        backend.drop_database(third)


async def test_of_two_runs_at_once_the_later_one_goes_on(empty_url: str, target_url: str) -> None:
    rows = await filled(empty_url, bars=200)
    begun = asyncio.Event()
    first = asyncio.create_task(transfer.copy(empty_url, target_url, batch_rows=1, progress=lambda _at: begun.set()))
    await begun.wait()
    second = asyncio.create_task(transfer.copy(empty_url, target_url, batch_rows=50))
    with pytest.raises(TransactionConflictError, match="another process has begun to copy"):
        await first
    assert (await second).resumed
    assert await rows_of(target_url) == rows


async def test_source_and_target_must_be_two(empty_url: str, tmp_path: Path) -> None:
    await filled(empty_url)
    with pytest.raises(ConfigurationError, match="source and target are the same"):
        await transfer.copy(empty_url, empty_url, merge=True)
    await transfer.copy(empty_url, tmp_path / "files")
    (tmp_path / "alias").symlink_to(tmp_path / "files")
    with pytest.raises(ConfigurationError, match="source and target are the same"):
        await transfer.copy(tmp_path / "files", tmp_path / "alias")


async def test_a_source_that_is_not_at_head_is_refused(empty_url: str, target_url: str, tmp_path: Path) -> None:
    async with DatabaseManager(empty_url) as db:
        await schema.upgrade(db.engine, "001")
    with pytest.raises(SchemaMismatchError, match="run `traderrr-data upgrade`"):
        await transfer.copy(empty_url, target_url)
    with pytest.raises(SchemaMismatchError, match="there is no directory"):
        await transfer.copy(tmp_path / "nothing", target_url)
    with pytest.raises(SchemaMismatchError, match=r"holds no copy: it has no manifest\.json"):
        await transfer.copy(tmp_path, target_url)
    async with DatabaseManager(target_url) as db:
        assert (await schema.status(db.engine)).state is schema.State.EMPTY


async def test_a_target_that_is_behind_is_brought_to_head_if_it_has_no_rows(empty_url: str, target_url: str) -> None:
    rows = await filled(empty_url)
    async with DatabaseManager(target_url) as db:
        await schema.upgrade(db.engine, "001")
        async with db.engine.begin() as connection:
            await connection.execute(sa.insert(PortfolioPosition).values(ticker="MINE", shares=1))
        with pytest.raises(SchemaMismatchError, match="the target holds rows in portfolio_positions"):
            await transfer.copy(empty_url, target_url)
        assert await schema.current(db.engine) == "001"
        async with db.engine.begin() as connection:
            await connection.execute(sa.delete(PortfolioPosition))
    await transfer.copy(empty_url, target_url)
    assert await rows_of(target_url) == rows


async def test_tables_and_columns_of_others_are_named_and_left_out(
    empty_url: str, target_url: str, backend: Backend
) -> None:
    rows = await filled(empty_url)
    backend.run_sql(empty_url, "CREATE TABLE trade_log (id INTEGER PRIMARY KEY); INSERT INTO trade_log VALUES (1);")
    backend.run_sql(empty_url, "ALTER TABLE metadata ADD COLUMN mine INTEGER;")
    result = await transfer.copy(empty_url, target_url)
    assert result.not_copied == ("trade_log", "metadata.mine")
    assert await rows_of(target_url) == rows


async def test_revisions_are_copied_and_none_are_made(empty_url: str, target_url: str) -> None:
    rows = await filled(empty_url)
    with pytest.raises(StopError):
        await transfer.copy(empty_url, target_url, batch_rows=5, progress=stop_after(12))
    async with DatabaseManager(empty_url) as db, db.session_context() as session:
        await session.execute(sa.update(DailyData).values(source="changed"))
    await transfer.copy(empty_url, target_url, batch_rows=5)
    assert (await rows_of(target_url))["bar_revisions"] == rows["bar_revisions"]


async def test_a_row_that_the_target_lost_is_told_with_its_range(empty_url: str, target_url: str) -> None:
    await filled(empty_url)
    lost = asyncio.Event()

    def lose(at: CopyProgress) -> None:
        if at.phase == "verifying" and not lost.is_set():
            lost.set()
            asyncio.run_coroutine_threadsafe(remove(), asyncio.get_running_loop())

    async def remove() -> None:
        async with DatabaseManager(target_url) as db, db.session_context() as session:
            await session.execute(sa.delete(DailyData).where(DailyData.ticker == "Q09"))

    with pytest.raises(
        CopyMismatchError, match=r"daily_data differs from .* to ticker=Q09.*: 1 rows .* in the source, 0 with"
    ):
        await transfer.copy(empty_url, target_url, batch_rows=1, progress=lose)


async def test_settings_may_stand_for_urls(empty_url: str, target_url: str) -> None:
    rows = await filled(empty_url)
    await transfer.copy(Settings.of(empty_url), sa.make_url(target_url))
    assert await rows_of(target_url) == rows


@pytest.mark.parametrize("batches", [0, 6, 15])
async def test_a_cancelled_copy_leaves_no_task_and_no_lock_behind(
    empty_url: str, target_url: str, batches: int
) -> None:
    rows = await filled(empty_url)
    begun = asyncio.Event()
    stop = stop_after(batches)

    def progress(at: CopyProgress) -> None:
        try:
            stop(at)
        except StopError:
            begun.set()

    copying = asyncio.create_task(transfer.copy(empty_url, target_url, batch_rows=20, progress=progress))
    await begun.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with asyncio.timeout(20):
        await transfer.copy(empty_url, target_url, batch_rows=20)
    assert await rows_of(target_url) == rows
