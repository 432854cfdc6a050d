"""pytest-alembic's own suite, on every database.

Its tests are imported by name, and the database is named by DATABASE_URL: `env.py` makes its own engine, as it does
for people.
"""

from __future__ import annotations

import pytest
from alembic.config import Config
from pytest_alembic.tests import (  # noqa: F401 - collected here
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)

from tests.project import ROOT


@pytest.fixture
def alembic_config(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The migrations of the project, on a new database."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    return config


@pytest.fixture
def alembic_engine() -> None:
    """No engine: `env.py` makes one from the settings."""
