"""Many rows at once: any input is checked once, and a checked batch is merged into its table."""

from traderrr_data.bulk.merge import Change, Observer, OnConflict, ReplaceResult, UpsertResult, replace, upsert
from traderrr_data.bulk.rows import OnInvalid, Rejection, Rows

__all__ = [
    "Change",
    "Observer",
    "OnConflict",
    "OnInvalid",
    "Rejection",
    "ReplaceResult",
    "Rows",
    "UpsertResult",
    "replace",
    "upsert",
]
