"""The SQL of an upgrade, run by the database's own client, makes what an upgrade makes."""

from __future__ import annotations

import asyncio

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
