"""The network between us and a server is cut, stalls, or loses an answer: who is told what, and what is stored."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.backends import Backend
from tests.bars import daily, days
from tests.contract.test_concurrency import without_garbage_collection
from tests.contract.test_engine import ENDLESS
from tests.proxy import Part, Proxy, proxy_to
from traderrr_data import (
    CommitOutcomeUnknownError,
    DatabaseManager,
    DatabaseUnavailableError,
    Metadata,
    Settings,
    UpsertResult,
    market_data,
)

pytestmark = pytest.mark.server

COUNT: Final = "SELECT count(*) FROM daily_data"


@pytest.fixture
async def network(database_url: str) -> AsyncIterator[Proxy]:
    """The network that `remote` uses."""
    async with proxy_to(database_url) as proxy:
        yield proxy


@pytest.fixture
async def remote(network: Proxy, database_url: str) -> AsyncIterator[DatabaseManager]:
    """A manager at the other end of the network; every test leaves its pool whole."""
    settings = Settings(
        database_url=network.url(database_url),
        db_pool_size=2,
        db_max_overflow=0,
        db_connect_timeout=2,
        db_statement_timeout=3,  # a server may go on with the statement of a client that is gone
    )
    async with DatabaseManager(settings) as manager:
        yield manager
        network.flow()
        async with asyncio.timeout(10):
            await asyncio.gather(*(manager.run(ask) for _ in range(5)))
        assert manager.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def ask(session: AsyncSession) -> None:
    assert await session.scalar(sa.text("SELECT 1")) == 1


def stored(backend: Backend, url: str) -> int:
    ((count,),) = backend.run_sql(url, COUNT)
    return int(count or 0)


@pytest.mark.parametrize("during", ["an idle session", "a long statement", "an upsert", "a large upsert"])
async def test_a_cut_is_an_error_that_passes_and_leaves_nothing_of_the_transaction(
    backend: Backend, network: Proxy, remote: DatabaseManager, database_url: str, during: str
) -> None:
    rows = [daily(date=day) for day in days(60_000 if during == "a large upsert" else 10)]

    async def work() -> None:
        async with remote.session_context() as session:
            await market_data.upsert_daily(session, [daily("FIRST")])
            if during == "an idle session":
                network.cut()
            else:
                asyncio.get_running_loop().call_later(0.15, network.cut)
            if during == "a long statement":
                await session.execute(sa.text(ENDLESS))
            while True:
                await market_data.upsert_daily(session, rows)

    for _ in range(3):
        with pytest.raises(DatabaseUnavailableError):
            await work()
    assert stored(backend, database_url) == 0


async def test_connections_that_were_cut_while_idle_are_made_anew(network: Proxy, remote: DatabaseManager) -> None:
    await asyncio.gather(remote.run(ask), remote.run(ask))
    network.cut()
    async with asyncio.timeout(5):
        await asyncio.gather(*(remote.run(ask, retries=0) for _ in range(4)))


@pytest.mark.parametrize("part", ["answer", "request"])
async def test_a_commit_without_an_answer_has_an_unknown_outcome(
    backend: Backend, network: Proxy, remote: DatabaseManager, database_url: str, part: Part
) -> None:
    with pytest.raises(CommitOutcomeUnknownError) as caught:
        async with remote.session_context() as session:
            await market_data.upsert_daily(session, [daily()])
            network.lose(b"COMMIT", part)
    assert network.lost.is_set()
    assert not caught.value.retryable
    assert caught.value.__cause__ is not None
    assert stored(backend, database_url) == (part == "answer")


@pytest.mark.parametrize("part", ["answer", "request"])
async def test_run_repeats_a_commit_without_an_answer_only_if_that_does_no_harm(
    backend: Backend, network: Proxy, remote: DatabaseManager, database_url: str, part: Part
) -> None:
    attempts = 0

    async def add(session: AsyncSession) -> UpsertResult:
        nonlocal attempts
        attempts += 1
        result = await market_data.upsert_daily(session, [daily(f"T{attempts}")])
        network.lose(b"COMMIT", part)
        return result

    async def repeat(session: AsyncSession) -> UpsertResult:
        nonlocal attempts
        attempts += 1
        result = await market_data.upsert_daily(session, [daily("AGAIN")])
        if attempts == 2:
            network.lose(b"COMMIT", part)
        return result

    with pytest.raises(CommitOutcomeUnknownError):
        await remote.run(add)
    assert (attempts, stored(backend, database_url)) == (1, part == "answer")
    result = await remote.run(repeat, idempotent=True)
    assert attempts == 3
    assert result == (UpsertResult(unchanged=1) if part == "answer" else UpsertResult(inserted=1))
    assert stored(backend, database_url) == 1 + (part == "answer")


@pytest.mark.unpooled("a cancelled task gives a pooler two seconds to pass the request to cancel on")
@pytest.mark.parametrize("during", ["a statement", "the check of an idle connection", "connecting"])
async def test_a_stalled_network_keeps_nobody_longer_than_he_wants_to_wait(
    backend: Backend, network: Proxy, remote: DatabaseManager, database_url: str, during: str
) -> None:
    if during == "the check of an idle connection":
        await asyncio.gather(remote.run(ask), remote.run(ask))

    async def work() -> None:
        async with remote.session_context() as session:
            if during == "a statement":
                session.add(Metadata(ticker="STALLED"))
                await session.flush()
            network.stall()
            await session.execute(sa.text("SELECT 1"))

    with without_garbage_collection():
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises((TimeoutError, DatabaseUnavailableError)):
                async with asyncio.timeout(0.5):
                    await work()
            assert time.monotonic() - began < 1.5
            if during == "a statement":
                network.flow()
        assert remote.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert backend.run_sql(database_url, "SELECT count(*) FROM metadata") == [("0",)]


async def test_a_server_that_does_not_answer_a_call_is_unavailable(network: Proxy, remote: DatabaseManager) -> None:
    network.stall()
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailableError):
        await remote.ping()
    assert 1.9 < time.monotonic() - began < 4


async def test_a_machine_that_is_gone_is_noticed_within_a_minute(remote: DatabaseManager) -> None:
    """Nothing here can take a machine away: what is looked at is what the system was asked to do then."""
    async with remote.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        transport = getattr(driver, "_transport", None) or driver._writer.transport
        sockets = transport.get_extra_info("socket")
        assert sockets.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, every, times = (
            sockets.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * times <= 60
        assert 0 < sockets.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
