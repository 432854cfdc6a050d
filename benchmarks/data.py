"""The bars that are stored: made up, the same ones in every run, as Arrow columns, as dicts and as plain rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Row: TypeAlias = Mapping[str, Any]
Given: TypeAlias = pa.Table | Sequence[Row]
"""A batch as a caller has it: an Arrow table, or dicts with Decimals."""
Digest: TypeAlias = tuple[int, ...]
"""The number of rows, then the sum of each column of `DECIMALS` in its last decimal, then that of the volumes."""

KEY: Final = ("ticker", "date")
DECIMALS: Final = ("open", "high", "low", "close", "dividends", "stock_splits")
VALUES: Final = ("open", "high", "low", "close", "volume", "dividends", "stock_splits")
COLUMNS: Final = (*KEY, *VALUES)
"""What an ingestor has of a daily bar."""

MINUTE_VALUES: Final = ("open", "high", "low", "close", "volume")
MINUTE_COLUMNS: Final = ("ticker", "datetime", *MINUTE_VALUES)
"""What a live feed has of a bar of a minute."""
STORED: Final = (*COLUMNS, "series", "source", "price_basis", "is_final", "observed_at")
"""What is read of a daily bar."""

SCALE: Final = 4
UNIT: Final = 10**SCALE
DAYS_A_TICKER: Final = 2_000
_PRICE: Final = pa.decimal128(18, SCALE)
_LAST_SESSION: Final = dt.date(2025, 12, 31)
_SEED: Final = 20251231

_Units: TypeAlias = npt.NDArray[np.int64]


def daily_bars(rows: int) -> pa.Table:
    """Return so many bars, by ticker and date, 2,000 a ticker; a few rows are still several tickers."""
    days = max(1, min(DAYS_A_TICKER, rows // 5))
    return bars_of(-(-rows // days), days).slice(0, rows)


def bars_of(tickers: int, days: int, *, first: int = 0) -> pa.Table:
    """Return so many sessions of so many tickers, by ticker and date.

    Args:
        tickers: how many.
        days: of each, up to the last session of 2025.
        first: the first ticker's number.
    """
    random = np.random.default_rng([_SEED, first])
    session = np.arange(days)
    pays = (session + np.arange(tickers)[:, None]) % 63 == 62
    splits = random.random((tickers, days)) < 0.0005
    dates = np.busday_offset(np.datetime64(_LAST_SESSION, "D"), session - days + 1, roll="backward")
    return pa.table(
        {
            "ticker": _tickers(tickers, days, first),
            "date": pa.array(np.tile(dates, tickers)),
            **_walk(random, tickers, days),
            "dividends": decimals(np.where(pays, 2_500, 0).ravel()),
            "stock_splits": decimals(np.where(splits, 2 * UNIT, 0).ravel()),
        }
    )


def minutes_of(tickers: int, minutes: int, *, first: int = 0, since: dt.datetime) -> pa.Table:
    """Return so many bars of a minute of so many tickers, by ticker and time; `since` is the first one's start."""
    start = np.datetime64(since.replace(tzinfo=None), "us")
    times = start + np.arange(minutes) * np.timedelta64(60, "s")
    return pa.table(
        {
            "ticker": _tickers(tickers, minutes, first),
            "datetime": pa.array(np.tile(times, tickers)).cast(pa.timestamp("us", "UTC")),
            **_walk(np.random.default_rng([_SEED, first, minutes]), tickers, minutes),
        }
    )


def _tickers(tickers: int, bars: int, first: int) -> pa.Array:
    names = [f"T{number:05d}" for number in range(first, first + tickers)]
    return pa.array(names).take(pa.array(np.repeat(np.arange(tickers), bars)))


def _walk(random: np.random.Generator, tickers: int, bars: int) -> dict[str, pa.Array]:
    """Return prices at random, in order within each bar, and volumes."""
    shape = (tickers, bars)
    # Prices have two to four decimals, as those of stocks, currencies and funds have.
    tick = 10 ** random.integers(0, 3, (tickers, 1))
    close = random.uniform(5, 500, (tickers, 1)) * np.exp(np.cumsum(random.normal(0, 0.01, shape), axis=1))
    close = np.clip(close, 1, 100_000)
    opened = close * np.exp(random.normal(0, 0.004, shape))
    high = np.maximum(opened, close) * (1 + np.abs(random.normal(0, 0.004, shape)))
    low = np.minimum(opened, close) * (1 - np.abs(random.normal(0, 0.004, shape)))
    prices = {"open": opened, "high": high, "low": low, "close": close}
    units = {name: np.maximum(np.rint(price * UNIT / tick), 1) * tick for name, price in prices.items()}
    columns = {name: decimals(price.astype(np.int64).ravel()) for name, price in units.items()}
    return {**columns, "volume": pa.array(random.integers(1_000, 50_000_000, shape).ravel())}


