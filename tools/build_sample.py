"""Builds ``traderrr_data/sample/bars.csv.gz``, the bars of ``traderrr-data quickstart``, from zipline-reloaded's sdist.

::

    pip download --no-deps --no-binary zipline-reloaded zipline-reloaded==3.2.1
    pip install blosc
    python tools/build_sample.py zipline_reloaded-3.2.1.tar.gz           # writes the file
    python tools/build_sample.py zipline_reloaded-3.2.1.tar.gz --check   # compares it instead

The output is a function of the sdist, whose digest is checked: the same bytes with the same zlib, the same CSV inside
with any other. A number that is not what is said here ends the build with a ValueError; nothing is left out in silence.

Three test resources of the sdist are read, and each holds its numbers in its own way:

- The bundle in ``example_data.tar.gz`` (AAPL AMD CERN COST GPS INTC MMM MSFT). Prices are as traded, in thousandths of
  a dollar, but cut off instead of rounded: 48.639999 became 48639. All end in 0 or 9, so the cent is known. Volumes and
  dividends are adjusted for later splits: 10,453,900 shares before Apple's 7:1 are 73,177,300 here, and 3.05 dollars
  are 0.43571. Both are taken back: the volumes divide without remainder, the dividends return to a whole cent.
- ``csvdir_samples`` (IBM KO). Prices are float32 of whole cents (186.729996). They are adjusted for later splits, too,
  of which the period has none. (Its AAPL and MSFT, which are not used, agree with the bundle in every bar.)
- Quandl's table WIKI/PRICES in ``quandl_samples`` (BRK_A, which the exchange calls BRK.A, and ZEN; 2014 only). All of
  it is as traded and is copied digit by digit. (Its AAPL and MSFT, which are not used, agree with the bundle up to the
  rounding to a cent in all but a few bars, where the providers differ.)
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["blosc>=1.11"]
# ///

from __future__ import annotations

import argparse
import csv
import datetime as dt
import gzip
import hashlib
import io
import json
import math
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import blosc  # type: ignore[import-untyped, import-not-found, unused-ignore]  # no stubs, and only needed here

SDIST_SHA256 = "f8e630985da613dff74800fda693bb926fe72b286c3e53fc747049f4a29fcd2a"
RESOURCES = "zipline_reloaded-3.2.1/tests/resources"
START, END = dt.date(2013, 1, 1), dt.date(2015, 1, 1)  # START <= date < END
BUNDLE_TICKERS = frozenset({"AAPL", "AMD", "CERN", "COST", "GPS", "INTC", "MMM", "MSFT"})  # and not DELL: see NOTICE
CSVDIR_TICKERS = ("IBM", "KO")
QUANDL_TICKERS = {"BRK_A": "BRK.A", "ZEN": "ZEN"}
OUTPUT = Path(__file__).resolve().parent.parent / "traderrr_data" / "sample" / "bars.csv.gz"


class Bar(NamedTuple):
    """One line of the CSV; the fields are its header."""

    ticker: str
    date: dt.date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    dividends: Decimal
    stock_splits: Decimal


def read_sdist(path: Path) -> dict[str, bytes]:
    """Returns the files of ``tests/resources`` and those of the bundle inside, each by its path below its folder."""
    content = path.read_bytes()
    _require(hashlib.sha256(content).hexdigest() == SDIST_SHA256, f"{path.name} is another file than 3.2.1's sdist")
    files = _untar(content, RESOURCES)
    return files | _untar(files["example_data.tar.gz"], "example_data/root/data/test")


def _untar(content: bytes, folder: str) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [m for m in archive if m.isfile() and PurePosixPath(m.name).is_relative_to(folder)]
        opened = ((m.name, archive.extractfile(m)) for m in members)
        return {name.removeprefix(f"{folder}/"): file.read() for name, file in opened if file is not None}


def bundle_bars(files: dict[str, bytes]) -> Iterator[Bar]:
    """Yields the bars of the bundle: columns compressed by bcolz, beside two SQLite files."""
    (assets,) = (name for name in files if PurePosixPath(name).name == "assets-7.sqlite")
    root = str(PurePosixPath(assets).parent)
    with closing(_database(files[assets])) as db:
        symbols = dict(db.execute("SELECT sid, symbol FROM equity_symbol_mappings"))
    splits, paid = _events(files[f"{root}/adjustments.sqlite"])
    table = f"{root}/daily_equities.bcolz"
    columns = [_column(files, f"{table}/{name}") for name in ("id", "day", "open", "high", "low", "close", "volume")]
    days: set[tuple[int, dt.date]] = set()
    for sid, day, open_, high, low, close, volume in zip(*columns, strict=True):
        date = _day(day)
        if symbols[sid] not in BUNDLE_TICKERS or not START <= date < END:
            continue
        days.add((sid, date))
        later = math.prod(factor for (other, at), factor in splits.items() if other == sid and at > date)
        _require(volume % (100 * later) == 0, (symbols[sid], date, volume))
        yield Bar(
            ticker=symbols[sid],
            date=date,
            open=_cents(open_),
            high=_cents(high),
            low=_cents(low),
            close=_cents(close),
            volume=volume // later,
            dividends=_as_paid(paid[sid, date], later) if (sid, date) in paid else Decimal(0),
            stock_splits=Decimal(splits.get((sid, date), 0)),
        )
    for sid, date in splits.keys() | paid.keys():
        if symbols[sid] in BUNDLE_TICKERS and START <= date < END:
            _require((sid, date) in days, f"{symbols[sid]} has no bar on {date}, the day of a split or a dividend")


def _events(content: bytes) -> tuple[dict[tuple[int, dt.date], int], dict[tuple[int, dt.date], Decimal]]:
    """Returns the splits (new shares per old one) and the dividends of the bundle, by security and ex-date."""
    with closing(_database(content)) as db:
        ratios = db.execute("SELECT sid, effective_date, ratio FROM splits").fetchall()
        amounts = db.execute("SELECT sid, ex_date, amount FROM dividend_payouts").fetchall()
    splits = {(sid, _day(at)): round(1 / ratio) for sid, at, ratio in ratios}
    paid = {(sid, _day(at)): Decimal(repr(amount)) for sid, at, amount in amounts}
    _require(all(abs(round(1 / ratio) * ratio - 1) < 1e-9 for _, _, ratio in ratios), "a split that is not n:1")
    _require(len(splits) == len(ratios) and len(paid) == len(amounts), "two splits or two dividends on one day")
    return splits, paid


def _database(content: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content)
    return connection


def _column(files: dict[str, bytes], folder: str) -> tuple[int, ...]:
    """Decodes one bcolz column of uint32: a single chunk behind bloscpack's header of 16 bytes, padded at its end."""
    rows = json.loads(files[f"{folder}/meta/sizes"])["shape"][0]
    chunk = files[f"{folder}/data/__0.blp"]
    _require(chunk[:4] == b"blpk", folder)
    return struct.unpack_from(f"<{rows}I", blosc.decompress(chunk[16:]))


