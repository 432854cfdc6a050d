"""What is held."""

from __future__ import annotations

from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from traderrr_data.models.base import Base, TimestampMixin
from traderrr_data.models.types import BigId, Quantity, Ticker, storage_checks, table_options


class PortfolioPosition(TimestampMixin, Base):
    """How many shares of one ticker are held; 0 is allowed, fractions are."""

    __tablename__ = "portfolio_positions"
    __table_args__ = (
        sa.UniqueConstraint("ticker"),
        sa.CheckConstraint("ticker <> ''", name="ticker_is_not_empty"),
        *storage_checks(numbers=("shares",)),
        table_options(),
    )

    ticker: Mapped[str] = mapped_column(Ticker, sort_order=1)
    shares: Mapped[Decimal] = mapped_column(Quantity, sort_order=2)
    """Negative for a short position."""
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True, sort_order=103)
