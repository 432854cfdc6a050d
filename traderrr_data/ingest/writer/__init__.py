"""`bar_writer`: many callers, few transactions, and what is promised to each of them (docs/live.md).

`writer` is its face and the task that writes; `accepted` says what a row must be, `backlog` keeps the rows in order
until they are settled, `spill` is the file behind it, and `store` is the one place that speaks to the database.
"""

from traderrr_data.ingest.writer.accepted import Outcome
from traderrr_data.ingest.writer.spill import SpillError
from traderrr_data.ingest.writer.writer import (
    BarWriter,
    UnwrittenRowsError,
    WriterStatus,
    WriterStoppedError,
    bar_writer,
)

__all__ = [
    "BarWriter",
    "Outcome",
    "SpillError",
    "UnwrittenRowsError",
    "WriterStatus",
    "WriterStoppedError",
    "bar_writer",
]
