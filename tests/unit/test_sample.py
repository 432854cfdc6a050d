"""The sample that quickstart stores is what its docstring says it is."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest

from traderrr_data import sample

Bars = dict[tuple[str, dt.date], dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return sample.daily_bars()


@pytest.fixture(scope="module")
def bars(rows: list[dict[str, Any]]) -> Bars:
    return {(row["ticker"], row["date"]): row for row in rows}


def test_the_sample_holds_at_least_ten_tickers_and_two_thousand_bars(rows: list[dict[str, Any]]) -> None:
    assert len({row["ticker"] for row in rows}) >= 10
    assert len(rows) >= 2000


def test_the_sample_is_as_large_as_its_docstring_says(rows: list[dict[str, Any]]) -> None:
    assert (len(rows), len({row["ticker"] for row in rows})) == (5452, 12)
    assert sum(row["dividends"] != 0 for row in rows) == 63
    assert sum(row["stock_splits"] != 0 for row in rows) == 2


def test_prices_reach_from_two_dollars_to_two_hundred_thousand(rows: list[dict[str, Any]]) -> None:
    assert min(row["low"] for row in rows) == Decimal("2.26")
    assert max(row["high"] for row in rows) == Decimal("229374")


def test_the_packed_sample_is_smaller_than_150_kilobytes() -> None:
    assert len((files(sample) / "bars.csv.gz").read_bytes()) < 150_000


def test_no_bar_is_there_twice_and_the_order_is_by_ticker_and_date(rows: list[dict[str, Any]]) -> None:
    keys = [(row["ticker"], row["date"]) for row in rows]
    assert keys == sorted(set(keys))


def test_prices_are_in_order(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert 0 < row["low"] <= row["open"] <= row["high"], row
        assert row["low"] <= row["close"] <= row["high"], row


def test_every_number_is_a_decimal_that_the_columns_take_unchanged(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for name in ("open", "high", "low", "close", "volume", "dividends", "stock_splits"):
            value = row[name]
            assert type(value) is Decimal
            assert value.is_finite()
            assert value == value.quantize(Decimal("0.0001"))
        assert row["volume"] > 0
        assert row["volume"] == int(row["volume"])


def test_every_bar_says_where_it_is_from_and_that_it_is_raw_and_final(rows: list[dict[str, Any]]) -> None:
    assert {(row["source"], row["price_basis"], row["is_final"]) for row in rows} == {
        ("zipline-reloaded 3.2.1", "raw", True)
    }


def test_no_bar_is_on_a_weekend_or_outside_of_2013_and_2014(rows: list[dict[str, Any]]) -> None:
    assert {row["date"].year for row in rows} == {2013, 2014}
    assert max(row["date"].weekday() for row in rows) == 4


def test_ten_tickers_share_all_504_sessions_and_two_begin_later(rows: list[dict[str, Any]]) -> None:
    sessions = {row["date"] for row in rows}
    bars_of = Counter(row["ticker"] for row in rows)
    assert len(sessions) == 504
    assert {ticker: count for ticker, count in bars_of.items() if count != 504} == {"BRK.A": 252, "ZEN": 160}
    for ticker, first in {"BRK.A": dt.date(2014, 1, 2), "ZEN": dt.date(2014, 5, 15)}.items():
        own = {row["date"] for row in rows if row["ticker"] == ticker}
        assert own == {date for date in sessions if date >= first}


@pytest.mark.parametrize(
    ("ticker", "before", "ex_date", "factor"),
    [("CERN", dt.date(2013, 6, 28), dt.date(2013, 7, 1), 2), ("AAPL", dt.date(2014, 6, 6), dt.date(2014, 6, 9), 7)],
)
def test_a_split_shows_in_the_unadjusted_close(
    bars: Bars, ticker: str, before: dt.date, ex_date: dt.date, factor: int
) -> None:
    assert bars[ticker, ex_date]["stock_splits"] == factor
    jump = bars[ticker, before]["close"] / bars[ticker, ex_date]["close"]
    assert abs(jump / factor - 1) < Decimal("0.05")


def test_no_close_jumps_by_a_third_except_on_the_day_of_a_split(rows: list[dict[str, Any]]) -> None:
    jumps = [
        (after["ticker"], after["date"])
        for before, after in pairwise(rows)
        if before["ticker"] == after["ticker"]
        and not Decimal("0.67") < after["close"] / before["close"] < Decimal("1.5")
    ]
    assert jumps == [(row["ticker"], row["date"]) for row in rows if row["stock_splits"] != 0]


def test_the_volume_before_a_split_is_in_the_shares_of_its_day(bars: Bars) -> None:
    assert bars["AAPL", dt.date(2014, 2, 6)]["volume"] == 9_205_900
    assert bars["AAPL", dt.date(2014, 6, 9)]["volume"] == 75_415_000


def test_dividends_are_in_the_dollars_of_their_ex_date(rows: list[dict[str, Any]]) -> None:
    paid = {row["date"]: row["dividends"] for row in rows if row["ticker"] == "AAPL" and row["dividends"]}
    assert paid == {
        dt.date(2013, 2, 7): Decimal("2.65"),
        dt.date(2013, 5, 9): Decimal("3.05"),
        dt.date(2013, 8, 8): Decimal("3.05"),
        dt.date(2013, 11, 6): Decimal("3.05"),
        dt.date(2014, 2, 6): Decimal("3.05"),
        dt.date(2014, 5, 8): Decimal("3.29"),
        dt.date(2014, 8, 7): Decimal("0.47"),
        dt.date(2014, 11, 6): Decimal("0.47"),
    }


def test_every_company_is_one_of_the_tickers_and_every_ticker_a_company(rows: list[dict[str, Any]]) -> None:
    listed = sample.companies()
    assert [row["ticker"] for row in listed] == sorted({row["ticker"] for row in rows})
    for row in listed:
        assert list(row) == ["ticker", "company_name", "sector", "industry", "currency", "mic"]
        assert all(value and value == value.strip() for value in row.values())
        assert row["currency"] == "USD"
        assert row["mic"] in {"XNAS", "XNYS"}


def test_the_licence_and_the_changes_are_shipped_beside_the_bars() -> None:
    notice = (files(sample) / "NOTICE").read_text(encoding="ascii")
    assert "zipline-reloaded 3.2.1" in notice
    assert "Apache License, Version 2.0" in notice
    assert "Apache License" in (files(sample) / "LICENSE-Apache-2.0.txt").read_text(encoding="utf-8")
