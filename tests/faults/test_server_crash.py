"""The server is killed with -9 and started again, or ends a connection: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.backends import Backend
from tests.bars import daily, days, flat
from tests.contract.test_engine import ENDLESS, OTHERS
from tests.servers import Server
from traderrr_data import (
    CommitOutcomeUnknownError,
    DatabaseManager,
    DatabaseUnavailableError,
    UpsertResult,
    market_data,
)

pytestmark = pytest.mark.server

Harm = Callable[[], None]


@pytest.fixture
def server(backend: Backend) -> Iterator[Server]:
    """The server of this test, which may be killed; it is up again for the next one."""
    assert backend.server is not None
    yield backend.server
    if not backend.server.is_answering():
        backend.server.start()


@pytest.fixture(params=["its server is killed", "its connection is killed"])
def harm(request: pytest.FixtureRequest, backend: Backend, server: Server, database_url: str) -> Harm:
    """What is done to a transaction in the middle of its work."""

    def end_connections() -> None:
        for (ending,) in backend.run_sql(database_url, OTHERS[backend.name]):
            backend.run_sql(database_url, f"{ending};")

    def restart() -> None:
        server.kill()
        server.start()

    return restart if request.param == "its server is killed" else end_connections


def keys(backend: Backend, url: str) -> list[str]:
    return [str(key) for (key,) in backend.run_sql(url, "SELECT ticker FROM daily_data ORDER BY ticker, date")]


def is_whole(db: DatabaseManager) -> bool:
    return db.engine.pool.checkedout() == 0  # type: ignore[attr-defined,no-any-return]


async def read(session: AsyncSession) -> None:
    await session.execute(sa.text(ENDLESS))


async def stream(session: AsyncSession) -> None:
    async for _ in market_data.stream_daily(session, batch_rows=100):
        await asyncio.sleep(0.02)


async def upsert(session: AsyncSession) -> None:
    while True:
        await market_data.upsert_daily(session, [daily("LOST"), daily("LOST", days(2)[1])])


async def load(session: AsyncSession) -> None:
    for number in range(100):
        await market_data.upsert_daily(session, [daily(f"LOST{number}", day) for day in days(20_000)])


@pytest.mark.parametrize("work", [read, stream, upsert, load])
async def test_what_was_under_way_is_undone_and_the_caller_is_told(
    backend: Backend, db: DatabaseManager, database_url: str, harm: Harm, work: Callable[[AsyncSession], Any]
) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("KEPT", day) for day in days(3_000)])

    async def unit_of_work() -> None:
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [daily("LOST", days(9)[8])])
            await work(session)

    task = asyncio.create_task(unit_of_work())
    await asyncio.sleep(0.4)
    assert not task.done()
    harm()
    with pytest.raises(DatabaseUnavailableError):
        async with asyncio.timeout(20):
            await task
    assert is_whole(db)
    async with asyncio.timeout(20):
        assert await db.run(lambda session: market_data.upsert_daily(session, [daily("NEXT")])) == UpsertResult(1)
    assert keys(backend, database_url) == [*["KEPT"] * 3_000, "NEXT"]


async def test_an_idle_pool_survives(db: DatabaseManager, harm: Harm) -> None:
    async def ask(session: AsyncSession) -> object:
        await asyncio.sleep(0.05)
        return await session.scalar(sa.text("SELECT 1"))

    await asyncio.gather(*(db.run(ask) for _ in range(5)))
    harm()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*(db.run(ask, retries=0) for _ in range(5))) == [1] * 5
    assert is_whole(db)


async def test_every_acknowledged_row_is_there_once_and_no_other_is(
    backend: Backend, db: DatabaseManager, database_url: str, server: Server
) -> None:
    """Writers go on through three crashes, each at another moment of a commit."""
    generator = random.Random(5)  # noqa: S311 - only to vary when the server is killed
    acknowledged: set[str] = set()
    unknown: set[str] = set()
    failed: set[str] = set()
    stop = asyncio.Event()

    async def write(name: str) -> None:
        for number in range(100_000):
            if stop.is_set():
                return
            ticker = f"{name}{number:05}"
            try:
                async with db.session_context() as session:
                    await market_data.upsert_daily(session, [daily(ticker)])
                acknowledged.add(ticker)
            except CommitOutcomeUnknownError:
                unknown.add(ticker)
            except DatabaseUnavailableError:
                failed.add(ticker)
                await asyncio.sleep(0.02)

    writers = [asyncio.create_task(write(name)) for name in "ABCDEFGH"]
    for _ in range(3):
        before = len(acknowledged)
        async with asyncio.timeout(30):
            while len(acknowledged) < before + 50:  # noqa: ASYNC110 - they are counted only
                await asyncio.sleep(generator.random() / 50)
        server.kill()
        await asyncio.sleep(0.1)
        server.start()
    await asyncio.sleep(0.3)
    stop.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*writers)
    assert is_whole(db)
    stored = keys(backend, database_url)
    assert len(set(stored)) == len(stored)
    assert acknowledged <= set(stored) <= acknowledged | unknown
    assert failed


async def test_run_goes_on_through_crashes_and_ends_with_what_was_wanted(
    backend: Backend, db: DatabaseManager, database_url: str, server: Server
) -> None:
    """With `idempotent` a caller need not know about any of it."""
    done = 0

    async def write(name: str) -> None:
        nonlocal done
        for number, day in enumerate(days(60)):

            async def work(session: AsyncSession, day: dt.date = day, number: int = number) -> None:
                await market_data.upsert_daily(session, [daily(name, day, **flat(number))])

            await db.run(work, retries=50, idempotent=True)
            done += 1

    writers = [asyncio.create_task(write(name)) for name in "ABCD"]
    for wanted in (20, 90, 160):
        async with asyncio.timeout(30):
            while done < wanted:  # noqa: ASYNC110 - they are counted only
                await asyncio.sleep(0.001)
        server.kill()
        server.start()
    async with asyncio.timeout(60):
        await asyncio.gather(*writers)
    assert is_whole(db)
    rows = backend.run_sql(database_url, "SELECT ticker, count(*), sum(close) FROM daily_data GROUP BY 1 ORDER BY 1")
    assert [(name, count, float(total or 0)) for name, count, total in rows] == [
        (name, "60", sum(range(60))) for name in "ABCD"
    ]


async def test_a_server_out_of_connections_is_an_error_that_passes(
    backend: Backend, db: DatabaseManager, server: Server
) -> None:
    taken = DatabaseManager(db.settings.model_copy(update={"db_pool_size": 1_000, "db_max_overflow": 0}))
    async with taken, contextlib.AsyncExitStack() as stack:

        async def take() -> None:
            session = await stack.enter_async_context(taken.session_context(read_only=True))
            await session.execute(sa.text("SELECT 1"))

        with pytest.raises(DatabaseUnavailableError) as caught:
            for _ in range(500):
                await take()
        assert caught.value.retryable
        async with DatabaseManager(db.settings) as late:
            with pytest.raises(DatabaseUnavailableError):
                await late.ping()
            assert is_whole(late)
            waiting = asyncio.create_task(late.run(lambda s: s.scalar(sa.text("SELECT 1")), retries=50))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await stack.aclose()
            await taken.close()
            async with asyncio.timeout(15):
                assert await waiting == 1
