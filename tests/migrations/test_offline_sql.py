"""The SQL of an upgrade, run by the database's own client, makes what an upgrade makes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.catalogs import catalog
from traderrr_data import DatabaseManager, SchemaMismatchError, Settings, schema


def test_offline_sql_makes_the_same_schema_as_an_upgrade(backend: Backend, empty_url: str, database_url: str) -> None:
    script = schema.sql(sa.make_url(empty_url))
    backend.run_sql(empty_url, script)
    assert catalog(backend, empty_url) == catalog(backend, database_url)
    look = "SELECT version_num FROM traderrr_data_version; SELECT oldest_code_revision FROM traderrr_data_compat"
    assert backend.run_sql(empty_url, look) == backend.run_sql(database_url, look)


def test_a_database_made_by_offline_sql_is_at_head(backend: Backend, empty_url: str) -> None:
    backend.run_sql(empty_url, schema.sql(Settings.of(empty_url).url))

    async def state() -> schema.State:
        async with DatabaseManager(empty_url) as db:
            await db.init_db()
            assert await schema.check(db.engine) == []
            return (await schema.status(db.engine)).state

    assert asyncio.run(state()) is schema.State.CURRENT


def test_offline_sql_needs_no_database_and_shows_no_secret(backend: Backend) -> None:
    url = sa.make_url(f"{backend.scheme}://user:S3cret@nowhere.invalid/name")
    script = schema.sql(url)
    assert "CREATE TABLE daily_data" in script
    assert "S3cret" not in script


def test_offline_sql_of_a_revision_that_does_not_exist_is_refused(backend: Backend) -> None:
    with pytest.raises(SchemaMismatchError, match="nonsense"):
        schema.sql(sa.make_url(f"{backend.scheme}://"), "nonsense")


@pytest.mark.parametrize("revisions", ["head", *(f"{r.down_revision}:{r.revision}" for r in schema.history()[:-1])])
def test_squawk_finds_no_fault_with_the_sql_for_postgresql(revisions: str) -> None:
    """What it is told to ignore stands in the file, with the reason."""
    script = schema.sql(sa.make_url("postgresql://"), revisions)
    done = subprocess.run(
        [Path(sys.executable).with_name("squawk"), "--reporter=gcc", "--no-error-on-unmatched-pattern"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    assert "-- squawk-ignore-file" in script


def test_the_sql_gives_up_behind_those_who_use_a_table(backend: Backend) -> None:
    """As the commands do; SQLite's clients have a way of their own to say how long they wait."""
    script = schema.sql(sa.make_url(f"{backend.scheme}://"))
    assert ("lock_timeout = 5000" in script or "lock_wait_timeout = 5" in script) is (backend.server is not None)
