"""A table or a column that a later version adds is copied without a word about it, and older copies stay readable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import project
from tests.backends import Backend
from tests.filled import fill
from traderrr_data import DatabaseManager, SchemaMismatchError, transfer

MODELS = '''

class Note(Base):
    """What a test adds: a table that refers to another, and is the first by name."""

    __tablename__ = "a_notes"
    __table_args__ = (table_options(),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    position_id: Mapped[int] = mapped_column(BigId, sa.ForeignKey("portfolio_positions.id"))
    text: Mapped[str | None] = mapped_column(ByteText(64))
'''
UPGRADE = """
from sqlalchemy.dialects import mysql
text = lambda length: (
    sa.String(length)
    .with_variant(sa.String(length, collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
)
big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
options = {"engine": "InnoDB", "default_charset": "utf8mb4", "collate": "utf8mb4_bin"}
op.add_column("metadata", sa.Column("isin", text(12)))
op.create_table(
    "a_notes",
    sa.Column("id", big_id, autoincrement=True, nullable=False),
    sa.Column("position_id", big_id, nullable=False),
    sa.Column("text", text(64)),
    sa.PrimaryKeyConstraint("id", name=op.f("pk_a_notes")),
    sa.ForeignKeyConstraint(
        ["position_id"], ["portfolio_positions.id"], name=op.f("fk_a_notes_position_id_portfolio_positions")
    ),
    sqlite_autoincrement=True,
    **{f"{server}_{option}": value for server in ("mysql", "mariadb") for option, value in options.items()},
)
"""
STORE = """
import asyncio, sys
import sqlalchemy as sa
from traderrr_data import DatabaseManager, Metadata, PortfolioPosition
from traderrr_data.models.portfolio import Note

async def store():
    async with DatabaseManager(sys.argv[1]) as db:
        await db.init_db(upgrade=True)
        async with db.session_context() as session:
            session.add(position := PortfolioPosition(ticker="NOTED", shares=1))
            session.add(Metadata(ticker="NOTED", isin="US0378331005"))
            await session.flush()
            session.add_all([Note(position_id=position.id, text=text) for text in ("first", "", None)])

asyncio.run(store())
"""
COPY = """
import asyncio, json, sys
from traderrr_data import transfer

result = asyncio.run(transfer.copy(sys.argv[1], sys.argv[2]))
print(json.dumps({"written": result.written, **{table.table: table.source.rows for table in result.tables}}))
"""
SHOW = """
import asyncio, json, sys
import sqlalchemy as sa
from traderrr_data import DatabaseManager, Metadata, schema
from traderrr_data.models.portfolio import Note

async def show():
    async with DatabaseManager(sys.argv[1]) as db:
        async with db.session_context(read_only=True) as session:
            notes = (await session.scalars(sa.select(Note.text).order_by(Note.id))).all()
            numbers = (await session.scalars(sa.select(Metadata.isin).distinct())).all()
        print(json.dumps([notes, numbers, await schema.current(db.engine)]))

asyncio.run(show())
"""


@pytest.fixture
def later(tmp_path: Path) -> project.Project:
    """A later version of the project, with a table and a column more."""
    later = project.copy_to(tmp_path / "later")
    later.add_revision("003", after="002", upgrade=UPGRADE)
    path = later.root / "traderrr_data" / "models" / "portfolio.py"
    text = path.read_text(encoding="utf-8").replace("import BigId,", "import BigId, ByteText,")
    path.write_text(text + MODELS, encoding="utf-8")
    later.replace(
        "traderrr_data/models/market_data.py",
        "    currency: Mapped",
        "    isin: Mapped[str | None] = mapped_column(ByteText(12), sort_order=105)\n    currency: Mapped",
    )
    return later


@pytest.fixture
def target_url(backend: Backend) -> Iterator[str]:
    """The URL of another new, empty database."""
    url = backend.create_database()
    yield url
    backend.drop_database(url)


def run(later: project.Project, *command: str) -> str:
    done = later.run(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def copied(later: project.Project, source: str | Path, target: str | Path) -> dict[str, Any]:
    """Copy with the later version, and return how many rows it wrote and each table has."""
    found: dict[str, Any] = json.loads(run(later, "-c", COPY, str(source), str(target)))
    return found


def test_what_the_models_have_is_copied(
    later: project.Project, empty_url: str, target_url: str, tmp_path: Path
) -> None:
    run(later, "-c", STORE, empty_url)
    assert copied(later, empty_url, tmp_path / "files")["a_notes"] == 3
    copied(later, tmp_path / "files", target_url)
    assert json.loads(run(later, "-c", SHOW, target_url)) == [["first", "", None], ["US0378331005"], "003"]


async def test_a_copy_in_files_of_an_older_version_is_read_and_upgraded(
    later: project.Project, empty_url: str, target_url: str, tmp_path: Path
) -> None:
    async with DatabaseManager(empty_url) as db:
        await db.init_db()
        await fill(db)
    await transfer.copy(empty_url, tmp_path / "files")
    assert "a_notes" not in copied(later, tmp_path / "files", target_url)
    assert json.loads(run(later, "-c", SHOW, target_url)) == [[], [None], "003"]
    assert copied(later, tmp_path / "files", target_url)["written"] == 0
    refused = later.run("-c", COPY, empty_url, str(tmp_path / "newer"))
    assert "run `traderrr-data upgrade`" in refused.stderr
    run(later, "-c", STORE, empty_url)
    copied(later, empty_url, tmp_path / "newer")
    with pytest.raises(SchemaMismatchError, match=r"of revision 003, which this version .* does not know"):
        await transfer.copy(tmp_path / "newer", target_url)
