"""Whole columns as PostgreSQL's COPY BINARY takes them, without an object for any cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.data import VALUES, units_of

_Wire: TypeAlias = npt.NDArray[Any]


def integers(column: pa.ChunkedArray) -> _Wire:
    """Encode a column as int8: decimals in their last decimal."""
    values = units_of(column) if pa.types.is_decimal(column.type) else column.to_numpy()
    return values.astype(">i8")


def numerics(units: npt.NDArray[np.int64]) -> _Wire:
    """Encode numbers below 10**12 with four decimals as PostgreSQL's NUMERIC: digits of base 10,000."""
    wire = np.empty(len(units), np.dtype([("head", ">i2", 4), ("digits", ">i2", 4)]))
    wire["head"] = [4, 2, 0, 4]  # so many digits, the first of them worth 10,000**2, positive, four decimals shown
    rest = units
    for place in (3, 2, 1, 0):
        wire["digits"][:, place] = rest % 10_000
        rest = rest // 10_000
    return wire


def rows(columns: pa.Table, fields: Mapping[str, _Wire]) -> Iterator[bytes]:
    """Encode rows for COPY BINARY; a run of rows whose tickers are equally long is one array of records.

    https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
    """
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    encoded = columns["ticker"].combine_chunks().dictionary_encode()
    tickers = np.array(encoded.dictionary.to_pylist(), "S")[encoded.indices.to_numpy()]
    lengths = pc.binary_length(columns["ticker"]).to_numpy()
    ends = [*(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    days = (columns["date"].combine_chunks().view(pa.int32()).to_numpy() - 10_957).astype(">i4")  # from 2000-01-01
    start = 0
    for end in ends:
        ticker = tickers[start:end].astype(f"S{lengths[start]}")
        parts = {"ticker": ticker, "date": days[start:end]}
        parts |= {name: fields[name][start:end] for name in VALUES}
        yield _records(parts).tobytes()
        start = end
    yield b"\xff\xff"


def _records(parts: Mapping[str, _Wire]) -> _Wire:
    layout: list[tuple[str, Any]] = [("fields", ">i2")]
    for name, part in parts.items():
        layout += [(f"{name} length", ">i4"), (name, part.dtype)]
    records = np.empty(len(parts["date"]), layout)
    records["fields"] = len(parts)
    for name, part in parts.items():
        records[f"{name} length"] = part.dtype.itemsize
        records[name] = part
    return records
