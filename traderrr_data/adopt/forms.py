"""The usual forms of the old application's values, as SQL: what is in one of them is moved without Python.

A form is a condition that is never NULL, and what is stored where it holds. Whatever does not meet it goes through
`values`, one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from traderrr_data.models.types import ByteText, ExactDecimal, Flag, Key, SessionDate, UtcDateTime

_MIDNIGHTS = "' 00:00:00', ' 00:00:00.000000', 'T00:00:00'"
_SMALLEST = 5e-5  # below it, ten decimals change a number by more than a millionth
_EXACT_IN_A_DOUBLE = 2.0**53


@dataclass(frozen=True)
class Form:
    """The usual form of a column's values.

    Attributes:
        holds: the condition.
        value: what is stored.
        changes: for each kind of change that `value` makes, the condition under which it does.
    """

    holds: str
    value: str
    changes: Mapping[str, str] = field(default_factory=dict)


def quoted(name: str) -> str:
    """Return a name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def form_of(column: sa.Column[object], source: str, *, zoned: bool) -> Form:
    """Return the form of a column of ours that is in the file under a name.

    Args:
        column: of ours.
        source: as SQL, the column in the file.
        zoned: instants without an offset are of another zone than UTC.
    """
    kind = column.type
    if isinstance(kind, ExactDecimal):
        found = _number(kind, column.name, source)
    elif isinstance(kind, SessionDate):
        found = _date(source)
    elif isinstance(kind, UtcDateTime):
        found = _instant(source, zoned=zoned)
    elif isinstance(kind, Flag):
        found = Form(f"({source} IS 0 OR {source} IS 1)", source)
    elif isinstance(kind, sa.BigInteger):
        found = Form(f"typeof({source}) = 'integer'", source)
    else:
        found = _text(kind, source)
    return found if not column.nullable else Form(f"({source} IS NULL OR {found.holds})", found.value, found.changes)


def _number(kind: ExactDecimal, name: str, source: str) -> Form:
    # The plus takes the column's affinity away: text is greater than every number then, and so is a BLOB.
    number, limit = f"+{source}", float(kind.limit)
    smallest = _SMALLEST if kind.keeps_measurements else 0
    whole = limit if kind.keeps_whole_numbers else min(limit, _EXACT_IN_A_DOUBLE)
    ordinary = f"({number} >= {smallest} AND {number} < {whole!r})"
    others = [f"{number} = 0"]
    if name != "volume":
        others.append(f"({number} > -{whole!r} AND {number} <= -{smallest})")
    if whole < limit:
        others.append(f"(typeof({source}) = 'real' AND {number} > -{limit!r} AND {number} < {limit!r})")
    return Form(f"({source} IS NOT NULL AND ({' OR '.join([ordinary, *others])}))", source)


def _date(source: str) -> Form:
    day = f"substr({source}, 1, 10)"
    holds = (
        f"(typeof({source}) = 'text' AND {source} >= '1000' AND (date({source}) IS {source}"
        f" OR (substr({source}, 11) IN ({_MIDNIGHTS}) AND date({day}) IS {day})))"
    )
    return Form(holds, day, {"a time of midnight was cut off": f"length({source}) > 10"})


def _instant(source: str, *, zoned: bool) -> Form:
    second = f"substr({source}, 1, 19)"
    fraction = (
        f"(length({source}) = 26 AND substr({source}, 20, 1) = '.' AND substr({source}, 21) NOT GLOB '*[^0-9]*'"
        f" AND substr({source}, 21) <> '000000' AND datetime({second}) IS {second})"
    )
    offset = (
        f"(length({source}) = 25 AND substr({source}, 20) GLOB '[+-][0-9][0-9]:[0-9][0-9]'"
        f" AND datetime({source}) IS NOT NULL AND datetime({second}) IS {second})"
    )
    usual = [offset] if zoned else [f"datetime({source}) IS {source}", fraction, offset]
    return Form(
        f"(typeof({source}) = 'text' AND {source} >= '1000' AND ({' OR '.join(usual)}))",
        f"CASE length({source}) WHEN 25 THEN datetime({source}) ELSE {source} END",
        {"an instant with an offset was brought to UTC": f"length({source}) = 25"},
    )


def _text(kind: object, source: str) -> Form:
    # One byte a character, and none that cannot be seen: ASCII without a NUL, which would end the text for SQL.
    allowed = "!-~" if isinstance(kind, Key) else " -~"
    holds = [
        f"typeof({source}) = 'text'",
        f"length(CAST({source} AS BLOB)) = length({source})",
        f"{source} NOT GLOB '*[^{allowed}]*'",
    ]
    if isinstance(kind, ByteText):
        holds.append(f"length({source}) <= {kind.length}")
    if isinstance(kind, Key):
        holds.append(f"{source} <> ''")
    return Form(f"({' AND '.join(holds)})", source)
