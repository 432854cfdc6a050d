"""What happened to the application."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from traderrr_data.models.base import Base, TimestampMixin
from traderrr_data.models.types import BigId, ByteText, DedupeKey, LongText, table_options


class SystemEvent(TimestampMixin, Base):
    """One line of the application's event log."""

    __tablename__ = "system_events"
    __table_args__ = (sa.UniqueConstraint("dedupe_key"), sa.Index(None, "created_at"), table_options())

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True, sort_order=0)
    event_type: Mapped[str] = mapped_column(ByteText(64), sort_order=1)
    description: Mapped[str] = mapped_column(LongText, sort_order=2)
    details: Mapped[str | None] = mapped_column(LongText, sort_order=3)
    severity: Mapped[str] = mapped_column(ByteText(32), sort_order=4)
    """INFO, WARNING or ERROR."""
    dedupe_key: Mapped[str | None] = mapped_column(DedupeKey, sort_order=103)
    """The caller's own key of this addition; a second one with the same key stores nothing."""


class Compatibility(Base):
    """The one row that says which code may use this schema; migrations write it."""

    __tablename__ = "traderrr_data_compat"
    __table_args__ = (table_options(),)

    oldest_code_revision: Mapped[str] = mapped_column(ByteText(32), primary_key=True)
    """Code whose own head is older than this revision must not touch these tables."""
