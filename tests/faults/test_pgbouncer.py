"""Behind the real PgBouncer in transaction mode: nothing of a session is relied on, and its faults are survived."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.backends import PgbouncerBackend
from tests.bars import daily, days, flat
from tests.contract.test_engine import OTHERS
from tests.poolers import SESSIONS
from tests.project import ROOT, Project
from traderrr_data import (
    ConfigurationError,
    DatabaseManager,
    DatabaseUnavailableError,
    Settings,
    TransactionConflictError,
    maintenance,
    market_data,
    schema,
)
from traderrr_data.dialects import Waits
from traderrr_data.ingest import bar_writer, reader

pytestmark = pytest.mark.pgbouncer

HERE = Project(ROOT)
PATIENCE = 30  # seconds


@pytest.fixture
def bouncer(backend: PgbouncerBackend) -> Iterator[PgbouncerBackend]:
    """The pooler and the server behind it, which may be killed; both are up again for the next test."""
    yield backend
    for process in (backend.server, backend.pooler):
        assert process is not None
        if not process.is_answering():
            process.start()


@pytest.fixture
def end_sessions(bouncer: PgbouncerBackend, database_url: str) -> Callable[[], None]:
    """End the server's sessions behind the pooler, whose clients stay connected to it."""

    def end() -> None:
        for (ending,) in bouncer.run_sql(database_url, OTHERS["postgresql"]):
            bouncer.run_sql(database_url, f"{ending};")

    return end


async def tickers(db: DatabaseManager) -> list[str]:
    async with db.session_context(read_only=True) as session:
        return [
            row.ticker for row in (await session.execute(sa.text("SELECT ticker FROM daily_data ORDER BY 1"))).all()
        ]


