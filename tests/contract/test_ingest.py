"""Files of bars into a database, and out again."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import bars
from traderrr_data import ConfigurationError, DatabaseManager, market_data
from traderrr_data.cli.export import write_bars
from traderrr_data.ingest import FileResult, Progress, UnreadableFileError, ingest_file

HEADER = "ticker,date,open,high,low,close,volume"


def own(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return path


def counts(result: FileResult) -> tuple[int, int, int, int, int, int]:
    return (
        result.inserted,
        result.updated,
        result.unchanged,
        result.skipped,
        result.duplicates,
        result.rejected,
    )


def beside(path: Path) -> list[str]:
    """Return the files that ingesting made."""
    return [entry.name for entry in path.parent.iterdir() if path.name in entry.name and entry != path]


async def stored(db: DatabaseManager) -> int:
    async with db.session_context(read_only=True) as session:
        return sum(line.rows for line in await market_data.coverage(session))


async def test_a_file_is_stored_exactly_and_again_changes_nothing(db: DatabaseManager, tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", "AAPL,2025-01-02,0.0000000001,37.63,-37.63,1.5,27871099501", "A,2025-01-02,1,1,1,1,")
    assert counts(await ingest_file(db, path)) == (2, 0, 0, 0, 0, 0)
    again = await ingest_file(db, path)
    assert (counts(again), again.rows, again.format) == ((0, 0, 2, 0, 0, 0), 2, "own")
    async with db.session_context(read_only=True) as session:
        (bar,) = await market_data.list_daily(session, "AAPL")
    assert (bar.open, bar.low, bar.volume) == (Decimal("0.0000000001"), Decimal("-37.63"), Decimal(27871099501))


async def test_every_row_of_a_file_is_accounted_for(db: DatabaseManager, tmp_path: Path) -> None:
    path = own(
        tmp_path / "x.csv",
        "AAPL,2025-01-02,10,12,9,11,100",
        "AAPL,2025-01-02,10,12,9,11,200",
        "AAPL,2025-01-03,,,,,",
        "AAPL,2025-01-04,10,8,9,11,100",
        "AAPL,2025-01-05,10,12",
        "AAPL,soon,10,12,9,11,100",
    )
    result = await ingest_file(db, path)
    assert counts(result) == (1, 0, 0, 1, 1, 3)
    assert result.rows == 6
    assert result.rejected_file == tmp_path / "x.csv.rejected.csv"
    assert result.rejected_file is not None
    with result.rejected_file.open(encoding="utf-8", newline="") as lines:
        header, *rejected = csv.reader(lines)
    assert header == ["row", "column", "reason", *HEADER.split(",")]
    assert [(row, column, cells) for row, column, _, *cells in rejected] == [
        ("4", "open", ["AAPL", "2025-01-04", "10", "8", "9", "11", "100"]),
        ("5", "", ["AAPL", "2025-01-05", "10", "12"]),
        ("6", "date", ["AAPL", "soon", "10", "12", "9", "11", "100"]),
    ]
    reasons = [reason for _, _, reason, *_ in rejected]
    assert "is not between low" in reasons[0]
    assert reasons[1:] == ["has 4 cells, not the header's 7", "'soon' is not a date (YYYY-MM-DD)"]


async def test_a_large_file_of_texts_is_stored_exactly_and_its_bad_rows_are_set_aside(
    db: DatabaseManager, tmp_path: Path
) -> None:
    days = bars.days(3_000)
    lines = [f'{day},0.{at:010d},"2.50",-37.63,1,"",{"TRUE" if at % 2 else "false"}' for at, day in enumerate(days)]
    bad = {
        7: "2025-01-01,0.00000000001,1,0,1,5,true",
        700: "2025-02-30,1,1,1,1,5,true",
        1_500: "2025-01-01,1,1",
        2_000: "2025-01-01,5,1,0,1,5,true",
        2_500: "2025-01-01,1 ,1,1,1,5,true",
    }
    for number, line in bad.items():
        lines[number - 1] = line
    path = own(tmp_path / "x.csv", *lines, header="date,open,high,low,close,volume,is_final")
    result = await ingest_file(db, path, ticker="AAPL", price_basis="raw", series="bid")
    assert counts(result) == (2_995, 0, 0, 0, 0, 5)
    assert counts(await ingest_file(db, path, ticker="AAPL", price_basis="raw", series="bid"))[2] == 2_995
    assert result.rejected_file is not None
    with result.rejected_file.open(encoding="utf-8", newline="") as file:
        _, *rejected = csv.reader(file)
    assert [(int(row), column, ",".join(cells)) for row, column, _, *cells in rejected] == [
        (number, column, bad[number])
        for number, column in ((7, "open"), (700, "date"), (1_500, ""), (2_000, "open"), (2_500, "open"))
    ]
    async with db.session_context(read_only=True) as session:
        found = await market_data.list_daily(session, "AAPL", series="bid")
    assert [(bar.date, bar.open, bar.low, bar.volume, bar.is_final) for bar in found] == [
        (day, Decimal(at).scaleb(-10), Decimal("-37.63"), None, at % 2 == 1)
        for at, day in enumerate(days)
        if at + 1 not in bad
    ]
    assert {bar.price_basis for bar in found} == {"raw"}


async def test_what_is_no_truth_value_in_a_large_file_is_rejected_alone(db: DatabaseManager, tmp_path: Path) -> None:
    lines = [f"A,{day},1,1,1,1,1,true" for day in bars.days(1_200)]
    lines[600] = lines[600].replace("true", "yes")
    path = own(tmp_path / "x.csv", *lines, "A,2025-01-01,,,,,,true", header=f"{HEADER},is_final")
    assert counts(await ingest_file(db, path)) == (1_199, 0, 0, 1, 0, 1)


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.null()])
async def test_an_empty_series_of_a_parquet_file_is_the_one_that_is_said(
    db: DatabaseManager, tmp_path: Path, text: pa.DataType
) -> None:
    table = pa.Table.from_pylist([bars.daily(date=day) for day in bars.days(3)])
    given = [None, None, None] if pa.types.is_null(text) else ["", None, "ask"]
    pq.write_table(table.append_column("series", pa.array(given, text)), tmp_path / "x.parquet")
    result = await ingest_file(db, tmp_path / "x.parquet", series="bid")
    assert (result.inserted, result.rejected) == ((3, 0) if pa.types.is_null(text) else (2, 1))


async def test_bars_out_of_order_are_stored_where_that_is_allowed(db: DatabaseManager, tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", "AAPL,2025-01-04,10,8,9,11,100")
    assert counts(await ingest_file(db, path)) == (0, 0, 0, 0, 0, 1)
    result = await ingest_file(db, path, allow_inconsistent=True)
    assert (counts(result), result.rejected_file) == ((1, 0, 0, 0, 0, 0), None)
    assert beside(path) == []


async def test_a_damaged_file_is_not_stored_in_part(db: DatabaseManager, tmp_path: Path) -> None:
    lines = [f"T{number},2025-01-02,1,1,1,1,1" for number in range(200_000)]
    path = own(tmp_path / "x.csv", "bad", *lines)
    with path.open("ab") as file:
        file.write(b"\xff\xfe,2025-01-02,1,1,1,1,1\n")
    with pytest.raises(UnreadableFileError, match="not UTF-8 text"):
        await ingest_file(db, path)
    assert await stored(db) == 0
    assert beside(path) == []


async def test_a_cancelled_file_is_not_stored_in_part(db: DatabaseManager, tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", *(f"T{number},2025-01-02,1,1,1,1,1" for number in range(200_000)))
    under_way = asyncio.Event()
    task = asyncio.create_task(ingest_file(db, path, progress=lambda _done: under_way.set()))
    await under_way.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stored(db) == 0


async def test_a_file_s_progress_rises_to_one(db: DatabaseManager, tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", *(f"T{number},2025-01-02,1,1,1,1,1" for number in range(1_000)))
    seen: list[Progress] = []
    await ingest_file(db, path, progress=seen.append)
    assert seen == sorted(seen)
    assert (seen[-1].done, seen[-1].rows) == (1.0, 1_000)
    assert seen[-1].rows_per_second > 0


async def test_rows_without_a_series_go_to_the_one_that_is_said(db: DatabaseManager, tmp_path: Path) -> None:
    path = own(
        tmp_path / "x.csv",
        "A,2025-01-02,1,1,1,1,1,",
        "B,2025-01-02,1,1,1,1,1,bid",
        "C,2025-01-02,1,1,1,1,1,ask",
        header=f"{HEADER},series",
    )
    result = await ingest_file(db, path, series="bid")
    assert (result.inserted, result.rejected) == (2, 1)
    async with db.session_context(read_only=True) as session:
        assert [(line.ticker, line.series) for line in await market_data.coverage(session)] == [
            ("A", "bid"),
            ("B", "bid"),
        ]


async def test_an_empty_cell_clears_and_an_absent_column_keeps(db: DatabaseManager, tmp_path: Path) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [bars.daily("A", source="me"), bars.daily("B", source="me")])
    header = "ticker,date,open,high,low,close,volume"
    path = own(tmp_path / "x.csv", "A,2025-01-02,10,12,9,11,", header=header)
    assert counts(await ingest_file(db, path)) == (0, 1, 0, 0, 0, 0)
    async with db.session_context(read_only=True) as session:
        (bar,) = await market_data.list_daily(session, "A")
    assert (bar.volume, bar.source) == (None, "me")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Australia/Sydney", "America/New_York"])
async def test_a_yfinance_history_keeps_its_days_and_its_numbers(
    db: DatabaseManager, tmp_path: Path, zone: str, ending: str
) -> None:
    frame = pd.DataFrame(
        {
            "Open": [269.2799987792969, float("nan")],
            "High": [270.0, float("nan")],
            "Low": [268.0, float("nan")],
            "Close": [269.0, float("nan")],
            "Volume": [44856900.0, float("nan")],
            "Dividends": [0.25, 0.0],
            "Stock Splits": [1.0, 0.0],
        },
        index=pd.DatetimeIndex(["2025-01-02", "2025-01-03"], tz=zone, name="Date"),
    )
    path = tmp_path / f"7203.T.{ending}"
    frame.to_csv(path) if ending == "csv" else frame.to_parquet(path)
    result = await ingest_file(db, path, ticker="7203.T", price_basis="all")
    assert (counts(result), result.format) == ((1, 0, 0, 1, 0, 0), "yfinance")
    async with db.session_context(read_only=True) as session:
        (bar,) = await market_data.list_daily(session, "7203.T")
    assert (bar.date, bar.open, bar.volume) == (dt.date(2025, 1, 2), Decimal("269.2799987793"), Decimal(44856900))
    assert (bar.dividends, bar.stock_splits) == (Decimal("0.25"), Decimal(0))
    assert (bar.source, bar.price_basis) == ("yfinance", "all")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
async def test_a_yfinance_download_of_minutes_keeps_its_instants(
    db: DatabaseManager, tmp_path: Path, ending: str
) -> None:
    times = pd.DatetimeIndex(["2025-01-02 14:30", "2025-01-02 14:31"], tz="UTC", name="Datetime")
    fields = ["Adj Close", "Close", "High", "Low", "Open", "Volume"]
    columns = pd.MultiIndex.from_product([fields, ["AAPL", "BRK-B"]], names=["Price", "Ticker"])
    frame = pd.DataFrame(100.5, index=times, columns=columns)
    path = tmp_path / f"minutes.{ending}"
    frame.to_csv(path) if ending == "csv" else frame.to_parquet(path)
    result = await ingest_file(db, path, timeframe="60s")
    assert (counts(result), result.left_out) == ((4, 0, 0, 0, 0, 0), ("Adj Close",))
    async with db.session_context(read_only=True) as session:
        found = await market_data.list_intraday(session, "BRK-B", timeframe="1m")
    assert [(bar.datetime, bar.close, bar.price_basis) for bar in found] == [
        (time.to_pydatetime(), Decimal("100.5"), "split") for time in times
    ]


async def test_floats_of_our_own_parquet_are_measurements(db: DatabaseManager, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    prices = pa.array([269.2799987792969, None])
    pq.write_table(
        pa.table(
            {
                "ticker": ["AAPL", "AAPL"],
                "date": pa.array([dt.date(2025, 1, 2), dt.date(2025, 1, 3)]),
                **dict.fromkeys(("open", "high", "low", "close"), prices),
            }
        ),
        path,
    )
    assert counts(await ingest_file(db, path)) == (1, 0, 0, 1, 0, 0)
    async with db.session_context(read_only=True) as session:
        (bar,) = await market_data.list_daily(session, "AAPL")
    assert bar.open == Decimal("269.2799987793")


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
async def test_what_was_exported_is_unchanged_when_it_comes_back(
    db: DatabaseManager, tmp_path: Path, ending: str
) -> None:
    hard = [
        bars.daily("AAPL", source="", volume=None),
        bars.daily("aapl", source='a "quoted", text\r\nof two lines', **bars.flat(Decimal("0.0000000001"))),
        bars.daily("NULL", series="bid", price_basis="raw", **bars.flat(Decimal("-37.63"))),
        bars.daily("NaN", is_final=True, volume=Decimal("0.12345678"), dividends=Decimal("0.25"), stock_splits=4),
        bars.daily('7,"2', is_final=False, observed_at=dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC)),
        bars.daily("ÄÖ€🚀", dt.date(1969, 12, 31), volume=27871099501),
        bars.daily("odd", open=Decimal(1), high=Decimal(0)),
    ]
    minutes = [bars.intraday(datetime=time, timeframe="1m") for time in bars.minutes(3)]
    async with db.session_context() as session:
        assert (await market_data.upsert_daily(session, hard, allow_inconsistent=True)).inserted == len(hard)
        await market_data.upsert_intraday(session, minutes)
    daily, series, intraday = (tmp_path / f"{name}.{ending}" for name in ("daily", "series", "intraday"))
    async with db.session_context(read_only=True) as session:
        of_days = (await market_data.daily_frame(session, [])).schema
        of_minutes = (await market_data.intraday_frame(session, [], timeframe="1m")).schema
        # Batches of two: the file is put together from several.
        assert (
            await write_bars(daily, db.engine.url, of_days, market_data.stream_daily(session, batch_rows=2))
            == len(hard) - 1
        )
        assert await write_bars(series, db.engine.url, of_days, market_data.stream_daily(session, series="bid")) == 1
        assert (
            await write_bars(intraday, db.engine.url, of_minutes, market_data.stream_intraday(session, timeframe="1m"))
            == 3
        )
    for path, rows in ((daily, len(hard) - 1), (series, 1), (intraday, 3)):
        result = await ingest_file(db, path, allow_inconsistent=True)
        assert counts(result) == (0, 0, rows, 0, 0, 0)


async def test_what_the_caller_says_wrongly_is_refused(db: DatabaseManager, tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv")
    with pytest.raises(ConfigurationError, match="price_basis: 'adjusted' is none of 'raw', 'split' and 'all'"):
        await ingest_file(db, path, price_basis="adjusted")
    with pytest.raises(ConfigurationError, match="ticker: 'A ' has blanks"):
        await ingest_file(db, path, ticker="A ")
    with pytest.raises(ConfigurationError, match="series: the text has a NUL or a lone surrogate"):
        await ingest_file(db, path, series="\udcff")
    with pytest.raises(ConfigurationError, match="not a timeframe"):
        await ingest_file(db, path, timeframe="1 minute")
    with pytest.raises(ConfigurationError, match="known are own, yfinance"):
        await ingest_file(db, path, format="stooq")
    with pytest.raises(UnreadableFileError, match="of none of the formats own, yfinance: its columns are 'a', 'b'"):
        await ingest_file(db, own(path, header="a,b"))
