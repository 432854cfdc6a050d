"""Cells, good and bad, and bytes that were damaged."""

from __future__ import annotations

import random
from typing import Final

from tests import hostile

PRICES: Final = [
    "1",
    "10",
    "10.50",
    "0.0000000001",
    "-37.63",
    "1e3",
    "",
    "NaN",
    "inf",
    "1,5",
    "0x1",
    "9999999999.5",
    "1" * 40,
]
DATES: Final = [
    "2025-01-02",
    "2024-02-29",
    "2025-02-29",
    "1000-01-01",
    "0999-12-31",
    "9999-12-31",
    "20250102",
    "",
    "soon",
]
_TIMES_OF_DAY: Final = ["2025-01-02 00:00:00", "2025-01-02 00:00:00-05:00", "2025-01-02T00:00", "2025-01-02 14:30:00"]
INSTANTS: Final = [
    "2025-01-02 14:30:00+00:00",
    "2025-01-02T14:30:00Z",
    "2025-01-02 14:30:00.123456-05:00",
    "2025-01-02",
]
_MORE_INSTANTS: Final = [
    "2025-01-02 14:30:00",
    "2025-01-02 14:30:00.1234567Z",
    "9999-12-31 23:59:59-23:59",
    "",
    "1735828200",
]
FLAGS: Final = ["true", "false", "TRUE", "", "1", "yes", "None"]
TEXTS: Final = [text for text in hostile.TEXTS if isinstance(text, str) and len(text) < 1_000 and text.isprintable()]
_MORE_TEXTS: Final = [
    'a "quoted" one',
    "a,comma",
    "two\nlines",
    "two\rlines",
    "two\r\nlines",
    "a\ttab",
    "A\0B",
    "\ufeff",
    '"',
    '""',
    "'",
]
OF_COLUMN: Final = {
    "ticker": [*TEXTS, *_MORE_TEXTS],
    "date": [*DATES, *_TIMES_OF_DAY],
    "datetime": [*INSTANTS, *_MORE_INSTANTS],
    "timeframe": ["1m", "60m", "1h", "unknown", "1x", "", "0m"],
    **dict.fromkeys(("open", "high", "low", "close", "volume", "dividends", "stock_splits"), PRICES),
    "series": ["", "bid", "x" * 33, " bid"],
    "source": [*TEXTS, *_MORE_TEXTS],
    "price_basis": ["raw", "split", "all", "", "none"],
    "is_final": FLAGS,
    "observed_at": [*INSTANTS, *_MORE_INSTANTS],
}
"""What a cell of a column may be; elsewhere it is any of these."""

_GOOD: Final = {
    "date": "2025-01-02",
    "datetime": "2025-01-02 14:30:00+00:00",
    "timeframe": "1m",
    **dict.fromkeys(("open", "high", "low", "close"), "10.5"),
    **dict.fromkeys(("volume", "dividends", "stock_splits"), "100"),
    "is_final": "true",
    "price_basis": "raw",
    "observed_at": "2025-01-02 21:00:00Z",
}


def cell(chance: random.Random, column: str, number: int) -> str:
    """Return one cell, most often a good one."""
    if chance.random() < 0.85:
        return _GOOD.get(column, f"T{number}")
    every = OF_COLUMN.get(column) if chance.random() < 0.8 else None
    return chance.choice(every or OF_COLUMN[chance.choice(list(OF_COLUMN))])


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Return bytes with some of them changed, lost, doubled or moved."""
    broken = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        if not broken:
            break
        at = chance.randrange(len(broken))
        end = min(len(broken), at + chance.choice([1, 2, 4, 16, 200]))
        match chance.randrange(7):
            case 0:
                broken[at] = chance.randrange(256)
            case 1:
                broken[at] ^= 1 << chance.randrange(8)
            case 2:
                del broken[at:end]
            case 3:
                broken[at:at] = broken[at:end] * chance.choice([1, 1, 50])
            case 4:
                broken[at:at] = chance.choice(
                    [b'"', b"\r", b"\n", b"\0", b",", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80"]
                )
            case 5:
                broken[at:end] = chance.choice([b"\xff\xff\xff\x7f", b"\0" * 8, b"\xff" * 8, b"-1", b"1e999"])
            case _:
                del broken[at:]
    return bytes(broken)
