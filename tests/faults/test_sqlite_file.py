"""A SQLite file that is full, read-only, deleted, cut or garbage: an error of ours, and no half of anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import daily, days
from tests.contract.test_concurrency import without_garbage_collection
from tests.project import ROOT
from traderrr_data import (
    ConfigurationError,
    DatabaseManager,
    DatabaseUnavailableError,
    InvalidRowError,
    Metadata,
    Settings,
    TraderrrDataError,
    UpsertResult,
    market_data,
)

CANCELLED_TWICE = """
import asyncio, sys
from traderrr_data import DatabaseManager, Settings

async def main():
    async with DatabaseManager(Settings(database_url=sys.argv[1], db_statement_timeout=2)) as db:
        async def wait_for_the_lock():
            async with db.session_context() as session:
                await session.connection()

        task = asyncio.create_task(wait_for_the_lock())
        while not task.done():
            await asyncio.sleep(0.3)
            task.cancel()

asyncio.run(main())
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "bars.db"


@pytest.fixture(params=["wal", "delete"])
async def db(request: pytest.FixtureRequest, file: Path) -> AsyncIterator[DatabaseManager]:
    """A database with one bar, in a file of its own; the pool is whole in the end."""
    settings = Settings(database_url=f"sqlite:///{file}", db_sqlite_journal=request.param)
    async with DatabaseManager(settings) as manager:
        await manager.init_db()
        async with manager.session_context() as session:
            await market_data.upsert_daily(session, [daily("FIRST")])
        yield manager
        assert manager.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def stored(file: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(connection.execute("SELECT ticker, count(*) FROM daily_data GROUP BY 1").fetchall())


def limit(db: DatabaseManager, pages: int | None) -> None:
    """Let the file grow by so many pages, as a disk that is nearly full does."""

    @sa.event.listens_for(db.engine.sync_engine, "checkout")
    def checkout(dbapi_connection: Any, *_: object) -> None:
        cursor = dbapi_connection.cursor()
        if pages is None:
            cursor.execute("PRAGMA max_page_count=1000000000")
        else:
            cursor.execute("PRAGMA page_count")
            cursor.execute(f"PRAGMA max_page_count={cursor.fetchone()[0] + pages}")
        cursor.close()


@pytest.mark.parametrize("pages", [0, 1, 7, 30])
async def test_a_full_disk_undoes_the_transaction_and_passes_when_there_is_room(
    db: DatabaseManager, file: Path, pages: int
) -> None:
    limit(db, pages)
    rows = [daily("LATER", date) for date in days(5_000)]

    async def work(session: AsyncSession) -> UpsertResult:
        await market_data.upsert_daily(session, [daily("FIRST", days(2)[1])])
        return await market_data.upsert_daily(session, rows)

    with without_garbage_collection():
        with pytest.raises(DatabaseUnavailableError):
            async with db.session_context() as session:
                await work(session)
        assert stored(file) == {"FIRST": 1}
        with pytest.raises((DatabaseUnavailableError, ConfigurationError, sa.exc.SQLAlchemyError)):
            async with db.session_context() as session:
                with contextlib.suppress(DatabaseUnavailableError):
                    await work(session)
                session.add(Metadata(ticker="ALONE"))
        assert stored(file) == {"FIRST": 1}
    limit(db, None)
    assert await db.run(work) == UpsertResult(inserted=5_000)
    assert stored(file) == {"FIRST": 2, "LATER": 5_000}


async def test_a_full_file_system_is_said_and_undone(tmp_path: Path) -> None:
    """A real file system without room: the process may write so many bytes into a file, and no more."""
    program = """
import asyncio, resource, signal, sys
from traderrr_data import DatabaseManager, market_data, TraderrrDataError
from tests.bars import daily, days

async def main():
    async with DatabaseManager(f"sqlite:///{sys.argv[1]}") as db:
        await db.init_db()
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [daily("FIRST")])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        try:
            async with db.session_context() as session:
                await market_data.upsert_daily(session, [daily("LATER", day) for day in days(20_000)])
        except TraderrrDataError as error:
            print(type(error).__name__, error.retryable)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        async with db.session_context() as session:
            print((await market_data.upsert_daily(session, [daily("LATER")])).inserted)

asyncio.run(main())
"""
    file = tmp_path / "bars.db"
    done = await asyncio.to_thread(run_python, program, file)
    assert done.stdout.splitlines() == ["DatabaseUnavailableError True", "1"], done.stderr
    assert stored(file) == {"FIRST": 1, "LATER": 1}


def run_python(program: str, *arguments: object, user: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, user=user)


READ_AND_WRITE = """
import asyncio, sys
from traderrr_data import DatabaseManager, TraderrrDataError, market_data
from tests.bars import daily

async def main():
    async with DatabaseManager(f"sqlite:///{sys.argv[1]}") as db:
        async with db.session_context(read_only=True) as session:
            print(len(await market_data.list_daily(session, "FIRST")))
        try:
            async with db.session_context() as session:
                await market_data.upsert_daily(session, [daily("LATER")])
        except TraderrrDataError as error:
            print(type(error).__name__)

asyncio.run(main())
"""


async def test_a_file_of_another_connection_that_may_only_read_is_read_and_not_written(
    db: DatabaseManager, file: Path
) -> None:
    await db.close()
    url = f"sqlite:///file:{file}?mode=ro&uri=true"
    async with DatabaseManager(url) as reader:
        async with reader.session_context(read_only=True) as session:
            assert len(await market_data.list_daily(session, "FIRST")) == 1
        with pytest.raises(ConfigurationError):
            async with reader.session_context() as session:
                await market_data.upsert_daily(session, [daily("LATER")])
        assert reader.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert stored(file) == {"FIRST": 1}


Damage = Callable[[Path], object]


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 // 4096 * 4096)


def holes(file: Path) -> None:
    size = file.stat().st_size
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(b"\xff" * (size - 4096))


@pytest.mark.parametrize("damage", [garbage, cut, holes])
@pytest.mark.parametrize("is_open", [True, False])
async def test_a_damaged_file_is_never_taken_for_data(
    db: DatabaseManager, file: Path, damage: Damage, is_open: bool
) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("FIRST", date) for date in days(3_000)])
    await db.close()
    if is_open:
        await db.ping()
    damage(file)
    before = file.read_bytes()
    for read_only in (True, False):
        with pytest.raises(TraderrrDataError) as caught:
            async with db.session_context(read_only=read_only) as session:
                await market_data.daily_frame(session, ["FIRST"])
                await market_data.upsert_daily(session, [daily("LATER", date) for date in days(500)])
        assert not caught.value.retryable
    info = await db.get_database_info()
    assert not info["is_connected"] or info["tables"].get("daily_data") != 3_000
    with pytest.raises(TraderrrDataError):
        await db.init_db(upgrade=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize(("column", "number"), [("high", "1e12"), ("low", "-1e30"), ("volume", "1e25")])
async def test_a_stored_number_that_no_frame_can_hold_is_told_with_its_row(
    db: DatabaseManager, file: Path, column: str, number: str
) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"UPDATE daily_data SET {column} = {number}")
        connection.commit()
    async with db.session_context(read_only=True) as session:
        for exact in (True, False):
            with pytest.raises(InvalidRowError, match=f"^column '{column}': the stored .* beside 'FIRST', .* digits"):
                await market_data.daily_frame(session, exact=exact)
        [bar] = await market_data.list_daily(session, "FIRST")
        assert getattr(bar, column) == Decimal(number)


