"""The bars that ``traderrr-data quickstart`` stores: real, small, and shipped with the library, so it needs no network.

What it is: 5,452 daily bars of twelve US companies in 2013 and 2014, with 63 dividends and 2 splits (Cerner 2:1 on
2013-07-01, Apple 7:1 on 2014-06-09). Ten tickers have all 504 sessions; BRK.A begins with 2014, and ZEN with its first
day on the exchange, 2014-05-15. Prices reach from AMD's 2.26 dollars to BRK.A's 229,374.

Price basis: raw. Prices, volumes and dividends are those of their day, adjusted for nothing: Apple closes at 645.57 on
2014-06-06 and at 93.70 on the next session, the day of its split.

Source and licence: an extract of the test data of zipline-reloaded 3.2.1, Apache License 2.0. ``NOTICE`` in this folder
says which file each ticker comes from and what was changed, ``LICENSE-Apache-2.0.txt`` is the licence, and
``tools/build_sample.py`` of the repository makes ``bars.csv.gz`` again. ``companies.csv`` is the project's own.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
from decimal import Decimal
from importlib.resources import files
from typing import Any

__all__ = ["companies", "daily_bars"]

SOURCE = "zipline-reloaded 3.2.1"
"""The ``source`` of every bar."""


def daily_bars() -> list[dict[str, Any]]:
    """Returns every bar of the sample, ordered by ticker and date, as rows for ``upsert_daily``.

    Returns:
        Dicts with ``ticker``, ``date`` (the New York session), ``open``, ``high``, ``low``, ``close`` (Decimal, in
        dollars), ``volume`` (Decimal, a whole number of shares), ``dividends`` (Decimal, dollars per share on the
        ex-date, otherwise 0), ``stock_splits`` (Decimal, new shares per old one on the ex-date, otherwise 0),
        ``source``, ``price_basis`` (``"raw"``) and ``is_final`` (True). No value is None.
    """
    with (files(__name__) / "bars.csv.gz").open("rb") as packed, gzip.open(packed, "rt", encoding="ascii") as lines:
        return [
            {
                "ticker": row["ticker"],
                "date": dt.date.fromisoformat(row["date"]),
                "open": Decimal(row["open"]),
                "high": Decimal(row["high"]),
                "low": Decimal(row["low"]),
                "close": Decimal(row["close"]),
                "volume": Decimal(row["volume"]),
                "dividends": Decimal(row["dividends"]),
                "stock_splits": Decimal(row["stock_splits"]),
                "source": SOURCE,
                "price_basis": "raw",
                "is_final": True,
            }
            for row in csv.DictReader(lines)
        ]


def companies() -> list[dict[str, str]]:
    """Returns one row for ``upsert_metadata`` for each ticker of the sample, ordered by ticker.

    Returns:
        Dicts with ``ticker``, ``company_name``, ``sector``, ``industry`` (both in plain words, of no classification),
        ``currency`` and ``mic``, the exchange that listed the company at the end of 2014.
    """
    with (files(__name__) / "companies.csv").open("r", encoding="ascii") as lines:
        return list(csv.DictReader(lines))