def mixture(bars: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return what is stored, and a batch of which a tenth differs from it and another tenth is not in it.

    New are the last sessions, as after a day's trading; the changed rows lie anywhere.
    """
    days = pc.rank(bars["date"], "descending", tiebreaker="dense").to_numpy()
    new = days <= max(1, round(days.max() * 0.1))
    stored = bars.filter(pa.array(~new))
    return stored, corrected(bars, pa.array((np.arange(bars.num_rows) * 7919 % 10 == 0) & ~new))


def all_changed(bars: pa.Table) -> pa.Table:
    """Return a batch in which every bar differs."""
    return corrected(bars, pa.repeat(True, bars.num_rows))


def corrected(bars: pa.Table, which: pa.Array) -> pa.Table:
    """Return the bars with a cent more in high and close where told, as a provider corrects them."""
    for name in ("high", "close"):
        units = units_of(bars[name]) + np.where(which.to_numpy(zero_copy_only=False), 100, 0)
        bars = bars.set_column(bars.column_names.index(name), name, decimals(units))
    return bars


def decimals(units: _Units) -> pa.Array:
    """Return whole numbers of the last decimal as exact decimals."""
    halves = np.empty((len(units), 2), np.int64)  # a decimal128 is 128 bits, the lower half first
    halves[:, 0], halves[:, 1] = units, units >> 63
    return pa.Array.from_buffers(_PRICE, len(units), [None, pa.py_buffer(halves)])


def units_of(column: pa.ChunkedArray) -> _Units:
    """Return decimals as whole numbers of their last decimal; they have no nulls and fit 64 bits."""
    array = column.cast(_PRICE).combine_chunks() if column.type != _PRICE else column.combine_chunks()
    halves = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, 2)
    return halves[array.offset : array.offset + len(array), 0]


def as_dicts(bars: pa.Table) -> list[Row]:
    """Return the bars as dicts with Decimals."""
    return bars.to_pylist()  # type: ignore[no-any-return] # Arrow says nothing about its types


def as_tuples(given: Given) -> list[tuple[Any, ...]]:
    """Return a batch as rows in the order of `COLUMNS`: what a driver takes."""
    if isinstance(given, pa.Table):
        return list(zip(*(given[name].to_pylist() for name in COLUMNS), strict=True))
    return list(map(itemgetter(*COLUMNS), given))


def as_rows(given: Given) -> Sequence[Row]:
    """Return a batch as dicts: what SQLAlchemy takes."""
    return as_dicts(given) if isinstance(given, pa.Table) else given


def as_columns(given: Given) -> pa.Table:
    """Return a batch as Arrow columns."""
    if isinstance(given, pa.Table):
        return given
    kinds = dict.fromkeys(DECIMALS, _PRICE) | {"ticker": pa.string(), "date": pa.date32(), "volume": pa.int64()}
    return pa.table({name: pa.array([row[name] for row in given], kinds[name]) for name in COLUMNS})


def digest_of(bars: pa.Table) -> Digest:
    """Return what tells whether the same bars were stored."""
    return (bars.num_rows, *(int(units_of(bars[name]).sum()) for name in DECIMALS), pc.sum(bars["volume"]).as_py() or 0)


def digest_of_read(read: Any) -> Digest:
    """Return the same of what a reader returned: an Arrow table, a data frame, or columns by name."""
    columns = read if isinstance(read, pa.Table | Mapping) else {str(name): read[name].tolist() for name in read}
    return (
        len(columns["ticker"]),
        *(_sum(columns[name], UNIT) for name in DECIMALS),
        _sum(columns["volume"], 1),
    )


def _sum(column: Any, unit: int) -> int:
    cells = column.to_pylist() if isinstance(column, pa.ChunkedArray) else column
    return sum(round(Decimal(str(cell)) * unit) for cell in cells)
