"""Files of bars, as providers and we ourselves write them, brought into the database.

Each format is one module and one line of the table `FORMATS`; a file's format is told by its columns alone.
"""

from traderrr_data.ingest.base import Format, Options, Progress, UnreadableFileError
from traderrr_data.ingest.file import FORMATS, FileResult, ingest_file
from traderrr_data.ingest.source import ticker_of_name

__all__ = [
    "FORMATS",
    "FileResult",
    "Format",
    "Options",
    "Progress",
    "UnreadableFileError",
    "ingest_file",
    "ticker_of_name",
]
