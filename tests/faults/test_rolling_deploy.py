"""A rolling deploy: old processes go on reading and writing while a migration and then the new processes arrive."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.backends import Backend
from tests.project import ROOT, Project, copy_to

ROUNDS: Final = 6  # that a process works between two looks at it

# After each line that it reads it works for some rounds more and says how many calls it has made by then; at the end of
# its input it says what failed, and what it has stored.
WORKER: Final = f"""
import asyncio, datetime as dt, json, logging, sys
from traderrr_data import DatabaseManager, market_data, schema, system, trading

url, name, is_new = sys.argv[1], sys.argv[2], schema.head() != "002"
calls, failures, warned = 0, [], []

class Kept(logging.Handler):
    def emit(self, record):
        warned.append(record.getMessage())

logging.getLogger("traderrr_data").addHandler(Kept())
logging.getLogger("traderrr_data.dialects").setLevel("ERROR")  # how long a transaction holds SQLite's lock

async def call(db, work):
    global calls
    calls += 1
    try:
        return await db.run(work, idempotent=True)
    except Exception as error:
        failures.append(f"{{type(error).__name__}}: {{error}}")

async def work_once(db, n):
    day = dt.date(2000, 1, 1) + dt.timedelta(days=n)
    bar = dict(open=n + 1, high=n + 1, low=n + 1, close=n + 1)
    extra = {{"note": name}} if is_new else {{}}
    minutes = [dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=m) for m in range(1500)]
    daily = [dict(ticker=name, date=day, **bar, **extra)]
    await call(db, lambda s: market_data.upsert_daily(s, daily))
    await call(db, lambda s: market_data.upsert_daily(s, [daily[0] | dict(close=n + 2, high=n + 2)]))
    await call(db, lambda s: market_data.upsert_intraday(
        s, [dict(ticker=name, datetime=m, **bar) for m in minutes], timeframe="1m"))
    companies = [dict(ticker=f"{{name}}{{k}}", sector=str(n)) for k in range(1200)]
    await call(db, lambda s: market_data.upsert_metadata(s, companies))
    await call(db, lambda s: trading.add_signal(s, name, date=day, signal_type="BUY", dedupe_key=f"{{name}}{{n}}"))
    found = await call(db, lambda s: market_data.list_daily(s, name))
    if found is not None and len(found) != n + 1:
        failures.append(f"{{len(found)}} of {{n + 1}} bars are there")
    if found is not None and is_new and {{b.note for b in found}} != {{name}}:
        failures.append("the new column is not what was stored")
    await call(db, lambda s: trading.list_signals(s, name))
    await call(db, lambda s: system.list_events(s))
    await call(db, lambda s: market_data.coverage(s))
    frame = await call(db, lambda s: market_data.intraday_frame(s, [name], timeframe="1m"))
    if frame is not None and len(frame) != 1500:
        failures.append(f"{{len(frame)}} rows in a frame")

async def main():
    async with DatabaseManager(url) as db:
        n = 0
        while line := await asyncio.to_thread(sys.stdin.readline):
            for _ in range({ROUNDS}):
                await work_once(db, n)
                n += 1
            print(calls, flush=True)
    print(json.dumps(dict(calls=calls, failures=failures, warned=warned, days=n)), flush=True)

asyncio.run(main())
"""

EXPANDING: Final = """
op.add_column("daily_data", sa.Column("note", sa.String(16)))
op.add_column("intraday_data", sa.Column("note", sa.String(16)))
op.create_table("notes", sa.Column("id", sa.Integer(), primary_key=True))
op.create_index("idx_daily_data_note", "daily_data", ["note"])
op.drop_index("idx_signal_history_ticker_date", "signal_history")
op.create_index("idx_signals", "signal_history", ["ticker", sa.text("date DESC")])
op.create_index("uq_metadata_symbol", "metadata", ["ticker"], unique=True)
with op.batch_alter_table("metadata", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_constraint("uq_metadata_ticker", type_="unique")
with op.batch_alter_table("system_events", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.alter_column("severity", type_=sa.String(48), existing_type=sa.String(32), existing_nullable=False)
"""


class Worker:
    """One process of an application."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self) -> None:
        """Have it work for some rounds."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def ended(self) -> int:
        """Wait for the end of those rounds, and return how many calls it has made since it started."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def report(self) -> dict[str, Any]:
        """Let it end, and return what it has to say."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        report: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert self._process.wait(30) == 0
        return report


@contextlib.contextmanager
def worker(project: Project, url: str, name: str) -> Iterator[Worker]:
    """Run one process of an application with the code of a project."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, url, name],
        cwd=project.root,
        env=project.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


@pytest.fixture
def newer(tmp_path: Path) -> Project:
    """A release with one revision more."""
    project = copy_to(tmp_path)
    project.add_revision("003", after="002", upgrade=EXPANDING)
    project.replace(
        "traderrr_data/models/market_data.py",
        "    dividends: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=8)\n",
        "    note: Mapped[str | None] = mapped_column(ByteText(16), sort_order=109)\n"
        "    dividends: Mapped[Decimal | None] = mapped_column(Ratio, sort_order=8)\n",
    )
    return project


def test_old_processes_go_on_through_an_expanding_migration_and_beside_new_ones_without_a_failed_call(
    backend: Backend, database_url: str, empty_url: str, newer: Project
) -> None:
    here = Project(ROOT)
    here.alembic(empty_url, "upgrade", "head")
    with worker(here, empty_url, "OLD1") as first, worker(here, empty_url, "OLD2") as second:
        old = [first, second]
        for process in old:
            process.begin()
        for process in old:
            process.ended()
            process.begin()
        newer.alembic(empty_url, "upgrade", "head")  # while both are at work
        with worker(newer, empty_url, "NEW") as third:
            third.begin()
            for process in [*old, third]:
                process.ended()
                process.begin()
            for process in [*old, third]:
                process.ended()
            reports = {"OLD1": first.report(), "OLD2": second.report(), "NEW": third.report()}
    assert [report["failures"] for report in reports.values()] == [[], [], []]
    assert [report["warned"] for report in reports.values()] == [[], [], []]
    for name, report in reports.items():
        days = str(report["days"])
        assert backend.run_sql(empty_url, f"SELECT count(*) FROM daily_data WHERE ticker = '{name}'") == [(days,)]
        assert backend.run_sql(empty_url, f"SELECT count(*) FROM signal_history WHERE ticker = '{name}'") == [(days,)]
        stored = backend.run_sql(empty_url, f"SELECT DISTINCT note FROM daily_data WHERE ticker = '{name}'")
        assert stored == [("NEW" if name == "NEW" else None,)]
    with worker(here, empty_url, "OLD3") as late:  # one that starts again with the old code, as after a crash
        late.begin()
        late.ended()
        report = late.report()
    assert report["failures"] == []
    (warning,) = report["warned"]
    assert "003" in warning


def test_old_processes_are_refused_after_a_contracting_migration(
    backend: Backend, empty_url: str, newer: Project
) -> None:
    newer.add_revision(
        "004",
        after="003",
        upgrade="""op.execute("UPDATE traderrr_data_compat SET oldest_code_revision = '003'")""",
    )
    newer.alembic(empty_url, "upgrade", "head")
    with worker(Project(ROOT), empty_url, "OLD") as old:
        old.begin()
        old.ended()
        failures = set(old.report()["failures"])
    assert {failure.partition(":")[0] for failure in failures} == {"SchemaMismatchError"}
    assert backend.run_sql(empty_url, "SELECT count(*) FROM daily_data") == [("0",)]
