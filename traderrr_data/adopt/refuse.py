"""What only the file's owner can decide, found out before anything is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from traderrr_data.adopt.forms import quoted
from traderrr_data.adopt.head import Head
from traderrr_data.adopt.recognise import OWNED, TABLES, Object, Source
from traderrr_data.adopt.report import REJECTS
from traderrr_data.adopt.zones import suggestion
from traderrr_data.models.base import VERSION_TABLE

_OFFSET = "[+-][0-9][0-9]:[0-9][0-9]"


def taken_names(things: Sequence[Object], head: Head) -> list[str]:
    """Return what stands under names that are wanted."""
    by_name = {thing.name.lower(): thing for thing in things}
    adopted = VERSION_TABLE in by_name
    found = []
    for name in (*head.tables, REJECTS):
        thing = by_name.get(name)
        if thing is None or name in TABLES:
            continue
        expected = adopted and thing.kind == "table"
        if name == REJECTS:
            expected = thing.kind == "table" and all(column in thing.sql for column in ("original_values", "reason"))
        if not expected:
            found.append(f"the name {name} is wanted, and a {thing.kind} of the file has it")
    for name, (table, _) in head.indexes.items():
        thing = by_name.get(name)
        if thing is not None and (thing.kind != "index" or thing.table.lower() != table):
            found.append(f"the name {name} is wanted for an index, and a {thing.kind} on {thing.table} has it")
    return found


def others(things: Sequence[Object], head: Head) -> list[str]:
    """Return what is not ours and stays as it is, as 'kind name'."""
    ours = {*head.tables, *TABLES, REJECTS}
    return [
        f"{thing.kind} {thing.name}"
        for thing in things
        if thing.name.lower() not in {*ours, *head.indexes}
        and not thing.name.startswith("adoption_")
        and not (thing.kind == "index" and thing.table.lower() not in ours)
    ]


def users(connection: sqlite3.Connection, sources: Iterable[Source], chosen: int | None) -> list[str]:
    """Return the refusal of a file in which several users have rows of their own, unless one of them was chosen."""
    rows: dict[object, list[str]] = {}
    for source in sources:
        if source.user is not None and source.table.name in OWNED:
            name = quoted(source.user)
            query = f"SELECT {name}, count(*) FROM {quoted(source.name)} GROUP BY {name}"
            for user, count in connection.execute(query):
                rows.setdefault(user, []).append(f"{count} in {source.table.name}")
    if (chosen is None and len(rows) < 2) or chosen in rows or (chosen is not None and not rows):
        return []
    names = _names(connection)
    listed = "; ".join(
        f"user {user}{names.get(user, '')}: {', '.join(counts)}"
        if user is not None
        else f"no user: {', '.join(counts)}"
        for user, counts in sorted(rows.items(), key=lambda item: str(item[0]))
    )
    if chosen is not None:
        return [f"there is no user {chosen} with rows of their own ({listed})"]
    return [f"several users have rows of their own: choose whose are kept with --user ID ({listed})"]


def _names(connection: sqlite3.Connection) -> dict[object, str]:
    for column in ("username", "name", "email"):
        try:
            found = connection.execute(f"SELECT id, {column} FROM users").fetchall()
        except sqlite3.OperationalError:
            continue
        return {user: f" ({name})" for user, name in found}
    return {}


def unknown_zone(connection: sqlite3.Connection, sources: Iterable[Source]) -> list[str]:
    """Return the refusal of a file with intraday instants of an unknown zone."""
    for source in sources:
        if source.table.name != "intraday_data":
            continue
        name, ticker = quoted(source.columns["datetime"]), quoted(source.columns["ticker"])
        naive = (
            f"typeof({name}) = 'text' AND {name} NOT GLOB '*{_OFFSET}' AND {name} NOT GLOB '*Z' AND {name} GLOB '[12]*'"
        )
        where = f"FROM {quoted(source.name)} WHERE {naive}"
        first = connection.execute(f"SELECT {name} {where} LIMIT 1").fetchone()
        if first is None:
            continue
        tickers = [str(row[0]) for row in connection.execute(f"SELECT DISTINCT {ticker} {where} LIMIT 100")]
        return [
            f"intraday_data has instants without an offset, such as {first[0]}: say of which zone they are with"
            f" --timezone, probably {suggestion(tickers)}"
        ]
    return []
