"""Migrations from code: what ``alembic`` does on the command line, for an engine that is already there."""

from __future__ import annotations

from traderrr_data.schema.comparing import check
from traderrr_data.schema.moving import downgrade, drop, upgrade
from traderrr_data.schema.standing import (
    Revision,
    State,
    Status,
    current,
    describe,
    foreign,
    head,
    history,
    require_usable,
    status,
)
from traderrr_data.schema.writing import grants, roles, sql

__all__ = [
    "Revision",
    "State",
    "Status",
    "check",
    "current",
    "describe",
    "downgrade",
    "drop",
    "foreign",
    "grants",
    "head",
    "history",
    "require_usable",
    "roles",
    "sql",
    "status",
    "upgrade",
]
