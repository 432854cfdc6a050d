"""What each type of column takes, what it makes of it, and what it refuses with which reason."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traderrr_data import DailyData, InvalidRowError
from traderrr_data.models.types import (
    ByteText,
    CheckedType,
    ExactDecimal,
    Flag,
    LongText,
    Money,
    Price,
    PriceBasis,
    Quantity,
    Ratio,
    SeriesName,
    SessionDate,
    Ticker,
    Timeframe,
    UtcDateTime,
)

EST = dt.timezone(-dt.timedelta(hours=5))
EVERY_DECIMAL = [Price(), Quantity(), Money(), Ratio()]


@pytest.mark.parametrize(
    ("column_type", "value", "stored"),
    [
        (Price(), Decimal("0.0000000001"), "0.0000000001"),
        (Price(), Decimal("123456.7890123456"), "123456.7890123456"),
        (Price(), Decimal("9999999999.9999999999"), "9999999999.9999999999"),
        (Price(), Decimal("-37.63"), "-37.6300000000"),
        (Price(), Decimal("-0"), "0.0000000000"),
        (Price(), Decimal("1E+9"), "1000000000.0000000000"),
        (Price(), "149.99", "149.9900000000"),
        (Price(), "1e-10", "0.0000000001"),
        (Price(), 7, "7.0000000000"),
        (Price(), np.int64(7), "7.0000000000"),
        (Quantity(), 27871099501, "27871099501.00000000"),
        (Quantity(), "0.12345678", "0.12345678"),
        (Quantity(), 10**16 - 1, "9999999999999999.00000000"),
        (Money(), Decimal("4000000000000.01"), "4000000000000.010000"),
        (Ratio(), Decimal("0.05"), "0.0500000000"),
    ],
)
def test_exact_numbers_are_kept_to_the_last_digit(column_type: ExactDecimal, value: object, stored: str) -> None:
    # As text, since 1.50 == 1.5 would hide a result that has another scale than what the database gives back.
    assert f"{column_type.coerce(value):f}" == stored


@pytest.mark.parametrize(
    ("column_type", "value"),
    [
        (Price(), Decimal("0.00000000001")),
        (Price(), "1.00000000001"),
        (Quantity(), Decimal("0.123456789")),
        (Money(), "0.0000001"),
        (Ratio(), Decimal("1e-11")),
    ],
)
def test_exact_numbers_with_more_decimals_than_the_column_are_refused_not_rounded(
    column_type: ExactDecimal, value: object
) -> None:
    with pytest.raises(ValueError, match=r"more than .* decimals"):
        column_type.coerce(value)


@pytest.mark.parametrize(
    ("column_type", "value"),
    [
        (Price(), 10**10),
        (Price(), "-10000000000"),
        (Price(), 1e30),
        (Price(), 9999999999.99999999999),
        (Quantity(), 10**16),
        (Quantity(), 2**63),
        (Money(), Decimal("1E+18")),
        (Ratio(), Decimal("1E+999999")),
    ],
)
def test_numbers_too_large_for_the_column_are_refused(column_type: ExactDecimal, value: object) -> None:
    with pytest.raises(ValueError, match="digits before the point"):
        column_type.coerce(value)


@pytest.mark.parametrize("column_type", EVERY_DECIMAL, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        np.float32("nan"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("-Infinity"),
    ],
    ids=repr,
)
def test_what_is_not_finite_is_no_number(column_type: ExactDecimal, value: object) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        column_type.coerce(value)


@pytest.mark.parametrize("column_type", EVERY_DECIMAL, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize(
    "value", [True, np.True_, "", "many", "NaN", "1_000", " 1", "\u0661", "0x10", b"1", [1], 1j, pd.NA], ids=repr
)
def test_what_merely_looks_like_a_number_is_refused(column_type: ExactDecimal, value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        column_type.coerce(value)


@pytest.mark.parametrize(
    ("column_type", "value", "stored"),
    [
        (Price(), 153.3, "153.3"),
        (Price(), 0.1 + 0.2, "0.3"),
        (Price(), np.float64(149.99), "149.99"),
        (Price(), np.float32(269.28), "269.28"),
        (Price(), np.float16(1.5), "1.5"),
        (Price(), 269.2799987792969, "269.2799987793"),  # a 32-bit float that something has widened
        (Price(), 1.00000000005, "1.0000000000"),  # half to even, down
        (Price(), 1.00000000015, "1.0000000002"),  # half to even, up
        (Price(), -0.0, "0"),
        (Price(), 1e-10, "0.0000000001"),
        (Quantity(), 27871099501.0, "27871099501"),
        (Quantity(), 0.123456785, "0.12345678"),
        (Ratio(), 4e-11, "0"),  # a return that small is nothing; a price that small is a mistake
        (Ratio(), 1 / 3, "0.3333333333"),
        (Money(), 1e-9, "0"),
    ],
    ids=repr,
)
def test_a_float_is_taken_by_its_shortest_form_and_rounded_half_even(
    column_type: ExactDecimal, value: float, stored: str
) -> None:
    assert column_type.coerce(value) == Decimal(stored)


@pytest.mark.parametrize(
    ("column_type", "value"),
    [(Price(), 4e-11), (Price(), 1.23456789e-7 / 1000), (Quantity(), 1e-9), (Quantity(), 0.001234567891)],
)
def test_a_float_that_rounding_would_change_by_more_than_a_millionth_is_refused(
    column_type: ExactDecimal, value: float
) -> None:
    with pytest.raises(ValueError, match="more than a millionth"):
        column_type.coerce(value)


@given(st.floats(min_value=-1e9, max_value=1e9))
def test_every_float_is_refused_or_rounded_half_even_from_its_shortest_form(value: float) -> None:
    try:
        stored = Price().coerce(value)
    except ValueError:
        shortest = Decimal(repr(value))
        assert abs(round(shortest, 10) - shortest) > abs(shortest) * Decimal("1e-6")
    else:
        assert stored == round(Decimal(repr(value)), 10)


@given(st.decimals(min_value=-99_999, max_value=99_999, places=10))
def test_fifteen_significant_digits_survive_storage_as_a_double(value: Decimal) -> None:
    kept = Price().coerce(value)
    assert Price().from_double_storage(Price().to_double_storage(kept)) == kept


def test_what_a_double_cannot_give_back_is_refused_where_doubles_are_kept() -> None:
    with pytest.raises(ValueError, match="more digits than the double"):
        Price().to_double_storage(Decimal("9999999999.9999999900"))
    with pytest.raises(ValueError, match=r"above 2\*\*53"):
        Money().to_double_storage(Decimal(2**53 + 2))
    assert Money().to_double_storage(Decimal(2**53)) == 2**53
    assert Quantity().to_double_storage(Decimal(2**53 + 1)) == 2**53 + 1  # an integer there, not a double


def test_an_instant_keeps_its_microseconds_and_becomes_utc() -> None:
    given = dt.datetime(2025, 1, 2, 9, 30, 0, 123456, EST)
    assert UtcDateTime().coerce(given) == given
    assert UtcDateTime().coerce(given).tzinfo is dt.UTC
    assert UtcDateTime().coerce("2025-01-02T09:30:00.123456-05:00") == given
    assert UtcDateTime().coerce("2025-01-02 14:30:00.123456Z") == given


def test_a_pandas_timestamp_becomes_a_plain_instant() -> None:
    instant = UtcDateTime().coerce(pd.Timestamp("2025-01-02 09:30", tz="America/New_York"))
    assert (type(instant), instant) == (dt.datetime, dt.datetime(2025, 1, 2, 14, 30, tzinfo=dt.UTC))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (dt.datetime(2025, 1, 2, 9, 30), "no time zone"),  # noqa: DTZ001 - the mistake that is refused
        ("2025-01-02 09:30:00", "no time zone"),
        ("2025-01-02", "no time zone"),
        (pd.Timestamp("2025-01-02 09:30:00.000000001", tz="UTC"), "finer than a microsecond"),
        (pd.NaT, "not an instant"),
        (dt.date(2025, 1, 2), "not an instant"),
        (1735819200, "not an instant"),
        ("yesterday", "not an instant"),
        (dt.datetime(999, 12, 31, tzinfo=dt.UTC), "before the year 1000"),
        (dt.datetime(9999, 12, 31, 23, 59, tzinfo=EST), "out of range"),
    ],
    ids=repr,
)
def test_what_is_no_instant_is_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        UtcDateTime().coerce(value)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Australia/Sydney", "America/New_York", "UTC", "Pacific/Kiritimati"])
def test_midnight_in_its_own_zone_is_that_zones_date(zone: str) -> None:
    midnight = dt.datetime(2025, 7, 1, tzinfo=ZoneInfo(zone))
    assert SessionDate().coerce(midnight) == dt.date(2025, 7, 1)
    assert SessionDate().coerce(pd.Timestamp("2025-07-01", tz=zone)) == dt.date(2025, 7, 1)


@pytest.mark.parametrize(
    "value",
    [
        dt.date(2025, 7, 1),
        dt.datetime(2025, 7, 1),  # noqa: DTZ001 - a naive midnight is a date
        pd.Timestamp("2025-07-01"),
        "2025-07-01",
        "2025-07-01 00:00:00",
        "2025-07-01T00:00:00.000000",
    ],
    ids=repr,
)
def test_a_date_may_come_as_a_date_a_midnight_or_text(value: object) -> None:
    date = SessionDate().coerce(value)
    assert (type(date), date) == (dt.date, dt.date(2025, 7, 1))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (dt.datetime(2025, 1, 2, 23, 59, tzinfo=dt.UTC), "not midnight"),
        (dt.datetime(2025, 6, 30, 15, tzinfo=dt.UTC), "not midnight"),  # Tokyo's midnight, once its zone is lost
        (pd.Timestamp("2025-01-02 00:00:00.000001"), "not midnight"),
        (pd.Timestamp("2025-01-02 00:00:00.000000001"), "finer than a microsecond"),
        (pd.NaT, "not a date"),
        ("2025-01-02 09:30:00", "not a date"),
        ("20250102", "not a date"),
        ("2025-1-2", "not a date"),
        ("2025-02-30", "not a day of the calendar"),
        ("not a date", "not a date"),
        (20250102, "not a date"),
        (dt.date(999, 12, 31), "before the year 1000"),
    ],
    ids=repr,
)
def test_what_is_no_session_date_is_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SessionDate().coerce(value)


@pytest.mark.parametrize(
    "symbol", ["AAPL", "aapl", "BACpL", "AAPL250117C00150000", "BRKb.N^A1534", "AAPL.XNAS", "BTC/USDT", "7203.T", "a b"]
)
def test_a_ticker_is_kept_as_given(symbol: str) -> None:
    assert Ticker().coerce(symbol) == symbol


@pytest.mark.parametrize(
    "symbol",
    ["", " ", " A", "A ", "A\n", "\tA", "A\x00", "A\x7f", "A\u2028B", "A\ud800", "x" * 65, 12345, None, b"AAPL"],
)
def test_an_empty_padded_or_unprintable_ticker_is_refused(symbol: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Ticker().coerce(symbol)


def test_a_subclass_of_text_becomes_plain_text() -> None:
    assert type(Ticker().coerce(np.str_("AAPL"))) is str


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("1m", "1m"),
        ("60m", "1h"),
        ("60s", "1m"),
        ("3600s", "1h"),
        ("90m", "90m"),
        ("05m", "5m"),
        ("24h", "24h"),
        ("1d", "1d"),
        ("1w", "1w"),
        ("3mo", "3mo"),
        ("unknown", "unknown"),
    ],
)
def test_a_timeframe_has_one_form(given: str, stored: str) -> None:
    assert Timeframe().coerce(given) == stored


@pytest.mark.parametrize("value", ["", "0m", "m", "1", "1M", "1min", "-5m", "1.5h", "1 m", "1m\n", "123456789m", 5])
def test_what_is_no_timeframe_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Timeframe().coerce(value)


@pytest.mark.parametrize(
    ("column_type", "value"),
    [
        (ByteText(3), "four"),
        (ByteText(3), "a\x00b"),
        (LongText(), "a\x00b"),
        (LongText(), "a\ud800b"),
        (LongText(), "x" * 2**24),
        (LongText(), "é" * 2**23),
        (LongText(), 5),
        (SeriesName(), " adjusted"),
        (SeriesName(), "x" * 33),
        (PriceBasis(), "RAW"),
        (PriceBasis(), ""),
        (Flag(), 1),
        (Flag(), "true"),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str) else None,
)
def test_text_and_flags_that_would_not_come_back_are_refused(column_type: CheckedType[Any], value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        column_type.coerce(value)


@pytest.mark.parametrize(
    ("column_type", "value"),
    [
        (ByteText(3), "🚀é東"),
        (LongText(), "🚀" * 70_000),
        (LongText(), ""),
        (SeriesName(), ""),
        (SeriesName(), "adjusted"),
        (PriceBasis(), "split"),
        (Flag(), True),
        (Flag(), np.False_),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str) else None,
)
def test_text_and_flags_come_back_as_given(column_type: CheckedType[Any], value: object) -> None:
    assert column_type.coerce(value) == value


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ticker", " AAPL"),
        ("date", dt.datetime(2025, 1, 2, 9, 30, tzinfo=dt.UTC)),
        ("open", "abc"),
        ("volume", float("nan")),
        ("is_final", 1),
        ("observed_at", "2025-01-02"),
    ],
)
def test_an_attribute_refuses_what_its_column_cannot_keep_and_names_itself(column: str, value: object) -> None:
    with pytest.raises(InvalidRowError) as refused:
        DailyData(**{column: value})
    assert refused.value.column == column
    assert str(refused.value).startswith(f"column {column!r}: ")


def test_an_attribute_holds_what_will_be_read_back() -> None:
    bar = DailyData(open=153.3, date="2025-01-02", volume=np.int64(5))
    assert (f"{bar.open:f}", bar.date, f"{bar.volume:f}") == ("153.3000000000", dt.date(2025, 1, 2), "5.00000000")


def test_long_values_are_shortened_in_reasons() -> None:
    with pytest.raises(ValueError, match=r"\.\.\. is not a number") as refused:
        Price().coerce("x" * 10_000)
    assert len(str(refused.value)) < 100


@settings(max_examples=50)
@given(st.text(max_size=70))
def test_no_text_gets_past_a_ticker_that_could_not_be_found_again(text: str) -> None:
    try:
        kept = Ticker().coerce(text)
    except ValueError:
        return
    assert kept == text == text.strip()
    assert kept.isprintable() or not any(ord(character) < 32 for character in kept)
