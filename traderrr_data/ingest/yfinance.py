"""What yfinance returns, saved by pandas: ``Ticker.history()`` and ``download()``, as CSV or Parquet.

Names and shapes are yfinance's own (https://ranaroussi.github.io/yfinance/reference/). Its numbers are floats, widened
from 32 bits, so they are taken as measurements even where they stand as text. A split of 0.0 and of 1.0 both mean none.
A daily bar's midnight is in the exchange's own zone.

Yahoo's prices are always adjusted for splits. With ``auto_adjust=False`` there is an "Adj Close" beside them; without
it they may also be adjusted for dividends (the default), which the file cannot tell.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import partial

from traderrr_data.errors import ConfigurationError
from traderrr_data.ingest.base import (
    UNNAMED_INDEX,
    Format,
    Head,
    Options,
    Reading,
    UnreadableFileError,
)
from traderrr_data.ingest.options import constants, daily_timeframe
from traderrr_data.ingest.yfinance_bars import Layout, bars_of

SOURCE = "yfinance"

_NUMBERS = {
    "Open": "open",
    "High": "high",
    "Low": "low",
    "Close": "close",
    "Volume": "volume",
    "Dividends": "dividends",
    "Stock Splits": "stock_splits",
}
_FIELDS = {*_NUMBERS, "Adj Close", "Capital Gains", "Repaired?"}
_PRICE_FIELDS = {"Open", "High", "Low", "Close"}
_OURS = {"Ticker": "ticker", "ticker": "ticker", "price_basis": "price_basis", "timeframe": "timeframe"}
_INTRADAY_HAS_NO = {"Dividends", "Stock Splits"}
_TIMES = ("Date", "Datetime")
_CELLS = 200_000  # of a block
_LEVELS = ("Price", "Ticker")


def _layout(head: Head) -> Layout | None:
    """Return where a file's cells are; None if it has not yfinance's columns."""
    found = (_two_levels(head) if head.is_text else _tuples(head)) or _flat(head)
    complete = found is not None and all(places.keys() >= _PRICE_FIELDS for places in found.tickers.values())
    return found if complete else None


def _flat(head: Head) -> Layout | None:
    names = head.rows[0]
    time = next((name for name in _TIMES if name in names), None)
    if time is None:
        return None
    fields = {name: at for at, name in enumerate(names) if name in _FIELDS}
    others = {_OURS[name]: at for at, name in enumerate(names) if name in _OURS}
    return Layout(1, time, names.index(time), {None: fields}, others)


def _two_levels(head: Head) -> Layout | None:
    """Read the header of ``download()``: a row of fields and one of tickers, in either order, and the index's name."""
    if len(head.rows) < 2 or len({len(row) for row in head.rows[:2]}) > 1:
        return None
    (first, *above), (second, *below) = head.rows[:2]
    if not {first, second} <= {*_LEVELS, ""}:
        return None
    if first == "Price" or second == "Ticker":
        turned = False
    elif first == "Ticker" or second == "Price":
        turned = True
    else:  # older versions name no level
        turned = not set(above) <= _FIELDS
    fields, tickers = (below, above) if turned else (above, below)
    if not set(fields) <= _FIELDS:
        return None
    third = head.rows[2] if len(head.rows) > 2 else ("",)
    named = third[0] in _TIMES and not any(third[1:])
    places = _by_ticker(zip(tickers, fields, strict=True), first=1)
    return Layout(3 if named else 2, third[0] if named else "", 0, places, {})


def _tuples(head: Head) -> Layout | None:
    """Read the columns that Parquet has of ``download()``: tuples as text, such as ``('Close', 'AAPL')``."""
    pairs: list[tuple[str, str] | None] = [_pair(name) for name in head.rows[0]]
    times = [at for at, name in enumerate(head.rows[0]) if name in _TIMES or UNNAMED_INDEX.fullmatch(name)]
    known = [pair for pair in pairs if pair is not None]
    if not known or len(times) != 1 or len(known) != len(pairs) - 1:
        return None
    turned = not {first for first, _ in known} <= _FIELDS
    named = [pair if turned or pair is None else (pair[1], pair[0]) for pair in pairs]
    if not {pair[1] for pair in named if pair is not None} <= _FIELDS:
        return None
    time = head.rows[0][times[0]]
    return Layout(1, time if time in _TIMES else "", times[0], _by_ticker(named), {})


