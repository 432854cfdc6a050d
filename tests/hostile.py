"""Values that nobody means well with, for tests that hand them to everything that takes one."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from hypothesis import strategies as st

QUOTES: Final = [
    "' OR '1'='1",
    "'; DROP TABLE daily_data; --",
    "\\'; DROP TABLE daily_data; -- x",
    "\\",
    "\\\\",
    "\\' OR 1=1 #",
    'A" OR ""="',
    "A`; DROP TABLE daily_data; -- `",
    "/*! DROP TABLE daily_data */",
    "$$; DROP TABLE daily_data; $$",
    "$1",
    ":ticker",
    "%(ticker)s",
    "%s",
    "50%",
    "?",
    "{ticker}",
    "''",
    "'",
    "'\\",
    "A--",
    "A;B",
    "_%",
    "\u02bc\uff07\u2019",  # quotes of other alphabets, which some servers fold
    "\u00a5'",
    "\u0160",
]
"""Texts that mean something to a server, or to whoever makes statements of them. Each is a good ticker."""

NUMBERS: Final[list[Any]] = [
    *(0, -0.0, 1, -1, True, False, 10**30, -(10**30), 10**5000, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64),
    *(float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, 4e-11, 0.1, 1e15 + 0.3, 9999999999.99999999, 1e10),
    *(Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1E+999999"), Decimal("1E-999999"), Decimal("-0")),
    *(Decimal("9999999999.9999999999"), Decimal("0.00000000005"), Decimal("0." + "1" * 100_000), Decimal("1.50")),
    *("1", "1e5", "1e999999999", "1_000", " 1", "0x10", "NaN", "\u0661", "1" * 100_000, "0." + "3" * 100_000, ""),
    *(np.float32(1.1), np.float64("inf"), np.int64(-1), np.uint64(2**64 - 1), np.bool_(True), np.float16(1.5)),
    *(np.longdouble("1.1"), np.complex128(1), 1j, Fraction(1, 3), pd.NA, pd.NaT),
]
TEXTS: Final[list[Any]] = [
    *("", " ", "A", "a", "A ", " A", "A\n", "A\0B", "\ud800", "\udfff", "\U0001f4a9", "\u2028", "\ufeffA", "e\u0301"),
    *("A" * 32, "A" * 33, "A" * 64, "A" * 65, "A" * 255, "x" * 100_000, "\U0001f4a9" * 100_000, "1m", "raw"),
    *("-1m", "0m", "1x", "9" * 100_000 + "m", "nan", "None", b"A", bytearray(b"A"), memoryview(b"A")),
    *QUOTES,
]
ZONES: Final = [dt.UTC, dt.timezone(dt.timedelta(hours=-23, minutes=-59)), ZoneInfo("Asia/Tokyo"), None]
TIMES: Final[list[Any]] = [
    *(dt.date.min, dt.date.max, dt.date(999, 12, 31), dt.date(1000, 1, 1), dt.date(2025, 1, 2)),
    *(dt.datetime.min.replace(tzinfo=zone) for zone in ZONES),
    *(dt.datetime.max.replace(tzinfo=zone) for zone in ZONES),
    *(dt.datetime(2025, 1, 2, tzinfo=zone) for zone in ZONES),
    *(dt.datetime(2025, 1, 2, 14, 30, 0, 1, tzinfo=zone) for zone in ZONES),
    dt.datetime(2025, 11, 2, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),
    *("2025-01-02", "2025-02-30", "2025-01-02 14:30:00Z", "2025-01-02T14:30:00+99:99", "0000-00-00", "10000-01-01"),
    *(pd.Timestamp("2025-01-02", tz="UTC"), pd.Timestamp("2025-01-02 00:00:00.000000001", tz="UTC"), pd.NaT),
    *(np.datetime64("2025-01-02"), np.datetime64("NaT"), dt.time(), dt.timedelta(1), 0, 1.5),
]
OTHERS: Final[list[Any]] = [None, object(), [], {}, (), set(), [1], {"a": 1}, int, sys, lambda: None, np.array([1, 2])]

EVERYTHING: Final[list[Any]] = [*NUMBERS, *TEXTS, *TIMES, *OTHERS]

anything: Final = st.one_of(
    st.sampled_from(EVERYTHING),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.text(max_size=40),
    st.text(st.characters(categories=["Cs", "Cc", "Zs", "Lu"]), max_size=10),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    st.binary(max_size=8),
)

number: Final = st.one_of(st.sampled_from(NUMBERS), st.integers(), st.floats(), st.decimals())
text: Final = st.one_of(st.sampled_from(TEXTS), st.text(max_size=40))
time: Final = st.one_of(st.sampled_from(TIMES), st.dates(), st.datetimes(timezones=st.just(dt.UTC)))


def reads_as(given: Any, stored: Any) -> bool:
    """Tell whether what is stored is what was given; by rules of this module's own, not the package's."""
    rules: list[tuple[type[Any], Callable[[], bool]]] = [
        (type(None), lambda: stored is None),
        (Decimal, lambda: _is_number(given, stored)),
        (bool, lambda: stored is bool(given)),
        (dt.datetime, lambda: _instant(given) == stored),
        (dt.date, lambda: _date(given) == stored),
        (str, lambda: bool(stored == given) and isinstance(given, str)),
    ]
    return next((rule() for kind, rule in rules if isinstance(stored, kind)), False)


def _is_number(given: Any, stored: Decimal) -> bool:
    if isinstance(given, bool | np.bool_ | bytes):
        return False
    if isinstance(given, float | np.floating):
        # A measurement: of its shortest form, rounded to the column's decimals.
        decimals = -int(stored.as_tuple().exponent)
        return abs(Decimal(str(given)) - stored) <= Decimal(5).scaleb(-decimals - 1)
    return Decimal(int(given) if isinstance(given, np.integer) else given) == stored


def _instant(given: Any) -> Any:
    instant = dt.datetime.fromisoformat(given) if isinstance(given, str) else given
    if instant.tzinfo is None:
        return "no instant at all"
    return instant.astimezone(dt.UTC)  # two zones of Python's compare as unequal in the hour that comes twice


def _date(given: Any) -> Any:
    if isinstance(given, str):
        return dt.date.fromisoformat(given[:10])
    return given.date() if isinstance(given, dt.datetime) else given
