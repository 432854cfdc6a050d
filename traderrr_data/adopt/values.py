"""Values of the old application, one at a time: what they stand for, or why they cannot be stored.

Only values that are not in their usual form come here; the others are moved by SQL alone (`forms`).
"""

from __future__ import annotations

import datetime as dt
import math
import re
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from traderrr_data.models.types import ByteText, ExactDecimal, Key, SessionDate, Timeframe, UtcDateTime

Note: TypeAlias = Callable[[str], None]
"""Takes what was changed in a value."""

_NO_NUMBER = {"", "nan", "none", "null", "n/a", "na", "nat", "-", "<na>"}
_DAY = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:[ T]00:00(?::00(?:\.0+)?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d(?:\.\d{1,6}0*)?)?))? ?(Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?", re.ASCII
)
_WHOLE_NUMBERS_OF_A_DOUBLE = 2**53
_DIGITS_THAT_CAN_BE_READ = 10.0**40  # of 60 in `EXACT`, with all decimals


_SMALLEST_FLOATS = {2: 2.0**-14, 4: 2.0**-67, 8: 2.0**-1022}
"""Below them, the bytes of a float are taken for those of a whole number."""


class Undecodable(bytes):
    """Text that is not UTF-8, as the bytes that are stored."""


def decoded(raw: bytes) -> str | Undecodable:
    """Return stored text, or its bytes if it is none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return Undecodable(raw)


def number(kind: ExactDecimal, value: Any, note: Note) -> float | int | None:
    """Return a stored number as it is kept; ValueError if it is none."""
    if isinstance(value, str):
        value = _number_of_text(value, note)
    elif isinstance(value, bytes):
        value = _number_of_blob(value, whole=kind.keeps_whole_numbers)
        note("a BLOB (a numpy value) became its number")
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        note("NaN or an infinity became NULL")
        return None
    if isinstance(value, int) and not kind.keeps_whole_numbers:
        if abs(value) > _WHOLE_NUMBERS_OF_A_DOUBLE and int(float(value)) != value:
            raise ValueError("has more digits than a double")
        value = float(value)
    if abs(value) >= _DIGITS_THAT_CAN_BE_READ:
        raise ValueError("is beyond all bounds")
    return value  # type: ignore[no-any-return]


def _number_of_text(text: str, note: Note) -> float | int | None:
    plain = text.strip()
    if plain.lower() in _NO_NUMBER:
        note("text that is no number ('', nan, None) became NULL")
        return None
    try:
        value: float | int = int(plain) if re.fullmatch(r"[+-]?\d{1,18}", plain, re.ASCII) else float(plain)
    except ValueError:
        raise ValueError("is not a number") from None
    note("text became its number")
    return value


def _number_of_blob(blob: bytes, *, whole: bool) -> float | int:
    """Read a numpy value by its bytes, little endian; sqlite3 stores every numpy number but float64 in that way."""
    layouts = {2: ("<e", "<h"), 4: ("<f", "<i"), 8: ("<d", "<q")}
    if isinstance(blob, Undecodable) or len(blob) not in layouts:
        raise ValueError("is not a number")
    as_float, as_int = (struct.unpack(layout, blob)[0] for layout in layouts[len(blob)])
    # Taken for a float, a whole number of ordinary size is next to nothing, or no number at all.
    if (math.isnan(as_float) and as_int < 0) or 0 < abs(as_float) < _SMALLEST_FLOATS[len(blob)]:
        return as_int  # type: ignore[no-any-return]
    if whole and math.isfinite(as_float) and as_float != int(as_float):
        return as_int  # type: ignore[no-any-return]
    return as_float  # type: ignore[no-any-return]


def text(kind: Any, value: Any, note: Note) -> str | None:
    """Return stored text; ValueError if it is none, or for a key if it is one that cannot be asked for."""
    if value is None:
        return None
    if isinstance(value, bytes):
        value = decoded(value)
        if isinstance(value, bytes):
            raise ValueError("is not text in UTF-8")
        note("a BLOB became text")
    elif not isinstance(value, str):
        value = repr(value)
        note("a number became text")
    if isinstance(kind, Key | Timeframe):
        try:
            return kind.coerce(value)
        except ValueError:
            raise ValueError("is empty, too long, or has blanks or control characters where none can be") from None
    if isinstance(kind, ByteText) and len(value) > kind.length:
        note(f"has more than {kind.length} characters and was kept")
    if "\x00" in value:
        note("has a NUL and was kept")
    return value  # type: ignore[no-any-return]


def date(value: Any, note: Note) -> str | None:
    """Return a session date as text; ValueError if it is none."""
    if value is None:
        return None
    given = decoded(value) if isinstance(value, bytes) else str(value)
    match = _DAY.fullmatch(given.strip()) if isinstance(given, str) and not isinstance(value, float) else None
    if match is None:
        raise ValueError("is not a date")
    try:
        day = SessionDate().coerce("-".join(match.groups())).isoformat()
    except ValueError:
        raise ValueError("is not a day of the calendar") from None
    if day != value:
        note("a time of midnight was cut off" if ":" in given else "was written as YYYY-MM-DD")
    return day


def instant(value: Any, zone: dt.tzinfo, note: Note) -> str | None:
    """Return an instant as text in UTC; ValueError if it is none.

    Args:
        value: as stored.
        zone: of an instant without an offset.
        note: takes what was changed.
    """
    if value is None:
        return None
    given = decoded(value) if isinstance(value, bytes) else value
    match = _INSTANT.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise ValueError("is not an instant")
    day, clock, offset = match.groups()
    try:
        naive = dt.datetime.fromisoformat(f"{day} {clock or '00:00'}")
        aware = dt.datetime.fromisoformat(f"{naive.isoformat()}{offset}") if offset else naive.replace(tzinfo=zone)
        utc = UtcDateTime().coerce(aware).replace(tzinfo=None)
    except ValueError:
        raise ValueError("is not an instant") from None
    stored = utc.isoformat(sep=" ")
    if offset and utc != naive:
        note("an instant with an offset was brought to UTC")
    elif not offset and utc != naive:
        note(f"an instant without an offset was read as {zone} and brought to UTC")
        if aware.replace(fold=1).utcoffset() != aware.utcoffset():
            note("an instant that the clock showed twice, or not at all, was read as the first")
    elif stored != value:
        note("was written as YYYY-MM-DD HH:MM:SS")
    return stored
