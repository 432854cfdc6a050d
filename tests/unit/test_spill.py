"""The spill file by itself: what is in it comes back equal and in order, and nothing in it is dropped in silence."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import subprocess
import sys
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.bars import DAY, OPENING, daily, intraday
from tests.project import ROOT
from traderrr_data import ConfigurationError
from traderrr_data.ingest.writer import SpillError
from traderrr_data.ingest.writer.accepted import Acceptance, Accepted
from traderrr_data.ingest.writer.spill import Spill

ACCEPTANCE = Acceptance(timeframe="1m", series="", exact_decimals=True, allow_inconsistent=False)


def opened(path: Path, revision: str = "002") -> Spill:
    return Spill(path, revision=revision, known_revisions=["002", "001"])


def row(number: int) -> tuple[str, dict[str, Any]]:
    return "daily_data", {"ticker": f"T{number}"}


def tickers(spill: Spill, start: int | None = None, limit: int = 100) -> list[str]:
    return [record.values["ticker"] for record in spill.read(spill.done if start is None else start, limit)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feed.spill"


def test_rows_come_back_in_their_order(path: Path) -> None:
    with opened(path) as spill:
        ends = spill.append([row(1), row(2)], sync=True) + spill.append([row(3)], sync=False)
        assert tickers(spill) == ["T1", "T2", "T3"]
        assert [record.end for record in spill.read(spill.done, 2)] == ends[:2]
        assert tickers(spill, ends[1]) == ["T3"]
    with opened(path) as spill:
        assert spill.unwritten_rows == 3
        assert tickers(spill) == ["T1", "T2", "T3"]


def test_rows_that_are_done_do_not_come_again(path: Path) -> None:
    with opened(path) as spill:
        ends = spill.append([row(1), row(2), row(3)], sync=False)
        spill.mark_done(ends[0], 1)
        spill.append([row(4)], sync=False)
        spill.mark_done(ends[1], 1)
    with opened(path) as spill:
        assert spill.unwritten_rows == 2
        assert tickers(spill) == ["T3", "T4"]
        spill.clear()
        spill.append([row(5)], sync=False)
        assert tickers(spill) == ["T5"]
    with opened(path) as spill:
        assert spill.unwritten_rows == 1
        assert tickers(spill) == ["T5"]


@pytest.mark.parametrize(
    "given",
    [
        daily(open="0.0000000001", low="-9999999999.9999999999", volume=Decimal("9999999999999999.99999999")),
        daily("é\u20ac😀", source='a "quoted"\n line', volume=None, is_final=False, price_basis="all", dividends=0),
        daily(date=dt.date.max, open=10.1, observed_at=OPENING.replace(microsecond=1)),
        intraday(datetime=dt.datetime(1969, 1, 1, 9, 30, 0, 5, tzinfo=dt.timezone(dt.timedelta(hours=-5)))),
        intraday(datetime=dt.datetime.max.replace(tzinfo=dt.UTC), is_final=True),
    ],
)
def test_a_row_comes_back_equal(path: Path, given: dict[str, Any]) -> None:
    accepted = ACCEPTANCE.check(given)
    with opened(path) as spill:
        spill.append([(accepted.shape.table.name, accepted.values)], sync=False)
        [record] = spill.read(spill.done, 1)
    again = ACCEPTANCE.check_again(record.table, record.values)
    assert again == Accepted(accepted.shape, accepted.values, accepted.key)
    assert list(map(repr, again.values.values())) == list(map(repr, accepted.values.values()))


def test_only_the_owner_may_read_the_files(path: Path) -> None:
    with opened(path) as spill:
        spill.set_aside([(*row(1), "the reason")])
        assert path.stat().st_mode & 0o777 == 0o600
        assert spill.rejected_path.stat().st_mode & 0o777 == 0o600


def test_rows_are_set_aside_with_their_reasons_behind_earlier_ones(path: Path) -> None:
    with opened(path) as spill:
        spill.set_aside([("daily_data", {"date": DAY, "close": Decimal("1.50")}, "one")])
        spill.set_aside([(*row(2), "two"), (*row(3), "three")])
    lines = [json.loads(line) for line in (path.parent / "feed.spill.rejected").read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["one", "two", "three"]
    assert lines[0]["row"] == {"date": "2025-01-02", "close": "1.50"}
    assert dt.datetime.fromisoformat(lines[0]["at"]).tzinfo is not None


def test_a_file_has_one_owner_also_among_processes(path: Path) -> None:
    program = f"""
import pathlib
from traderrr_data import ConfigurationError
from traderrr_data.ingest.writer.spill import Spill
try:
    Spill(pathlib.Path({str(path)!r}), revision="002", known_revisions=["002"])
except ConfigurationError as error:
    print(error)
