"""Copying one database into another, and to and from a directory of Parquet files."""

from traderrr_data.transfer.result import CopyProgress, CopyResult, TableCopy
from traderrr_data.transfer.run import copy

__all__ = ["CopyProgress", "CopyResult", "TableCopy", "copy"]
