"""Bars out of the cells of yfinance's files: by columns where all cells are what pandas writes, else by rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.bulk.arrow import rows_of_frame
from traderrr_data.bulk.rows import NO_BAR, PRICES
from traderrr_data.ingest.base import Block, Chunk, Origin
from traderrr_data.ingest.cells import is_text, repeated, without_blanks

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_MIDNIGHT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T]00:00:00([+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?$"
_MIXED = {pa.int64(), pa.float64(), pa.null()}  # what pandas makes of whole numbers, with and without gaps


@dataclass(frozen=True)
class Layout:
    """Where a file's cells are.

    Attributes:
        header_rows: of a CSV file.
        time: the name of the index; '' where it has none.
        time_at: its position.
        tickers: the position of each field, by ticker; None for the one ticker of a file that does not name it.
        others: the position of each further column, by our name.
    """

    header_rows: int
    time: str
    time_at: int
    tickers: dict[str | None, dict[str, int]]
    others: dict[str, int]

    @property
    def fields(self) -> set[str]:
        """The names of yfinance's columns of numbers."""
        return {field for places in self.tickers.values() for field in places}


class _Odd(Exception):  # noqa: N818 - it says what a cell is
    """A cell is not what pandas writes: its row alone can say what becomes of it."""


def bars_of(
    block: Block, *, layout: Layout, taken: Mapping[str, str], fixed: Mapping[str, str], intraday: bool
) -> Chunk:
    """Return a block's bars.

    Args:
        block: of the file.
        layout: of the file.
        taken: our names of the fields that are wanted.
        fixed: what holds for all bars.
        intraday: the bars have instants, not dates.
    """
    try:
        return _as_columns(block, layout, taken, fixed, intraday=intraday)
    except (_Odd, pa.ArrowException):
        return _as_rows(block, layout, taken, fixed, intraday=intraday)


def _as_columns(
    block: Block, layout: Layout, taken: Mapping[str, str], fixed: Mapping[str, str], *, intraday: bool
) -> Chunk:
    """Return all bars of the first ticker, then those of the next."""
    batch, places = block.batch, list(layout.tickers.values())
    tickers, height = list(layout.tickers), block.batch.num_rows
    if any(field not in one for one in places for field in taken):
        raise _Odd  # the rows of this ticker have fewer columns
    columns = {ours: _numbers([batch.column(one[field]) for one in places], ours) for field, ours in taken.items()}
    time = _times(batch.column(layout.time_at), intraday=intraday)
    columns["datetime" if intraday else "date"] = pa.concat_arrays([time] * len(tickers))
    columns |= {name: repeated(value, height * len(tickers)) for name, value in fixed.items()}
    columns |= {name: without_blanks(batch.column(at)) for name, at in layout.others.items()}  # of a file of one ticker
    if None not in layout.tickers:
        numbers = np.repeat(np.arange(len(tickers), dtype=np.int32), height)
        columns["ticker"] = pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(tickers))

    def origin(position: int) -> Origin:
        number, row = divmod(position, height)
        return Origin(row, _original(block, row, layout, tickers[number]))

    return Chunk(pa.record_batch(list(columns.values()), names=list(columns)), origin)


def _numbers(parts: list[pa.Array], name: str) -> pa.Array:
    kinds = {part.type for part in parts}
    if len(kinds) > 1:
        if not kinds <= _MIXED:
            raise _Odd
        parts = [part.cast(pa.float64()) for part in parts]
    column = without_blanks(pa.concat_arrays(parts))
    if is_text(column.type):
        column = _all_like(_NUMBER, column).cast(pa.float64())
    if name == "stock_splits":
        column = pc.if_else(pc.equal(column, 1), pa.scalar(0, column.type), column)
    return column


def _times(column: pa.Array, *, intraday: bool) -> pa.Array:
    """Return instants as they are, and midnights in text as the dates of their own zones."""
    column = without_blanks(column)
    if intraday or not is_text(column.type):
        return column
    return pc.utf8_slice_codeunits(_all_like(_MIDNIGHT, column), 0, 10)


def _all_like(pattern: str, column: pa.Array) -> pa.Array:
    if pc.all(pc.match_substring_regex(column, pattern)).as_py() is False:
        raise _Odd
    return column


def _as_rows(
    block: Block, layout: Layout, taken: Mapping[str, str], fixed: Mapping[str, str], *, intraday: bool
) -> Chunk:
    rows: list[Any] = []
    origins: list[tuple[int, str | None]] = []
    plain = block.batch.rename_columns([str(at) for at in range(block.batch.num_columns)])
    for position, cells in enumerate(rows_of_frame(plain)):
        assert isinstance(cells, dict)  # noqa: S101 - only rows whose columns are named as prices can be no bars
        values = [None if cell == "" else cell for cell in cells.values()]
        for ticker, places in layout.tickers.items():
            origins.append((position, ticker))
            row = {ours: _number(values[places[field]], ours) for field, ours in taken.items() if field in places}
            if all(row[name] is None for name in PRICES):
                rows.append(NO_BAR)
                continue
            time = values[layout.time_at]
            row |= {"datetime": time} if intraday else {"date": _session(time)}
            row |= {**fixed} | {name: values[at] for name, at in layout.others.items()}
            if ticker is not None:
                row["ticker"] = ticker
            rows.append(row)

    def origin(number: int) -> Origin:
        position, ticker = origins[number]
        return Origin(position, _original(block, position, layout, ticker))

    return Chunk(rows, origin)


def _original(block: Block, position: int, layout: Layout, ticker: str | None) -> list[Any]:
    cells = block.cells(position)
    places = layout.tickers[ticker]
    return [
        cells[layout.time_at],
        *([] if ticker is None else [ticker]),
        *(cells[places[field]] if field in places else None for field in sorted(layout.fields)),
        *(cells[at] for at in layout.others.values()),
    ]


def _number(cell: Any, name: str) -> Any:
    """Return a cell as the float that pandas wrote; text that is no number stays, to be refused with its reason."""
    if isinstance(cell, str) and "_" not in cell:
        try:
            cell = float(cell)
        except ValueError:
            return cell
        if cell != cell:  # noqa: PLR0124 - NaN, as pandas may be told to write it
            return None
    return 0 if name == "stock_splits" and cell == 1 else cell


def _session(cell: Any) -> Any:
    """Return a midnight as a datetime, whose own zone says the date; other text stays as it is."""
    try:
        return dt.datetime.fromisoformat(cell) if isinstance(cell, str) else cell
    except ValueError:
        return cell
