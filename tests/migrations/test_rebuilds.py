"""What a migration loses where it makes a table anew, on SQLite: nothing, unless it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.backends import SqliteBackend
from tests.project import Project, copy_to

NEIGHBOURS: Final = """
INSERT INTO signal_history (ticker, date, signal_type) VALUES ('AAPL', '2025-01-02', 'BUY');
CREATE TABLE trade_log (id INTEGER PRIMARY KEY, signal_id INTEGER REFERENCES signal_history (id) ON DELETE CASCADE);
INSERT INTO trade_log VALUES (1, 1);
"""
TRIGGER: Final = """
CREATE TRIGGER "watch it" AFTER INSERT ON signal_history BEGIN UPDATE trade_log SET id = id; END;
"""
REBUILD: Final = """
with op.batch_alter_table("signal_history") as batch:
        batch.alter_column("regime", type_=sa.String(40), existing_type=sa.String(32), existing_nullable=True)
"""
LOOK: Final = """
SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY 1, 2;
SELECT count(*) FROM trade_log;
SELECT count(*) FROM signal_history;
SELECT version_num FROM traderrr_data_version;
"""


class Database:
    """A SQLite file with neighbours of ours in it, and a project that migrates it."""

    def __init__(self, folder: Path) -> None:
        self.backend = SqliteBackend(folder)
        self.url = self.backend.create_database()
        (folder / "project").mkdir()
        self.project: Project = copy_to(folder / "project")
        self.project.alembic(self.url, "upgrade", "head")
        self.run(NEIGHBOURS)

    def run(self, sql: str) -> list[tuple[str | None, ...]]:
        """Run a script."""
        return self.backend.run_sql(self.url, sql)

    def refused(self, migration: str) -> str:
        """Return why a migration is refused, having seen that nothing was changed."""
        before = self.run(LOOK)
        self.project.add_revision("003", after="002", upgrade=migration)
        done = self.project.run("-m", "alembic", "upgrade", "head", DATABASE_URL=self.url)
        assert done.returncode == 1, done.stderr
        assert self.run(LOOK) == before
        return done.stderr.splitlines()[-1]

    def migrated(self, migration: str) -> None:
        """Run a migration."""
        self.project.add_revision("003", after="002", upgrade=migration)
        self.project.alembic(self.url, "upgrade", "head")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


def test_a_trigger_is_not_lost(database: Database) -> None:
    database.run(TRIGGER)
    assert "loses its trigger watch it" in database.refused(REBUILD)


def test_a_trigger_may_be_dropped_and_made_again(database: Database) -> None:
    database.run("DROP INDEX idx_signal_history_ticker_date")
    database.run(TRIGGER)
    drop = """op.execute('DROP TRIGGER IF EXISTS "watch it"')"""
    database.migrated(f"{drop}{REBUILD}op.execute('''{TRIGGER.strip()}''')")
    assert ("trigger", "watch it") in database.run(LOOK)


@pytest.mark.parametrize(
    "index",
    [
        "CREATE INDEX theirs ON signal_history (lower(ticker))",
        "CREATE INDEX theirs ON signal_history (ticker, lower(regime) DESC) WHERE regime IS NOT NULL",
        "CREATE INDEX theirs ON signal_history (ticker COLLATE NOCASE)",
        "CREATE UNIQUE INDEX theirs ON signal_history (date DESC, ticker) WHERE signal_type = 'BUY'",
    ],
)
def test_an_index_that_the_copy_would_lose_or_change_is_not_lost(database: Database, index: str) -> None:
    database.run("DROP INDEX idx_signal_history_ticker_date")  # which the copy would change as well
    database.run(index)
    assert "loses its index theirs" in database.refused(REBUILD)


def test_an_index_that_the_copy_makes_again_is_no_obstacle(database: Database) -> None:
    database.run("DROP INDEX idx_signal_history_ticker_date")
    database.run("CREATE INDEX theirs ON signal_history (ticker, regime)")
    before = database.run(LOOK)[:-1]
    database.migrated(REBUILD)
    assert database.run(LOOK)[:-1] == before


def test_our_own_index_in_descending_order_is_not_turned_round(database: Database) -> None:
    assert "loses its index idx_signal_history_ticker_date" in database.refused(REBUILD)
    recreate = 'op.create_index("idx_signal_history_ticker_date", "signal_history", ["ticker", sa.text("date DESC")])'
    (database.project.root / "migrations/versions/003_of_a_test.py").unlink()
    drop = 'op.drop_index("idx_signal_history_ticker_date", "signal_history")'
    database.migrated(f"{drop}{REBUILD}{recreate}")
    database.project.alembic(database.url, "downgrade", "002")


def test_children_of_a_table_that_is_made_anew_keep_their_rows(database: Database) -> None:
    database.run("DROP INDEX idx_signal_history_ticker_date")
    database.migrated(REBUILD)
    assert database.run("SELECT count(*) FROM trade_log") == [("1",)]


def test_rows_that_the_copy_would_leave_behind_are_not_lost(database: Database) -> None:
    database.run("DROP INDEX idx_signal_history_ticker_date")
    lose = """
op.execute("CREATE TABLE _alembic_tmp_trade_log (id INTEGER PRIMARY KEY, signal_id INTEGER)")
op.execute("INSERT INTO _alembic_tmp_trade_log SELECT * FROM trade_log WHERE id > 1")
op.execute("DROP TABLE trade_log")
op.execute("ALTER TABLE _alembic_tmp_trade_log RENAME TO trade_log")
"""
    assert "loses 1 of the 1 rows of trade_log" in database.refused(lose)


def test_rows_that_a_migration_deletes_are_its_own_affair(database: Database) -> None:
    database.run("DROP INDEX idx_signal_history_ticker_date")
    database.migrated(f'op.execute("DELETE FROM trade_log"){REBUILD}')
    assert database.run("SELECT count(*) FROM trade_log") == [("0",)]


def test_references_that_were_broken_before_are_no_obstacle_and_new_ones_are(database: Database) -> None:
    database.run("INSERT INTO trade_log VALUES (2, 777)")
    database.migrated('op.add_column("metadata", sa.Column("added", sa.Integer()))')
    (database.project.root / "migrations/versions/003_of_a_test.py").rename(
        database.project.root / "migrations/versions/003_kept.py"
    )
    database.project.add_revision("004", after="003", upgrade='op.execute("DELETE FROM signal_history")')
    done = database.project.run("-m", "alembic", "upgrade", "head", DATABASE_URL=database.url)
    assert done.returncode == 1
    assert "1 rows would refer to nothing, in trade_log" in done.stderr
