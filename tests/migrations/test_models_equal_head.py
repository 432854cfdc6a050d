"""The models and the migrations make the same tables, down to what `alembic check` does not compare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from tests.backends import Backend
from tests.catalogs import catalog
from traderrr_data import schema
from traderrr_data.engine import create_engine
from traderrr_data.models import Base

Change = Callable[[sa.MetaData], None]


@pytest.fixture(scope="module")
def head(backend: Backend) -> Iterator[list[str]]:
    """The catalog of a database at head."""
    url = backend.create_database()
    in_a_loop(url, upgraded=True)
    yield catalog(backend, url)
    backend.drop_database(url)


def in_a_loop(url: str, metadata: sa.MetaData | None = None, *, upgraded: bool = False) -> None:
    async def make() -> None:
        engine = create_engine(url)
        try:
            if upgraded:
                await schema.upgrade(engine)
            if metadata is not None:
                async with engine.begin() as connection:
                    await connection.run_sync(metadata.create_all)
        finally:
            await engine.dispose()

    asyncio.run(make())


def copy_of_the_models() -> sa.MetaData:
    copy = sa.MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.tables.values():
        conditions = {constraint.name: constraint._ddl_if for constraint in table.constraints}
        for constraint in table.to_metadata(copy).constraints:
            constraint._ddl_if = conditions[constraint.name]  # a copy forgets it
    return copy


def test_the_models_make_what_the_migrations_make(backend: Backend, empty_url: str, head: list[str]) -> None:
    in_a_loop(empty_url, Base.metadata)
    assert catalog(backend, empty_url) == head
    assert sum(line.startswith("column") for line in head) == sum(len(t.columns) for t in Base.metadata.tables.values())


def check(url: str) -> list[str]:
    async def differences() -> list[str]:
        engine = create_engine(url)
        try:
            return await schema.check(engine)
        finally:
            await engine.dispose()

    return asyncio.run(differences())


def test_a_check_finds_no_difference_at_head(database_url: str) -> None:
    assert check(database_url) == []


def another_type(table: str, column: str, kind: sa.types.TypeEngine[Any]) -> Change:
    def change(metadata: sa.MetaData) -> None:
        metadata.tables[table].c[column].type = kind

    return change


def without(table: str, name: str) -> Change:
    def change(metadata: sa.MetaData) -> None:
        constraints = metadata.tables[table].constraints
        (found,) = [c for c in constraints if c.name == name]
        constraints.discard(found)

    return change


def without_index(metadata: sa.MetaData) -> None:
    metadata.tables["system_events"].indexes.clear()


def ascending_index(metadata: sa.MetaData) -> None:
    table = metadata.tables["signal_history"]
    table.indexes.clear()
    sa.Index("idx_signal_history_ticker_date", table.c.ticker, table.c.date)


def another_default(metadata: sa.MetaData) -> None:
    metadata.tables["intraday_data"].c.timeframe.server_default = sa.DefaultClause("1m")


def no_default(metadata: sa.MetaData) -> None:
    metadata.tables["system_events"].c.created_at.server_default = None


def nullable(metadata: sa.MetaData) -> None:
    metadata.tables["daily_data"].c.close.nullable = True


def not_nullable(metadata: sa.MetaData) -> None:
    metadata.tables["metadata"].c.sector.nullable = False


def one_index_more(metadata: sa.MetaData) -> None:
    sa.Index("idx_one_more", metadata.tables["metadata"].c.sector)


def one_check_more(metadata: sa.MetaData) -> None:
    check = sa.CheckConstraint("ticker <> 'XYZ'", name=sa.schema.conv("ck_metadata_no_xyz"))
    metadata.tables["metadata"].append_constraint(check)


def without_column(metadata: sa.MetaData) -> None:
    table = metadata.tables["metadata"]
    table._columns.remove(table.c.mic)


def without_table(metadata: sa.MetaData) -> None:
    metadata.remove(metadata.tables["system_events"])


def another_order(metadata: sa.MetaData) -> None:
    old = metadata.tables["portfolio_positions"]
    metadata.remove(old)
    columns = [column._copy() for column in old.columns]
    checks = [c._copy() for c in old.constraints if isinstance(c, sa.CheckConstraint) and c._ddl_if is None]
    unique = sa.UniqueConstraint("ticker", name="uq_portfolio_positions_ticker")
    sa.Table("portfolio_positions", metadata, *columns[::-1], unique, *checks, **old.dialect_kwargs)


def another_check(metadata: sa.MetaData) -> None:
    table = metadata.tables["daily_data"]
    without("daily_data", "ck_daily_data_volume_is_not_negative")(metadata)
    table.append_constraint(
        sa.CheckConstraint("volume > 0", name=sa.schema.conv("ck_daily_data_volume_is_not_negative"))
    )


def another_collation() -> sa.types.TypeEngine[str]:
    folded = mysql.VARCHAR(64, charset="utf8mb4", collation="utf8mb4_general_ci")
    plain = sa.String(64, collation="NOCASE")
    return plain.with_variant(sa.String(64), "postgresql").with_variant(folded, "mysql", "mariadb")


DRIFT: dict[str, Change] = {
    "a column's decimals": another_type("daily_data", "close", sa.Numeric(18, 6)),
    "a column's length": another_type("metadata", "ticker", sa.String(32)),
    "a column's type": another_type("portfolio_positions", "shares", sa.Integer()),
    "a column's collation": another_type("daily_data", "ticker", another_collation()),
    "fractions of a second and the zone": another_type("intraday_data", "datetime", sa.DateTime()),
    "a default": another_default,
    "no default": no_default,
    "a NULL that is allowed": nullable,
    "a NULL that is refused": not_nullable,
    "the order of columns": another_order,
    "a CHECK that is gone": without("metadata", "ck_metadata_ticker_is_not_empty"),
    "a CHECK that says something else": another_check,
    "a unique key that is gone": without("metadata", "uq_metadata_ticker"),
    "an index that is gone": without_index,
    "an index of another order": ascending_index,
    "an index that nobody expects": one_index_more,
    "a CHECK that nobody expects": one_check_more,
    "a column that is gone": without_column,
    "a table that is gone": without_table,
}
STAMP = """
CREATE TABLE traderrr_data_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO traderrr_data_version VALUES ('{}');
"""


@pytest.mark.parametrize("drift", DRIFT)
def test_a_difference_is_seen(backend: Backend, empty_url: str, head: list[str], drift: str) -> None:
    changed = copy_of_the_models()
    DRIFT[drift](changed)
    in_a_loop(empty_url, changed)
    assert catalog(backend, empty_url) != head
    backend.run_sql(empty_url, STAMP.format(schema.head()))
    differences = check(empty_url)
    assert differences
    assert any("expected" in difference or "missing" in difference for difference in differences)
    assert len({difference.partition(",")[0] for difference in differences}) == 1  # of one table


def test_check_leaves_nothing_behind_and_runs_beside_readers_and_writers(
    backend: Backend, empty_url: str, head: list[str]
) -> None:
    in_a_loop(empty_url, upgraded=True)
    assert check(empty_url) == check(empty_url) == []
    assert catalog(backend, empty_url) == head


def test_every_constraint_has_a_name(backend: Backend, database_url: str) -> None:
    for table in Base.metadata.tables.values():
        for constraint in table.constraints:
            assert constraint.name, f"{table.name}: {constraint}"
        for index in table.indexes:
            assert index.name
