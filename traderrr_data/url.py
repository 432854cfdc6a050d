"""A database's URL: what it may say, in one form for all who read it, and how it is shown."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from traderrr_data.errors import ConfigurationError

DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "mysql": "mysql+aiomysql",
    "mariadb": "mariadb+aiomysql",
}
"""The driver of each scheme."""

SETTINGS_IN_URL: Final[Mapping[str, str]] = {
    "sslmode": "db_ssl",
    "sslrootcert": "db_ssl_ca",
    "sslcert": "db_ssl_cert",
    "sslkey": "db_ssl_key",
    "sslpassword": "db_ssl_key_password",
    "connect_timeout": "db_connect_timeout",
    "pgbouncer": "db_transaction_pooling",
}
"""The parameters of a URL that are settings, by the names of libpq, which normalised URLs have."""

_ALSO_CALLED: Final = {
    "ssl": "sslmode",
    **{f"ssl{dash}mode": "sslmode" for dash in "-_"},
    **{f"ssl{dash}ca": "sslrootcert" for dash in "-_"},
    **{f"ssl{dash}cert": "sslcert" for dash in "-_"},
    **{f"ssl{dash}key": "sslkey" for dash in "-_"},
}

_SECRETS: Final = ("password", "passwd", "sslpassword")
_HARMLESS: Final = {"mode", "cache", "uri", "charset", "sslmode", "application_name", "connect_timeout", "pgbouncer"}


def masked(url: sa.URL) -> str:
    """Return a URL that may be shown: no password, neither before the host nor in the query string."""
    query = {key: value if key in _HARMLESS else "***" for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def without_passwords(text: str) -> str:
    """Return a text in which what looks like a URL shows no login, and no password of its query."""
    text = re.sub(r"(?<=://)[^\s'\"]*@", "***@", text)
    return re.sub(r"(?i)((?:pass\w*|pwd)=)[^\s&'\"]+", r"\1***", text)


def said_in(text: str) -> dict[str, str]:
    """Return the settings that a server's URL holds, by their names in it; nothing if it cannot be read.

    Raises:
        ConfigurationError: it says one of them twice.
    """
    try:
        url = _parsed(text)
    except ConfigurationError:
        return {}
    return {name: str(value) for name, value in url.query.items() if name in SETTINGS_IN_URL}


def normalised(text: str) -> sa.URL:
    """Return a URL with its async driver, an absolute path, the password in its place, and no other secret.

    Raises:
        ConfigurationError: it cannot be read, or its scheme is unknown.
    """
    url = _parsed(text)
    scheme, _, driver = url.drivername.partition("+")
    if scheme not in DRIVERS:
        raise ConfigurationError(f"DATABASE_URL has the unknown scheme {scheme!r}; known are {', '.join(DRIVERS)}")
    url = url.set(drivername=f"{DRIVERS[scheme].partition('+')[0]}+{driver}" if driver else DRIVERS[scheme])
    if scheme == "sqlite":
        return absolute(url)
    # In the query string SQLAlchemy would show it in each repr of an engine.
    for name in ("password", "passwd"):
        if isinstance(password := url.query.get(name), str):
            url = url.set(password=password)
    return url.difference_update_query(_SECRETS)


def absolute(url: sa.URL) -> sa.URL:
    """Tie a SQLite file to the working directory of now: another one later must not mean another database."""
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        return url
    return url.set(database=os.path.abspath(Path(str(url.database)).expanduser()))  # noqa: PTH100 - keeps symlinks


def _parsed(text: str) -> sa.URL:
    """Return a URL whose parameters have the names of libpq."""
    url: sa.URL | None = None
    with contextlib.suppress(ArgumentError, ValueError):
        url = sa.make_url(text)
    if url is None:  # raised out here, since what was caught may show the URL, and would be the context
        raise ConfigurationError("DATABASE_URL cannot be read: expected scheme://user:password@host:port/name")
    if url.get_backend_name() == "sqlite":
        return url
    before, _, query = text.partition("?")
    if before.count("@") > 1 or any(part and "=" not in part for part in query.split("&")):
        # A part of the password would be taken for the host, the database or a parameter, and stand in every error.
        raise ConfigurationError(
            "DATABASE_URL has an @ or a ? in its password: write them as %40 and %3F, or set DB_PASSWORD"
        )
    named: dict[str, str | tuple[str, ...]] = {}
    for name, value in url.query.items():
        its = _ALSO_CALLED.get(name, name)
        if its in named or (its in {*SETTINGS_IN_URL, *_SECRETS} and not isinstance(value, str)):
            raise ConfigurationError(f"DATABASE_URL says {its} more than once")
        named[its] = value
    return url.set(query=named)
