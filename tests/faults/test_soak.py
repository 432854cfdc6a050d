"""The driver of the nox session `soak`, for a short while, and that its comparer finds what differs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.backends import Backend
from tests.project import ROOT
from tests.soak.units import State, Unit
from traderrr_data import DatabaseManager, market_data, trading

pytestmark = pytest.mark.unpooled("it has servers of its own")

Compare: TypeAlias = Callable[..., str]

TOLD: Final[list[tuple[Unit, State]]] = [
    (Unit("0.1.1", "session", bars=1), "acknowledged"),
    (Unit("0.1.2", "both", bars=3, signals=3), "unknown"),
    (Unit("0.1.3", "replace", bars=5), "acknowledged"),
    (Unit("0.1.4", "replace", bars=5, replaces="0.1.3"), "cancelled"),
    (Unit("0.1.5", "run_once", signals=3), "acknowledged"),
    (Unit("0.1.6", "session", bars=1), "failed"),
    (Unit("0.2.1", "session", bars=2), "attempted"),
]
STORED: Final = {"0.1.1", "0.1.2", "0.1.4", "0.1.5"}
SIGNAL: Final = "ticker, date, signal_type, signal_value, entry_price"
BAR: Final = "ticker, date, open, high, low, close, volume"


def soak(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_whatever_is_killed_what_was_acknowledged_is_stored_once(backend: Backend) -> None:
    done = soak("tests.soak", "--database", backend.name, "--minutes", "0.3", "--seed", "1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "worker killed" in done.stdout
    assert done.stdout.endswith("; differences: 0\n")


@pytest.fixture
async def compare(backend: Backend, db: DatabaseManager, database_url: str, tmp_path: Path) -> Compare:
    """What the comparer says after some harm was done to the database, or something else told."""
    async with db.session_context() as session:
        for unit, _ in TOLD:
            if unit.name in STORED:
                await market_data.upsert_daily(session, unit.bar_rows())
                await trading.add_signals(session, unit.signal_rows())

    def compared(harm: str = "", told: str = "") -> str:
        backend.run_sql(database_url, harm)
        lines = [unit.line("attempted") + unit.line(state) for unit, state in TOLD]
        (tmp_path / "record").write_text("".join([*lines, "ended 0.1\n", told]))
        done = soak("tests.soak.compare", tmp_path / "record", backend.name, database_url)
        assert (done.returncode, done.stderr) == ("; differences: 0" not in done.stdout, "")
        return done.stdout

    return compared


def test_what_is_as_it_was_told_does_not_differ(compare: Compare) -> None:
    said = compare()
    assert "7 units of work: 3 acknowledged, 1 attempted, 1 cancelled, 1 failed, 1 unknown; differences: 0" in said


@pytest.mark.parametrize(
    ("harm", "difference"),
    [
        ("DELETE FROM daily_data WHERE ticker = '0.1.1'", "0.1.1 (session, acknowledged) is not stored"),
        ("DELETE FROM daily_data WHERE ticker = '0.1.4'", "0.1.3 (replace, acknowledged) is not stored"),
        (
            "DELETE FROM daily_data WHERE ticker = '0.1.2' AND volume = 1",
            "0.1.2 (both, unknown) is stored in part, twice or changed",
        ),
        (
            "DELETE FROM signal_history WHERE ticker = '0.1.2'",
            "0.1.2 (both, unknown) is stored in part, twice or changed",
        ),
        (
            f"INSERT INTO signal_history ({SIGNAL}) SELECT {SIGNAL} FROM signal_history WHERE ticker = '0.1.5'",
            "0.1.5 (run_once, acknowledged) is stored in part, twice or changed",
        ),
        (
            "UPDATE daily_data SET close = 3 WHERE ticker = '0.1.1'",
            "0.1.1 (session, acknowledged) is stored in part, twice or changed",
        ),
        (
            f"INSERT INTO daily_data ({BAR}) SELECT '0.1.3', date, 4, 4, 4, 4, volume FROM daily_data"
            " WHERE ticker = '0.1.4'",
            "0.1.3 (replace, acknowledged) is stored, and so is what replaced it",
        ),
        (
            f"INSERT INTO daily_data ({BAR}) SELECT '0.1.6', date, 7, 7, 7, 7, 0 FROM daily_data"
            " WHERE ticker = '0.1.1'",
            "0.1.6 (session, failed) is stored",
        ),
        (
            f"INSERT INTO daily_data ({BAR}) SELECT '0.9', date, 1, 1, 1, 1, 0 FROM daily_data WHERE ticker = '0.1.1'",
            "0.9 is stored, and nobody wrote it",
        ),
    ],
)
def test_what_was_lost_doubled_cut_or_invented_differs(compare: Compare, harm: str, difference: str) -> None:
    said = compare(f"{harm};")
    assert "differences: 1\n" in said
    assert difference in said


def test_a_unit_that_was_never_heard_of_again_differs(compare: Compare) -> None:
    said = compare(told="ended 0.2\n")
    assert "0.2.1 (session, attempted) was never heard of again" in said
