"""Why one database differs from another.

A `Dialect` is a record of facts and functions; whoever needs one asks here, and nobody else asks for a name.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data.dialects.base import (
    MIGRATION_WAITS,
    READ_ONLY,
    WITHOUT_REVISIONS,
    Dialect,
    EngineOptions,
    Tls,
    Waits,
)
from traderrr_data.dialects.mysql import MYSQL
from traderrr_data.dialects.postgresql import POSTGRESQL
from traderrr_data.dialects.sqlite import SQLITE

__all__ = [
    "MIGRATION_WAITS",
    "READ_ONLY",
    "WITHOUT_REVISIONS",
    "Dialect",
    "EngineOptions",
    "Tls",
    "Waits",
    "by_name",
    "for_connection",
    "for_session",
]

_DIALECTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL}


def by_name(name: str) -> Dialect:
    """Return the dialect for SQLAlchemy's name of a backend."""
    return _DIALECTS[name]


def for_connection(connection: sa.Connection | sa.Engine) -> Dialect:
    """Return the dialect of an open connection or an engine."""
    return _DIALECTS[connection.dialect.name]


def for_session(session: AsyncSession) -> Dialect:
    """Return the dialect of a session."""
    return _DIALECTS[session.get_bind().dialect.name]
