"""Files of bars: which format they are of, and what rows they hold. No database is asked."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traderrr_data import ConfigurationError, DailyData, IntradayData
from traderrr_data.bulk.arrow import rows_of_frame
from traderrr_data.bulk.rows import NO_BAR, check, shape_of
from traderrr_data.ingest import FORMATS, Options, UnreadableFileError, ticker_of_name, yfinance_bars
from traderrr_data.ingest.base import Block, Chunk
from traderrr_data.ingest.source import open_source
from traderrr_data.models.types import SessionDate

OHLC = ["Open", "High", "Low", "Close"]


def history(zone: str = "America/New_York", *, index: str = "Date") -> pd.DataFrame:
    """Return what yfinance's `Ticker.history()` returns: an index with a zone, floats widened from 32 bits."""
    times = pd.DatetimeIndex(["2025-01-02", "2025-07-03"], tz=zone, name=index)
    return pd.DataFrame(
        {
            "Open": np.array([269.28, 270.5], dtype="float32").astype("float64"),
            "High": [271.0, 272.0],
            "Low": [268.0, 269.0],
            "Close": [270.0, 271.0],
            "Volume": [27871099501, 55740700],
            "Dividends": [0.0, 0.25],
            "Stock Splits": [0.0, 4.0],
        },
        index=times,
    )


def download(*, by_ticker: bool = False, named: bool = True, index: str | None = "Date") -> pd.DataFrame:
    """Return what yfinance's `download()` returns: columns of two levels, an index without a zone; MSFT has one bar."""
    times = pd.DatetimeIndex(["2025-01-02", "2025-01-03"], name=index)
    columns = pd.MultiIndex.from_product([[*sorted(OHLC), "Volume"], ["AAPL", "MSFT"]], names=["Price", "Ticker"])
    frame = pd.DataFrame(10.0, index=times, columns=columns)
    frame.loc[times[1], (slice(None), "MSFT")] = np.nan
    if by_ticker:
        frame = frame.swaplevel(axis="columns").sort_index(axis="columns")
    if not named:
        frame.columns.names = [None, None]
    return frame


def read(
    path: Path, form: str | None = None, *, cells: int | None = None, **options: Any
) -> tuple[list[dict[str, Any]], list[Block], list[Chunk]]:
    """Return a file's bars for the database, and the pieces in which they came."""
    with open_source(path) as source:
        chosen = FORMATS[form] if form else next(one for one in FORMATS.values() if one.recognises(source.head))
        reading = chosen.prepare(source.head, Options(**options))
        blocks = list(source.blocks(reading.header_rows, cells or reading.cells))
        chunks = [reading.chunk(block) for block in blocks]
    return [row for chunk in chunks for row in rows_of(chunk) if row is not NO_BAR], blocks, chunks


def rows_of(chunk: Chunk) -> list[Any]:
    return chunk.rows if isinstance(chunk.rows, list) else list(rows_of_frame(chunk.rows))


def dropped(chunks: list[Chunk]) -> int:
    return sum(row is NO_BAR for chunk in chunks for row in rows_of(chunk))


def format_of(path: Path) -> list[str]:
    with open_source(path) as source:
        return [name for name, form in FORMATS.items() if form.recognises(source.head)]


def saved(frame: pd.DataFrame, path: Path) -> Path:
    """Save a frame as its owner would."""
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path)
    return path


@pytest.fixture(params=["csv", "csv.gz", "parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"AAPL.{request.param}"


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "Australia/Sydney", "UTC"])
def test_a_history_keeps_the_day_of_its_exchange(path: Path, zone: str) -> None:
    rows, _, _ = read(saved(history(zone), path), ticker="AAPL", price_basis="all")
    assert [SessionDate().coerce(row["date"]) for row in rows] == [dt.date(2025, 1, 2), dt.date(2025, 7, 3)]
    assert {(row["ticker"], row["source"], row["price_basis"]) for row in rows} == {("AAPL", "yfinance", "all")}