def _day(seconds: int) -> dt.date:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).date()


def _cents(thousandths: int) -> Decimal:
    cents, rest = divmod(thousandths, 10)
    _require(rest in {0, 9}, thousandths)
    return Decimal(cents + (rest == 9)).scaleb(-2)


def _as_paid(amount: Decimal, later: int) -> Decimal:
    """Returns the dividend per share as it was paid, from the five decimals that a later split has left of it."""
    if later == 1:
        return amount
    paid = (amount * later).quantize(Decimal("0.01"))
    _require(abs(paid / later - amount) <= Decimal("0.000005"), (amount, later))
    return paid


def csvdir_bars(files: dict[str, bytes]) -> Iterator[Bar]:
    """Yields the bars of the CSV files; a split of 1 means none there."""
    for ticker in CSVDIR_TICKERS:
        text = gzip.decompress(files[f"csvdir_samples/csvdir/daily/{ticker}.csv.gz"]).decode("ascii")
        for row in csv.DictReader(io.StringIO(text)):
            date = dt.date.fromisoformat(row["date"])
            if not START <= date < END:
                continue
            _require(Decimal(row["split"]) == 1, (ticker, date))  # or what comes before it would be adjusted
            yield Bar(
                ticker=ticker,
                date=date,
                open=_nearest_cent(row["open"]),
                high=_nearest_cent(row["high"]),
                low=_nearest_cent(row["low"]),
                close=_nearest_cent(row["close"]),
                volume=int(row["volume"]),
                dividends=_amount(row["dividend"]),
                stock_splits=Decimal(0),
            )


