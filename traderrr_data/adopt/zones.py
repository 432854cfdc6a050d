"""Zones of instants that do not say theirs, and which one they probably are of."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Iterable
from typing import TypeAlias

from traderrr_data.errors import ConfigurationError

Zone: TypeAlias = dt.tzinfo

_SUFFIXES = {
    "AS": "Europe/Amsterdam", "AX": "Australia/Sydney", "BO": "Asia/Kolkata", "BR": "Europe/Brussels",
    "CO": "Europe/Copenhagen", "DE": "Europe/Berlin", "F": "Europe/Berlin", "HE": "Europe/Helsinki",
    "HK": "Asia/Hong_Kong", "JK": "Asia/Jakarta", "JO": "Africa/Johannesburg", "KQ": "Asia/Seoul",
    "KS": "Asia/Seoul", "L": "Europe/London", "LS": "Europe/Lisbon", "MC": "Europe/Madrid", "MI": "Europe/Rome",
    "MX": "America/Mexico_City", "NS": "Asia/Kolkata", "NZ": "Pacific/Auckland", "OL": "Europe/Oslo",
    "PA": "Europe/Paris", "SA": "America/Sao_Paulo", "SI": "Asia/Singapore", "SS": "Asia/Shanghai",
    "ST": "Europe/Stockholm", "SW": "Europe/Zurich", "SZ": "Asia/Shanghai", "T": "Asia/Tokyo",
    "TA": "Asia/Jerusalem", "TO": "America/Toronto", "TW": "Asia/Taipei", "V": "America/Toronto",
    "VI": "Europe/Vienna",
}  # fmt: skip
"""Of the exchanges that Yahoo's tickers end with."""


class MachineZone(dt.tzinfo):
    """The zone of this machine, with its changes between summer and winter."""

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta | None:
        """Return the offset at a local time."""
        return None if when is None else when.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _when: dt.datetime | None) -> dt.timedelta | None:
        """Say that it is not known which part of the offset is summer's."""
        return None

    def tzname(self, when: dt.datetime | None) -> str | None:
        """Return the zone's short name at a local time."""
        return None if when is None else when.replace(tzinfo=None).astimezone().tzname()

    def __str__(self) -> str:
        return f"this machine's zone ({dt.datetime.now().astimezone().tzname()})"


def zone_of_name(name: str) -> Zone:
    """Return a zone by its name (IANA), such as America/New_York.

    Raises:
        ConfigurationError: there is none of this name.
    """
    try:
        return dt.UTC if name.upper() in ("UTC", "Z") else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(f"there is no time zone {name!r}: say one such as America/New_York or UTC") from None


def suggestion(tickers: Iterable[str]) -> str:
    """Return the zones of the exchanges that tickers are of, as far as they tell."""
    zones = dict.fromkeys(_zone_of_ticker(ticker) for ticker in tickers)
    return " or ".join([*zones, "UTC"])


def _zone_of_ticker(ticker: str) -> str:
    if ticker.endswith("-USD"):
        return "UTC"
    return _SUFFIXES.get(ticker.rpartition(".")[2] if "." in ticker else "", "America/New_York")
