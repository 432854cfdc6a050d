"""The checksum of rows: the same for the same rows on every database, in whatever order they come.

Each row has a hash of 128 bits over its cells as Arrow holds them, in the order of the columns, with their types and
with NULL apart from everything else; the rows' hashes are added up. Two rows that changed places do not show, any other
change does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from traderrr_data.dialects.wire import nulls

Lane: TypeAlias = npt.NDArray[np.uint64]

_LANES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_SIZE = 2**64


@dataclass(frozen=True)
class Digest:
    """How many rows there are, and two checksums of 128 bits: of their keys, and of all that is in them."""

    rows: int = 0
    keys: int = 0
    content: int = 0

    def __add__(self, other: Digest) -> Digest:
        return Digest(self.rows + other.rows, _sum(self.keys, other.keys), _sum(self.content, other.content))

    @property
    def keys_text(self) -> str:
        """The checksum of the keys, as 32 hexadecimal digits."""
        return f"{self.keys:032x}"

    @property
    def content_text(self) -> str:
        """The checksum of the rows, as 32 hexadecimal digits."""
        return f"{self.content:032x}"


def _sum(one: int, other: int) -> int:
    """Add both halves on their own."""
    high = (one // _SIZE + other // _SIZE) % _SIZE
    return high * _SIZE + (one + other) % _SIZE


def digest_of(batch: pa.RecordBatch | pa.Table, key: Sequence[str]) -> Digest:
    """Return the digest of some rows."""
    if not batch.num_rows:
        return Digest()
    names = batch.schema.names
    return Digest(batch.num_rows, _total(row_hashes(batch, key)), _total(row_hashes(batch, names)))


def total(digests: Iterable[Digest]) -> Digest:
    """Return the digest of all rows together."""
    return sum(digests, Digest())


def row_hashes(batch: pa.RecordBatch | pa.Table, names: Sequence[str]) -> tuple[Lane, Lane]:
    """Return the two halves of each row's hash over some columns."""
    lanes = [np.full(batch.num_rows, seed, dtype=np.uint64) for seed in _LANES]
    for name in names:
        column = batch[name].combine_chunks() if isinstance(batch, pa.Table) else batch[name]
        null = nulls(column)
        for number, words in enumerate(_words(column)):
            seeds = _seeds(f"{name} {column.type} {number}")
            for lane, (seed, empty) in enumerate(seeds):
                cells = np.where(null, np.uint64(empty), words ^ np.uint64(seed))
                lanes[lane] = _mixed(lanes[lane] * np.uint64(_LANES[1]) + _mixed(cells))
    return lanes[0], lanes[1]


def _total(hashes: tuple[Lane, Lane]) -> int:
    high, low = (int(np.add.reduce(lane)) for lane in hashes)
    return high * _SIZE + low


def _seeds(text: str) -> list[tuple[int, int]]:
    """Return, for each half of the hash, a number of its own for a column's cells, and one for its NULLs."""
    digest = hashlib.blake2b(text.encode(), digest_size=32).digest()
    numbers = np.frombuffer(digest, dtype="<u8").tolist()
    return [(numbers[0], numbers[1]), (numbers[2], numbers[3])]


def _mixed(values: Lane) -> Lane:
    """Return 64 bits of which each depends on all bits of the value: the finalizer of SplitMix64.

    https://prng.di.unimi.it/splitmix64.c
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _words(column: pa.Array) -> list[Lane]:
    """Return what a column's cells are, in one or two numbers of 64 bits each."""
    kind = column.type
    if pa.types.is_decimal128(kind):
        words = np.frombuffer(column.buffers()[1], dtype="<u8")
        words = words[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)
        return [words[:, 0], words[:, 1]]
    if pa.types.is_string(kind):
        return _text_words(column)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    return [np.asarray(column.cast(pa.int64()).fill_null(0)).view(np.uint64)]


def _text_words(column: pa.Array) -> list[Lane]:
    """Hash each spelling once, however often it stands in the column."""
    encoded = column.dictionary_encode()
    digests = b"".join(
        hashlib.blake2b(spelling.as_buffer(), digest_size=16).digest() for spelling in encoded.dictionary
    )
    words = np.frombuffer(digests or bytes(16), dtype="<u8").reshape(-1, 2)
    codes = encoded.indices.fill_null(0).to_numpy()
    return [words[codes, 0], words[codes, 1]]
