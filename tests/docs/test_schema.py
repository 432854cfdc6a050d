"""docs/schema.md says what the models are."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from tests.docs.markdown import PROJECT, blocks
from traderrr_data.models import Base, types

SCHEMA = PROJECT / "docs" / "schema.md"
TABLES = sorted(Base.metadata.tables)
DIALECTS = [sqlite.dialect(), postgresql.dialect(), mysql.dialect()]  # type: ignore[no-untyped-call]


def kind_of(column: sa.Column[object]) -> str:
    """Return what the document calls a column's type."""
    if not isinstance(column.type, types.CheckedType):
        return "BigId"
    name = type(column.type).__name__
    return f"{name}({column.type.length})" if type(column.type) is types.ByteText else name


def rows_of_table_after(heading: str) -> list[list[str]]:
    """Return the cells of the first Markdown table after a heading, without its head."""
    text = SCHEMA.read_text().partition(f"# {heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None, f"docs/schema.md has no table after {heading!r}"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()]
    return rows[2:]


@pytest.mark.parametrize("name", TABLES)
def test_the_documented_columns_are_those_of_the_model_in_its_order(name: str) -> None:
    columns = Base.metadata.tables[name].columns
    expected = [[f"`{c.name}`", kind_of(c), "yes" if c.nullable else "no"] for c in columns]
    assert [row[:3] for row in rows_of_table_after(name)] == expected


@pytest.mark.parametrize("name", TABLES)
def test_the_documented_keys_and_indexes_are_those_of_the_model(name: str) -> None:
    table = Base.metadata.tables[name]
    introduction = SCHEMA.read_text().partition(f"# {name}\n")[2].partition("\n|")[0].replace("\n", " ")
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint):
            assert f"Unique: `{', '.join(constraint.columns.keys())}`" in introduction
    for index in table.indexes:
        assert f"`{index.name}`" in introduction
    if "id" not in table.columns and len(table.primary_key.columns) > 1:
        assert f"Primary key: `{', '.join(table.primary_key.columns.keys())}`" in introduction


def test_the_documented_types_are_those_of_each_database() -> None:
    rows = rows_of_table_after("Kinds of columns")
    used = {re.sub(r"\(\d+\)", "(n)", kind_of(c)) for t in Base.metadata.tables.values() for c in t.columns}
    assert {row[0] for row in rows} == used
    for name, _in_python, *documented in rows:
        kind = types.ByteText(9) if name == "ByteText(n)" else getattr(types, name)
        kind = kind() if isinstance(kind, type) else kind
        compiled = [kind.compile(dialect).replace("(9)", "(n)") for dialect in DIALECTS]
        compiled = [re.sub(r"CHARACTER SET utf8mb4 COLLATE ", "", text) for text in compiled]
        assert documented == compiled, name


def test_the_diagram_has_every_column_and_key() -> None:
    (diagram,) = (block.text for block in blocks(SCHEMA) if block.language == "mermaid")
    drawn = {
        name: [tuple(line.split()) for line in body.strip().splitlines()]
        for name, body in re.findall(r"^ +(\w+) \{\n(.*?)^ +\}", diagram, re.MULTILINE | re.DOTALL)
    }
    expected = {}
    for table in Base.metadata.tables.values():
        unique = {c.name for u in table.constraints if isinstance(u, sa.UniqueConstraint) for c in u.columns}
        expected[table.name] = [
            (kind_of(c).partition("(")[0], c.name, *(["PK"] if c.primary_key else ["UK"] if c.name in unique else []))
            for c in table.columns
        ]
    assert drawn == expected
