"""Files of the old application, taken over: every row is a row of ours afterwards, or kept with its reason."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import legacy_files
from traderrr_data import ConfigurationError, DatabaseManager, schema
from traderrr_data.adopt import AdoptionReport, adopt
from traderrr_data.models import Base

MODELS = {mapper.local_table.name: mapper.class_ for mapper in Base.registry.mappers}  # type: ignore[attr-defined]


def query(path: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, parameters).fetchall()


def rejects(path: Path) -> Counter[str]:
    return Counter(dict(query(path, "SELECT table_name, count(*) FROM adoption_rejects GROUP BY table_name")))


def folder_of(path: Path) -> dict[str, str]:
    """Return a digest of every file beside a file, itself included."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.iterdir() if file.is_file()
    }


async def readable(path: Path) -> dict[str, int]:
    """Read every value of every row through the models, and return how many rows each table has."""
    found = {}
    async with DatabaseManager(f"sqlite:///{path}") as db, db.session_context(read_only=True) as session:
        assert await schema.check(db.engine) == []
        for name in legacy_files.TABLES:
            rows = (await session.scalars(sa.select(MODELS[name]))).all()
            found[name] = len(rows)
    return found


async def conserves_every_row(path: Path, **options: Any) -> AdoptionReport:
    before = legacy_files.counts(path)
    report = await adopt(path, **options)
    kept, rejected = await readable(path), rejects(path)
    for name in legacy_files.TABLES:
        assert kept[name] + rejected[name] == before.get(name, 0), name
    for table in report.tables:
        assert (table.rows, table.kept, table.rejected.total()) == (
            before.get(table.name, 0),
            kept[table.name],
            rejected[table.name],
        )
    assert report.revision == schema.head()
    return report


@pytest.mark.parametrize("shape", legacy_files.SHAPES)
async def test_no_row_of_a_shape_is_lost(shape: str, tmp_path: Path) -> None:
    path = legacy_files.make(tmp_path / "old.db", shape)
    report = await conserves_every_row(path)
    found = {table.name: table.shape for table in report.tables}
    assert found == {name: legacy_files.SHAPES[shape].get(name, "absent") for name in legacy_files.TABLES}
    again = await adopt(path)
    assert (again.changed, again.backup) == (False, None)


CELLS = st.one_of(
    st.none(),
    st.sampled_from(
        [
            *("", "AAPL", "aapl", " MSFT", "BRK B", "é", "2025-01-02", "2025-01-02 00:00:00", "2025-02-30", "20250102"),
            *("2025-01-02 09:30:00", "2025-01-02 09:30:00-05:00", "2025-01-02T14:30:00Z", "2025-01-02 14:30:00.000001"),
            *("1.5", "nan", "x" * 300, "a\nb", "9999-12-31 23:59:59-05:00"),
            *(b"AAPL", b"\xff\xfe", struct.pack("<f", 1.5), struct.pack("<q", 7), struct.pack("<f", float("nan"))),
            *(
                float("inf"),
                float("-inf"),
                1e300,
                1e-300,
                269.2799987792969,
                -37.63,
                2**53 + 1,
                -(2**63),
                0,
                -1,
                20250102,
            ),
        ]
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=5).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)),
)


def rows_of(table: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return rows that are mostly good, with a cell here and there of any kind."""
    good = st.sampled_from(legacy_files.ROWS[table])
    names = sorted({name for row in legacy_files.ROWS[table] for name in row} | {"created_at", "updated_at", "user_id"})
    changes = st.dictionaries(st.sampled_from(names), CELLS, max_size=3)
    return st.lists(st.builds(lambda row, change: {**row, **change}, good, changes), max_size=6)


FILES = st.fixed_dictionaries(
    {
        table: st.one_of(
            st.none(),
            st.tuples(
                st.sampled_from([shape for shape, made in legacy_files.DEFINITIONS.items() if table in made]),
                rows_of(table),
            ),
        )
        for table in legacy_files.TABLES
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=FILES)
async def test_any_mixture_of_shapes_and_values_conserves_every_row(
    file: dict[str, tuple[str, list[dict[str, Any]]] | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("mixed") / "old.db"
    with legacy_files.opened(path) as connection:
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")
        for table, made in file.items():
            if made is not None:
                legacy_files.make_table(connection, table, *made)
    owned = ("portfolio_positions", "signal_history", "portfolio_performance")
    users: set[Any] = set()
    with legacy_files.opened(path) as connection:
        for table in owned:
            with contextlib.suppress(sqlite3.OperationalError):
                users |= {row[0] for row in connection.execute(f"SELECT DISTINCT user_id FROM {table}")}
    if len(users) > 1:
        before = folder_of(path)
        with pytest.raises(ConfigurationError, match="--user"):
            await adopt(path, timezone="America/New_York")
        assert folder_of(path) == before
        with legacy_files.opened(path) as connection:
            for table in owned:
                with contextlib.suppress(sqlite3.OperationalError):
                    connection.execute(f"UPDATE {table} SET user_id = 1 WHERE typeof(user_id) <> 'integer'")
    whole = {user for user in users if isinstance(user, int)}
    user = min(whole | {1}) if len(users) > 1 and (whole or users) else None
    await conserves_every_row(path, timezone="America/New_York", user=user)
