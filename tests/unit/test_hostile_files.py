"""Files that nobody means well with: no memory for what is packed into them, and no cell that is not what it was."""

from __future__ import annotations

import datetime as dt
import gzip
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.bars import DAY
from tests.project import ROOT
from traderrr_data import DailyData, InvalidRowError
from traderrr_data.bulk import columns
from traderrr_data.bulk.rows import PRICES, check, shape_of
from traderrr_data.ingest import UnreadableFileError
from traderrr_data.ingest.source import open_source

HEADER = b"ticker,date,open,high,low,close,volume\n"
ROW = b"A,2025-01-02,1,1,1,1,1\n"
DAILY = shape_of(DailyData, ("ticker", "series", "date"))
RULES: dict[str, Any] = {"fixed": {"series": ""}, "exact_decimals": True, "on_invalid": "reject"}

MEGABYTE = 1 << 20
MOST_MEGABYTES = 300
BOMBS = {  # what stands at the beginning, and what is repeated for a gigabyte
    "a line": (b"", b"a"),
    "a line of cells": (b"", b"a,"),
    "a line of line feeds": (b"", b"\n"),
    "a line behind the header": (HEADER, b"a"),
    "a quote that is not closed": (HEADER + ROW + b'"', b"a\n"),
    "a line behind many rows": (HEADER + ROW * 200_000, b"a"),
    "a quote behind many rows": (HEADER + ROW * 200_000 + b'"', b"a\n"),
    "a line of cells behind many rows": (HEADER + ROW * 200_000, b","),
    "lines of one cell": (HEADER + ROW * 5, b"a\n"),
}
READING = """
import resource, sys
from pathlib import Path
from traderrr_data.ingest import UnreadableFileError
from traderrr_data.ingest.source import open_source
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[1:]):
    try:
        with open_source(path) as source:
            rows = sum(len(block.numbers) for block in source.blocks(1, 500_000))
        print(path.name, "was read:", rows)
    except UnreadableFileError as error:
        assert path.name in str(error) and len(str(error)) < 1_000, error
        print(path.name, "was refused:", error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


def reading_of(*paths: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", READING, *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def packed(path: Path, beginning: bytes, repeated: bytes, *, megabytes: int = 1024) -> Path:
    """Write a file of a gigabyte, which takes a few megabytes: gzip's members may follow each other."""
    member = gzip.compress(repeated * (MEGABYTE // len(repeated)), 1)
    path.write_bytes(gzip.compress(beginning, 1) + member * megabytes)
    return path


def test_a_gigabyte_packed_into_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    paths = [packed(tmp_path / f"{name}.csv.gz", *content) for name, content in BOMBS.items()]
    lines = reading_of(*paths)
    assert [line for line in lines[::2] if "was refused" not in line] == []
    assert max(map(int, lines[1::2])) < MOST_MEGABYTES


@pytest.mark.parametrize("beginning", [b"", HEADER, HEADER + ROW * 200_000])
def test_a_gigabyte_in_one_line_takes_little_memory(tmp_path: Path, beginning: bytes) -> None:
    path = tmp_path / "x.csv"
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(1 << 30)  # with holes, which take no room
    said, megabytes = reading_of(path)
    assert "was refused" in said
    assert int(megabytes) < MOST_MEGABYTES


def test_line_ends_without_end_are_no_rows(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.csv.gz", HEADER + ROW * 5, b"\n", megabytes=256)
    said, megabytes = reading_of(path)
    assert said == "x.csv.gz was read: 5"
    assert int(megabytes) < MOST_MEGABYTES


def test_misshapen_rows_come_with_their_block(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(HEADER + ROW + b"some,cells\n" * 50_000 + ROW)
    with open_source(path) as source:
        blocks = list(source.blocks(1, 5_000))
    assert max(len(block.misshapen) for block in blocks) < 10_000
    assert [row.number for block in blocks for row in block.misshapen] == list(range(2, 50_002))
    assert [number for block in blocks for number in block.numbers] == [1, 50_002]


def test_misshapen_rows_keep_their_cells_whatever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    long = "x" * 200_000  # more than Python's csv takes
    path.write_bytes(HEADER + ROW * 3 + f'A,B\n"a\n""b",c\n{long},1\n'.encode())
    with open_source(path) as source:
        rows = [row for block in source.blocks(1, 500_000) for row in block.misshapen]
    assert [(row.number, row.cells) for row in rows] == [(4, ["A", "B"]), (5, ['a\n"b', "c"]), (6, [f"{long},1"])]


@pytest.mark.parametrize("row", [b"\xff\xfe,2025-01-02,1,1,1,1,1\n", b"\xff\xfe,1\n", b'A,"\xff'])
def test_what_is_no_text_is_said(tmp_path: Path, row: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(HEADER + ROW * 10_000 + row)
    with pytest.raises(UnreadableFileError, match="is not UTF-8 text"), open_source(path) as source:
        list(source.blocks(1, 500_000))


def of_bytes(kind: pa.DataType, offset: type[Any]) -> pa.Array:
    """Return bytes that call themselves text."""
    offsets = pa.py_buffer(np.array([0, 2], offset))
    return pa.Array.from_buffers(kind, 1, [None, offsets, pa.py_buffer(b"\xff\xfe")])


ODD_CELLS = {
    "bytes that call themselves text": of_bytes(pa.string(), np.int32),
    "the same, large": of_bytes(pa.large_string(), np.int64),
    "the same, in a dictionary": of_bytes(pa.string(), np.int32).dictionary_encode(),
    "bytes": pa.array([b"A"]),
    "bytes in view": pa.array([b"A"], pa.binary_view()),
    "a list": pa.array([["A"]]),
    "a list in view": pa.array([["A"]], pa.list_view(pa.string())),
    "a struct": pa.array([{"a": 1}]),
    "a struct of nothing": pa.array([{}], pa.struct([])),
    "a map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "a time": pa.array([5], pa.time32("s")),
    "a duration": pa.array([5], pa.duration("ns")),
    "months and days": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    "a far-off date": pa.array([2**31 - 1], pa.date32()),
    "a date before all": pa.array([-(2**31)], pa.date32()),
    "a far-off instant": pa.array([2**62], pa.timestamp("s", "UTC")),
    "a far-off time without a zone": pa.array([2**62], pa.timestamp("s")),
    "an instant before all": pa.array([-(2**63)], pa.timestamp("ns", "America/New_York")),
    "an instant too fine": pa.array([1], pa.timestamp("ns", "UTC")),
    "an unknown zone": pa.array([0], pa.timestamp("us", "Nonsense/Zone")),
    "an unknown offset": pa.array([0], pa.timestamp("us", "+25:99")),
    "an infinity": pa.array([float("inf")]),
    "a small infinity": pa.array([float("-inf")], pa.float16()),
    "a large number": pa.array([Decimal(10) ** 30], pa.decimal128(38, 0)),
    "a larger number": pa.array([Decimal(10) ** 60], pa.decimal256(70, 0)),
    "a long text": pa.array(["x" * 100_000]),
    "a NUL": pa.array(["a\0b"]),
}


PLAIN: dict[str, pa.Array] = {
    "ticker": pa.array(["A"]),
    "date": pa.array([DAY]),
    **{price: pa.array([1.0]) for price in PRICES},
    "volume": pa.array([1]),
    "is_final": pa.array([True]),
    "observed_at": pa.array([0], pa.timestamp("us", "UTC")),
    "source": pa.array(["s"]),
}


@pytest.mark.parametrize("name", ["ticker", "date", "open", "volume", "is_final", "observed_at", "source"])
def test_a_cell_that_no_column_takes_is_named(name: str) -> None:
    for odd, cell in ODD_CELLS.items():
        few = check(pa.table(PLAIN | {name: cell}), DAILY, **RULES)
        assert ([(bad.row, bad.column) for bad in few.rejected], few.rows, odd) == ([(0, name)], [], odd)


@pytest.mark.parametrize("name", ["ticker", "date", "open", "volume", "is_final", "observed_at", "source"])
def test_columns_take_no_cell_that_rows_do_not(name: str) -> None:
    for cell in ODD_CELLS.values():
        many = {column: array.take(pa.array([0] * 1_000)) for column, array in PLAIN.items()}
        many["date"] = pa.array([DAY + dt.timedelta(days=day) for day in range(1_000)])
        with pytest.raises(columns.UNDECIDED):
            columns.check(pa.table(many | {name: pa.concat_arrays([cell] * 1_000)}), DAILY, **RULES)


def test_one_cell_that_is_no_text_spoils_only_its_row() -> None:
    source = pa.concat_arrays([pa.array(["a"]), ODD_CELLS["bytes that call themselves text"], pa.array(["c"])])
    prices = {price: [1.0, 1.0, 1.0] for price in PRICES}
    frame = pa.table({"ticker": ["A", "B", "C"], "date": [DAY] * 3, "source": source, **prices})
    batch = check(frame, DAILY, **RULES)
    assert [row["source"] for row in batch.rows] == ["a", "c"]
    [refused] = batch.rejected
    assert (refused.row, refused.column) == (1, "source")
    with pytest.raises(InvalidRowError, match="row 1, column 'source'"):
        check(frame, DAILY, **{**RULES, "on_invalid": "raise"})
