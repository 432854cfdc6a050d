"""The types of the columns: what a value must be, and the one form in which each database keeps it.

Every type has a ``coerce`` method: it returns the value that the database will give back, or raises ValueError with a
reason that a person can act on. It runs when an attribute of a model is set, when a batch is checked and, as the last
gate, when a parameter is bound; so no way leads around it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import logging
import math
import operator
import re
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from traderrr_data.errors import InvalidRowError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_DAY = dt.date(1000, 1, 1)  # the earliest that MySQL's DATE and DATETIME are specified for
_WHOLE_NUMBERS_OF_A_DOUBLE = 2**53
_LONGEST_TEXT = 2**24 - 1  # bytes of a MEDIUMTEXT
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6}0*)?)?(Z|[+-]\d\d(:?\d\d){0,2})?)?", re.ASCII)
_MIDNIGHT = re.compile(r"(?:[ T]00:00(?::00(?:\.0+)?)?)?", re.ASCII)
_TIMEFRAME = re.compile(r"0*([1-9]\d*)(s|m|h|d|w|mo)", re.ASCII)
_FORBIDDEN_IN_TEXT = re.compile("[\x00\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
EXACT = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)
"""For computing with stored decimals: wide enough for their products and sums, whatever context the caller has set."""


class _PlainStorage(sa.types.UserDefinedType[Any]):
    """A SQLite column that takes Python's value as it is, under the type name that the legacy files use."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        return self.name


