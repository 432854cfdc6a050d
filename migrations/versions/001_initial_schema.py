"""Initial schema: the seven tables, and the row that says which code may use them.

Revision ID: 001
Revises:
Create Date: 2026-11-22 16:00:00+00:00
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import mysql

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

# The types as they were on this day: a migration never imports the package, which moves on.
PRICE = RATIO = sa.Numeric(20, 10).with_variant(sa.REAL(), "sqlite")
MONEY = sa.Numeric(24, 6).with_variant(sa.REAL(), "sqlite")
QUANTITY = sa.Numeric(24, 8)
INSTANT = (
    sa.DateTime(timezone=True)
    .with_variant(sa.TIMESTAMP(), "sqlite")
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
)
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
TICKER_RULE = {"ticker_is_not_empty": "ticker <> ''"}
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def text(length: int) -> sa.types.TypeEngine[str]:
    """Text that is compared by its bytes."""
    return (
        sa.String(length)
        .with_variant(sa.String(length, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
    )


def utc_now() -> sa.TextClause:
    """The database's clock in UTC, as a column's default."""
    clocks = {"sqlite": "CURRENT_TIMESTAMP", "postgresql": "statement_timestamp()"}
    return sa.text(clocks.get(op.get_context().dialect.name, "(utc_timestamp(6))"))


def created_at() -> sa.Column[Any]:
    """When the row came."""
    return sa.Column("created_at", INSTANT, server_default=utc_now(), nullable=False)


def updated_at() -> sa.Column[Any]:
    """When the row last changed."""
    return sa.Column("updated_at", INSTANT, server_default=utc_now(), nullable=False)


def row_id() -> sa.Column[Any]:
    """A surrogate key."""
    return sa.Column("id", BIG_ID, primary_key=True, autoincrement=True, nullable=False)


def prices() -> list[sa.Column[Any]]:
    """Return what every bar has."""
    return [
        *(sa.Column(name, PRICE, nullable=False) for name in ("open", "high", "low", "close")),
        sa.Column("volume", QUANTITY),
    ]


def provenance() -> list[sa.Column[Any]]:
    """Return where a bar comes from."""
    return [
        sa.Column("source", text(64)),
        sa.Column("price_basis", text(8)),
        sa.Column("is_final", sa.Boolean()),
        sa.Column("observed_at", INSTANT),
    ]


def checks(
    table: str,
    *,
    numbers: tuple[str, ...] = (),
    dates: tuple[str, ...] = (),
    instants: tuple[str, ...] = (),
    rules: Mapping[str, str] | None = None,
) -> list[sa.CheckConstraint]:
    """Return the table's CHECKs; SQLite, which takes anything in any column, gets one per number and date."""
    storage: dict[str, str] = {}
    if op.get_context().dialect.name == "sqlite":
        day = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
        storage = {f"{name}_is_a_number": f"{name} < ''" for name in numbers}
        storage |= {f"{name}_is_a_date": f"{name} GLOB '{day}'" for name in dates}
        storage |= {f"{name}_is_an_instant": f"{name} GLOB '{day}*'" for name in instants}
    every = {**(rules or {}), **storage}
    return [sa.CheckConstraint(rule, name=op.f(f"ck_{table}_{name}")) for name, rule in every.items()]


def create(name: str, *elements: Any, clustered_by_key: bool = False) -> None:
    """Create a table, unless a run that was killed has already made it."""
    names = {element.name for element in elements if isinstance(element, sa.Column)}
    if not op.get_context().as_sql:
        inspector = sa.inspect(op.get_bind())
        if inspector.has_table(name):
            if names <= {column["name"] for column in inspector.get_columns(name)}:
                return
            raise CommandError(f"a table {name} is there that these migrations have not made")
    options: dict[str, Any] = {"engine": "InnoDB", "default_charset": "utf8mb4", "collate": "utf8mb4_bin"}
    options = {f"{server}_{option}": options[option] for server in ("mysql", "mariadb") for option in options}
    options |= {"sqlite_with_rowid": False} if clustered_by_key else {"sqlite_autoincrement": "id" in names}
    op.create_table(name, *elements, **options)


def create_index(name: str, table: str, columns: list[Any]) -> None:
    """Create an index, unless a run that was killed has already made it."""
    if not op.get_context().as_sql:
        present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
        if name in present:
            return
    op.create_index(name, table, columns)


