"""Where the database is and how to use it: the only reader of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import sqlalchemy as sa
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from traderrr_data.errors import ConfigurationError
from traderrr_data.url import DRIVERS, SETTINGS_IN_URL, absolute, normalised, said_in

_DEFAULT_USER = {"postgresql": "postgres", "mysql": "root", "mariadb": "root"}
_DEFAULT_PORT = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_TLS_MODES = {
    # What the servers, and the drivers of other languages, call it.
    "disabled": "disable",
    "false": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify-identity": "verify-full",
    "true": "verify-full",
}

_LONGEST_WAIT = 2_147_483  # seconds; PostgreSQL counts milliseconds in 32 bits


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
    db_transaction_pooling: bool = False
    """PostgreSQL only: the address is PgBouncer's, in transaction mode, or that of a pooler like it."""
    db_pool_size: int = Field(default=5, ge=1)
    db_max_overflow: int = Field(default=10, ge=0)
    db_pool_recycle: int = Field(default=3600, ge=-1)
    """Seconds after which an idle connection is made anew; -1 for never."""
    db_pool_timeout: float = Field(default=30, gt=0, le=_LONGEST_WAIT)
    """Seconds to wait for a free connection."""
    db_connect_timeout: float = Field(default=10, gt=0, le=_LONGEST_WAIT)
    """Seconds to wait for the server to answer."""
    db_statement_timeout: float | None = Field(default=None, gt=0, le=_LONGEST_WAIT)
    """Seconds that a statement may take; on SQLite, that it may wait for the file's lock (30 if absent)."""
    db_ssl: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = None
    db_ssl_ca: Path | None = None
    db_ssl_cert: Path | None = None
    db_ssl_key: Path | None = None
    db_ssl_key_password: SecretStr | None = None
    db_sqlite_journal: Literal["wal", "delete", "truncate", "persist"] = "wal"
    """The journal mode of SQLite files that we create; an existing file keeps its own."""
    db_revisions_daily: bool = True
    """Keep every version of a daily bar that is overwritten or deleted."""
    db_revisions_intraday: bool = True
    """Keep every version of an intraday bar that is overwritten or deleted."""
    db_lock_timeout: float = Field(default=60, ge=0, le=_LONGEST_WAIT)
    """Seconds that a migration waits for another one."""
    db_ddl_timeout: float = Field(default=5, gt=0, le=_LONGEST_WAIT)
    """Seconds that a statement of a migration waits for those who use its table; all others wait behind it."""
    db_migration_lock: bool = True
    """Whether a migration takes the lock that keeps others out."""
    sql_echo: bool = False

    def __init__(self, **values: Any) -> None:
        """Read the settings; ConfigurationError names each variable that is wrong, never its value."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = "; ".join(map(_sentence, error.errors(include_input=False)))
        except UnicodeDecodeError:
            wrong = "the file .env is not in UTF-8"
        else:
            return
        # Outside of the handlers: what they caught holds the values, and would be this error's context.
        raise ConfigurationError(wrong)

    @model_validator(mode="before")
    @classmethod
    def _take_from_url(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take what the URL's query says about the connection; a variable must not say something else."""
        given = values.get("database_url")
        text = given.get_secret_value() if isinstance(given, SecretStr) else given
        said = said_in(text) if isinstance(text, str) else {}
        for name, value in said.items():
            setting = SETTINGS_IN_URL[name]
            other = values.get(setting)
            if other not in (None, "") and _plain(other) != _plain(value):
                raise ConfigurationError(f"DATABASE_URL's {name} and {setting.upper()} say different things")
            values[setting] = value
        return values

    @field_validator("db_sqlite_journal", "database_type", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("db_ssl", mode="before")
    @classmethod
    def _tls_mode(cls, value: object) -> object:
        return _TLS_MODES.get(_plain(value), _plain(value)) if isinstance(value, str) else value

    @field_validator("database_path", "db_user", "db_host", "db_name")
    @classmethod
    def _is_no_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        # It would stand in every error, with the password in it.
        if value is not None and ("://" in value or (info.field_name == "db_host" and "@" in value)):
            raise ConfigurationError("a whole address, with user and password, goes into DATABASE_URL")
        return value

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: it would be a file with the passwords in it.

        Raises:
            TypeError: always.
        """
        raise TypeError("Settings cannot be pickled, since they may hold passwords: let each process read its own")

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
            return normalised(self.database_url.get_secret_value())
        if self.database_type == "sqlite":
            return absolute(sa.URL.create(DRIVERS["sqlite"], database=self.database_path))
        return sa.URL.create(
            DRIVERS[self.database_type],
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


def _sentence(wrong: Any) -> str:
    place, message = ".".join(map(str, wrong["loc"])).upper(), wrong["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _plain(value: object) -> str:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value).lower().replace("_", "-")
    return text.strip()
