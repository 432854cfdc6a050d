"""What serves the old code while it goes on writing into an adopted file: triggers, until the changeover is over.

The old code writes what its own tables took: numpy values as BLOBs, instants with an offset or in local time, rows
without a price. One trigger a table sets rows aside that cannot be ours, another brings the rest into form. Those of
this layer are in form; they are told by their connections' foreign keys, which the old code never switches on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import sqlalchemy as sa

from traderrr_data.adopt.blobs import number_of_blob
from traderrr_data.adopt.forms import literal, quoted
from traderrr_data.adopt.recognise import TABLES, key_of, objects_of
from traderrr_data.adopt.report import REJECTS
from traderrr_data.models.types import ByteText, ExactDecimal, Key, LongText, SessionDate

PREFIX = "adoption_changeover_"
_KEPT = f"{PREFIX}metadata"
_BLOBS = f"{PREFIX}blobs"
_OLD_CODE = "NOT (SELECT foreign_keys FROM pragma_foreign_keys)"
_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_NO_NUMBERS = "'0000C07F', '0000C0FF', '0000807F', '000080FF'"  # NaN and infinity, as numpy's float32
_OURS = ("series", "source", "price_basis", "is_final", "observed_at", "dedupe_key", "currency", "mic")
_REASON = "the old application wrote it, and it cannot be a row of these tables"


def install(connection: sqlite3.Connection, timeframe: str) -> None:
    """Make the changeover's triggers.

    Args:
        connection: with all tables there.
        timeframe: the length of intraday bars that do not say it.
    """
    connection.execute(f"CREATE TABLE {_KEPT} (ticker, id, created_at, currency, mic)")
    connection.execute(f"CREATE TABLE {_BLOBS} (name PRIMARY KEY, blob, whole, number)")
    connection.execute(  # in one place: all triggers are read whenever the file is opened
        f"CREATE TRIGGER {PREFIX}number AFTER INSERT ON {_BLOBS} WHEN NEW.blob IS NOT NULL BEGIN"
        f" UPDATE {_BLOBS} SET number = {number_of_blob('NEW.blob', 'NEW.whole')} WHERE name = NEW.name; END"
    )
    for table in TABLES.values():
        connection.execute(_setting_aside(table))
        if changes := _changes(table, timeframe):
            connection.execute(_bringing_into_form(table, changes))
    for statement in _keeping_what_a_replacement_loses():
        connection.execute(statement)


def remove(connection: sqlite3.Connection) -> None:
    """Take the changeover's triggers away, with what only they use."""
    for thing in objects_of(connection):
        if thing.name.startswith(PREFIX) and thing.kind in ("trigger", "table"):
            connection.execute(f"DROP {thing.kind} IF EXISTS {quoted(thing.name)}")


def is_on(connection: sqlite3.Connection) -> bool:
    """Tell whether a file has the changeover's triggers."""
    return any(thing.name == _KEPT for thing in objects_of(connection))


def _setting_aside(table: sa.Table) -> str:
    """Keep a row that cannot be ours where its owner can see it, and let the rest of the old code's batch go on."""
    wrong = [condition for column in table.c for condition in _what_is_wrong(column)]
    old = [column for column in table.c if column.name not in _OURS]
    values = ", ".join(f"{literal(column.name)}, {_as_json(column)}" for column in old)
    return (
        f"CREATE TRIGGER {PREFIX}set_aside_{table.name} BEFORE INSERT ON {table.name}"
        f" WHEN ({' OR '.join(wrong)}) AND {_OLD_CODE} BEGIN"
        f" INSERT INTO {REJECTS} (table_name, original_values, reason, adopted_at)"
        f" VALUES ({literal(table.name)}, json_object({values}), {literal(_REASON)}, CURRENT_TIMESTAMP);"
        " SELECT RAISE(IGNORE); END"
    )


def _what_is_wrong(column: sa.Column[object]) -> list[str]:
    new, kind = f"NEW.{column.name}", column.type
    if column.primary_key and isinstance(kind, sa.BigInteger):
        return []
    if isinstance(kind, ExactDecimal):
        return _wrong_number(column.name, new, required=not column.nullable)
    if isinstance(kind, SessionDate):
        midnight = f"{new} GLOB '{_DAY}[ T]00:00:00*' AND date(substr({new}, 1, 10)) IS substr({new}, 1, 10)"
        return [f"(date({new}) IS NOT {new} AND NOT ({midnight}))", f"{new} IS NULL"]
    if column.name == "datetime":
        return [f"(datetime({new}) IS NOT {new} AND ({new} GLOB '{_DAY}*') IS NOT 1)", f"{_in_utc(new)} IS NULL"]
    if not isinstance(kind, ByteText | LongText) or column.nullable or column.server_default is not None:
        return []
    key = [f"trim({new}) = ''", f"trim({new}) <> {new}"] if isinstance(kind, Key) else []
    return [f"typeof({new}) <> 'text'", *key]


def _wrong_number(name: str, new: str, *, required: bool) -> list[str]:
    found = [f"{new} < 0"] if name == "volume" else []
    if required:
        blob = f"typeof({new}) = 'blob' AND length({new}) IN (4, 8) AND hex({new}) NOT IN ({_NO_NUMBERS})"
        return [f"(({new} BETWEEN -1e300 AND 1e300) IS NOT 1 AND NOT ({blob}))", *found]
    return [f"typeof({new}) = 'text'", *found]


