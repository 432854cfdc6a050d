"""A migration that is killed with -9 before any of its statements, or in the middle of one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from tests import deploys
from tests.backends import Backend
from tests.catalogs import catalog
from tests.project import ROOT, copy_to
from traderrr_data import dialects, schema
from traderrr_data.engine import create_engine

MIGRATIONS: Final = ROOT / "migrations"
NEVER: Final = 0

# Each step looks first, as every migration has to: MySQL begins again where a killed run ended.
LONG: Final = """
look = sa.inspect(op.get_bind())
columns = [column["name"] for column in look.get_columns("metadata")]
indexes = [index["name"] for index in look.get_indexes("signal_history")]
if not look.has_table("halves"): op.create_table("halves", sa.Column("id", sa.Integer(), primary_key=True))
if "halves" not in columns: op.add_column("metadata", sa.Column("halves", sa.Integer()))
op.execute("UPDATE metadata SET halves = 2")
op.execute("DELETE FROM halves")
op.execute("INSERT INTO halves (id) SELECT id FROM metadata")
if "idx_halves" not in indexes: op.create_index("idx_halves", "signal_history", ["regime"])
if "idx_signal_history_ticker_date" in indexes: op.drop_index("idx_signal_history_ticker_date", "signal_history")
with op.batch_alter_table("portfolio_performance", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.alter_column("volatility", type_=sa.Double(), existing_type=sa.Numeric(20, 10), existing_nullable=True)
op.execute("DELETE FROM metadata WHERE ticker = 'GOES'")
"""
ROWS: Final = "SELECT ticker FROM metadata ORDER BY ticker"
FILL: Final = "INSERT INTO metadata (ticker) VALUES ('GOES'); INSERT INTO metadata (ticker) VALUES ('STAYS');"
VERSION: Final = "SELECT version_num FROM traderrr_data_version"


def what_is_there(backend: Backend, url: str) -> tuple[list[str], object]:
    lines = catalog(backend, url)
    return lines, backend.run_sql(url, ROWS) if any("metadata" in line for line in lines) else None


def killed_at_every_statement(
    backend: Backend, program: deploys.Deploys, before: Path | None, fill: str, migrations: Path
) -> int:
    """Kill a migration at each of its statements, look, and run it again; returns at how many."""

    def prepared() -> str:
        url = backend.create_database()
        if before is not None:
            assert program.ask("killed-at", NEVER, before, url) == "done"
            backend.run_sql(url, fill)
        return url

    is_whole = dialects.by_name(sa.make_url(f"{backend.scheme}://").get_backend_name()).transactional_ddl
    url = prepared()
    untouched = what_is_there(backend, url)
    assert program.ask("killed-at", NEVER, migrations, url) == "done"
    migrated, version = what_is_there(backend, url), backend.run_sql(url, VERSION)
    assert untouched != migrated
    backend.drop_database(url)
    url = prepared()
    for point in range(1, 1_000):
        answer = program.ask("killed-at", point, migrations, url)
        if is_whole:
            found = what_is_there(backend, url)
            assert found in (untouched, migrated), f"killed before statement {point}"
            if found == untouched:
                continue  # the next run of this database is the one to the next point
        assert program.ask("killed-at", NEVER, migrations, url) == "done", f"after a kill before statement {point}"
        assert what_is_there(backend, url) == migrated, f"after a kill before statement {point}"
        assert backend.run_sql(url, VERSION) == version
        backend.drop_database(url)
        if answer == "done":
            return point - 1
        assert answer == "killed"
        url = prepared()
    raise AssertionError("it never ended")


def test_the_migrations_of_this_package_killed_at_any_statement_leave_nothing_or_go_on(backend: Backend) -> None:
    with deploys.running() as program:
        assert killed_at_every_statement(backend, program, None, "", MIGRATIONS) >= 20


def test_a_long_migration_killed_at_any_statement_leaves_nothing_or_goes_on(backend: Backend, tmp_path: Path) -> None:
    project = copy_to(tmp_path)
    project.add_revision("003", after="002", upgrade=LONG)
    with deploys.running() as program:
        count = killed_at_every_statement(backend, program, MIGRATIONS, FILL, project.root / "migrations")
    assert count >= 10


async def test_a_migration_killed_in_the_middle_of_a_long_statement_holds_up_nobody(
    backend: Backend, empty_url: str, tmp_path: Path
) -> None:
    """The server goes on with a statement until it notices that nobody waits for its answer."""
    project = copy_to(tmp_path)
    project.add_revision("003", after="002", upgrade=f'op.execute("{backend.long_statement}")')
    engine = create_engine(empty_url)
    with deploys.running() as program:
        assert await asyncio.to_thread(program.ask, "until-told", project.root / "migrations", empty_url) == "started"
        assert await asyncio.to_thread(program.ask, "now") == "killed"
        before = time.monotonic()
        await schema.upgrade(engine, lock_timeout=15)
        assert time.monotonic() - before < 15
        assert (await schema.status(engine)).state is schema.State.CURRENT
    await engine.dispose()