def _pair(name: str) -> tuple[str, str] | None:
    if not name.startswith("("):
        return None
    try:
        pair = ast.literal_eval(name)
    except (ValueError, SyntaxError):
        return None
    is_pair = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
    return pair if is_pair else None


def _by_ticker(
    columns: Iterator[tuple[str, str]] | list[tuple[str, str] | None], *, first: int = 0
) -> dict[str | None, dict[str, int]]:
    places: dict[str | None, dict[str, int]] = {}
    for at, column in enumerate(columns, first):
        if column is not None:
            ticker, field = column
            places.setdefault(ticker, {})[field] = at
    return places


def _recognises(head: Head) -> bool:
    layout = _layout(head)
    if layout is None:
        return False
    # Date, Open, High, Low, Close, Volume and no more are many providers' columns.
    return None not in layout.tickers or bool(layout.fields & {"Dividends", "Stock Splits", "Adj Close"})


def _prepare(head: Head, options: Options) -> Reading:
    layout = _layout(head)
    if layout is None:
        raise UnreadableFileError(f"{head.path} has not yfinance's columns (Date or Datetime, Open, High, Low, Close)")
    named = None not in layout.tickers
    basis = _price_basis(head, layout, options)
    intraday = layout.time == "Datetime" or (layout.time == "" and options.timeframe is not None)
    if not intraday:
        daily_timeframe(head.path, options)
    elif options.timeframe is None and "timeframe" not in layout.others:
        raise ConfigurationError(f"{head.path} has intraday bars and no timeframe: say it (--timeframe 1m)")
    said = {*layout.others, *(["ticker"] if named else [])} - {"price_basis"}
    fixed = constants(head.path, said, Options(ticker=options.ticker)) | {"source": SOURCE, "series": options.series}
    if basis is not None:
        fixed["price_basis"] = basis
    wanted = layout.fields - (_INTRADAY_HAS_NO if intraday else set())
    taken = {field: ours for field, ours in _NUMBERS.items() if field in wanted}
    titles = (layout.time or "Date", *(["Ticker"] if named else []), *sorted(layout.fields), *layout.others)
    return Reading(
        header_rows=layout.header_rows,
        cells=_CELLS,
        intraday=intraday,
        timeframe=options.timeframe if intraday else None,
        titles=titles,
        left_out=_left_out(head, layout, set(taken)),
        chunk=partial(bars_of, layout=layout, taken=taken, fixed=fixed, intraday=intraday),
    )


def _price_basis(head: Head, layout: Layout, options: Options) -> str | None:
    """Return what all prices of a file are adjusted for; None if each row says it."""
    if "price_basis" in layout.others:
        if options.price_basis is not None:
            raise ConfigurationError(f"{head.path} has a price_basis of its own: leave --price-basis out")
        return None
    if "Adj Close" in layout.fields:
        if options.price_basis not in (None, "split"):
            raise ConfigurationError(
                f"{head.path} has an Adj Close, so its prices are adjusted for splits only:"
                f" --price-basis {options.price_basis} does not fit them"
            )
        return "split"
    if options.price_basis is None:
        raise ConfigurationError(
            f"{head.path} has no Adj Close, so it cannot tell what its prices are adjusted for: say --price-basis all"
            " (yfinance's default, auto_adjust=True), split (auto_adjust=False) or raw"
        )
    return options.price_basis


def _left_out(head: Head, layout: Layout, taken: set[str]) -> tuple[str, ...]:
    if None not in layout.tickers:
        return tuple(sorted(layout.fields - taken))
    places = {layout.time_at, *layout.others.values()}
    return tuple(name for at, name in enumerate(head.rows[0]) if name not in taken and at not in places)


YFINANCE = Format("yfinance", _recognises, _prepare)