async def server_process(session: AsyncSession) -> int:
    return int((await session.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one())


async def open_all_sessions(db: DatabaseManager) -> None:
    """Have the pooler open as many sessions as it may, by as many transactions at once."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(SESSIONS):
            await server_process(await stack.enter_async_context(db.session_context()))


async def test_transactions_of_one_connection_really_go_to_many_sessions(db: DatabaseManager) -> None:
    """Without this the other tests would prove nothing."""
    processes = set()
    await open_all_sessions(db)
    async with db.engine.connect() as connection:
        for _ in range(10):
            processes.add((await connection.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one())
            await connection.commit()
    assert len(processes) >= SESSIONS - 1


async def test_many_clients_with_many_statements_get_the_answers_to_their_own(database_url: str) -> None:
    """With statements that have names, one client runs what another one has prepared."""

    async def ask(client: int) -> None:
        async with DatabaseManager(Settings(database_url=database_url, db_pool_size=2)) as db:
            for number in range(15):
                async with db.session_context(read_only=number % 2 == 0) as session:
                    query = f"SELECT {client} AS c{client}, {number} AS n{number}, CAST(:value AS integer)"
                    row = (await session.execute(sa.text(query), {"value": number})).one()
                    assert tuple(row) == (client, number, number)
                    assert list(row._fields[:2]) == [f"c{client}", f"n{number}"]

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for client in range(12):
            group.create_task(ask(client))


async def test_each_transaction_has_our_settings_and_leaves_nothing_of_them_behind(
    bouncer: PgbouncerBackend, db: DatabaseManager, database_url: str
) -> None:
    bouncer.run_sql(database_url, "CREATE SCHEMA market")
    names = ("timezone", "datestyle", "statement_timeout", "search_path")
    query = sa.select(*(sa.func.current_setting(name) for name in names))
    settings = Settings(database_url=database_url, db_schema="market", db_statement_timeout=7)
    async with DatabaseManager(settings) as here:
        for read_only in (True, False):
            async with here.get_session(read_only=read_only) as session:
                assert tuple((await session.execute(query)).one()) == ("UTC", "ISO, MDY", "7s", '"market"')
        look = "SELECT current_setting('search_path'), current_setting('statement_timeout');"
        others = {bouncer.pooler.run_sql(look, here.engine.url.database)[0] for _ in range(2 * SESSIONS)}
    assert others == {('"$user", public', "0")}
    bouncer.run_sql(database_url, "DROP SCHEMA market")


async def test_a_schema_of_its_own_is_used_by_everything(bouncer: PgbouncerBackend) -> None:
    """The pooler drops search_path from what a client says when it connects, and public would be written to."""
    url = bouncer.create_database()
    settings = Settings(database_url=url, db_schema="market")
    try:
        async with DatabaseManager(settings) as db:
            await db.init_db()
            assert await schema.check(db.engine) == []
            async with db.session_context() as session:
                await market_data.upsert_daily(session, [daily("AAPL")])
            async with bar_writer(db) as writer:
                await writer.write(daily("MSFT"))
            async with reader(db) as small:
                assert list(await small.latest_daily(["AAPL", "MSFT"])) == ["AAPL", "MSFT"]
            info = await db.get_database_info()
            assert (info["tables"]["daily_data"], info["schema_revision"]) == (2, schema.head())
            tables = "SELECT count(*) FROM pg_tables WHERE schemaname = '{}' AND tablename = 'daily_data';"
            assert bouncer.run_sql(url, tables.format("market")) == [("1",)]
            assert bouncer.run_sql(url, tables.format("public")) == [("0",)]
            await db.drop_db(yes=True)
            assert bouncer.run_sql(url, tables.format("market")) == [("0",)]
    finally:
        bouncer.drop_database(url)


@pytest.mark.parametrize("rows", [3, 2_500])
async def test_many_writers_of_overlapping_batches_store_every_row_once(database_url: str, rows: int) -> None:
    """Small batches go as one statement, large ones by COPY and a staging table."""
    count = asyncio.Lock()
    inserted = 0

    async def write(number: int) -> None:
        nonlocal inserted
        async with DatabaseManager(database_url) as db:
            bars = [daily(f"T{at % 7}", day, **flat(Decimal(number))) for at, day in enumerate(days(rows))]

            async def work(session: AsyncSession) -> int:
                await market_data.upsert_daily(session, [daily(f"OWN{number}")])
                async with session.begin_nested() as undone:
                    await market_data.upsert_daily(session, [daily("UNDONE")])
                    await undone.rollback()
                return (await market_data.upsert_daily(session, bars)).inserted

            stored = await db.run(work, retries=10, idempotent=True)
            async with count:
                inserted += stored

    async with asyncio.timeout(3 * PATIENCE), asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(write(number))
    async with DatabaseManager(database_url) as db:
        found = await tickers(db)
        async with db.session_context(read_only=True) as session:
            streamed = [batch.num_rows async for batch in market_data.stream_daily(session, batch_rows=500)]
    assert inserted == rows
    assert len(found) == rows + 5 == sum(streamed)
    assert "UNDONE" not in found


async def test_five_deploys_at_once_migrate_once_and_wait_for_a_deploy_past_the_pooler(
    bouncer: PgbouncerBackend,
) -> None:
    url = bouncer.create_database()
    past = sa.make_url(url).set(port=bouncer.server.url.port).difference_update_query(["pgbouncer"])
    addresses = [url] * 4 + [past.render_as_string(hide_password=False)]
    try:
        for _ in range(3):
            done = await asyncio.gather(
                *(
                    asyncio.to_thread(HERE.run, "-m", "traderrr_data", "upgrade", DATABASE_URL=address)
                    for address in addresses
                )
            )
            assert [one.returncode for one in done] == [0] * 5, [one.stderr for one in done]
            async with DatabaseManager(url) as db:
                assert await schema.check(db.engine) == []
                await schema.downgrade(db.engine, "base")
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';"
        assert bouncer.run_sql(url, locks) == [("0",)]
    finally:
        bouncer.drop_database(url)


async def test_a_migration_leaves_no_lock_with_somebody_elses_session(
    bouncer: PgbouncerBackend, db: DatabaseManager, database_url: str
) -> None:
    await open_all_sessions(db)
    for move in (schema.downgrade(db.engine, "base"), schema.upgrade(db.engine), schema.upgrade(db.engine)):
        await move
        assert bouncer.run_sql(database_url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';") == [("0",)]


async def test_a_migration_behind_the_pooler_gives_up_and_says_who_holds_the_lock(
    db: DatabaseManager, database_url: str
) -> None:
    async with db.engine.connect() as connection:
        lock = contextlib.ExitStack()

        def begin(sync: sa.Connection) -> None:
            lock.enter_context(db.dialect.migrating(sync, Waits(transaction_pooling=True)))
            sync.begin()

        await connection.run_sync(begin)
        async with DatabaseManager(database_url) as other, asyncio.timeout(PATIENCE):
            with pytest.raises(TransactionConflictError, match=r"process \d+, user \w+.*traderrr_data migration"):
                await schema.downgrade(other.engine, "base", lock_timeout=0.5)
            await connection.run_sync(lambda _: lock.close())
            await schema.downgrade(other.engine, "base", lock_timeout=15)


async def test_a_cancelled_task_ends_its_own_statement_and_nobody_elses(
    bouncer: PgbouncerBackend, db: DatabaseManager, database_url: str
) -> None:
    """The process that PgBouncer names is none of the server's, or a stranger's."""
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%';"

    async def sleep(seconds: float) -> float:
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [daily("HELD", days(1)[0] + dt.timedelta(days=int(seconds)))])
            await session.execute(sa.text(f"SELECT pg_sleep({seconds})"))
            return seconds

    async def wait_for(count: str) -> None:
        while bouncer.run_sql(database_url, running) != [(count,)]:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.02)

    async with asyncio.timeout(PATIENCE):
        stranger = asyncio.create_task(sleep(4))
        given_up = asyncio.create_task(sleep(60))
        await wait_for("2")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await wait_for("1")
        assert await stranger == 4
        ended = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_terminate_backend(%';"
        assert bouncer.run_sql(database_url, ended) == [("0",)]
        async with db.session_context() as session:  # the lock on its row is free
            await market_data.upsert_daily(session, [daily("HELD", days(1)[0] + dt.timedelta(days=60))])
    assert await tickers(db) == ["HELD", "HELD"]


async def test_tasks_cancelled_at_random_leave_right_answers_and_every_session_free(
    bouncer: PgbouncerBackend, database_url: str
) -> None:
    async with DatabaseManager(Settings(database_url=database_url, db_pool_size=3, db_max_overflow=0)) as db:

        async def work(number: int) -> None:
            async with db.session_context() as session:
                await market_data.upsert_daily(session, [daily(f"T{number % 5}", days(40)[number % 40])])
                value = (await session.execute(sa.text(f"SELECT {number} AS n{number}"))).scalar_one()
                assert value == number

        for number in range(60):
            task = asyncio.create_task(work(number))
            await asyncio.sleep(0.0005 * (number % 20))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(work(number))
        in_transaction = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%';"
        async with asyncio.timeout(PATIENCE):
            while bouncer.run_sql(database_url, in_transaction) != [("0",)]:  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.05)
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_session_lost_behind_the_pooler_costs_one_attempt_and_no_row(
    db: DatabaseManager, end_sessions: Callable[[], None]
) -> None:
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await market_data.upsert_daily(session, [daily("ONCE"), daily("ONCE", days(2)[1])])
        if attempts == 1:
            end_sessions()
        await market_data.upsert_daily(session, [daily("TWICE")])

    with pytest.raises(DatabaseUnavailableError):
        async with db.session_context() as session:
            await work(session)
    attempts = 0
    await db.run(work)
    assert attempts == 2
    assert await tickers(db) == ["ONCE", "ONCE", "TWICE"]


async def test_sessions_lost_between_two_transactions_are_nobodys_concern(
    db: DatabaseManager, end_sessions: Callable[[], None]
) -> None:
    for number in range(5):
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [daily(f"T{number}")])
        end_sessions()
        await db.run(lambda session: market_data.list_daily(session, "T0"))
    assert len(await tickers(db)) == 5


@pytest.fixture(params=["the server", "the pooler"])
def restart(request: pytest.FixtureRequest, bouncer: PgbouncerBackend) -> Callable[[], None]:
    """Kill one of the two with -9, and start it again."""
    process = bouncer.server if request.param == "the server" else bouncer.pooler
    assert process is not None

    def kill_and_start() -> None:
        process.kill()
        process.start()

    return kill_and_start


async def test_a_server_or_pooler_killed_in_a_transaction_costs_attempts_and_no_row(
    db: DatabaseManager, restart: Callable[[], None]
) -> None:
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await market_data.upsert_daily(session, [daily("ONCE")])
        if attempts == 1:
            restart()
        await market_data.upsert_daily(session, [daily("TWICE")])

    async with asyncio.timeout(PATIENCE):
        await db.run(work, retries=10)
    assert await tickers(db) == ["ONCE", "TWICE"]


@pytest.fixture
async def writing(db: DatabaseManager) -> AsyncIterator[list[int]]:
    """A task that stores one row after the other, and the numbers of those that were acknowledged."""
    acknowledged: list[int] = []

    async def write() -> None:
        for number in range(10_000):

            async def store(session: AsyncSession, number: int = number) -> None:
                await market_data.upsert_daily(session, [daily(f"N{number:05}")])

            await db.run(store, retries=20, idempotent=True)
            acknowledged.append(number)

    task = asyncio.create_task(write())
    yield acknowledged
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_every_acknowledged_row_is_there_once_whatever_ends_behind_the_writer(
    db: DatabaseManager, writing: list[int], end_sessions: Callable[[], None], restart: Callable[[], None]
) -> None:
    async with asyncio.timeout(4 * PATIENCE):
        for harm in (end_sessions, restart, end_sessions):
            goal = len(writing) + 20
            while len(writing) < goal:  # noqa: ASYNC110 - the list has no event
                await asyncio.sleep(0.01)
            harm()
        goal = len(writing) + 20
        while len(writing) < goal:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    acknowledged = set(writing)  # before the look: the writer goes on
    stored = [int(ticker.removeprefix("N")) for ticker in await tickers(db)]
    assert stored == sorted(set(stored))
    assert acknowledged <= set(stored)


async def test_what_needs_a_session_of_its_own_is_refused(db: DatabaseManager) -> None:
    with pytest.raises(ConfigurationError, match="the address of the server itself"):
        await maintenance.vacuum(db)


def test_another_driver_is_refused_rather_than_trusted(database_url: str) -> None:
    other = sa.make_url(database_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match="DB_TRANSACTION_POOLING is for asyncpg"):
        DatabaseManager(other)


def test_a_migration_by_alembics_own_command_works(bouncer: PgbouncerBackend) -> None:
    url = bouncer.create_database()
    try:
        HERE.alembic(url, "upgrade", "head")
        HERE.alembic(url, "check")
        HERE.alembic(url, "downgrade", "base")
    finally:
        bouncer.drop_database(url)
