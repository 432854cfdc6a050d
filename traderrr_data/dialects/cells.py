"""The cells of many rows where they lie in what a driver received, taken out column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from traderrr_data.dialects.base import CellByCell
from traderrr_data.dialects.wire import Mask, Whole

if TYPE_CHECKING:
    import pyarrow as pa

Bytes: TypeAlias = npt.NDArray[np.uint8]

PADDING = bytes(64)
"""What stands before the first cell or behind the last one: at least as much as is read at once anywhere in a cell."""

_ASCII = 0x80
_FIRST, _END = (int(np.datetime64(day, "D").astype(np.int64)) for day in ("0001-01-01", "10000-01-01"))
_A_DAY = 86_400 * 1_000_000  # microseconds


@dataclass(frozen=True)
class Cells:
    """One column's cells.

    Attributes:
        letters: the bytes among which they lie, with the padding behind.
        at: where each begins; where one is null, any place before the padding.
        size: how many bytes each has; 0 where it is null.
        null: which are.
    """

    letters: Bytes
    at: Whole
    size: Whole
    null: Mask

    def taken(self, rows: Whole) -> Cells:
        """Return some of them."""
        return Cells(self.letters, self.at[rows], self.size[rows], self.null[rows])

    def words(self, kind: str, skipped: int | Whole = 0) -> npt.NDArray[Any]:
        """Return the number of a numpy kind so many bytes behind each one's begin; for null there is any number."""
        found: npt.NDArray[Any] = window(self.letters, kind)[self.at + skipped]
        return found

    def valid(self) -> pa.Buffer | None:
        """Return Arrow's bitmap of the cells that are not null; None if none is."""
        import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

        return pa.array(~self.null).buffers()[1] if self.null.any() else None


def joined(columns: Sequence[Cells]) -> Cells:
    """Return the cells of columns that lie among the same bytes, those of each behind those of the one before it."""
    at, size, null = zip(*((column.at, column.size, column.null) for column in columns), strict=True)
    return Cells(columns[0].letters, np.concatenate(at), np.concatenate(size), np.concatenate(null))


def window(letters: Bytes, kind: str) -> npt.NDArray[Any]:
    """Return the number of a numpy kind that begins at each byte."""
    width = np.dtype(kind).itemsize
    return np.ndarray((len(letters) - width + 1,), kind, letters, strides=(1,))


def texts(cells: Cells) -> pa.Array:
    """Return cells as texts.

    Raises:
        CellByCell: one is not UTF-8.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    rows = len(cells.at)
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(cells.size, out=offsets[1:])
    letters = cells.letters[np.repeat(cells.at - offsets[:-1], cells.size) + np.arange(offsets[-1])]
    buffers = [cells.valid(), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(letters)]
    array = pa.Array.from_buffers(pa.string(), rows, buffers)
    if (letters >= _ASCII).any():
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            raise CellByCell(str(error)) from error
    return array


def dates(days: Whole, null: Mask) -> pa.Array:
    """Return days since 1970 as dates.

    Raises:
        CellByCell: one is before the year 1 or after the year 9999.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    if ((days < _FIRST) | (days >= _END))[~null].any():
        raise CellByCell("a date is not within the years 1 to 9999")
    return pa.array(days.astype(np.int32), pa.int32(), mask=null).cast(pa.date32())


def instants(microseconds: Whole, null: Mask, kind: pa.DataType) -> pa.Array:
    """Return microseconds since 1970 as instants.

    Raises:
        CellByCell: one is before the year 1 or after the year 9999.
    """
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    if ((microseconds < _FIRST * _A_DAY) | (microseconds >= _END * _A_DAY))[~null].any():
        raise CellByCell("an instant is not within the years 1 to 9999")
    return pa.array(microseconds, pa.int64(), mask=null).cast(kind)
