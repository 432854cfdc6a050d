"""Up, down and up again, in the middle of other people's work, killed and continued, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tests.backends import Backend
from tests.bars import daily, intraday
from tests.catalogs import catalog
from tests.project import ROOT, Project, copy_to
from traderrr_data import (
    ConstraintViolationError,
    DatabaseManager,
    SchemaMismatchError,
    market_data,
    portfolio,
    schema,
    system,
    trading,
)
from traderrr_data.models import Base

OURS = sorted(Base.metadata.tables)
STORED = [name for name in OURS if not name.startswith("traderrr_data")]


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(empty_url) as manager:
        yield manager


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return copy_to(folder)


async def run(db: DatabaseManager, project: Project, action: Callable[[Config], None]) -> None:
    """Run an Alembic command with the migrations of a project, through a connection of this loop."""
    config = Config()
    config.set_main_option("script_location", str(project.root / "migrations"))

    def act(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        action(config)

    async with db.engine.connect() as connection:
        await connection.run_sync(act)


async def up(db: DatabaseManager, project: Project, revision: str = "head") -> None:
    await run(db, project, lambda config: command.upgrade(config, revision))


async def down(db: DatabaseManager, project: Project, revision: str) -> None:
    await run(db, project, lambda config: command.downgrade(config, revision))


async def tables(db: DatabaseManager) -> list[str]:
    async with db.engine.connect() as connection:
        return sorted(await connection.run_sync(lambda c: sa.inspect(c).get_table_names()))


async def fill(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
        await market_data.upsert_intraday(session, [intraday()], timeframe="1m")
        await market_data.upsert_metadata(session, [{"ticker": "AAPL", "company_name": "Apple"}])
        await portfolio.upsert_position(session, "AAPL", 3)
        await trading.add_signal(session, "AAPL", date=daily()["date"], signal_type="BUY")
        await trading.add_performance(session, date=daily()["date"], portfolio_value=1)
        await system.add_event(session, "start", "up")


async def counts(db: DatabaseManager) -> dict[str, int]:
    return (await db.get_database_info())["tables"]


async def test_up_down_to_base_and_up_again_is_the_same_schema(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    await schema.upgrade(empty.engine)
    first = catalog(backend, empty_url)
    assert len(STORED) == 8
    await fill(empty)
    await schema.downgrade(empty.engine, "base")
    assert await tables(empty) == ["traderrr_data_version"]
    await schema.upgrade(empty.engine)
    assert catalog(backend, empty_url) == first
    assert await counts(empty) == dict.fromkeys(STORED, 0)


async def test_what_an_upgrade_reports_as_done_is_there_for_a_new_connection(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    await schema.upgrade(empty.engine)
    assert backend.run_sql(
        empty_url, "SELECT count(*) FROM daily_data; SELECT version_num FROM traderrr_data_version"
    ) == [
        ("0",),
        (schema.head(),),
    ]


async def test_a_second_upgrade_changes_nothing(backend: Backend, empty: DatabaseManager, empty_url: str) -> None:
    await schema.upgrade(empty.engine)
    await fill(empty)
    before = catalog(backend, empty_url), await counts(empty)
    await schema.upgrade(empty.engine)
    assert (catalog(backend, empty_url), await counts(empty)) == before


async def test_history_status_and_current_agree(empty: DatabaseManager) -> None:
    assert (await schema.status(empty.engine)).state is schema.State.EMPTY
    assert await schema.current(empty.engine) is None
    await schema.upgrade(empty.engine)
    assert (await schema.status(empty.engine)).state is schema.State.CURRENT
    newest, *_, oldest = [*schema.history(), schema.history()[-1]]
    assert (await schema.current(empty.engine), oldest.down_revision) == (newest.revision, None)


async def test_a_revision_that_does_not_exist_is_named(empty: DatabaseManager) -> None:
    for action in (schema.upgrade(empty.engine, "nonsense"), schema.downgrade(empty.engine, "nonsense")):
        with pytest.raises(SchemaMismatchError, match="nonsense"):
            await action


def test_revision_ids_and_file_names_are_numbers_that_fit() -> None:
    for file in (ROOT / "migrations/versions").glob("*.py"):
        number, _, slug = file.stem.partition("_")
        assert number.isdigit()
        assert len(number) == 3
        assert slug
        assert f'revision = "{number}"' in file.read_text(encoding="utf-8")
        assert "import traderrr_data" not in file.read_text(encoding="utf-8")
        assert "from traderrr_data" not in file.read_text(encoding="utf-8")
    assert all(len(revision.revision) <= 32 for revision in schema.history())


async def test_a_revision_that_fails_midway_leaves_nothing_or_can_go_on(
    backend: Backend, empty: DatabaseManager, empty_url: str, project: Project
) -> None:
    await schema.upgrade(empty.engine)
    await fill(empty)
    project.add_revision(
        "003",
        after="002",
        upgrade="""