def test_a_history_s_numbers_are_floats_however_they_are_saved(path: Path) -> None:
    (first, second), _, _ = read(saved(history(), path), ticker="AAPL", price_basis="all")
    assert (first["open"], type(first["open"])) == (float(np.float32(269.28)), float)
    assert (first["volume"], first["dividends"], second["dividends"]) == (27871099501, 0.0, 0.25)


def test_a_split_of_one_means_none_as_zero_does(path: Path) -> None:
    frame = history().assign(**{"Stock Splits": [1.0, 0.0]})
    rows, _, _ = read(saved(frame, path), ticker="AAPL", price_basis="all")
    assert [row["stock_splits"] for row in rows] == [0, 0]


def test_an_adjusted_close_says_that_prices_are_adjusted_for_splits_only(path: Path) -> None:
    saved(history().assign(**{"Adj Close": [1.0, 2.0], "Capital Gains": [0.0, 0.0]}), path)
    rows, _, _ = read(path, ticker="AAPL")
    assert {row["price_basis"] for row in rows} == {"split"}
    with open_source(path) as source:
        assert FORMATS["yfinance"].prepare(source.head, Options(ticker="AAPL")).left_out == (
            "Adj Close",
            "Capital Gains",
        )
    with pytest.raises(ConfigurationError, match="--price-basis all does not fit"):
        read(path, ticker="AAPL", price_basis="all")