def _nearest_cent(text: str) -> Decimal:
    price = Decimal(text)
    cents = price.quantize(Decimal("0.01"))
    _require(abs(price - cents) <= Decimal("0.000008"), text)  # half a unit in the last place of a float32 below 256
    return cents


def _amount(text: str) -> Decimal:
    return Decimal(text) or Decimal(0)  # 0, not 0.0


def quandl_bars(files: dict[str, bytes]) -> Iterator[Bar]:
    """Yields the bars of Quandl's table; a split ratio of 1 means none there."""
    with zipfile.ZipFile(io.BytesIO(files["quandl_samples/QUANDL_ARCHIVE.zip"])) as archive:
        text = archive.read("QUANDL_SAMPLE_TABLE.csv").decode("ascii")
    for row in csv.DictReader(io.StringIO(text)):
        date = dt.date.fromisoformat(row["date"])
        if row["ticker"] not in QUANDL_TICKERS or not START <= date < END:
            continue
        volume, split = Decimal(row["volume"]), Decimal(row["split_ratio"])
        _require(volume == int(volume), row)
        yield Bar(
            ticker=QUANDL_TICKERS[row["ticker"]],
            date=date,
            open=Decimal(row["open"]),
            high=Decimal(row["high"]),
            low=Decimal(row["low"]),
            close=Decimal(row["close"]),
            volume=int(volume),
            dividends=_amount(row["ex-dividend"]),
            stock_splits=Decimal(0) if split == 1 else split,
        )


def to_csv(bars: Iterable[Bar]) -> bytes:
    """Returns the bars as CSV, ordered by ticker and date, after checking what every bar must fulfil."""
    ordered = sorted(bars)
    _require(len({(bar.ticker, bar.date) for bar in ordered}) == len(ordered), "a bar is there twice")
    for bar in ordered:
        _require(0 < bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high, bar)
        _require(bar.volume > 0, bar)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Bar._fields)
    writer.writerows(ordered)
    return buffer.getvalue().encode("ascii")


def to_gzip(content: bytes) -> bytes:
    """Returns `content` compressed, without the time and the file name that would make each run differ."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def _require(holds: bool, what: object) -> None:
    if not holds:
        raise ValueError(f"not what this script was written for: {what}")


def main() -> None:
    """Writes the file, or with ``--check`` compares it and exits with status 1 if its content differs."""
    parser = argparse.ArgumentParser(description="Build the bars that `traderrr-data quickstart` stores.")
    parser.add_argument("sdist", type=Path, help="the path of zipline_reloaded-3.2.1.tar.gz")
    parser.add_argument("--check", action="store_true", help="compare with the file that is there, write nothing")
    arguments = parser.parse_args()
    files = read_sdist(arguments.sdist)
    content = to_csv([*bundle_bars(files), *csvdir_bars(files), *quandl_bars(files)])
    packed = to_gzip(content)
    if not arguments.check:
        OUTPUT.write_bytes(packed)
        print(f"{OUTPUT.name}: {len(content.splitlines()) - 1} bars, {len(packed)} bytes")
    elif gzip.decompress(OUTPUT.read_bytes()) != content:
        parser.exit(1, f"{OUTPUT.name} differs from what the source gives\n")
    else:
        print(f"{OUTPUT.name}: same content, {'same' if OUTPUT.read_bytes() == packed else 'other'} compressed bytes")


if __name__ == "__main__":
    main()
