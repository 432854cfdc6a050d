"""Exact numbers: prices, quantities, money and ratios."""

from __future__ import annotations

import decimal
import logging
import math
import operator
import re
from decimal import Decimal
from typing import Any, ClassVar

import sqlalchemy as sa

from traderrr_data.models.types.checked import CheckedType, PlainStorage, is_numpy_scalar, shown

logger = logging.getLogger(__name__)

_WHOLE_NUMBERS_OF_A_DOUBLE = 2**53
_DIGITS_OF_A_DOUBLE = 15
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
EXACT = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)
"""For computing with stored decimals: wide enough for their products and sums, whatever context the caller has set."""


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
        cls.of_15_digits = Decimal(10) ** (_DIGITS_OF_A_DOUBLE - cls.scale)

    sqlite_type: ClassVar[str]
    quantum: ClassVar[Decimal]
    zero: ClassVar[Decimal]
    limit: ClassVar[Decimal]
    of_15_digits: ClassVar[Decimal]
    """Below it no value has more, and any such decimal comes back from the double nearest to it."""

    @property
    def frozen(self) -> str:
        exact = f"sa.Numeric({self.precision}, {self.scale})"
        return exact if self.keeps_whole_numbers else f"{exact}.with_variant(sa.REAL(), 'sqlite')"

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "sqlite":
            return PlainStorage(self.sqlite_type)
        return sa.Numeric(self.precision, self.scale)

    def coerce(self, value: object) -> Decimal:
        # What nearly every value is, first: each call more is felt in every cell.
        if type(value) is Decimal and value.is_finite() and value.adjusted() < self.precision - self.scale:
            rounded = EXACT.quantize(value, self.quantum)
            if rounded == value:
                return rounded or self.zero
        return self._coerce(value)

    def _coerce(self, value: object) -> Decimal:
        if isinstance(value, bool) or is_numpy_scalar(value, "b"):
            raise ValueError("a truth value is not a number")
        if isinstance(value, int):
            return self._exact(Decimal(value))
        if isinstance(value, str):
            return self._exact(_decimal_of_text(value))
        if isinstance(value, float) or is_numpy_scalar(value, "f"):
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
            raise ValueError(f"{shown(value)} has more than {self.precision - self.scale} digits before the point")

    def _exact(self, value: Decimal) -> Decimal:
        self._within_limits(value)
        rounded = EXACT.quantize(value, self.quantum)
        if rounded != value:
            raise ValueError(f"{shown(value)} has more than {self.scale} decimals")
        return rounded or self.zero

    def _measured(self, value: Decimal) -> Decimal:
        self._within_limits(value)
        rounded = EXACT.quantize(value, self.quantum)
        if abs(rounded) >= self.limit:
            raise ValueError(f"{shown(value)} has more than {self.precision - self.scale} digits before the point")
        change = EXACT.abs(EXACT.subtract(rounded, value))
        if self.keeps_measurements and EXACT.multiply(change, 1_000_000) > abs(value):
            raise ValueError(f"{shown(value)} would change by more than a millionth in {self.scale} decimals")
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
        if -self.of_15_digits < value < self.of_15_digits:
            return float(value)
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


def _decimal_of_text(text: str) -> Decimal:
    try:
        if _NUMBER.fullmatch(text):
            return Decimal(text)
    except decimal.InvalidOperation:  # an exponent beyond all bounds
        pass
    raise ValueError(f"{shown(text)} is not a number")
