"""${message}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

% if "utc_now()" in (upgrades or "") + (downgrades or ""):

def utc_now() -> sa.TextClause:
    """The database's clock in UTC, as a column's default."""
    clocks = {"sqlite": "CURRENT_TIMESTAMP", "postgresql": "statement_timestamp()"}
    return sa.text(clocks.get(op.get_context().dialect.name, "(utc_timestamp(6))"))

% endif

def upgrade() -> None:
    """Go on to this revision; on MySQL every step must look first, since a killed run begins again."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Go back to the revision before."""
    ${downgrades if downgrades else "pass"}
