"""Arrow columns on their way to a driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Whole: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]


def nulls(column: pa.Array) -> Mask:
    """Return where a column is null."""
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)


def whole_numbers(column: pa.Array) -> Whole:
    """Return decimals as whole numbers of their last decimal, 0 where null.

    Raises:
        OverflowError: one does not fit 64 bits.
    """
    words = np.frombuffer(column.buffers()[1], dtype=np.int64)
    words = words[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)
    low, high, null = words[:, 0], words[:, 1], nulls(column)
    if not ((high == low >> 63) | null).all():
        raise OverflowError("a decimal does not fit 64 bits")
    return np.where(null, 0, low)
