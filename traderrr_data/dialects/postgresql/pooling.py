"""PostgreSQL behind a pooler that gives each transaction another session (PgBouncer's transaction mode).

What belongs to a session is lost there, or shared with strangers, without an error: settings, prepared statements,
advisory locks, the number of the server's process. Here all of it belongs to a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import event

# Milliseconds after which a server notices, in the middle of a statement, that the pooler gave the session up: so ends
# what a cancelled task left running if the request to cancel it, which a pooler passes on, came between two statements.
_NOTICED_AFTER = {"client_connection_check_interval": "1000"}
_SINCE = (14,)


def install(engine: sa.Engine, settings: Mapping[str, str]) -> None:
    """Give each transaction the settings that a session would have.

    A pooler refuses them when a client connects or, if it is told to ignore them, drops them without a word.
    """

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        version = connection.dialect.server_version_info or (0,)
        local = {**settings, **(_NOTICED_AFTER if version >= _SINCE else {})}
        connection.execute(sa.select(*(sa.func.set_config(name, value, True) for name, value in local.items())))