if not sa.inspect(op.get_bind()).has_table("half"): op.create_table("half", sa.Column("a", sa.Integer()))
op.execute("INSERT INTO metadata (ticker) VALUES ('HALF')")
op.execute("DELETE FROM metadata WHERE ticker = 'HALF'")
op.execute("SELECT * FROM no_such_table")
""",
        downgrade='op.drop_table("half")',
    )
    with pytest.raises(sa.exc.DBAPIError):
        await up(empty, project)
    assert ("half" in await tables(empty)) is not empty.dialect.transactional_ddl
    assert await schema.current(empty.engine) == "002"
    assert backend.run_sql(empty_url, "SELECT ticker FROM metadata") == [("AAPL",)]
    project.replace("migrations/versions/003_of_a_test.py", '    op.execute("SELECT * FROM no_such_table")\n', "")
    await up(empty, project)
    assert backend.run_sql(empty_url, "SELECT version_num FROM traderrr_data_version") == [("003",)]
    assert "half" in await tables(empty)
    await down(empty, project, "002")
    assert "half" not in await tables(empty)
    assert await counts(empty) == dict.fromkeys(STORED, 1) | {"bar_revisions": 0}


@pytest.mark.parametrize("step", ["create_metadata()", "create_signals()", "create_compatibility()"])
async def test_a_first_migration_that_was_killed_goes_on_at_the_next_run(
    backend: Backend, empty: DatabaseManager, empty_url: str, project: Project, step: str
) -> None:
    first = "migrations/versions/001_initial_schema.py"
    project.replace(first, f"    {step}\n", f"    {step}\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        await up(empty, project)
    assert bool([name for name in await tables(empty) if name in OURS]) is not empty.dialect.transactional_ddl
    assert (await schema.status(empty.engine)).state is schema.State.EMPTY
    await empty.init_db()
    assert await schema.check(empty.engine) == []
    assert set(OURS) <= set(await tables(empty))
    await fill(empty)


async def test_drop_db_also_removes_what_a_killed_first_migration_left(
    empty: DatabaseManager, project: Project
) -> None:
    first = "migrations/versions/001_initial_schema.py"
    project.replace(first, "    create_metadata()\n", "    create_metadata()\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        await up(empty, project)
    await empty.drop_db(yes=True)
    assert await tables(empty) == []


async def test_a_table_of_another_that_appears_after_a_downgrade_is_not_taken_for_ours(
    backend: Backend, empty: DatabaseManager, empty_url: str
) -> None:
    await schema.upgrade(empty.engine)
    await schema.downgrade(empty.engine, "base")
    backend.run_sql(empty_url, "CREATE TABLE metadata (k INTEGER); INSERT INTO metadata VALUES (7);")
    with pytest.raises(SchemaMismatchError, match="metadata"):
        await schema.upgrade(empty.engine)
    assert backend.run_sql(empty_url, "SELECT k FROM metadata") == [("7",)]


async def test_many_tasks_that_bring_up_a_database_at_once_all_succeed(empty_url: str, backend: Backend) -> None:
    async def bring_up() -> None:
        async with DatabaseManager(empty_url) as db:
            await db.init_db()

    async with asyncio.timeout(30):
        await asyncio.gather(*(bring_up() for _ in range(4)))
    assert backend.run_sql(empty_url, "SELECT version_num FROM traderrr_data_version") == [(schema.head(),)]


async def test_connections_work_as_before_after_a_migration(empty: DatabaseManager, backend: Backend) -> None:
    """Neither the lock's settings nor switched off foreign keys stay on a connection that goes back to the pool."""
    await schema.upgrade(empty.engine)
    async with empty.engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE child (signal_id BIGINT REFERENCES signal_history (id))"))
        await connection.execute(sa.text("DROP TABLE child"))
        await connection.execute(
            sa.text("CREATE TABLE child (signal_id BIGINT, FOREIGN KEY (signal_id) REFERENCES signal_history (id))")
        )
    with pytest.raises(ConstraintViolationError):
        async with empty.session_context() as session:
            await session.execute(sa.text("INSERT INTO child VALUES (12345)"))


