"""The types of the columns: what a value must be, and the one form in which each database keeps it.

Every type has a ``coerce`` method: it returns the value that the database will give back, or raises ValueError with a
reason that a person can act on. It runs when an attribute of a model is set, when a batch is checked and, as the last
gate, when a parameter is bound; so no way leads around it.
"""

from traderrr_data.models.types.checked import CheckedType, Flag, shown
from traderrr_data.models.types.decimals import EXACT, ExactDecimal, Money, Price, Quantity, Ratio
from traderrr_data.models.types.storage import BigId, storage_checks, table_options
from traderrr_data.models.types.texts import (
    ByteText,
    DedupeKey,
    Key,
    LongText,
    PriceBasis,
    SeriesName,
    Ticker,
    Timeframe,
)
from traderrr_data.models.types.times import FIRST_DAY, SessionDate, UtcDateTime, utc_now

__all__ = [
    "EXACT",
    "FIRST_DAY",
    "BigId",
    "ByteText",
    "CheckedType",
    "DedupeKey",
    "ExactDecimal",
    "Flag",
    "Key",
    "LongText",
    "Money",
    "Price",
    "PriceBasis",
    "Quantity",
    "Ratio",
    "SeriesName",
    "SessionDate",
    "Ticker",
    "Timeframe",
    "UtcDateTime",
    "shown",
    "storage_checks",
    "table_options",
    "utc_now",
]
