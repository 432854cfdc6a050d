"""Files of every format that `ingest_file` and `bar_writer` read, made of cells that are partly bad, partly damaged."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.cells import OF_COLUMN, cell, damaged
from traderrr_data import schema
from traderrr_data.ingest.writer.spill import _framed

FIELDS: Final = ["Open", "High", "Low", "Close", "Volume", "Dividends", "Stock Splits", "Adj Close", "Capital Gains"]
OURS: Final = {"Stock Splits": "stock_splits", "Adj Close": "close", "Capital Gains": "dividends"}


@dataclass
class Case:
    """A file, and what is said of it.

    Attributes:
        name: of the file.
        data: its bytes.
        options: of `ingest_file`.
        rows: what was written, by column name, if nothing was damaged and every row has its own ticker; else None.
    """

    name: str
    data: bytes
    options: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, str]] | None = None

    def write(self, folder: Path) -> Path:
        """Write the file."""
        path = folder / self.name
        path.write_bytes(self.data)
        return path


def any_case(chance: random.Random) -> Case:
    """Return a file of any format."""
    made = chance.choice(MAKERS)(chance)
    if chance.random() < 0.3:
        made.data, made.rows = damaged(chance, made.data), None
    if made.name.endswith(".csv") and chance.random() < 0.2:
        made.name, made.data = f"{made.name}.gz", gzip.compress(made.data, 1)
        if chance.random() < 0.3:
            made.data, made.rows = damaged(chance, made.data), None
    return made


def _options(chance: random.Random, **usual: str) -> dict[str, Any]:
    odd = {
        "ticker": "A",
        "timeframe": "1m",
        "price_basis": "raw",
        "series": "bid",
        "format": chance.choice(["own", "yfinance"]),
        "allow_inconsistent": True,
    }
    said = {name: value for name, value in odd.items() if chance.random() < 0.1}
    return {name: value for name, value in usual.items() if chance.random() < 0.9} | said


def own_csv(chance: random.Random) -> Case:
    """Return a file with our own columns."""
    time = chance.choice(["date", "datetime"])
    columns = ["ticker", time, "open", "high", "low", "close"]
    absent = {"date", "datetime", *(["timeframe"] if time == "date" else ["dividends", "stock_splits"])}
    columns += [name for name in OF_COLUMN if name not in {*columns, *absent} and chance.random() < 0.3]
    if chance.random() < 0.1:
        columns += [chance.choice([*OF_COLUMN, "nonsense", "", "created_at"])]
    chance.shuffle(columns)
    rows = [
        {name: cell(chance, name, number) for name in columns} for number in range(chance.choice([0, 1, 5, 40, 1_500]))
    ]
    options = _options(chance, **({"timeframe": "1m"} if time == "datetime" and "timeframe" not in columns else {}))
    comparable = len(set(columns)) == len(columns) and not options.keys() & {
        "ticker",
        "price_basis",
        "series",
        "format",
    }
    written = _csv(chance, [columns, *([row[name] for name in columns] for row in rows)])
    return Case("own.csv", written, options, rows if comparable else None)


def _csv(chance: random.Random, rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    # Python's csv would leave an end of a line alone that is not its own.
    everything = any("\r" in cell or "\n" in cell for row in rows for cell in row) or chance.random() < 0.5
    csv.writer(
        text,
        lineterminator=chance.choice(["\n", "\r\n", "\r"]),
        quoting=csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL,
    ).writerows(rows)
    return chance.choice([b"", b"", b"\xef\xbb\xbf"]) + text.getvalue().encode("utf-8", "replace")


def yfinance_csv(chance: random.Random) -> Case:
    """Return what `history()` or `download()` saves."""
    time = chance.choice(["Date", "Datetime"])
    fields = [name for name in FIELDS if name in FIELDS[:4] or chance.random() < 0.5]
    tickers = [f"T{number}" for number in range(chance.choice([1, 2, 5]))] if chance.random() < 0.5 else [""]
    columns = [(ticker, name) for ticker in tickers for name in fields if chance.random() < 0.99]
    if tickers == [""]:
        header = [[time, *(name for _, name in columns)]]
    else:
        levels = [["Price", *(name for _, name in columns)], ["Ticker", *(ticker for ticker, _ in columns)]]
        chance.shuffle(levels)
        header = [*levels, *([[time, *([""] * len(columns))]] if chance.random() < 0.9 else [])]
    body = [
        [
            cell(chance, time.lower(), number),
            *(cell(chance, OURS.get(name, name.lower()), number) for _, name in columns),
        ]
        for number in range(chance.choice([0, 1, 5, 40]))
    ]
    usual = {"timeframe": "1m"} if time == "Datetime" else {}
    usual |= {"ticker": "A"} if tickers == [""] else {}
    usual |= {} if "Adj Close" in fields else {"price_basis": "all"}
    return Case("yfinance.csv", _csv(chance, [*header, *body]), _options(chance, **usual))


def _arrays(chance: random.Random, rows: int) -> list[pa.Array]:
    day = dt.date(2025, 1, 2)
    instants = [dt.datetime(2025, 1, 2, tzinfo=dt.UTC)] * rows
    numbers = [chance.choice([1.5, 0.0, float("nan"), float("inf"), 1e300, None]) for _ in range(rows)]
    texts = [chance.choice(["A", "", None, "x" * 500, "2025-01-02", "1.5"]) for _ in range(rows)]
    return [
        pa.array(numbers, pa.float64()),
        pa.array([None if number is None else 1.5 for number in numbers], pa.float32()),
        pa.array([chance.choice([0, 1, -(2**63), 2**63 - 1, None]) for _ in range(rows)], pa.int64()),
        pa.array([chance.choice([0, 2**64 - 1]) for _ in range(rows)], pa.uint64()),
        pa.array([chance.choice([0, 2**31 - 1, -(2**31), 20_000]) for _ in range(rows)], pa.date32()),
        pa.array([day] * rows, pa.date64()),
        *(pa.array(instants, pa.timestamp(unit, zone)) for unit in ("s", "us", "ns") for zone in ("UTC", None)),
        pa.array([chance.choice([2**62, -(2**63), 0]) for _ in range(rows)], pa.timestamp("us", "UTC")),
        pa.array(texts, pa.string()),
        pa.array(texts, pa.large_string()),
        pa.array(texts, pa.string()).dictionary_encode(),
        pa.array([b"\xff"] * rows),
        pa.array([[1]] * rows),
        pa.array([{"a": 1}] * rows, pa.struct([("a", pa.int64())])),
        pa.nulls(rows),
        pa.array([chance.choice([True, None]) for _ in range(rows)], pa.bool_()),
        pa.array([5] * rows, pa.duration("us")),
        pa.array([None] * rows, pa.decimal128(38, 30)),
        pa.array([10**30] * rows, pa.decimal256(60, 2)),
    ]


def parquet(chance: random.Random) -> Case:
    """Return a Parquet file with our own columns or yfinance's, some of them of types that nobody expects."""
    rows = chance.choice([0, 1, 7, 1_200])
    days = [dt.date(2000, 1, 1) + dt.timedelta(days=number) for number in range(rows)]
    times = pa.array(days, pa.date32()).cast(pa.timestamp("ns")) if chance.random() < 0.5 else pa.array(days)
    usual: dict[str, Any] = {"ticker": pa.array(["A"] * rows, pa.string()), "date": times}
    names = ["open", "high", "low", "close", "volume"]
    own = chance.random() < 0.6
    if not own:
        usual, names = {"Date": times}, FIELDS[: chance.choice([4, 5, 7, 8])]
    columns = usual | {name: pa.array([10.5] * rows, pa.float64()) for name in names}
    if own:
        columns |= {
            name: chance.choice(_arrays(chance, rows)) for name in ("source", "is_final") if chance.random() < 0.2
        }
    for name in columns:
        if chance.random() < 0.15:
            columns[name] = chance.choice(_arrays(chance, rows))
    table = pa.table(list(columns.values()), names=[*list(columns)[:-1], chance.choice([list(columns)[-1], "", "x"])])
    sink = io.BytesIO()
    packing = chance.choice(["none", "snappy", "gzip", "zstd"])
    pq.write_table(table, sink, compression=packing, row_group_size=chance.choice([1, 500, 10_000]))
    said = {} if own else {"ticker": "A", "price_basis": "all"}
    return Case("bars.parquet", sink.getvalue(), _options(chance, **said))


