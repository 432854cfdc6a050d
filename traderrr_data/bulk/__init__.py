"""Many rows at once: any input is checked once, and a checked batch is merged into its table."""

from traderrr_data.bulk.merge import Change, Observer
from traderrr_data.bulk.rows import OnInvalid, Rejection, Rows
from traderrr_data.bulk.upsert import OnConflict, ReplaceResult, UpsertResult, replace, upsert

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
