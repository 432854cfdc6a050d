"""Our own format: a CSV or Parquet file whose columns have our names, as ``traderrr-data export`` writes it.

In CSV the text of a number is exact, an empty cell is None, and a truth value is true or false.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from traderrr_data.bulk.arrow import rows_of_frame
from traderrr_data.bulk.rows import PRICES
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
from traderrr_data.ingest.options import constants, daily_timeframe
from traderrr_data.models import DailyData, IntradayData

_SET_BY_THE_DATABASE = {"created_at", "updated_at"}
_MAY_BE_EMPTY = {"series", "source"}  # where '' is a text of its own
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
        found = Chunk()
        batch = block.batch.rename_columns(list(head.rows[0]))
        for position, row in enumerate(rows_of_frame(_without_blanks(batch) if head.is_text else batch)):
            if not isinstance(row, dict):
                found.dropped += 1
                continue
            row.update(filled)
            # An empty series is the line that everybody means, and as good as none.
            row["series"] = row.get("series") or options.series
            if head.is_text and "is_final" in row:
                row["is_final"] = _truth(row["is_final"])
            found.rows.append(row)
            found.origins.append(Origin(position, partial(block.cells, position)))
        return found

    return Reading(
        header_rows=1,
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


def _without_blanks(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Take ``""`` for an empty cell, too, where no text is expected: some programs quote every cell."""
    columns = [
        column if name in _MAY_BE_EMPTY else pc.if_else(pc.equal(column, ""), None, column)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.record_batch(columns, names=batch.schema.names)


def _truth(cell: Any) -> Any:
    return _TRUTH.get(cell.lower(), cell) if isinstance(cell, str) else cell


OWN = Format("own", _recognises, _prepare)
