"""Copying one database into another, and to and from a directory of Parquet files."""

from traderrr_data.errors import RefusedValue
from traderrr_data.transfer.digest import Digest
from traderrr_data.transfer.result import CopyProgress, CopyResult, TableCopy
from traderrr_data.transfer.run import copy

__all__ = ["CopyProgress", "CopyResult", "Digest", "RefusedValue", "TableCopy", "copy"]
