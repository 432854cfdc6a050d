"""How the tables lie on each database, and what only SQLite must be told to refuse."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""BIGINT; on SQLite the INTEGER that is the rowid."""


def table_options(*, clustered_by_key: bool = False) -> dict[str, Any]:
    """Return the storage options of one of our tables.

    Args:
        clustered_by_key: the rows lie in the order of the natural key (WITHOUT ROWID; InnoDB always does so).
    """
    options = {"engine": "InnoDB", "default_charset": "utf8mb4", "collate": "utf8mb4_bin"}
    # SQLAlchemy calls the same server 'mysql' or 'mariadb', after the URL, and ignores the other's options.
    named = {f"{name}_{option}": value for name in ("mysql", "mariadb") for option, value in options.items()}
    return named | ({"sqlite_with_rowid": False} if clustered_by_key else {"sqlite_autoincrement": True})


def storage_checks(
    *, numbers: tuple[str, ...] = (), dates: tuple[str, ...] = (), instants: tuple[str, ...] = ()
) -> list[sa.CheckConstraint]:
    """Return CHECKs against what only SQLite would take: text or BLOBs in a number, anything else in a date.

    A date with a time would be another key of the same day, so that it is refused, too.
    """
    # Numbers sort before all text there, so `x < ''` costs a tenth of what typeof() does.
    day = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
    checks = [sa.CheckConstraint(f"{name} < ''", name=f"{name}_is_a_number") for name in numbers]
    checks += [sa.CheckConstraint(f"{name} GLOB '{day}'", name=f"{name}_is_a_date") for name in dates]
    checks += [sa.CheckConstraint(f"{name} GLOB '{day}*'", name=f"{name}_is_an_instant") for name in instants]
    return [check.ddl_if(dialect="sqlite") for check in checks]
