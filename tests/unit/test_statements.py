"""No statement is made of data: whatever stands in the text of one is a name of ours, a number or a text of our own.

Values are bound, or spelled by the few functions that are there to spell them. Each expression that is put into the
text of a statement is listed in `reviewed_statements.toml`, since somebody has looked where its value comes from; one
that is not fails the test.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from typing import Final

import pytest

from tests.project import ROOT

_SQL = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|SET|PRAGMA|FROM|WHERE|VALUES|COPY|LOAD DATA|CONFLICT|KILL|JOIN"
    r"|AND|OR|IS|AS|BETWEEN|CASE|IN|GLOB|DEFAULT|CAST|IF|LOCK|NULL|NOT|COALESCE|ATTACH|VACUUM|TRUNCATE|TABLE)\b"
    r'|`|[a-z]\."|= \?|""'
)
_RAW = {"exec_driver_sql", "text", "literal_column", "fetchval", "fetchrow", "copy_from_query", "DDL"}
"""What takes the text of a statement, or of a part of one."""

_SPELLERS = {"quoted", "_quoted", "literal", "_listed", "len", "int"}
"""What spells names and texts of our own as SQL, and numbers."""

REVIEWED: Final[dict[str, list[str]]] = tomllib.loads(
    (ROOT / "tests" / "unit" / "reviewed_statements.toml").read_text(encoding="utf-8")
)


def modules() -> dict[str, ast.Module]:
    paths = [*ROOT.glob("traderrr_data/**/*.py"), *ROOT.glob("migrations/**/*.py")]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(paths)}


def put_into_statements(tree: ast.Module) -> Iterator[str]:
    """Yield each expression whose value becomes a part of a statement's text."""
    messages = {id(part) for node in ast.walk(tree) if _is_message(node) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in messages:
            continue
        if isinstance(node, ast.JoinedStr) and _SQL.search(_constant_text(node)):
            yield from (
                ast.unparse(part.value)
                for part in node.values
                if isinstance(part, ast.FormattedValue) and _is_doubtful(part)
            )
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod) and _SQL.search(_constants(node)):
            yield from (ast.unparse(part) for part in (node.left, node.right) if _is_open(part))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "format" and _SQL.search(_constants(node.func.value)):
                yield ast.unparse(node)
            elif node.func.attr in _RAW and node.args and _is_open(node.args[0]):
                yield f"{node.func.attr}({ast.unparse(node.args[0])})"


def _is_message(node: ast.AST) -> bool:
    """Tell an error or a line of the log."""
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return isinstance(node, ast.Raise) or called.startswith(("logger.", "warnings.")) or called.endswith("Error")


def _constant_text(node: ast.JoinedStr) -> str:
    return "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))


def _constants(node: ast.AST) -> str:
    return "".join(str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant))


def _is_open(node: ast.AST) -> bool:
    """Tell what is neither a constant nor an f-string, whose parts are looked at by themselves."""
    return not isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)


def _is_doubtful(part: ast.FormattedValue) -> bool:
    if part.format_spec is not None and re.fullmatch(r"(\.\d+)?[dfg]", ast.unparse(part.format_spec).strip("f'\"")):
        return False
    value = part.value
    if isinstance(value, ast.Name) and value.id.isupper():
        return False
    return not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in _SPELLERS)


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_what_is_put_into_statements_was_looked_at(module: str) -> None:
    found, reviewed = set(put_into_statements(MODULES[module])), set(REVIEWED.get(module, []))
    assert found - reviewed == set(), "is it a name of ours, a number, or a text of our own? Then list it as reviewed"
    assert reviewed - found == set(), "listed as reviewed, and no longer there"


def test_a_module_that_is_listed_is_there() -> None:
    assert REVIEWED.keys() - MODULES.keys() == set()


def test_a_value_in_a_statement_is_seen() -> None:
    """The search itself: by each way in which a statement could be made of data."""
    for made in (
        "execute(f\"SELECT * FROM t WHERE ticker = '{ticker}'\")",
        'execute("SELECT * FROM t WHERE ticker = \'" + ticker)',
        "execute(\"SELECT * FROM t WHERE ticker = '%s'\" % ticker)",
        'execute("SELECT * FROM {}".format(ticker))',
        "sa.text(ticker)",
        "connection.exec_driver_sql(ticker)",
        "sa.literal_column(ticker)",
    ):
        assert any("ticker" in found for found in put_into_statements(ast.parse(made))), made
    for safe in (
        'raise ValueError(f"no ticker {ticker} IN the table")',
        'execute(f"KILL QUERY {number:d}")',
        'execute(f"SELECT * FROM {TABLE}")',
        'execute("SELECT * FROM t WHERE ticker = ?", ticker)',
        "sa.text('SELECT 1')",
    ):
        assert not list(put_into_statements(ast.parse(safe))), safe
