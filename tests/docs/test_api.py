"""docs/api.md says what the package is."""

from __future__ import annotations

import subprocess
import sys

from tests.docs.markdown import PROJECT


def test_the_list_of_the_public_interface_is_that_of_the_package() -> None:
    written = (PROJECT / "docs" / "api.md").read_text()
    program = "from tools import build_api; print(build_api.api(), end='')"
    built = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    assert written == built.stdout, "the interface or a docstring has changed: run `python -m tools.build_api`"
