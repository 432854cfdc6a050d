"""Instants and session dates, and the database's own clock."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from traderrr_data.errors import InvalidRowError
from traderrr_data.models.types.checked import CheckedType, PlainStorage, shown

FIRST_DAY = dt.date(1000, 1, 1)
"""The earliest that MySQL's DATE and DATETIME are specified for."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6}0*)?)?(Z|[+-]\d\d(:?\d\d){0,2})?)?", re.ASCII)
_MIDNIGHT = re.compile(r"(?:[ T]00:00(?::00(?:\.0+)?)?)?", re.ASCII)


class UtcDateTime(CheckedType[dt.datetime]):
    """An instant: aware in, aware UTC out, microseconds kept; naive input is refused.

    On SQLite it is text that sorts by time, in the form that the legacy code writes: ``YYYY-MM-DD HH:MM:SS``, with
    ``.ffffff`` only where it is not zero. Reading accepts ``T``, an offset, ``Z`` and a date alone, too.
    """

    impl = sa.DateTime
    cache_ok = True

    @property
    def frozen(self) -> str:
        return (
            "sa.DateTime(timezone=True).with_variant(sa.TIMESTAMP(), 'sqlite')"
            ".with_variant(mysql.DATETIME(fsp=6), 'mysql', 'mariadb')"
        )

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "sqlite":
            return PlainStorage("TIMESTAMP")
        if dialect.name in ("mysql", "mariadb"):
            return mysql.DATETIME(fsp=6)  # without fsp the fraction is cut off in silence
        return sa.DateTime(timezone=True)

    def coerce(self, value: object) -> dt.datetime:
        if type(value) is dt.datetime and value.tzinfo is dt.UTC and value.year >= FIRST_DAY.year:
            return value
        if isinstance(value, str):
            value = _instant_of_text(value)
        if not isinstance(value, dt.datetime) or value != value:  # noqa: PLR0124 - pandas' NaT is a datetime
            raise ValueError(f"{shown(value)} is not an instant")
        value = _pure_datetime(value)
        if value.utcoffset() is None:
            raise ValueError(f"{value.isoformat(sep=' ')} has no time zone")
        try:
            instant = value.astimezone(dt.UTC)
        except OverflowError:
            raise ValueError(f"{value.isoformat(sep=' ')} is out of range") from None
        if instant.date() < FIRST_DAY:
            raise ValueError(f"{value.isoformat(sep=' ')} is before the year 1000")
        return instant

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> Any:
        instant = super().process_bind_param(value, dialect)
        if instant is None or dialect.name == "postgresql":
            return instant
        naive = instant.replace(tzinfo=None)
        return naive.isoformat(sep=" ") if dialect.name == "sqlite" else naive

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = dt.datetime.fromisoformat(value)
            except ValueError:
                raise InvalidRowError(f"the stored {shown(value)} is not an instant") from None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)  # type: ignore[no-any-return]


class SessionDate(CheckedType[dt.date]):
    """The exchange's session date of a daily bar.

    A datetime is taken only if it is midnight in its own zone (that zone's date) or naive midnight; ISO text of a
    date is taken, too.
    """

    impl = sa.Date
    cache_ok = True

    @property
    def frozen(self) -> str:
        return "sa.Date()"

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return PlainStorage("DATE") if dialect.name == "sqlite" else sa.Date()

    def coerce(self, value: object) -> dt.date:
        if type(value) is dt.date and value >= FIRST_DAY:
            return value
        if isinstance(value, str):
            value = _date_of_text(value)
        if not isinstance(value, dt.date) or value != value:  # noqa: PLR0124 - pandas' NaT is a datetime
            raise ValueError(f"{shown(value)} is not a date")
        if isinstance(value, dt.datetime):
            if _pure_datetime(value).time() != dt.time():
                raise ValueError(f"{value.isoformat(sep=' ')} is not midnight: a daily bar has a date")
            value = dt.date(value.year, value.month, value.day)
        if value < FIRST_DAY:
            raise ValueError(f"{value.isoformat()} is before the year 1000")
        return value

    def process_bind_param(self, value: dt.date | None, dialect: sa.Dialect) -> Any:
        date = super().process_bind_param(value, dialect)
        return date.isoformat() if date is not None and dialect.name == "sqlite" else date

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> dt.date | None:
        try:
            return _date_of_text(value) if isinstance(value, str) else value
        except ValueError as error:
            raise InvalidRowError(f"a stored date cannot be read: {error}") from None


class utc_now(FunctionElement[dt.datetime]):  # noqa: N801 - it reads as the SQL function that it stands for
    """The database's own clock in UTC, also as a column default."""

    type = UtcDateTime()
    inherit_cache = True
    name = "utc_now"


@compiles(utc_now)
def _clock(_element: utc_now, compiler: SQLCompiler, **_: object) -> str:
    # Not now(), which stands still for a whole transaction on PostgreSQL; nor clock_timestamp(), by which a row's two
    # columns differ.
    # The parentheses are MySQL's condition for an expression as a default.
    clocks = {"sqlite": "CURRENT_TIMESTAMP", "postgresql": "statement_timestamp()"}
    return clocks.get(compiler.dialect.name, "(utc_timestamp(6))")


def _pure_datetime(value: dt.datetime) -> dt.datetime:
    """Return pandas' Timestamp as a datetime; ValueError where that would lose nanoseconds."""
    if getattr(value, "nanosecond", 0):
        raise ValueError(f"{value.isoformat(sep=' ')} is finer than a microsecond")
    convert = getattr(value, "to_pydatetime", None)
    return value if convert is None else convert()


def _instant_of_text(text: str) -> dt.datetime:
    try:
        if _INSTANT.fullmatch(text):
            return dt.datetime.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{shown(text)} is not an instant (ISO 8601 with an offset, microseconds at the finest)")


def _date_of_text(text: str) -> dt.date:
    if not _DATE.match(text) or not _MIDNIGHT.fullmatch(text, 10):
        raise ValueError(f"{shown(text)} is not a date (YYYY-MM-DD)")
    try:
        return dt.date.fromisoformat(text[:10])
    except ValueError:
        raise ValueError(f"{shown(text)} is not a day of the calendar") from None
