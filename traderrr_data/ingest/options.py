"""What the caller says of a file, where several formats need the same of it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from traderrr_data.errors import ConfigurationError
from traderrr_data.ingest.base import Options
from traderrr_data.models import IntradayData
from traderrr_data.models.types import CheckedType


def constants(path: Path, names: Collection[str], options: Options) -> dict[str, str]:
    """Return the columns that the caller's words fill in for every row.

    Args:
        path: of the file, for messages.
        names: the columns that the file has itself, by our names.
        options: what the caller says.

    Raises:
        ConfigurationError: there is no ticker, or something is said twice.
    """
    if "ticker" not in names and options.ticker is None:
        raise ConfigurationError(f"{path} does not say its ticker: say it (--ticker, or --ticker-from-name)")
    said = {"ticker": options.ticker, "price_basis": options.price_basis}
    for name, value in said.items():
        if value is not None and name in names:
            raise ConfigurationError(f"{path} has a {name} of its own: leave --{name.replace('_', '-')} out")
    return {name: value for name, value in said.items() if value is not None}


def daily_timeframe(path: Path, options: Options) -> None:
    """Refuse a timeframe for a file of dates, weekly and monthly bars among them, unless it is a day."""
    if options.timeframe not in (None, "1d"):
        raise ConfigurationError(f"{path} has daily bars: --timeframe {options.timeframe} does not fit them")


def canonical(name: str, said: str | None) -> str | None:
    """Return what the caller says of a column as it is stored (60m is 1h).

    Raises:
        ConfigurationError: it cannot be stored.
    """
    kind = IntradayData.__table__.c[name].type
    assert isinstance(kind, CheckedType)  # noqa: S101 - every column of ours is one
    try:
        return None if said is None else str(kind.coerce(said))
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from error