async def test_a_deleted_file_is_not_written_to_and_not_replaced_by_an_empty_one(
    db: DatabaseManager, file: Path
) -> None:
    await db.ping()
    moved = file.rename(file.with_name("moved.db"))
    for close in (False, True):
        if close:
            await db.close()
        with pytest.raises(DatabaseUnavailableError, match="is gone"):
            async with db.session_context() as session:
                await market_data.upsert_daily(session, [daily("LATER")])
        assert not file.exists()
    moved.rename(file)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("LATER")])
    await db.close()
    assert stored(file) == {"FIRST": 1, "LATER": 1}


async def test_an_idle_manager_goes_on_in_the_file_that_took_the_place_of_its_own(
    db: DatabaseManager, file: Path
) -> None:
    await db.close()
    other = file.with_name("other.db")
    other.write_bytes(file.read_bytes())
    await asyncio.gather(*(db.ping() for _ in range(3)))
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("UPDATE daily_data SET ticker = 'OTHER'")
        connection.commit()
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    other.replace(file)
    async with db.session_context() as session:
        assert [line.ticker for line in await market_data.coverage(session)] == ["OTHER"]
        await market_data.upsert_daily(session, [daily("LATER")])
    await db.close()
    assert stored(file) == {"OTHER": 1, "LATER": 1}


def test_a_process_ends_though_its_task_was_cancelled_again_while_it_waited_for_the_lock(
    db: DatabaseManager, file: Path
) -> None:
    command = [sys.executable, "-W", "error", "-c", CANCELLED_TWICE, f"sqlite:///{file}"]
    with contextlib.closing(sqlite3.connect(file)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