def create_bars() -> None:
    """Create the tables of bars: clustered by their natural key, which is their only one."""
    numbers = ("open", "high", "low", "close", "volume")
    rules = TICKER_RULE | {"volume_is_not_negative": "volume >= 0"}
    create(
        "daily_data",
        sa.Column("ticker", text(64), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        *prices(),
        sa.Column("dividends", RATIO),
        sa.Column("stock_splits", RATIO),
        updated_at(),
        created_at(),
        sa.Column("series", text(32), server_default="", nullable=False),
        *provenance(),
        sa.PrimaryKeyConstraint("ticker", "series", "date", name=op.f("pk_daily_data")),
        *checks("daily_data", numbers=(*numbers, "dividends", "stock_splits"), dates=("date",), rules=rules),
        clustered_by_key=True,
    )
    create(
        "intraday_data",
        sa.Column("ticker", text(64), nullable=False),
        sa.Column("datetime", INSTANT, nullable=False),
        *prices(),
        updated_at(),
        created_at(),
        sa.Column("series", text(32), server_default="", nullable=False),
        sa.Column("timeframe", text(8), server_default="unknown", nullable=False),
        *provenance(),
        sa.PrimaryKeyConstraint("ticker", "series", "timeframe", "datetime", name=op.f("pk_intraday_data")),
        *checks("intraday_data", numbers=numbers, instants=("datetime",), rules=rules),
        clustered_by_key=True,
    )


def create_metadata() -> None:
    """Create the table of instruments."""
    create(
        "metadata",
        sa.Column("ticker", text(64), nullable=False),
        sa.Column("company_name", text(255)),
        sa.Column("sector", text(128)),
        sa.Column("industry", text(128)),
        sa.Column("market_cap", MONEY),
        sa.Column("last_updated", INSTANT),
        row_id(),
        created_at(),
        updated_at(),
        sa.Column("currency", text(16)),
        sa.Column("mic", text(8)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metadata")),
        sa.UniqueConstraint("ticker", name=op.f("uq_metadata_ticker")),
        *checks("metadata", numbers=("market_cap",), instants=("last_updated",), rules=TICKER_RULE),
    )


def create_signals() -> None:
    """Create the table of signals."""
    create(
        "signal_history",
        row_id(),
        sa.Column("ticker", text(64), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("signal_type", text(32), nullable=False),
        sa.Column("signal_value", RATIO),
        sa.Column("confidence", RATIO),
        sa.Column("entry_price", PRICE),
        sa.Column("target_price", PRICE),
        sa.Column("stop_loss", PRICE),
        sa.Column("regime", text(32)),
        sa.Column("reasons", LONG_TEXT),
        created_at(),
        updated_at(),
        sa.Column("dedupe_key", text(255)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signal_history")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_signal_history_dedupe_key")),
        *checks(
            "signal_history",
            numbers=("signal_value", "confidence", "entry_price", "target_price", "stop_loss"),
            dates=("date",),
            rules=TICKER_RULE,
        ),
    )
    create_index("idx_signal_history_ticker_date", "signal_history", ["ticker", sa.text("date DESC")])


def create_performance() -> None:
    """Create the table of the portfolio's performance."""
    measures = ("daily_return", "volatility", "sharpe_ratio", "max_drawdown")
    create(
        "portfolio_performance",
        row_id(),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("portfolio_value", MONEY),
        *(sa.Column(name, RATIO) for name in measures),
        created_at(),
        updated_at(),
        sa.Column("dedupe_key", text(255)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_portfolio_performance")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_portfolio_performance_dedupe_key")),
        *checks("portfolio_performance", numbers=("portfolio_value", *measures), dates=("date",)),
    )
    create_index("idx_portfolio_performance_date", "portfolio_performance", ["date"])


def create_positions() -> None:
    """Create the table of positions."""
    create(
        "portfolio_positions",
        sa.Column("ticker", text(64), nullable=False),
        sa.Column("shares", QUANTITY, nullable=False),
        created_at(),
        updated_at(),
        row_id(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_portfolio_positions")),
        sa.UniqueConstraint("ticker", name=op.f("uq_portfolio_positions_ticker")),
        *checks("portfolio_positions", numbers=("shares",), rules=TICKER_RULE),
    )


def create_events() -> None:
    """Create the table of events."""
    create(
        "system_events",
        row_id(),
        sa.Column("event_type", text(64), nullable=False),
        sa.Column("description", LONG_TEXT, nullable=False),
        sa.Column("details", LONG_TEXT),
        sa.Column("severity", text(32), nullable=False),
        created_at(),
        updated_at(),
        sa.Column("dedupe_key", text(255)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_system_events")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_system_events_dedupe_key")),
    )
    create_index("idx_system_events_created_at", "system_events", ["created_at"])


def create_compatibility() -> None:
    """Create the one-row table of the oldest code that may use this schema."""
    create(
        "traderrr_data_compat",
        sa.Column("oldest_code_revision", text(32), nullable=False),
        sa.PrimaryKeyConstraint("oldest_code_revision", name=op.f("pk_traderrr_data_compat")),
    )
    op.execute("DELETE FROM traderrr_data_compat")
    op.execute("INSERT INTO traderrr_data_compat (oldest_code_revision) VALUES ('001')")


def upgrade() -> None:
    """Create all tables. Each step looks first, since MySQL keeps what a killed run had done."""
    create_bars()
    create_metadata()
    create_signals()
    create_performance()
    create_positions()
    create_events()
    create_compatibility()


def downgrade() -> None:
    """Drop all tables, with their rows."""
    for table in (
        "traderrr_data_compat",
        "system_events",
        "portfolio_positions",
        "portfolio_performance",
        "signal_history",
        "metadata",
        "intraday_data",
        "daily_data",
    ):
        op.drop_table(table, if_exists=True)