def test_without_an_adjusted_close_the_price_basis_is_asked_for(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no Adj Close.* say --price-basis all"):
        read(saved(history(), path), ticker="AAPL")


def test_a_column_may_say_the_price_basis_instead(path: Path) -> None:
    saved(history().assign(price_basis=["all", "split"]), path)
    rows, _, _ = read(path, ticker="AAPL")
    assert [row["price_basis"] for row in rows] == ["all", "split"]
    with pytest.raises(ConfigurationError, match="price_basis of its own"):
        read(path, ticker="AAPL", price_basis="all")


def test_a_file_that_does_not_say_its_ticker_asks_for_it(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not say its ticker"):
        read(saved(history(), path), price_basis="all")


def test_an_intraday_history_asks_for_its_timeframe_and_leaves_out_what_has_no_place(path: Path) -> None:
    saved(history(index="Datetime"), path)
    with pytest.raises(ConfigurationError, match="no timeframe"):
        read(path, ticker="AAPL", price_basis="all")
    rows, _, _ = read(path, ticker="AAPL", price_basis="all", timeframe="1m")
    assert [pd.Timestamp(row["datetime"]) for row in rows] == list(history().index)
    assert "stock_splits" not in rows[0]


def test_a_file_of_days_takes_no_timeframe(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--timeframe 1w does not fit"):
        read(saved(history(), path), ticker="AAPL", price_basis="all", timeframe="1w")


@pytest.mark.parametrize("by_ticker", [False, True], ids=["price first", "ticker first"])
@pytest.mark.parametrize("named", [False, True], ids=["levels without names", "named levels"])
@pytest.mark.parametrize("index", ["Date", None])
def test_a_download_is_one_bar_for_each_ticker_that_has_prices(
    path: Path, *, by_ticker: bool, named: bool, index: str | None
) -> None:
    saved(download(by_ticker=by_ticker, named=named, index=index), path)
    assert format_of(path) == ["yfinance"]
    rows, _, chunks = read(path, price_basis="all")
    assert [(row["ticker"], SessionDate().coerce(row["date"]).isoformat()) for row in rows] == [
        ("AAPL", "2025-01-02"),
        ("AAPL", "2025-01-03"),
        ("MSFT", "2025-01-02"),
    ]
    assert dropped(chunks) == 1
    assert rows[0]["close"] == 10.0


def test_a_download_names_its_tickers_itself(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ticker of its own"):
        read(saved(download(), path), price_basis="all", ticker="AAPL")


def test_a_rejected_bar_of_a_download_is_shown_with_its_own_cells(tmp_path: Path) -> None:
    frame = download()
    frame[("Close", "MSFT")] = [99.0, np.nan]
    _, _, (chunk,) = read(saved(frame, tmp_path / "x.csv"), price_basis="all")
    position = next(at for at, row in enumerate(rows_of(chunk)) if row is not NO_BAR and row["ticker"] == "MSFT")
    assert chunk.origin(position) == (0, ["2025-01-02", "MSFT", "99.0", "10.0", "10.0", "10.0", "10.0"])


ODD: dict[str, dict[tuple[str, str], list[Any]]] = {
    "nothing": {},
    "a volume without gaps beside one with": {("Volume", "AAPL"): [1, 2]},
    "text that is no number": {("Close", "MSFT"): ["11", "soon"]},
    "numbers in other spellings": {("Close", "MSFT"): ["1.1e1", "+11."]},
    "nan in text": {("Close", "MSFT"): ["10", "nan"]},
    "more than a float holds": {("Close", "MSFT"): ["1e999", "10.1234567890123456789"]},
    "whole numbers that no float holds": {("Volume", "AAPL"): [2**53 + 1, 2]},
}


NO_NUMBERS = ("text that is no number", "nan in text")
BY_ROWS = {
    ".csv": NO_NUMBERS,
    ".gz": NO_NUMBERS,
    ".parquet": (*ODD.keys() - {"nothing", "a volume without gaps beside one with"},),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("index", ["Date", "Datetime"])
def test_bars_come_to_the_same_by_columns_and_by_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, index: str
) -> None:
    frame = download(index=index)
    for name, values in ODD[odd].items():
        frame[name] = values
    frame = frame.tz_localize("Asia/Tokyo")
    said: dict[str, Any] = {"price_basis": "all", "timeframe": None if index == "Date" else "1d"}
    rows, _, chunks = read(saved(frame, path), **said)
    assert all(isinstance(chunk.rows, pa.RecordBatch) for chunk in chunks) == (odd not in BY_ROWS[path.suffix])
    by_columns = checked(rows, index)

    def refuse(*_: object, **__: object) -> Chunk:
        raise yfinance_bars._Odd

    monkeypatch.setattr(yfinance_bars, "_as_columns", refuse)
    assert checked(read(path, **said)[0], index) == by_columns


def checked(rows: list[dict[str, Any]], index: str) -> tuple[list[dict[str, Any]], list[tuple[str | None, str]]]:
    """Return the rows that can be stored, and why others cannot."""
    key = ("ticker", "series", index.lower())
    shape = shape_of(DailyData, key) if index == "Date" else shape_of(IntradayData, key)
    batch = check(
        rows,
        shape,
        fixed={"series": "", "timeframe": "1d"} if index != "Date" else {"series": ""},
        exact_decimals=True,
        on_invalid="reject",
    )
    return batch.rows, sorted((bad.column, bad.reason) for bad in batch.rejected)


def test_columns_that_many_providers_have_are_nobody_s_until_the_format_is_said(path: Path) -> None:
    saved(history()[[*OHLC, "Volume"]], path)
    assert format_of(path) == []
    rows, _, _ = read(path, "yfinance", ticker="AAPL", price_basis="all")
    assert len(rows) == 2


OWN = "ticker,date,open,high,low,close,volume"


def own(path: Path, *lines: str, header: str = OWN) -> Path:
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return path


def test_the_text_of_our_own_csv_stays_text(tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", "NA,2025-01-02,123456.7890123456,2,1,1e-10,0.12345678")
    (row,), _, _ = read(path)
    assert row == {
        "ticker": "NA",
        "date": "2025-01-02",
        "open": "123456.7890123456",
        "high": "2",
        "low": "1",
        "close": "1e-10",
        "volume": "0.12345678",
    }


def test_an_empty_cell_is_none_and_a_row_without_prices_is_dropped(tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", "A,2025-01-02,1,1,1,1,", 'A,2025-01-03,1,1,1,1,""', "A,2025-01-04,,,,,5")
    rows, _, chunks = read(path)
    assert [row["volume"] for row in rows] == [None, None]
    assert dropped(chunks) == 1


def test_truth_values_of_our_own_csv_are_true_and_false_in_any_case(tmp_path: Path) -> None:
    header = f"{OWN},is_final"
    path = own(
        tmp_path / "x.csv", *(f"A,2025-01-02,1,1,1,1,1,{cell}" for cell in ("true", "False", "", "1")), header=header
    )
    rows, _, _ = read(path)
    assert [row["is_final"] for row in rows] == [True, False, None, "1"]


def test_a_row_with_other_than_the_header_s_cells_is_set_aside_under_its_number(tmp_path: Path) -> None:
    good = [f"T{number},2025-01-02,1,1,1,1,1" for number in range(40_000)]
    good[1] = "short,row"
    good[30_000] = "a,row,that,is,too,long,by,one"
    rows, blocks, _ = read(own(tmp_path / "x.csv", *good, "last"), cells=50_000)
    assert len(blocks) > 1
    assert [(bad.number, bad.cells) for block in blocks for bad in block.misshapen] == [
        (2, ["short", "row"]),
        (30_001, ["a", "row", "that", "is", "too", "long", "by", "one"]),
        (40_001, ["last"]),
    ]
    numbers = [number for block in blocks for number in block.numbers]
    assert [row["ticker"] for row in rows] == [f"T{number - 1}" for number in numbers]


def test_a_file_without_a_good_row_is_set_aside_as_a_whole(tmp_path: Path) -> None:
    rows, blocks, _ = read(own(tmp_path / "x.csv", *["bad,row"] * 10_000), cells=1_000)
    assert rows == []
    assert [bad.number for block in blocks for bad in block.misshapen] == [*range(1, 10_001)]


def test_a_byte_order_mark_and_blank_lines_are_no_cells(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"\r\n{OWN}\r\n\r\nA,2025-01-02,1,1,1,1,1\r\nbad\r\n".encode())
    rows, blocks, _ = read(path)
    assert [row["ticker"] for row in rows] == ["A"]
    assert [bad.number for block in blocks for bad in block.misshapen] == [2]


def test_a_large_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    numbers = pa.array(np.random.default_rng(0).integers(0, 10**15, 1_500_000))
    table = pa.table(dict.fromkeys(("date", "open", "high", "low", "close"), numbers))
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=len(table))
    before = pa.total_allocated_bytes()
    held = []
    with open_source(tmp_path / "x.parquet") as source:
        for block in source.blocks(1, 50_000):
            assert block.batch.num_rows == 10_000
            held.append(pa.total_allocated_bytes() - before)
    assert len(held) == 150
    assert max(held) < table.nbytes / 2


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(OWN, encoding="utf-8")
    assert read(path)[0] == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"ticker,\xff\xfe\n1,2\n", "is not UTF-8 text"),
        ("x.csv.gz", b"no gzip at all", "cannot be read"),
        ("x.csv.gz", gzip.compress(b"a,b\n" * 9999, mtime=0)[:-30], "cannot be read"),
        ("x.parquet", b"no parquet", "cannot be read"),
        ("x.parquet", b"", "cannot be read"),
        ("x.xlsx", b"", r"ends in none of \.csv, \.csv\.gz, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_so_with_its_name(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=rf"{name}.*{reason}"), open_source(path) as source:
        list(source.blocks(1, 1_000))


def test_a_file_that_is_not_there_says_so_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"nowhere\.csv cannot be read: No such file"):
        open_source(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (f"{OWN},vwap", "the column 'vwap' is none of"),
        (f"{OWN},updated_at", "the column 'updated_at' is set by the database"),
        (f"{OWN},volume", "the column 'volume' twice"),
        (f",{OWN}", "a column without a name"),
        (f"{OWN},datetime", "both a date and a datetime"),
    ],
)
def test_columns_that_make_no_sense_are_refused(tmp_path: Path, header: str, reason: str) -> None:
    with pytest.raises(UnreadableFileError, match=reason):
        read(own(tmp_path / "x.csv", header=header))


@pytest.mark.parametrize("name", ["BRK.B.csv", "BRK.B.csv.gz", "BRK.B.PARQUET"])
def test_a_file_s_name_without_its_ending_may_be_the_ticker(name: str) -> None:
    assert ticker_of_name(Path("somewhere") / name) == "BRK.B"
