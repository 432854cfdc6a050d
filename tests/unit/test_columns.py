"""Texts of a large batch as columns: nothing is accepted that a row's check refuses or reads otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from tests.bars import DAY
from traderrr_data import DailyData, IntradayData
from traderrr_data.bulk import columns
from traderrr_data.bulk.converting import Undecided
from traderrr_data.bulk.rows import Shape, check, shape_of

DAILY = shape_of(DailyData, ("ticker", "series", "date"))
INTRADAY = shape_of(IntradayData, ("ticker", "series", "timeframe", "datetime"))
PRICES = ("open", "high", "low", "close")
ODD_NUMBERS = [
    *("", " ", "1 ", " 1", "+1", "-1", "--1", "+", "-", ".", "-.", "1.", ".5", "-.5", "1..2", "1.2.3", "1,5", "1_000"),
    *(
        "1e5",
        "1E+5",
        "1e-10",
        "1e-11",
        "1e",
        "e5",
        "0E-10",
        "0E-99",
        "0e-400",
        "-0",
        "-0.0",
        "0x10",
        "NaN",
        "inf",
        "\u0661",
    ),
    *(
        "0.0000000001",
        "0.00000000001",
        "1.00000000000",
        "0.12345678901",
        "00000000000001",
        "0000000001.5",
        "1\n",
        "1\r",
    ),
    *("9999999999", "9999999999.9999999999", "10000000000", "922337203.6854775807", "922337203.6854775808", "1" * 40),
    *("123456.789012345", "1234567.89012345678", "9007199254740993", "True", "nan", "None", "1\u00a0", "\uff11"),
]
ODD_DATES = [
    *("", "2025-1-2", "20250102", "2025-01-02 ", " 2025-01-02", "2025-02-29", "2024-02-29", "2025-13-01", "0999-12-31"),
    *("1000-01-01", "9999-12-31", "10000-01-01", "2025-01-02 00:00:00", "2025-01-02T00:00", "2025-01-02 00:00:00.000"),
    *(
        "2025-01-02 14:30:00",
        "2025-01-02 00:00:00+00:00",
        "2025-W01-1",
        "2025-002",
        "\u0662025-01-02",
        "soon",
        "2025-01-02\n",
    ),
]
ODD_INSTANTS = [
    *("", "2025-01-02", "2025-01-02 14:30", "2025-01-02 14:30:00", "2025-01-02 14:30Z", "2025-01-02T14:30:00+0530"),
    *("2025-01-02 14:30:00 Z", "2025-01-02 14:30:00z", "2025-01-02t14:30:00Z", "2025-01-02 14:30:60Z"),
    *("2025-01-02 24:00:00Z", "2025-01-02 14:60:00Z", "2025-01-02 14:30:00.1Z", "2025-01-02 14:30:00.123456Z"),
    *(
        "2025-01-02 14:30:00.1234560Z",
        "2025-01-02 14:30:00.1234567Z",
        "2025-01-02 14:30:00.Z",
        "2025-01-02 14:30:00+05",
    ),
    *(
        "2025-01-02 14:30:00+23:59",
        "2025-01-02 14:30:00-24:00",
        "2025-01-02 14:30:00+05:60",
        "2025-01-02 14:30:00-00:00",
    ),
    *("2025-01-02 14:30:00+05:30:15", "0999-12-31 23:00:00-05:00", "1000-01-01 04:00:00+05:00", "2025-01-02 14Z"),
    *(
        "9999-12-31 23:59:59.999999Z",
        "9999-12-31 23:59:59-05:00",
        "2025-13-02 14:30:00Z",
        "2025-01-32 14:30:00Z",
        "now",
    ),
    *("2025-01-02 14:30:00Z\n", "2025-01-02  14:30:00Z", "\u0662025-01-02 14:30:00Z", "2025-01-02 14:30:00+00:00[UTC]"),
]


def judged(rows: list[dict[str, Any]], shape: Shape, *, exact_decimals: bool, as_mappings: bool) -> None:
    """Compare what becomes of rows as columns with what becomes of them one by one."""
    rules: dict[str, Any] = {"fixed": {"series": ""}, "exact_decimals": exact_decimals, "on_invalid": "reject"}
    expected = check(rows, shape, **rules)
    found = columns.check(rows if as_mappings else pa.Table.from_pylist(rows), shape, **rules)
    assert found.rejected == expected.rejected
    assert found.positions == expected.positions
    assert found.columns is not None
    assert found.columns.select(list(expected.rows[0])).to_pylist() == expected.rows


@pytest.fixture(autouse=True)
def all_may_be_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST_IN_DOUBT", 1.0)


def number_of(source: random.Random) -> str:
    """Return a text that is a number, or nearly one."""
    sign = source.choice(["", "", "", "-", "+", " "])
    whole = "".join(source.choices("0123456789", k=source.choice([0, 1, 1, 2, 3, 5, 8])))
    point = source.choice([".", ".", ".", "", ","])
    decimals = "".join(source.choices("0123456789", k=source.choice([0, 1, 2, 2, 4, 7])))
    exponent = source.choice(["", "", "", "", "e-3", "E2", "e"])
    return f"{sign}{whole}{point}{decimals}{exponent}"


@pytest.mark.parametrize("as_mappings", [False, True], ids=["table", "mappings"])
@pytest.mark.parametrize("exact_decimals", [False, True])
def test_decimals_in_text(*, exact_decimals: bool, as_mappings: bool) -> None:
    source = random.Random(1)  # noqa: S311 - test data
    texts = [*ODD_NUMBERS, *(number_of(source) for _ in range(1_500)), *(f"{n / 100:.10f}" for n in range(1_500))]
    rows = [
        {"ticker": f"T{at:05d}", "date": "2025-01-02", **dict.fromkeys(PRICES, text), "volume": text, "dividends": text}
        for at, text in enumerate(texts)
        if "\n" not in text or not as_mappings
    ]
    judged(_without_long_decimals(rows), DAILY, exact_decimals=exact_decimals, as_mappings=as_mappings)


def _without_long_decimals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what fits no 64 bits: a batch with one goes row by row as a whole."""
    accepted = check(rows, DAILY, fixed={"series": ""}, exact_decimals=True, on_invalid="reject")
    long = {
        at
        for at, row in zip(accepted.positions, accepted.rows, strict=True)
        if max(abs(row["open"]), abs(row["volume"])) * 10**10 >= 2**63
    }
    return [row for at, row in enumerate(rows) if at not in long]


