"""docs/reliability.md names tests that there are."""

from __future__ import annotations

import re

from tests.docs.markdown import PROJECT

NAMED = re.findall(r"`(test_\w+)`", (PROJECT / "docs" / "reliability.md").read_text(encoding="utf-8"))


def test_every_test_of_the_table_is_there() -> None:
    files = (PROJECT / "tests").rglob("test_*.py")
    defined = set(re.findall(r"def (test_\w+)", "\n".join(file.read_text(encoding="utf-8") for file in files)))
    assert NAMED
    assert [name for name in NAMED if name not in defined] == []
