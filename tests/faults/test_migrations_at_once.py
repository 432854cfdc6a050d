"""Deploys that start at the same moment: one migrates, the others wait and find nothing to do."""

from __future__ import annotations

import subprocess
import sys

from tests import deploys
from tests.backends import Backend
from tests.project import ROOT, Project
from traderrr_data import schema

ROUNDS = 20
HERE = Project(ROOT)


def test_of_five_deploys_at_once_one_migrates_and_four_find_nothing_to_do_twenty_times_in_a_row(
    backend: Backend,
) -> None:
    with deploys.running() as program:
        for _ in range(ROUNDS):
            url = backend.create_database()
            assert program.ask("at-once", 5, url) == "1 migrated, 4 found nothing to do, 0 failed"
            assert backend.run_sql(url, "SELECT version_num FROM traderrr_data_version") == [(schema.head(),)]
            backend.drop_database(url)


def test_the_commands_of_alembic_and_of_this_package_wait_for_each_other(backend: Backend, empty_url: str) -> None:
    commands = [["alembic", "upgrade", "head"], ["traderrr_data", "upgrade"]] * 2
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=HERE.environment(DATABASE_URL=empty_url),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    complaints = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(commands), "\n".join(complaints)
    assert backend.run_sql(empty_url, "SELECT version_num FROM traderrr_data_version") == [(schema.head(),)]
