"""Keep what was overwritten: the table of earlier versions of bars.

Code of revision 001 may go on using the database; what it overwrites is not kept.

Revision ID: 002
Revises: 001
Create Date: 2026-11-25 07:00:00+00:00
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None

# The types as they were on this day: a migration never imports the package, which moves on.
NUMBER = sa.Numeric(20, 10).with_variant(sa.REAL(), "sqlite")
QUANTITY = sa.Numeric(24, 8)
INSTANT = (
    sa.DateTime(timezone=True)
    .with_variant(sa.TIMESTAMP(), "sqlite")
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
)
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def text(length: int) -> sa.types.TypeEngine[str]:
    """Text that is compared by its bytes."""
    return (
        sa.String(length)
        .with_variant(sa.String(length, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
    )


def upgrade() -> None:
    """Create the table. Each step looks first, since MySQL keeps what a killed run had done."""
    looks = not op.get_context().as_sql
    if not (looks and sa.inspect(op.get_bind()).has_table("bar_revisions")):
        create_table()
    present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("bar_revisions")} if looks else set()
    for columns in (["ticker", "known_until"], ["known_until"]):
        name = f"idx_bar_revisions_{'_'.join(columns)}"
        if name not in present:
            op.create_index(name, "bar_revisions", columns)


def create_table() -> None:
    """Create the table without its indexes."""
    options: dict[str, Any] = {"engine": "InnoDB", "default_charset": "utf8mb4", "collate": "utf8mb4_bin"}
    op.create_table(
        "bar_revisions",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("table_name", text(32), nullable=False),
        sa.Column("change", text(8), nullable=False),
        sa.Column("known_from", INSTANT, nullable=False),
        sa.Column("known_until", INSTANT, nullable=False),
        sa.Column("ticker", text(64), nullable=False),
        sa.Column("series", text(32), nullable=False),
        sa.Column("timeframe", text(8)),
        sa.Column("date", sa.Date()),
        sa.Column("datetime", INSTANT),
        *(sa.Column(name, NUMBER, nullable=False) for name in ("open", "high", "low", "close")),
        sa.Column("volume", QUANTITY),
        sa.Column("dividends", NUMBER),
        sa.Column("stock_splits", NUMBER),
        sa.Column("source", text(64)),
        sa.Column("price_basis", text(8)),
        sa.Column("is_final", sa.Boolean()),
        sa.Column("observed_at", INSTANT),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bar_revisions")),
        sqlite_autoincrement=True,
        **{f"{server}_{option}": value for server in ("mysql", "mariadb") for option, value in options.items()},
    )


def downgrade() -> None:
    """Drop the table, with all that it kept."""
    op.drop_table("bar_revisions", if_exists=True)
