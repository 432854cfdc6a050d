"""docs/configuration.md says what Settings are."""

from __future__ import annotations

import re

import pytest

from tests.docs.markdown import PROJECT
from traderrr_data import Settings

DOCUMENTED = dict(
    re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*?) \|", (PROJECT / "docs" / "configuration.md").read_text(), re.MULTILINE)
)


def test_every_setting_is_documented_and_no_other() -> None:
    names = [name for cell in DOCUMENTED for name in re.findall("[A-Z_]+", cell)]
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("name", [n for n, field in Settings.model_fields.items() if field.default is not None])
def test_the_documented_default_is_that_of_the_setting(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    assert DOCUMENTED[f"`{name.upper()}`"].strip("`") == shown
