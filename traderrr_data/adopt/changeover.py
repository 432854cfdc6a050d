"""What serves the old code while it goes on writing into an adopted file."""

from __future__ import annotations

import sqlite3

PREFIX = "adoption_"


def remove(connection: sqlite3.Connection) -> None:
    """Take the changeover's triggers away."""


def install(connection: sqlite3.Connection, timeframe: str) -> None:
    """Make the changeover's triggers."""