async def test_a_batch_that_makes_a_table_anew_keeps_the_rows_that_refer_to_it(
    backend: Backend, empty: DatabaseManager, empty_url: str, project: Project
) -> None:
    await schema.upgrade(empty.engine)
    await fill(empty)
    async with empty.engine.begin() as connection:
        await connection.execute(
            sa.text(
                "CREATE TABLE trade_log (id INTEGER PRIMARY KEY, signal_id BIGINT NOT NULL,"
                " FOREIGN KEY (signal_id) REFERENCES signal_history (id) ON DELETE CASCADE)"
            )
        )
        await connection.execute(sa.text("INSERT INTO trade_log SELECT 1, id FROM signal_history"))
    project.add_revision(
        "003",
        after="002",
        upgrade="""
op.drop_index("idx_signal_history_ticker_date", "signal_history")
with op.batch_alter_table("signal_history") as batch: batch.add_column(sa.Column("added", sa.Integer()))
with op.batch_alter_table("signal_history") as batch: batch.drop_column("added")
with op.batch_alter_table("signal_history") as batch:
        batch.alter_column("regime", type_=sa.String(40), existing_type=sa.String(32), existing_nullable=True)
""",
    )
    before = await counts(empty)
    await up(empty, project)
    assert await counts(empty) == before
    assert backend.run_sql(empty_url, "SELECT count(*) FROM trade_log") == [("1",)]


async def test_a_migration_that_breaks_references_is_refused_by_the_database_or_by_us(
    backend: Backend, empty: DatabaseManager, empty_url: str, project: Project
) -> None:
    await schema.upgrade(empty.engine)
    await fill(empty)
    async with empty.engine.begin() as connection:
        await connection.execute(
            sa.text(
                "CREATE TABLE trade_log (id INTEGER PRIMARY KEY, signal_id BIGINT NOT NULL,"
                " FOREIGN KEY (signal_id) REFERENCES signal_history (id))"
            )
        )
        await connection.execute(sa.text("INSERT INTO trade_log SELECT 1, id FROM signal_history"))
    project.add_revision("003", after="002", upgrade='op.execute("DELETE FROM signal_history")')
    with pytest.raises(ConstraintViolationError):
        await up(empty, project)
    assert backend.run_sql(empty_url, "SELECT count(*) FROM signal_history") == [("1",)]
    assert await schema.current(empty.engine) == "002"


def test_a_database_that_is_behind_is_refused_and_altered_if_asked(
    backend: Backend, empty_url: str, project: Project
) -> None:
    """What create_all would never do: a table that is there gets its new column, and keeps its rows."""
    backend_url = repr(empty_url)
    project.alembic(empty_url, "upgrade", "head")
    backend.run_sql(empty_url, "INSERT INTO metadata (ticker) VALUES ('AAPL');")
    project.add_revision(
        "003",
        after="002",
        upgrade='op.add_column("metadata", sa.Column("added", sa.Integer(), nullable=False, server_default="7"))',
        downgrade='op.drop_column("metadata", "added")',
    )
    done = project.run(
        "-c",
        f"""
import asyncio
from traderrr_data import DatabaseManager, SchemaMismatchError

async def main():
    async with DatabaseManager({backend_url}) as db:
        try:
            await db.init_db()
        except SchemaMismatchError as error:
            print(error)
        await db.init_db(upgrade=True)
        await db.init_db()

asyncio.run(main())
""",
    )
    assert done.stdout == "the database is at 002, behind 003: run `traderrr-data upgrade`\n", done.stderr
    assert backend.run_sql(empty_url, "SELECT ticker, added FROM metadata") == [("AAPL", "7")]