def _as_json(column: sa.Column[object]) -> str:
    """Return what puts a value into JSON as `rebuild.as_json` does."""
    value = f"NEW.{column.name}"
    blob = f"WHEN typeof({value}) = 'blob' THEN json_object('blob', lower(hex({value})))"
    if not isinstance(column.type, ExactDecimal):
        return f"CASE {blob} ELSE {value} END"
    return (
        f"CASE {blob} WHEN {value} IN (9e999, -9e999) THEN json_object('real', trim(lower(printf('%f', {value})), '+'))"
        f" WHEN typeof({value}) = 'real' THEN json(printf('%!.17g', {value})) ELSE {value} END"
    )


def _changes(table: sa.Table, timeframe: str) -> list[tuple[str, str, str]]:
    """Return (column, condition, value) of what the old code may write in another form."""
    found = []
    for column in table.c:
        new = f"NEW.{column.name}"
        if isinstance(column.type, ExactDecimal):
            number = f"(SELECT number FROM {_BLOBS} WHERE name = {literal(column.name)})"
            found.append((column.name, f"typeof({new}) = 'blob'", number))
        elif isinstance(column.type, SessionDate):
            found.append((column.name, f"length({new}) > 10", f"substr({new}, 1, 10)"))
        elif column.name == "datetime":
            usual = f"(length({new}) IN (19, 26) AND substr({new}, 11, 1) = ' ' AND substr({new}, 20, 1) IN ('', '.'))"
            found.append((column.name, f"NOT {usual}", _in_utc(new)))
        elif column.name == "last_updated":
            local = f"datetime(substr({new}, 1, 19), 'utc') || {_fraction(new)}"
            local = f"CASE WHEN {_offset(new)} = '' THEN {local} ELSE {_in_utc(new)} END"
            found.append((column.name, f"({new} IS NOT NULL AND {_OLD_CODE})", f"coalesce({local}, {new})"))
        elif column.name == "timeframe" and timeframe != "unknown":
            found.append((column.name, f"({new} = 'unknown' AND {_OLD_CODE})", literal(timeframe)))
    return found


def _bringing_into_form(table: sa.Table, changes: Sequence[tuple[str, str, str]]) -> str:
    row = " AND ".join(f"{name} = NEW.{name}" for name in key_of(table) or ("id",))
    sets = ", ".join(
        f"{name} = CASE WHEN {condition} THEN {value} ELSE {name} END" for name, condition, value in changes
    )
    blobs = " UNION ALL ".join(
        f"SELECT {literal(c.name)}, NEW.{c.name}, {int(c.type.keeps_whole_numbers)} WHERE typeof(NEW.{c.name}) = 'blob'"
        for c in table.c
        if isinstance(c.type, ExactDecimal)
    )
    reading = f" INSERT INTO {_BLOBS} (name, blob, whole) {blobs};" if blobs else ""
    return (
        f"CREATE TRIGGER {PREFIX}form_{table.name} AFTER INSERT ON {table.name}"
        f" WHEN {' OR '.join(condition for _, condition, _ in changes)} BEGIN"
        f"{reading} UPDATE {table.name} SET {sets} WHERE {row}; DELETE FROM {_BLOBS}; END"
    )


def _keeping_what_a_replacement_loses() -> list[str]:
    """Return the triggers that give a row of metadata back what INSERT OR REPLACE of the old columns takes from it."""
    kept = "id, created_at, currency, mic"
    return [
        f"CREATE TRIGGER {PREFIX}before_metadata BEFORE INSERT ON metadata"
        f" WHEN EXISTS (SELECT 1 FROM metadata WHERE ticker = NEW.ticker) AND {_OLD_CODE} BEGIN"
        f" DELETE FROM {_KEPT};"
        f" INSERT INTO {_KEPT} SELECT ticker, {kept} FROM metadata WHERE ticker = NEW.ticker; END",
        f"CREATE TRIGGER {PREFIX}after_metadata AFTER INSERT ON metadata"
        f" WHEN EXISTS (SELECT 1 FROM {_KEPT} WHERE ticker = NEW.ticker) AND {_OLD_CODE} BEGIN"
        f" UPDATE metadata SET ({kept}) = (SELECT {kept} FROM {_KEPT}) WHERE ticker = NEW.ticker;"
        f" DELETE FROM {_KEPT}; END",
    ]


def _offset(text: str) -> str:
    return (
        f"CASE WHEN {text} GLOB '*Z' THEN 'Z' WHEN {text} GLOB '*[0-9][+-][0-9][0-9]:[0-9][0-9]'"
        f" AND length({text}) > 16 THEN substr({text}, -6) ELSE '' END"
    )


def _fraction(text: str) -> str:
    digits = f"substr({text}, 20, length({text}) - 19 - length({_offset(text)}))"
    return f"CASE WHEN substr({text}, 20, 1) = '.' AND rtrim({digits}, '0') <> '.' THEN {digits} ELSE '' END"


def _in_utc(text: str) -> str:
    """Return an instant's text in UTC, with its fraction; one without an offset is of UTC."""
    whole = f"CASE WHEN length({text}) > 19 THEN substr({text}, 1, 19) || {_offset(text)} ELSE {text} END"
    return f"(datetime({whole}) || {_fraction(text)})"