@pytest.mark.parametrize(
    ("shape", "column", "odd", "usual"),
    [
        (DAILY, "date", ODD_DATES, lambda at: f"20{at % 100:02d}-{at % 12 + 1:02d}-{at % 28 + 1:02d}"),
        (
            INTRADAY,
            "datetime",
            ODD_INSTANTS,
            lambda at: f"2025-01-02{'T '[at % 2]}14:{at % 60:02d}:00+{at % 24:02d}:30",
        ),
    ],
    ids=["dates", "instants"],
)
@pytest.mark.parametrize("as_mappings", [False, True], ids=["table", "mappings"])
def test_times_in_text(
    shape: Shape, column: str, odd: list[str], usual: Callable[[int], str], *, as_mappings: bool
) -> None:
    texts = [*odd, *map(usual, range(1_500))]
    more = {} if shape is DAILY else {"timeframe": "1m"}
    rows = [
        {"ticker": f"T{at:05d}", column: text, **dict.fromkeys(PRICES, "1"), **more} for at, text in enumerate(texts)
    ]
    judged(rows, shape, exact_decimals=True, as_mappings=as_mappings)


def test_an_instant_on_no_day_of_the_calendar_is_left_to_the_rows() -> None:
    rows = [{"ticker": "A", "datetime": "2025-02-30 14:30:00Z", "timeframe": "1m", **dict.fromkeys(PRICES, "1")}]
    with pytest.raises(Undecided):
        columns.check(rows, INTRADAY, fixed={"series": ""}, exact_decimals=True, on_invalid="reject")


@pytest.mark.parametrize("exact_decimals", [False, True])
def test_whole_numbers_in_floats(*, exact_decimals: bool) -> None:
    volumes = [
        0.0,
        -0.0,
        1.0,
        27871099501.0,
        92233720367.0,
        2.0**53,
        2.0**53 + 2,
        1e15,
        1e17,
        123456789.5,
        float("nan"),
    ]
    rows = [
        {"ticker": f"T{at:02d}", "date": DAY, **dict.fromkeys(PRICES, 1.0), "volume": volume, "dividends": volume}
        for at, volume in enumerate(volumes)
        if volume < 9e10 or volume != volume  # noqa: PLR0124 - NaN; larger ones go row by row as a whole
    ]
    rows += [
        {**rows[0], "ticker": "no open", "open": float("nan")},
        {**rows[0], "ticker": "no bar", **dict.fromkeys(PRICES, float("nan"))},
    ]
    frame = pa.Table.from_pylist(rows)
    rules: dict[str, Any] = {"fixed": {"series": ""}, "exact_decimals": exact_decimals, "on_invalid": "reject"}
    expected, found = check(frame, DAILY, **rules), columns.check(frame, DAILY, **rules)
    assert found.columns is not None
    assert found.columns.select(list(expected.rows[0])).to_pylist() == expected.rows
    assert found.rejected == expected.rejected
    assert (len(rows) - 2, "open") in [(bad.row, bad.column) for bad in found.rejected]
    assert found.dropped == [len(rows) - 1]


def test_volumes_in_floats_are_not_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST_IN_DOUBT", 0.0)
    row = {"ticker": "A", "date": DAY, **dict.fromkeys(PRICES, 1.5), "volume": 27871099501.0}
    batch = columns.check([row], DAILY, fixed={"series": ""}, exact_decimals=False, on_invalid="reject")
    assert batch.columns is not None
    assert batch.columns["volume"].to_pylist() == [27871099501]


def test_texts_with_empty_cells_keep_them() -> None:
    rows = [
        {"ticker": "A", "date": f"2025-01-{day:02d}", **dict.fromkeys(PRICES, "1.5"), "volume": volume, "source": None}
        for day, volume in ((1, None), (2, "100"), (3, "0.12345678"))
    ]
    judged(rows, DAILY, exact_decimals=False, as_mappings=False)


def test_a_text_that_is_no_unicode_is_refused_as_a_row_is() -> None:
    rows = [{"ticker": text, "date": "2025-01-02", **dict.fromkeys(PRICES, "1")} for text in ("A", "\ud800", "B")]
    judged(rows, DAILY, exact_decimals=True, as_mappings=True)
