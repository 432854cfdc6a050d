"""A batch is checked once: what comes out are the values as they will be read back, or the reasons why not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests.bars import DAY, OPENING, daily, days, flat, intraday
from traderrr_data import DailyData, IntradayData, InvalidRowError, Metadata, Rejection, SignalHistory
from traderrr_data.bulk.rows import Batch, Shape, check, outranks, shape_of

DAILY = shape_of(DailyData, ("ticker", "series", "date"))
INTRADAY = shape_of(IntradayData, ("ticker", "series", "timeframe", "datetime"))
SIGNALS = shape_of(SignalHistory, ("dedupe_key",))
HOUR = dt.timedelta(hours=1)


def checked(rows: Any, shape: Shape = DAILY, **options: Any) -> Batch:
    defaults: dict[str, Any] = {
        "fixed": {} if shape is SIGNALS else {"series": ""},
        "exact_decimals": True,
        "on_invalid": "raise",
    }
    return check(rows, shape, **defaults | options)


def accounted(batch: Batch) -> int:
    return len(batch.rows) + len(batch.dropped) + batch.duplicates + len(batch.rejected)


def test_values_come_out_as_they_will_be_read_back() -> None:
    [row] = checked([daily(date="2025-01-02", close="11.5", volume=np.int64(27871099501))]).rows
    assert row["date"] == DAY
    assert (row["close"], row["volume"]) == (Decimal("11.5"), Decimal(27871099501))
    assert row["series"] == ""


def test_a_row_has_only_the_columns_that_it_was_given() -> None:
    first, second = checked([daily(dividends=None), daily("MSFT", source="x")]).rows
    assert first["dividends"] is None
    assert "source" not in first
    assert "dividends" not in second


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        (daily(ticker=""), "ticker", "it is empty"),
        (daily(ticker=" AAPL"), "ticker", "' AAPL' has blanks around it"),
        (daily(ticker=None), "ticker", "must have a value"),
        (daily(date="2025-13-01"), "date", "'2025-13-01' is not a day of the calendar"),
        (daily(open="abc"), "open", "'abc' is not a number"),
        (daily(close=None), "close", "must have a value"),
        (daily(close=float("nan")), "close", "NaN is not a finite number"),
        (daily(volume=-1), "volume", "-1.00000000 is negative"),
        (daily(volume=True), "volume", "a truth value is not a number"),
        (daily(close=Decimal("13")), "close", "13.0000000000 is not between low 9.0000000000 and high 12.0000000000"),
        (daily(id=7), "id", "is set by the database"),
        (daily(created_at=OPENING), "created_at", "is set by the database"),
        (daily(adj_close=11), "adj_close", "is no column of this table"),
        ({"ticker": "AAPL", "date": DAY, "open": 1, "high": 1, "low": 1}, "close", "is missing"),
        ({"date": DAY, **flat(1)}, "ticker", "is missing"),
        ("AAPL", None, "a str is neither a mapping nor a DailyData"),
        (Metadata(ticker="AAPL"), None, "a Metadata is neither a mapping nor a DailyData"),
        (None, None, "a NoneType is neither a mapping nor a DailyData"),
    ],
)
def test_a_row_that_cannot_be_stored_is_named_with_column_and_reason(row: Any, column: str | None, reason: str) -> None:
    batch = checked([daily("MSFT"), row], on_invalid="reject")
    assert batch.rejected == [Rejection(1, column, reason)]
    assert [row["ticker"] for row in batch.rows] == ["MSFT"]
    assert accounted(batch) == 2

    with pytest.raises(InvalidRowError) as refused:
        checked([daily("MSFT"), row])
    assert (refused.value.row, refused.value.column, refused.value.reason) == (1, column, reason)


@pytest.mark.parametrize(
    "given", ["AAPL", b"AAPL", None, 5, daily(), DailyData(ticker="AAPL")], ids=lambda v: type(v).__name__
)
def test_what_is_no_batch_is_refused_before_anything_else(given: object) -> None:
    with pytest.raises(InvalidRowError, match=f"a batch is a list of rows or a frame, not one {type(given).__name__}"):
        checked(given, on_invalid="reject")


def test_prices_are_compared_after_rounding_to_the_column() -> None:
    row = daily(**flat(10.0), volume=1) | {"high": 10.0, "close": 10.00000000001}
    assert checked([row]).rows[0]["close"] == 10
    with pytest.raises(InvalidRowError, match="is not between"):
        checked([row | {"close": 10.0000000001}])


@pytest.mark.parametrize("prices", [{"low": 13}, {"high": 8}, {"open": 13}, {"close": 8}])
def test_prices_out_of_order_are_stored_as_sent_if_the_caller_waives_the_check(prices: dict[str, int]) -> None:
    with pytest.raises(InvalidRowError, match="is not between"):
        checked([daily(**prices)])
    [row] = checked([daily(**prices)], allow_inconsistent=True).rows
    assert {name: row[name] for name in prices} == prices


def test_negative_prices_are_prices() -> None:
    wti = daily(
        "CL", "2020-04-20", open=Decimal("17.73"), high=Decimal("17.85"), low=Decimal("-40.32"), close=Decimal("-37.63")
    )
    assert checked([wti]).rows[0]["close"] == Decimal("-37.63")


def test_a_number_that_a_double_cannot_hold_is_invalid_only_where_doubles_are_kept() -> None:
    row = daily(**flat(Decimal("9999999999.99999999")))
    assert checked([row]).rows[0]["close"] == Decimal("9999999999.99999999")
    with pytest.raises(InvalidRowError, match="more digits than the double"):
        checked([row], exact_decimals=False)


def test_of_a_repeated_key_the_last_row_of_the_highest_finality_wins() -> None:
    rows = [
        daily(close=10, is_final=False),
        daily(close=11, is_final=True),
        daily(close=12, is_final=True),
        daily(close=9),
        daily("MSFT", close=10),
        daily("MSFT", close=11),
    ]
    batch = checked(rows)
    assert [(row["ticker"], row["close"]) for row in batch.rows] == [("AAPL", 12), ("MSFT", 11)]
    assert batch.duplicates == 4


def test_of_a_repeated_key_the_one_observed_later_wins() -> None:
    rows = [daily(close=11, observed_at=OPENING + HOUR), daily(close=12, observed_at=OPENING)]
    assert [row["close"] for row in checked(rows).rows] == [11]


@pytest.mark.parametrize(
    ("stored", "given", "kept"),
    [
        ({"is_final": True}, {"is_final": True}, False),
        ({"is_final": True}, {}, True),
        ({"is_final": True}, {"is_final": False}, True),
        ({"is_final": None}, {"is_final": True}, False),
        ({"is_final": None}, {"is_final": False}, True),
        ({"is_final": False}, {"is_final": None}, False),
        ({"observed_at": OPENING}, {"observed_at": OPENING}, False),
        ({"observed_at": OPENING}, {"observed_at": OPENING - HOUR}, True),
        ({"observed_at": OPENING}, {}, False),
        ({"is_final": False, "observed_at": OPENING}, {"is_final": True, "observed_at": OPENING - HOUR}, False),
    ],
)
def test_finality_ranks_above_the_time_of_observation(stored: Any, given: Any, kept: bool) -> None:
    assert outranks(stored, given) is kept


def test_rows_come_out_in_the_order_of_their_keys() -> None:
    rows = [daily(ticker, date) for ticker in ("MSFT", "AAPL", "aapl") for date in reversed(days(2))]
    assert [(row["ticker"], row["date"]) for row in checked(rows).rows] == sorted(
        (row["ticker"], row["date"]) for row in rows
    )


def test_additions_without_a_key_keep_their_order_and_are_never_duplicates() -> None:
    signals = [{"ticker": "AAPL", "date": DAY, "signal_type": kind} for kind in ("SELL", "BUY", "BUY")]
    batch = checked([*signals, signals[0] | {"dedupe_key": "a"}, signals[1] | {"dedupe_key": "a"}], SIGNALS)
    assert [row["signal_type"] for row in batch.rows] == ["SELL", "BUY", "BUY", "BUY"]
    assert batch.duplicates == 1


def test_a_value_that_holds_for_the_whole_call_fills_in_and_must_not_be_contradicted() -> None:
    fixed = {"series": "", "timeframe": "1h"}
    rows = [intraday(), intraday("MSFT", timeframe="60m", series="bid")]
    filled = checked(rows, INTRADAY, fixed=fixed).rows
    assert [(row["timeframe"], row["series"]) for row in filled] == [("1h", ""), ("1h", "bid")]
    with pytest.raises(InvalidRowError, match="'5m' is not the '1h' of this call"):
        checked([intraday(timeframe="5m")], INTRADAY, fixed=fixed)


def test_an_intraday_bar_must_have_a_timeframe() -> None:
    with pytest.raises(InvalidRowError, match="row 0, column 'timeframe': is missing"):
        checked([intraday()], INTRADAY)


def test_a_model_object_gives_what_was_set_on_it() -> None:
    [row] = checked([DailyData(**daily(dividends=None))]).rows
    assert row == daily(dividends=None, series="")


def generator(rows: Iterable[Any]) -> Iterator[Any]:
    yield from rows


@pytest.mark.parametrize("kind", [list, tuple, iter, generator])
def test_any_iterable_of_rows_is_a_batch(kind: Any) -> None:
    assert len(checked(kind([daily(), daily("MSFT")])).rows) == 2


@pytest.mark.parametrize(
    "empty",
    [[], iter(()), pa.table({}), pd.DataFrame(), pl.DataFrame({"ticker": [], "date": []})],
    ids=lambda v: type(v).__name__,
)
def test_an_empty_batch_has_no_rows(empty: Any) -> None:
    assert checked(empty) == Batch()


def columns(**values: Any) -> dict[str, Any]:
    ohlc = {name: [10.0, 11.5] for name in ("open", "high", "low", "close")}
    return {"ticker": ["AAPL", "AAPL"], "date": days(2), **ohlc, "volume": [5, 6], **values}


EXPECTED = [
    daily(date=date, **flat(price), volume=volume, series="")
    for date, price, volume in zip(days(2), (Decimal(10), Decimal("11.5")), (5, 6), strict=True)
]


@pytest.mark.parametrize(
    "frame",
    [
        pa.table(columns()),
        pa.table(columns(ticker=pa.array(["AAPL", "AAPL"]).dictionary_encode())),
        pa.table(columns(volume=pa.array([5, 6], pa.uint64()))),
        pa.table(columns(close=pa.array([Decimal("10.00"), Decimal("11.50")], pa.decimal128(10, 2)))),
        pa.table(columns(date=pa.array(["2025-01-02", "2025-01-03"]))),
        pa.record_batch(columns()),
        pa.RecordBatchReader.from_batches(pa.table(columns()).schema, pa.table(columns()).to_batches(max_chunksize=1)),
        pd.DataFrame(columns()),
        pd.DataFrame(columns()).set_index("date"),
        pd.DataFrame(columns(date=pd.to_datetime(["2025-01-02", "2025-01-03"]))),
        pd.DataFrame(columns(date=pd.to_datetime(["2025-01-02", "2025-01-03"]).tz_localize("Asia/Tokyo"))),
        pd.DataFrame(
            columns(date=pd.to_datetime(["2025-01-02", "2025-01-03"]).tz_localize("Australia/Sydney").as_unit("ns"))
        ),
        pd.DataFrame(columns(volume=[5.0, 6.0])).convert_dtypes(dtype_backend="pyarrow"),
        pd.concat([pd.DataFrame(columns(ticker="SKIP")), pd.DataFrame(columns())]).query("ticker == 'AAPL'"),
        pl.DataFrame(columns()),
        pl.DataFrame(columns(), schema_overrides={"close": pl.Float32}),
        pl.DataFrame(columns(date=[dt.datetime(2025, 1, 2), dt.datetime(2025, 1, 3)])),  # noqa: DTZ001 - as pandas has it
    ],
    ids=[
        "arrow",
        "dictionary",
        "uint64",
        "decimal",
        "text dates",
        "record batch",
        "reader",
        "pandas",
        "index",
        "naive midnights",
        "Tokyo",
        "Sydney",
        "pandas on arrow",
        "filtered",
        "polars",
        "polars float32",
        "polars midnights",
    ],
)
def test_every_kind_of_frame_gives_the_same_rows(frame: Any) -> None:
    assert checked(frame).rows == EXPECTED


def test_a_32_bit_float_is_taken_at_its_own_precision() -> None:
    close = pa.array([269.28, 123.456], pa.float32())
    rows = checked(pa.table(columns(close=close)), allow_inconsistent=True).rows
    assert [row["close"] for row in rows] == [Decimal("269.28"), Decimal("123.456")]


def test_nan_in_a_frame_means_none_and_in_a_mapping_is_refused() -> None:
    nan = float("nan")
    first, second = checked(pd.DataFrame(columns(dividends=[nan, 0.24], volume=[nan, 6.0]))).rows
    assert (first["dividends"], second["dividends"]) == (None, Decimal("0.24"))
    assert (first["volume"], second["volume"]) == (None, 6)
    with pytest.raises(InvalidRowError, match="row 0, column 'dividends': NaN is not a finite number"):
        checked([daily(dividends=nan)])


def test_a_row_of_a_frame_without_any_price_is_dropped_and_counted() -> None:
    nan = float("nan")
    frame = pd.DataFrame(columns(**{name: [nan, 11.5] for name in ("open", "high", "low", "close")}))
    batch = checked(frame)
    assert (batch.dropped, batch.positions) == ([0], [1])


def test_a_row_of_a_frame_without_one_of_its_prices_is_invalid() -> None:
    with pytest.raises(InvalidRowError, match="row 1, column 'close': must have a value"):
        checked(pd.DataFrame(columns(close=[10.0, float("nan")])))


def test_nanoseconds_that_would_be_lost_are_refused() -> None:
    fine = pd.DatetimeIndex(["2025-01-02 14:30:00.000000001", "2025-01-02 14:31"]).tz_localize("UTC")
    frame = pd.DataFrame(columns(date=fine)).rename(columns={"date": "datetime"})
    batch = checked(frame, INTRADAY, fixed={"series": "", "timeframe": "1m"}, on_invalid="reject")
    assert [(row, column) for row, column, _ in batch.rejected] == [(0, "datetime")]
    assert [row["datetime"] for row in batch.rows] == [OPENING + dt.timedelta(minutes=1)]


def test_coarse_nanoseconds_and_any_zone_give_the_same_instant() -> None:
    index = pd.DatetimeIndex(["2025-01-02 09:30"]).tz_localize("America/New_York").as_unit("ns")
    frame = pd.DataFrame({"ticker": "AAPL", "datetime": index} | flat(10.0))
    [row] = checked(frame, INTRADAY, fixed={"series": "", "timeframe": "1m"}).rows
    assert row["datetime"] == OPENING


def test_rows_outside_of_the_window_are_invalid() -> None:
    with pytest.raises(InvalidRowError, match="row 1, column 'date': is outside of the window that is replaced"):
        checked([daily(), daily(date="2025-01-03")], window=lambda row: row["date"] == DAY)
