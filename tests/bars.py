"""Rows for tests: valid ones, of which a test says only what it is about."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any, Final

DAY: Final = dt.date(2025, 1, 2)
OPENING: Final = dt.datetime(2025, 1, 2, 14, 30, tzinfo=dt.UTC)
_PRICES: Final = {"open": Decimal(10), "high": Decimal(12), "low": Decimal(9), "close": Decimal(11)}


def daily(ticker: Any = "AAPL", date: object = DAY, **values: Any) -> dict[str, Any]:
    """Return one daily bar."""
    return {"ticker": ticker, "date": date, **_PRICES, "volume": 100, **values}


def intraday(ticker: Any = "AAPL", datetime: object = OPENING, **values: Any) -> dict[str, Any]:
    """Return one intraday bar, without its timeframe."""
    return {"ticker": ticker, "datetime": datetime, **_PRICES, "volume": 100, **values}


def flat(price: object) -> dict[str, Any]:
    """Return the four prices of a bar that did not move."""
    return {"open": price, "high": price, "low": price, "close": price}


def days(count: int, start: dt.date = DAY) -> list[dt.date]:
    """Return consecutive dates."""
    return [start + dt.timedelta(days=number) for number in range(count)]


def minutes(count: int, start: dt.datetime = OPENING) -> list[dt.datetime]:
    """Return consecutive minutes."""
    return [start + dt.timedelta(minutes=number) for number in range(count)]
