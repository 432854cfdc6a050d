"""`reader`: small reads of many tasks at once (docs/live.md).

`reader` is its face and pays the visits to the database, `query` asks many questions at once, and `rows` says what an
answer looks like.
"""

from traderrr_data.ingest.reader.reader import Reader, reader
from traderrr_data.ingest.reader.rows import DailyBar, Instrument, IntradayBar

__all__ = ["DailyBar", "Instrument", "IntradayBar", "Reader", "reader"]
