"""Our own format: a CSV or Parquet file whose columns have our names, as ``traderrr-data export`` writes it.

In CSV the text of a number is exact, an empty cell is None, and a truth value is true or false.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.bulk.arrow import rows_of_frame
from traderrr_data.bulk.rows import NO_BAR, PRICES
from traderrr_data.errors import ConfigurationError
from traderrr_data.ingest.base import (
    UNNAMED_INDEX,
    Block,
    Chunk,
    Format,
    Head,
    Options,
    Origin,
    Reading,
    UnreadableFileError,
)
from traderrr_data.ingest.cells import is_text, repeated, without_blanks
from traderrr_data.ingest.options import constants, daily_timeframe
from traderrr_data.models import DailyData, IntradayData

_SET_BY_THE_DATABASE = {"created_at", "updated_at"}
_MAY_BE_EMPTY = {"series", "source"}  # where '' is a text of its own
_CELLS = 500_000  # of a block; more make it hardly faster
_TRUTH = {"true": True, "false": False}


def _recognises(head: Head) -> bool:
    names = set(head.rows[0])
    return {*PRICES} <= names and bool(names & {"date", "datetime"})


def _prepare(head: Head, options: Options) -> Reading:
    names = [name for name in head.rows[0] if not UNNAMED_INDEX.fullmatch(name)]
    if {"date", "datetime"} <= set(names):
        raise UnreadableFileError(f"{head.path} has both a date and a datetime: a bar is daily or intraday, not both")
    intraday = "datetime" in names
    _check_columns(head, names, intraday=intraday)
    if not intraday:
        daily_timeframe(head.path, options)
    elif "timeframe" not in names and options.timeframe is None:
        raise ConfigurationError(f"{head.path} has intraday bars and no timeframe: say it (--timeframe 1m)")
    filled = constants(head.path, names, options)

    def chunk(block: Block) -> Chunk:
        batch = _completed(block.batch.rename_columns(list(head.rows[0])), filled, options.series)
        rows = _without_blanks(batch) if head.is_text else batch
        if head.is_text and "is_final" in names:
            rows = _with_truth(rows)
        return Chunk(rows, lambda position: Origin(position, block.cells(position)))

    return Reading(
        header_rows=1,
        cells=_CELLS,
        intraday=intraday,
        timeframe=options.timeframe if intraday else None,
        titles=head.rows[0],
        left_out=(),
        chunk=chunk,
    )


def _check_columns(head: Head, names: list[str], *, intraday: bool) -> None:
    model = IntradayData if intraday else DailyData
    known = {column.name for column in model.__table__.columns} - _SET_BY_THE_DATABASE
    for name in names:
        if names.count(name) > 1:
            raise UnreadableFileError(f"{head.path} has the column {name!r} twice")
        if not name:
            raise UnreadableFileError(f"{head.path} has a column without a name (an index: save without it)")
        if name not in known:
            why = "is set by the database" if name in _SET_BY_THE_DATABASE else f"is none of {', '.join(sorted(known))}"
            raise UnreadableFileError(f"{head.path}: the column {name!r} {why}")


def _completed(batch: pa.RecordBatch, filled: Mapping[str, str], series: str) -> pa.RecordBatch:
    """Add the columns that the caller's words fill in; an empty series is the line that everybody means."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if "series" in columns:
        given = columns["series"]
        given = given.dictionary_decode() if pa.types.is_dictionary(given.type) else given
        if pa.types.is_null(given.type):
            del columns["series"]  # what the caller says holds for all rows
        elif is_text(given.type):
            columns["series"] = pc.if_else(pc.equal(given, "").fill_null(True), series, given)
    columns |= {name: repeated(value, len(batch)) for name, value in filled.items()}
    return pa.record_batch(list(columns.values()), names=list(columns))


def _without_blanks(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = batch.schema.names
    columns = [batch[name] if name in _MAY_BE_EMPTY else without_blanks(batch[name]) for name in names]
    return pa.record_batch(columns, names=names)


def _with_truth(batch: pa.RecordBatch) -> pa.RecordBatch | list[Any]:
    """Read true and false in any case; rows are what is returned where other texts are among them."""
    at = batch.schema.get_field_index("is_final")
    cells = pc.utf8_lower(batch.column(at))
    if pc.all(pc.is_in(cells, pa.array(["true", "false", None]))).as_py():
        return batch.set_column(at, "is_final", pc.equal(cells, "true"))
    return [_row_with_truth(row) for row in rows_of_frame(batch)]


def _row_with_truth(row: Any) -> Any:
    if row is not NO_BAR:
        cell = row["is_final"]
        row["is_final"] = _TRUTH.get(cell.lower(), cell) if isinstance(cell, str) else cell
    return row


OWN = Format("own", _recognises, _prepare)
