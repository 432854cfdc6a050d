"""Bars on their way into the database and out of it: files of providers, and the many callers of live programs.

Each format of files is one module and one line of the table `FORMATS`; a file's format is told by its columns alone.
`bar_writer` takes single rows from many tasks, `reader` answers small questions of many tasks.
"""

from traderrr_data.ingest.base import Format, Options, Progress, UnreadableFileError
from traderrr_data.ingest.file import FORMATS, FileResult, ingest_file
from traderrr_data.ingest.reading import DailyBar, Instrument, IntradayBar, Reader, reader
from traderrr_data.ingest.source import ticker_of_name
from traderrr_data.ingest.writer import (
    BarWriter,
    Outcome,
    SpillError,
    UnwrittenRowsError,
    WriterStatus,
    WriterStoppedError,
    bar_writer,
)

__all__ = [
    "FORMATS",
    "BarWriter",
    "DailyBar",
    "FileResult",
    "Format",
    "Instrument",
    "IntradayBar",
    "Options",
    "Outcome",
    "Progress",
    "Reader",
    "SpillError",
    "UnreadableFileError",
    "UnwrittenRowsError",
    "WriterStatus",
    "WriterStoppedError",
    "bar_writer",
    "ingest_file",
    "reader",
    "ticker_of_name",
]
