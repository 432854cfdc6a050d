"""CONTRIBUTING.md, README.md and the links of all documents say what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.docs.markdown import DOCUMENTS, PROJECT, blocks
from tests.docs.test_blocks import NOT_RUN


def test_the_picture_of_the_rooms_shows_every_room() -> None:
    listed = [text for name, text in NOT_RUN if name == "CONTRIBUTING.md" and text.startswith("settings.py")]
    (picture,) = (
        block.text for block in blocks(PROJECT / "CONTRIBUTING.md") if block.text.partition("\n")[0] in listed
    )
    drawn = {line.split()[0].rstrip("/") for line in picture.splitlines()}
    package = PROJECT / "traderrr_data"
    there = {path.name for path in package.glob("[!_]*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert drawn == there


def test_the_sessions_of_nox_are_all_described() -> None:
    functions = [node for node in ast.walk(ast.parse((PROJECT / "noxfile.py").read_text())) if is_session(node)]
    sessions = {node.name for node in functions} - {"wheel", "tests_on_python"}  # parts of package, and of tests-3.x
    table = (PROJECT / "CONTRIBUTING.md").read_text().partition("## Sessions of nox")[2].partition("\n## ")[0]
    described = {re.sub(r"\(.*|-3.*", "", name) for name in re.findall(r"`([\w.()-]+)`", table)}
    assert "tests" in sessions
    assert sessions <= described


def is_session(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    """Tell whether a function of the noxfile is a session."""
    return isinstance(node, ast.FunctionDef) and any("nox.session" in ast.unparse(d) for d in node.decorator_list)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