"""
    with opened(path):
        with pytest.raises(ConfigurationError, match="another writer"):
            opened(path)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "another writer" in done.stdout
    opened(path).close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        opened(tmp_path / "nowhere" / "feed.spill")


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_a_torn_last_record_is_dropped_with_a_word(path: Path, lost: int, caplog: pytest.LogCaptureFixture) -> None:
    """Of a process that was killed while it wrote it: nobody was told that the row is there."""
    with opened(path) as spill:
        spill.append([row(1), row(2)], sync=False)
    os.truncate(path, path.stat().st_size - lost)
    with caplog.at_level(logging.WARNING), opened(path) as spill:
        assert tickers(spill) == ["T1"]
        spill.append([row(3)], sync=False)
        assert tickers(spill) == ["T1", "T3"]
    assert "torn" in caplog.text
    with opened(path) as spill:
        assert spill.unwritten_rows == 2


@pytest.mark.parametrize("place", [0, 3, 12, 25, -1])
def test_a_damaged_record_is_refused_and_the_file_left_alone(path: Path, place: int) -> None:
    with opened(path) as spill:
        start = spill.end
        [end, *_] = spill.append([row(1), row(2), row(3)], sync=False)
    data = bytearray(path.read_bytes())
    data[(start if place >= 0 else end) + place] ^= 1
    path.write_bytes(data)
    with pytest.raises(SpillError, match="damaged"):
        opened(path)
    assert path.read_bytes() == bytes(data)


@pytest.mark.parametrize("content", ["ticker,date\nAAPL,2025-01-02\n", "no line's end", "\n", "00000002 a3830348 {}\n"])
def test_a_file_that_is_no_spill_is_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(SpillError, match="not a spill"):
        opened(path)
    assert path.read_text() == content


def test_the_header_names_the_revision_and_a_newer_one_is_refused(path: Path) -> None:
    opened(path, "001").close()
    assert json.loads(path.read_bytes().splitlines()[0][18:]) == {
        "format": "traderrr_data spill",
        "version": 1,
        "revision": "001",
    }
    with opened(path) as spill:
        spill.append([row(1)], sync=False)
        spill.clear()
    assert b'"002"' in path.read_bytes()
    with pytest.raises(SpillError, match="another version"):
        Spill(path, revision="001", known_revisions=["001"])


def test_what_cannot_be_written_is_not_in_the_file(path: Path) -> None:
    """A limit on the size of files is as good as a full disk."""
    program = f"""
import pathlib, resource, signal
from traderrr_data.ingest.writer import SpillError
from traderrr_data.ingest.writer.spill import Spill
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spill = Spill(pathlib.Path({str(path)!r}), revision="002", known_revisions=["002"])
spill.append([("daily_data", {{"ticker": "T1"}})], sync=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (spill.end + 100, spill.end + 100))
try:
    spill.append([("daily_data", {{"ticker": f"T{{n}}"}}) for n in range(2, 50)], sync=True)
except SpillError as error:
    print(error)
spill.append([("daily_data", {{"ticker": "T50"}})], sync=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be written" in done.stdout
    with opened(path) as spill:
        assert tickers(spill) == ["T1", "T50"]


RECORDS = [
    b"[]",
    b"null",
    b"5",
    b"{",
    b"[" * 100_000,
    b"1" * 5_000,
    b'{"row": {}}',
    b'{"table": "daily_data", "row": []}',
]
MARKS = [
    b'{"done": 1}',
    b'{"done": 1000000, "rows": 1}',
    b'{"done": 0, "rows": 2}',
    b'{"done": "x", "rows": 0}',
    b'{"rows": -1}',
]


@pytest.mark.parametrize("data", [*RECORDS, *MARKS, b'{"table": "metadata", "row": {}}', b'{"table": [], "row": {}}'])
def test_a_record_that_no_writer_makes_is_refused_though_its_sum_is_right(path: Path, data: bytes) -> None:
    with opened(path) as spill:
        spill.append([row(1)], sync=False)
    with path.open("ab") as file:
        file.write(b"%08x %08x %b\n" % (len(data), zlib.crc32(data), data))
    content = path.read_bytes()
    with pytest.raises(SpillError, match="damaged"):
        opened(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_mark_that_does_not_count_the_rows_before_it_is_refused(path: Path, rows: int) -> None:
    with opened(path) as spill:
        first, second, _ = spill.append([row(1), row(2), row(3)], sync=False)
        spill.mark_done(second if rows < 2 else first, rows)
    content = path.read_bytes()
    with pytest.raises(SpillError, match="damaged"):
        opened(path)
    assert path.read_bytes() == content


def test_a_line_without_end_is_refused_before_it_is_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # with holes, which take no room: reading it would take all memory
    with pytest.raises(SpillError, match="damaged"):
        opened(path)