def spill(chance: random.Random) -> Case:
    """Return a writer's file, with rows and marks that no writer makes."""
    header = {"format": "traderrr_data spill", "version": 1, "revision": schema.head()}
    lines = [_framed(header if chance.random() < 0.95 else {"format": chance.choice(["", 1, None, []])})]
    for number in range(chance.choice([0, 1, 5, 40])):
        table = chance.choice(["daily_data"] * 5 + ["intraday_data", "metadata", "", None])
        columns = ["ticker", "datetime" if table == "intraday_data" else "date", "open", "high", "low", "close"]
        row: Any = {name: cell(chance, name, number) for name in columns} | {"series": "", "timeframe": "1m"}
        if table != "intraday_data":
            del row["timeframe"]
        if chance.random() < 0.1:
            row[chance.choice([*columns, "x"])] = chance.choice(
                [None, 1.5, float("nan"), 10**40, [], {}, True, "A" * 3_000]
            )
        content: Any = {"table": table, "row": chance.choice([row] * 30 + [None, [], "row"])}
        if chance.random() < 0.1:
            content = {
                "done": chance.choice([sum(map(len, lines)), -1, 0, 10**9, "x", None]),
                "rows": chance.choice([0, 1, number, -1]),
            }
        line = _framed(content)
        if chance.random() < 0.05:
            data = chance.choice([b"[]", b"null", b"{", b"[" * 100_000, b"1" * 5_000, b'{"row": {}}', b'{"done": 1}'])
            line = b"%08x %08x %b\n" % (len(data), zlib.crc32(data), data)
        lines.append(line)
    return Case("feed.spill", b"".join(lines))


def noise(chance: random.Random) -> Case:
    """Return bytes of no format."""
    name = chance.choice(["x.csv", "x.csv.gz", "x.parquet", "x.spill"])
    start = chance.choice(
        [b"", b"PAR1", b"\x1f\x8b\x08\0", b"ticker,date,open,high,low,close\n", b"Date,Open,High,Low,Close,Volume\n"]
    )
    return Case(name, start + chance.randbytes(chance.choice([0, 1, 20, 3_000])) + chance.choice([b"", b"PAR1", b"\n"]))


MAKERS: Final[list[Callable[[random.Random], Case]]] = [own_csv, own_csv, yfinance_csv, parquet, spill, noise]
