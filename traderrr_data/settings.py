"""Where the database is and how to use it: the only reader of the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

import sqlalchemy as sa
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.exc import ArgumentError

from traderrr_data.errors import ConfigurationError

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "mysql": "mysql+aiomysql",
    "mariadb": "mariadb+aiomysql",
}
_DEFAULT_USER = {"postgresql": "postgres", "mysql": "root", "mariadb": "root"}
_DEFAULT_PORT = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_HARMLESS = {"mode", "cache", "uri", "charset", "ssl", "sslmode", "application_name"}


class Settings(BaseSettings):
    """The settings, from arguments, else the environment, else a file ``.env`` in the working directory.

    DATABASE_URL wins over DATABASE_TYPE and the variables that describe a connection. Empty values count as absent.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        case_sensitive=False,
    )

    database_url: SecretStr | None = None
    database_type: Literal["sqlite", "postgresql", "mysql", "mariadb"] = "sqlite"
    database_path: str = "data/market_data.db"
    db_user: str | None = None
    db_password: SecretStr | None = None
    db_host: str = "localhost"
    db_port: int | None = Field(default=None, ge=1, le=65535)
    db_name: str = "traderrr"
    db_schema: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}$")
    """PostgreSQL only: the schema that holds our tables; the server's search_path if absent."""
    db_pool_size: int = Field(default=5, ge=1)
    db_max_overflow: int = Field(default=10, ge=0)
    db_pool_recycle: int = Field(default=3600, ge=-1)
    """Seconds after which an idle connection is made anew; -1 for never."""
    db_pool_timeout: float = Field(default=30, gt=0)
    """Seconds to wait for a free connection."""
    db_connect_timeout: float = Field(default=10, gt=0)
    """Seconds to wait for the server to answer."""
    db_statement_timeout: float | None = Field(default=None, gt=0)
    """Seconds that a statement may take; on SQLite, that it may wait for the file's lock (30 if absent)."""
    db_ssl: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = None
    db_ssl_ca: Path | None = None
    db_ssl_cert: Path | None = None
    db_ssl_key: Path | None = None
    db_sqlite_journal: Literal["wal", "delete", "truncate", "persist"] = "wal"
    """The journal mode of SQLite files that we create; an existing file keeps its own."""
    db_revisions_daily: bool = True
    """Keep every version of a daily bar that is overwritten or deleted."""
    db_revisions_intraday: bool = True
    """Keep every version of an intraday bar that is overwritten or deleted."""
    db_lock_timeout: float = Field(default=60, ge=0)
    """Seconds that a migration waits for another one."""
    db_ddl_timeout: float = Field(default=5, gt=0)
    """Seconds that a statement of a migration waits for those who use its table; all others wait behind it."""
    db_migration_lock: bool = True
    """Whether a migration takes the lock that keeps others out."""
    sql_echo: bool = False

    def __init__(self, **values: Any) -> None:
        """Read the settings; ConfigurationError names each variable that is wrong, never its value."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)]
            raise ConfigurationError("; ".join(wrong)) from None

    @field_validator("db_sqlite_journal", "database_type", "db_ssl", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @classmethod
    def of(cls, source: str | sa.URL | Settings | None = None) -> Self:
        """Return settings for a URL, the given settings, or those of the environment."""
        if isinstance(source, cls):
            return source
        if source is None:
            return cls()
        text = source.render_as_string(hide_password=False) if isinstance(source, sa.URL) else str(source)
        return cls(database_url=SecretStr(text))

    @property
    def url(self) -> sa.URL:
        """The URL with its async driver and, for a SQLite file, an absolute path.

        Raises:
            ConfigurationError: the URL cannot be read, or its scheme is unknown.
        """
        if self.database_url is not None:
            return _normalised(self.database_url.get_secret_value())
        if self.database_type == "sqlite":
            return _absolute(sa.URL.create(_DRIVERS["sqlite"], database=self.database_path))
        return sa.URL.create(
            _DRIVERS[self.database_type],
            username=self.db_user or _DEFAULT_USER[self.database_type],
            password=self.db_password.get_secret_value() if self.db_password is not None else None,
            host=self.db_host,
            port=self.db_port or _DEFAULT_PORT[self.database_type],
            database=self.db_name,
        )

    @property
    def tables_without_revisions(self) -> tuple[str, ...]:
        """The tables of bars whose overwritten rows are not kept."""
        kept = {"daily_data": self.db_revisions_daily, "intraday_data": self.db_revisions_intraday}
        return tuple(table for table, keeps in kept.items() if not keeps)


def masked(url: sa.URL) -> str:
    """Return a URL that may be shown: no password, neither before the host nor in the query string."""
    query = {key: value if key in _HARMLESS else "***" for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def _normalised(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "DATABASE_URL cannot be read: expected scheme://user:password@host:port/name"
        ) from None
    scheme, _, driver = url.drivername.partition("+")
    if scheme not in _DRIVERS:
        raise ConfigurationError(f"DATABASE_URL has the unknown scheme {scheme!r}; known are {', '.join(_DRIVERS)}")
    if "@" in (url.host or ""):
        # The rest of the password would be the host's name, and stand in every error.
        raise ConfigurationError("DATABASE_URL has an @ in its password: write it as %40, or set DB_PASSWORD")
    url = url.set(drivername=f"{_DRIVERS[scheme].partition('+')[0]}+{driver}" if driver else _DRIVERS[scheme])
    return _absolute(url) if scheme == "sqlite" else _with_password_in_its_place(url)


def _with_password_in_its_place(url: sa.URL) -> sa.URL:
    """Take the password out of the query string, where SQLAlchemy shows it in each repr of an engine."""
    for name in ("password", "passwd"):
        if isinstance(password := url.query.get(name), str):
            url = url.set(password=password).difference_update_query([name])
    return url


def _absolute(url: sa.URL) -> sa.URL:
    """Tie a SQLite file to the working directory of now: another one later must not mean another database."""
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        return url
    return url.set(database=os.path.abspath(Path(str(url.database)).expanduser()))  # noqa: PTH100 - keeps symlinks