class CheckedType(sa.types.TypeDecorator[T], Generic[T]):
    """A column type that refuses what a database would lose or change."""

    impl: Any = sa.types.NullType
    cache_ok = True

    @property
    def frozen(self) -> str:
        """The type as source text that a migration can keep: it never imports this package."""
        raise NotImplementedError

    def coerce(self, value: object) -> T:
        """Return the value as it will be read back; ValueError with the reason if it cannot be stored."""
        raise NotImplementedError

    def to_double_storage(self, value: T) -> object:
        """Return what a database without exact decimals keeps; ValueError if that would not read back as `value`."""
        return value

    def process_bind_param(self, value: T | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        try:
            coerced = self.coerce(value)
            return self.to_double_storage(coerced) if dialect.name == "sqlite" else coerced
        except ValueError as error:
            raise InvalidRowError(str(error)) from error


class ExactDecimal(CheckedType[Decimal]):
    """A finite decimal of fixed precision.

    Exact input (Decimal, int, text) is never rounded. A float is a measurement: it is taken by its shortest decimal
    form and rounded half-even to the column's decimals; where `keeps_measurements`, a change of more than one part
    in a million is refused.

    SQLite has no decimals, and the legacy application reads the same file, so a plain number is stored there: a
    decimal that a double cannot give back (about 15 significant digits) is refused.
    """

    impl = sa.Numeric
    cache_ok = True
    precision: ClassVar[int]
    scale: ClassVar[int]
    keeps_measurements: ClassVar[bool]
    keeps_whole_numbers: ClassVar[bool] = False
    """On SQLite a NUMERIC column, which keeps whole numbers as 64-bit integers, instead of a REAL one."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.sqlite_type = f"NUMERIC({cls.precision}, {cls.scale})" if cls.keeps_whole_numbers else "REAL"
        cls.quantum = Decimal(1).scaleb(-cls.scale)
        cls.zero = Decimal(0).scaleb(-cls.scale)
        cls.limit = Decimal(10) ** (cls.precision - cls.scale)

    sqlite_type: ClassVar[str]
    quantum: ClassVar[Decimal]
    zero: ClassVar[Decimal]
    limit: ClassVar[Decimal]

    @property
    def frozen(self) -> str:
        exact = f"sa.Numeric({self.precision}, {self.scale})"
        return exact if self.keeps_whole_numbers else f"{exact}.with_variant(sa.REAL(), 'sqlite')"

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "sqlite":
            return _PlainStorage(self.sqlite_type)
        return sa.Numeric(self.precision, self.scale)

    def coerce(self, value: object) -> Decimal:
        if type(value) is Decimal:
            return self._exact(value)
        if isinstance(value, bool):
            raise ValueError("a truth value is not a number")
        if isinstance(value, int):
            return self._exact(Decimal(value))
        if isinstance(value, str):
            return self._exact(_decimal_of_text(value))
        if isinstance(value, float) or _is_numpy_scalar(value, "f"):
            return self._measured(Decimal(str(value)))  # str() of a float of any width is its shortest decimal form
        if isinstance(value, Decimal):
            return self._exact(Decimal(value))
        try:
            return self._exact(Decimal(operator.index(value)))  # type: ignore[arg-type]  # numpy's integers
        except TypeError:
            raise ValueError(f"{type(value).__name__} is not a number") from None

    def _within_limits(self, value: Decimal) -> None:
        if not value.is_finite():
            raise ValueError(f"{value} is not a finite number")
        if value and value.adjusted() >= self.precision - self.scale:
            raise ValueError(f"{_shown(value)} has more than {self.precision - self.scale} digits before the point")

    def _exact(self, value: Decimal) -> Decimal:
        self._within_limits(value)
        rounded = EXACT.quantize(value, self.quantum)
        if rounded != value:
            raise ValueError(f"{_shown(value)} has more than {self.scale} decimals")
        return rounded or self.zero

    def _measured(self, value: Decimal) -> Decimal:
        self._within_limits(value)
        rounded = EXACT.quantize(value, self.quantum)
        if abs(rounded) >= self.limit:
            raise ValueError(f"{_shown(value)} has more than {self.precision - self.scale} digits before the point")
        change = EXACT.abs(EXACT.subtract(rounded, value))
        if self.keeps_measurements and EXACT.multiply(change, 1_000_000) > abs(value):
            raise ValueError(f"{_shown(value)} would change by more than a millionth in {self.scale} decimals")
        return rounded or self.zero

    def rounded(self, value: Decimal) -> Decimal:
        """Return a computed value rounded half-even to the column's decimals."""
        return EXACT.quantize(value, self.quantum) or self.zero

    def from_double_storage(self, value: float) -> Decimal | None:
        """Return the decimal that a plain number on SQLite stands for (legacy float noise included).

        An infinity, which the legacy application has stored, is no number: None, with a warning in the log.
        """
        if not math.isfinite(value):
            logger.warning("a stored %s is not a number and was read as None", value)
            return None
        return EXACT.quantize(Decimal(repr(value)), self.quantum) or self.zero

    def to_double_storage(self, value: Decimal) -> float | int:
        whole = value == value.to_integral_value()
        if whole and self.keeps_whole_numbers:
            return int(value)  # kept as a 64-bit integer, exactly
        if whole and abs(value) > _WHOLE_NUMBERS_OF_A_DOUBLE:
            raise ValueError(f"{value:f} is above 2**53: this database keeps it as a double, which cannot hold it")
        stored = float(value)
        if self.from_double_storage(stored) != value:
            raise ValueError(f"{value:f} has more digits than the double in which this database keeps it")
        return stored

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Decimal | None:
        if value is None or dialect.name != "sqlite":
            return value  # type: ignore[no-any-return]  # the server's Decimal as it is
        return self.from_double_storage(value)


class Price(ExactDecimal):
    """NUMERIC(20,10): a price in the instrument's currency; negative ones exist."""

    precision, scale, keeps_measurements = 20, 10, True
    cache_ok = True


class Quantity(ExactDecimal):
    """NUMERIC(24,8): a volume or a number of shares; fractions exist."""

    precision, scale, keeps_measurements = 24, 8, True
    cache_ok = True
    keeps_whole_numbers = True


class Money(ExactDecimal):
    """NUMERIC(24,6): an amount of money."""

    precision, scale, keeps_measurements = 24, 6, False
    cache_ok = True


class Ratio(ExactDecimal):
    """NUMERIC(20,10): a return, a confidence, a dividend or a split's factor."""

    precision, scale, keeps_measurements = 20, 10, False
    cache_ok = True


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
            return _PlainStorage("TIMESTAMP")
        if dialect.name in ("mysql", "mariadb"):
            return mysql.DATETIME(fsp=6)  # without fsp the fraction is cut off in silence
        return sa.DateTime(timezone=True)

    def coerce(self, value: object) -> dt.datetime:
        if isinstance(value, str):
            value = _instant_of_text(value)
        if not isinstance(value, dt.datetime) or value != value:  # noqa: PLR0124 - pandas' NaT is a datetime
            raise ValueError(f"{_shown(value)} is not an instant")
        value = _pure_datetime(value)
        if value.utcoffset() is None:
            raise ValueError(f"{value.isoformat(sep=' ')} has no time zone")
        try:
            instant = value.astimezone(dt.UTC)
        except OverflowError:
            raise ValueError(f"{value.isoformat(sep=' ')} is out of range") from None
        if instant.date() < _FIRST_DAY:
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
                raise InvalidRowError(f"the stored {_shown(value)} is not an instant") from None
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
        return _PlainStorage("DATE") if dialect.name == "sqlite" else sa.Date()

    def coerce(self, value: object) -> dt.date:
        if isinstance(value, str):
            value = _date_of_text(value)
        if not isinstance(value, dt.date) or value != value:  # noqa: PLR0124 - pandas' NaT is a datetime
            raise ValueError(f"{_shown(value)} is not a date")
        if isinstance(value, dt.datetime):
            if _pure_datetime(value).time() != dt.time():
                raise ValueError(f"{value.isoformat(sep=' ')} is not midnight: a daily bar has a date")
            value = dt.date(value.year, value.month, value.day)
        if value < _FIRST_DAY:
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


class ByteText(CheckedType[str]):
    """Text of a limited length, compared and sorted by its bytes on every database."""

    impl = sa.String
    cache_ok = True

    @property
    def frozen(self) -> str:
        return (
            f"sa.String({self.length}).with_variant(sa.String({self.length}, collation='C'), 'postgresql')"
            f".with_variant(mysql.VARCHAR({self.length}, charset='utf8mb4', collation='utf8mb4_bin'),"
            " 'mysql', 'mariadb')"
        )

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return mysql.VARCHAR(self.length, charset="utf8mb4", collation="utf8mb4_bin")
        collation = "C" if dialect.name == "postgresql" else None
        return sa.String(self.length, collation=collation)

    def coerce(self, value: object) -> str:
        text = _checked_text(value)
        if len(text) > self.length:
            raise ValueError(f"{len(text)} characters are more than the {self.length} that fit")
        return text


class LongText(CheckedType[str]):
    """Text of up to 16 MiB in UTF-8."""

    impl = sa.Text
    cache_ok = True

    @property
    def frozen(self) -> str:
        return (
            "sa.Text().with_variant(mysql.MEDIUMTEXT(charset='utf8mb4', collation='utf8mb4_bin'), 'mysql', 'mariadb')"
        )

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin")
        return sa.Text()

    def coerce(self, value: object) -> str:
        text = _checked_text(value)
        if len(text) * 4 > _LONGEST_TEXT and len(text.encode()) > _LONGEST_TEXT:
            raise ValueError("the text is longer than 16 MiB")
        return text


class Key(ByteText):
    """Text that identifies a row: not empty, without control characters or blanks around it (MySQL ignores some)."""

    cache_ok = True

    def coerce(self, value: object) -> str:
        text = super().coerce(value)
        if not text:
            raise ValueError("it is empty")
        if text != text.strip():
            raise ValueError(f"{_shown(text)} has blanks around it")
        if _CONTROL.search(text):
            raise ValueError(f"{_shown(text)} has control characters")
        return text


class Ticker(Key):
    """An opaque symbol, stored as given and compared by its bytes: `BACpL` is not `BACPL`."""

    cache_ok = True

    def __init__(self, length: int = 64) -> None:
        super().__init__(length)


class DedupeKey(Key):
    """The caller's own name for an addition, by which a repetition is known."""

    cache_ok = True

    def __init__(self, length: int = 255) -> None:
        super().__init__(length)


class SeriesName(ByteText):
    """Which line of bars: '' is the one that everybody means, others have a name of up to 32 characters."""

    cache_ok = True

    def __init__(self, length: int = 32) -> None:
        super().__init__(length)

    def coerce(self, value: object) -> str:
        text = super().coerce(value)
        if text != text.strip() or _CONTROL.search(text):
            raise ValueError(f"{_shown(text)} has blanks around it or control characters")
        return text


class Timeframe(ByteText):
    """The length of an intraday bar in canonical form: a number and one of s, m, h, d, w, mo; or 'unknown'.

    60 seconds are stored as 1m and 60m as 1h. 24h stays as it is: a trading day (1d) is a session, not 24 hours.
    """

    cache_ok = True

    def __init__(self, length: int = 8) -> None:
        super().__init__(length)

    def coerce(self, value: object) -> str:
        text = _checked_text(value)
        if text == "unknown":
            return text
        match = _TIMEFRAME.fullmatch(text)
        if match is None:
            raise ValueError(f"{_shown(text)} is not a timeframe: a number and one of s, m, h, d, w, mo")
        count, unit = int(match[1]), match[2]
        for finer, coarser in (("s", "m"), ("m", "h")):
            if unit == finer and count % 60 == 0:
                count, unit = count // 60, coarser
        return super().coerce(f"{count}{unit}")


class PriceBasis(ByteText):
    """What the provider had already adjusted in the prices: 'raw' nothing, 'split' splits, 'all' dividends, too."""

    cache_ok = True

    def __init__(self, length: int = 8) -> None:
        super().__init__(length)

    def coerce(self, value: object) -> str:
        if value not in ("raw", "split", "all"):
            raise ValueError(f"{_shown(value)} is none of 'raw', 'split' and 'all'")
        return str(value)


class Flag(CheckedType[bool]):
    """True or False, nothing that merely looks like it."""

    impl = sa.Boolean
    cache_ok = True

    @property
    def frozen(self) -> str:
        return "sa.Boolean()"

    def coerce(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        if _is_numpy_scalar(value, "b"):
            return bool(value)
        raise ValueError(f"{_shown(value)} is neither true nor false")


BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""BIGINT; on SQLite the INTEGER that is the rowid."""


class utc_now(FunctionElement[dt.datetime]):  # noqa: N801 - it reads as the SQL function that it stands for
    """The database's own clock in UTC, also as a column default."""

    type = UtcDateTime()
    inherit_cache = True
    name = "utc_now"


@compiles(utc_now)
def _clock(_element: utc_now, compiler: SQLCompiler, **_: object) -> str:
    # Not now(): on PostgreSQL it stands still for a whole transaction.
    # The parentheses are MySQL's condition for an expression as a default.
    clocks = {"sqlite": "CURRENT_TIMESTAMP", "postgresql": "clock_timestamp()"}
    return clocks.get(compiler.dialect.name, "(utc_timestamp(6))")


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


def _pure_datetime(value: dt.datetime) -> dt.datetime:
    """Return pandas' Timestamp as a datetime; ValueError where that would lose nanoseconds."""
    if getattr(value, "nanosecond", 0):
        raise ValueError(f"{value.isoformat(sep=' ')} is finer than a microsecond")
    convert = getattr(value, "to_pydatetime", None)
    return value if convert is None else convert()


def _decimal_of_text(text: str) -> Decimal:
    try:
        if _NUMBER.fullmatch(text):
            return Decimal(text)
    except decimal.InvalidOperation:  # an exponent beyond all bounds
        pass
    raise ValueError(f"{_shown(text)} is not a number")


def _is_numpy_scalar(value: object, kind: str) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", "") == kind and getattr(value, "ndim", 1) == 0


def _instant_of_text(text: str) -> dt.datetime:
    try:
        if _INSTANT.fullmatch(text):
            return dt.datetime.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{_shown(text)} is not an instant (ISO 8601 with an offset, microseconds at the finest)")


def _date_of_text(text: str) -> dt.date:
    if not _DATE.match(text) or not _MIDNIGHT.fullmatch(text, 10):
        raise ValueError(f"{_shown(text)} is not a date (YYYY-MM-DD)")
    try:
        return dt.date.fromisoformat(text[:10])
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a day of the calendar") from None


def _checked_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is not text")
    if _FORBIDDEN_IN_TEXT.search(value):
        raise ValueError("the text has a NUL or a lone surrogate")
    return str(value)


def _shown(value: object) -> str:
    text = ascii(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
