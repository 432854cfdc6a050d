"""`reader`: small reads of many tasks at once (docs/live.md).

`visits` has its face and pays the visits to the database, `query` asks many questions at once, and `rows` says what an
answer looks like.
"""

from traderrr_data.ingest.reading.rows import DailyBar, Instrument, IntradayBar
from traderrr_data.ingest.reading.visits import Reader, reader

__all__ = ["DailyBar", "Instrument", "IntradayBar", "Reader", "reader"]
