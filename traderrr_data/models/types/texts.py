"""Text: compared by its bytes, of a limited length, and what symbols and names may be."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from traderrr_data.models.types.checked import CheckedType, shown

_LONGEST_TEXT = 2**24 - 1  # bytes of a MEDIUMTEXT
_TIMEFRAME = re.compile(r"0*([1-9]\d*)(s|m|h|d|w|mo)", re.ASCII)
_FORBIDDEN_IN_TEXT = re.compile("[\x00\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


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
        text = value if type(value) is str and value.isprintable() else _checked_text(value)
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
            raise ValueError(f"{shown(text)} has blanks around it")
        if not text.isprintable() and _CONTROL.search(text):
            raise ValueError(f"{shown(text)} has control characters")
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
        if text and (text != text.strip() or _CONTROL.search(text)):
            raise ValueError(f"{shown(text)} has blanks around it or control characters")
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
            raise ValueError(f"{shown(text)} is not a timeframe: a number and one of s, m, h, d, w, mo")
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
        text = _checked_text(value)
        if text not in ("raw", "split", "all"):
            raise ValueError(f"{shown(text)} is none of 'raw', 'split' and 'all'")
        return text


def _checked_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is not text")
    if _FORBIDDEN_IN_TEXT.search(value):
        raise ValueError("the text has a NUL or a lone surrogate")
    return str(value)
