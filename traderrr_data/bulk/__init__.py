"""Many rows at once: any input is checked once, and a checked batch is merged into its table."""

from traderrr_data.bulk.rows import OnInvalid, Rejection, Rows
from traderrr_data.bulk.upsert import OnConflict, ReplaceResult, UpsertResult, delete, replace, upsert

__all__ = [
    "OnConflict",
    "OnInvalid",
    "Rejection",
    "ReplaceResult",
    "Rows",
    "UpsertResult",
    "delete",
    "replace",
    "upsert",
]
