"""SQL that a person applies: of an upgrade, and of the roles."""

from __future__ import annotations

import io

import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from traderrr_data import dialects
from traderrr_data.errors import ConfigurationError, SchemaMismatchError
from traderrr_data.schema.running import alone_without_waiting, new_config


def sql(url: sa.URL, revision: str = "head") -> str:
    """Return the SQL of an upgrade of an empty database, for a person or another tool to run; nothing is connected.

    Args:
        url: only its scheme matters.
        revision: as for `upgrade`, or ``FROM:TO``.

    Raises:
        SchemaMismatchError: there is no such revision.
        ConfigurationError: a migration is under way in this thread's event loop, which could not go on meanwhile.
    """
    config = new_config()
    config.output_buffer = buffer = io.StringIO()
    config.attributes["url"] = url
    try:
        with alone_without_waiting():
            command.upgrade(config, revision, sql=True)
    except CommandError as error:
        raise SchemaMismatchError(str(error)) from error
    return buffer.getvalue()


def roles(url: sa.URL) -> str:
    """Return SQL that makes an owner, an application's and a reader's role; an administrator runs it once.

    Args:
        url: only its scheme matters.

    Raises:
        ConfigurationError: the database knows no users.
    """
    return _script(url, "roles.sql")


def grants(url: sa.URL) -> str:
    """Return SQL that says what the roles may do with the tables; run it after every upgrade.

    Args:
        url: only its scheme matters.

    Raises:
        ConfigurationError: the database knows no users.
    """
    return _script(url, "grants.sql")


def _script(url: sa.URL, name: str) -> str:
    dialect = dialects.by_name(url.get_backend_name())
    if dialect.scripts is None:
        raise ConfigurationError(f"{dialect.name} knows no users: the permissions of the file say who may use it")
    return (dialect.scripts / name).read_text(encoding="utf-8")
