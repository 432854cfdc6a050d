"""Reading what an option says of time."""

from __future__ import annotations

import datetime as dt

import typer


def instant(text: str) -> dt.datetime:
    """Read an instant with an offset, or a date as its midnight in UTC."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date or an instant (ISO 8601)") from None
    if found.tzinfo is not None:
        return found
    if len(text) > len("2025-01-02"):
        raise typer.BadParameter(f"{text!r} has no offset: say 2025-01-02T14:30:00+00:00")
    return found.replace(tzinfo=dt.UTC)


def date(text: str) -> dt.date:
    """Read a date."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date (YYYY-MM-DD)") from None
