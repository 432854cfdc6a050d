"""Reading a numpy value's bytes in SQL: a trigger runs in the old code's process, where there is no function of ours.

The rules are those of `values`, in another language; a test holds the two together.
"""

from __future__ import annotations

_DIGITS = "'0123456789ABCDEF'"


def number_of_blob(value: str, whole: str) -> str:
    """Return an expression for the number that a BLOB of 4 or 8 bytes, little endian, stands for; NULL for NaN.

    Args:
        value: an expression for the BLOB.
        whole: an expression for whether, of two readings, the whole number is meant.
    """
    nibbles = [
        f"((instr({_DIGITS}, substr(h, {position}, 1)) - 1) << {shift})"
        for byte in range(8)
        for position, shift in ((2 * byte + 1, 8 * byte + 4), (2 * byte + 2, 8 * byte))
    ]
    padded = f"SELECT substr(hex({value}) || '0000000000000000', 1, 16) AS h, length({value}) AS n"
    bits = f"SELECT n, {' | '.join(nibbles)} AS b FROM ({padded})"
    fields = (
        "SELECT n, CASE n WHEN 4 THEN b - ((b >> 31 & 1) << 32) ELSE b END AS i,"
        " CASE n WHEN 4 THEN 1 - 2 * (b >> 31 & 1) ELSE 1 - 2 * (b >> 63 & 1) END AS s,"
        " CASE n WHEN 4 THEN b >> 23 & 255 ELSE b >> 52 & 2047 END AS e,"
        " CASE n WHEN 4 THEN b & 8388607 ELSE b & 4503599627370495 END AS m,"
        f" CASE n WHEN 4 THEN 150 ELSE 1075 END AS bias, CASE n WHEN 4 THEN 255 ELSE 2047 END AS top FROM ({bits})"
    )
    implied = "(m | CASE n WHEN 4 THEN 8388608 ELSE 4503599627370496 END)"
    power = "(e - bias)"
    values = f"SELECT n, i, s, e, m, top, {power} AS p, s * {_scaled(implied, power)} AS v FROM ({fields})"
    # A whole number of ordinary size, taken for a float, has the exponent 0, or a very small one, or all its bits set.
    small = "e = 0 OR (n = 4 AND e < 60) OR (e = top AND s < 0 AND m > 0)"
    looks_whole = f"({small} OR ({whole} AND e < top AND abs(v) < 9e18 AND v <> CAST(v AS INTEGER)))"
    return (
        f"(SELECT CASE WHEN n NOT IN (4, 8) THEN NULL WHEN e = 0 AND m = 0 THEN 0.0 WHEN {looks_whole} THEN i"
        f" WHEN e = top OR abs(p) > 186 THEN NULL ELSE v END FROM ({values}))"
    )


def _scaled(number: str, power: str) -> str:
    """Return an expression for a number times a power of two, up to 2**186 and down to its inverse."""
    parts = [f"(1 << min(max({{}} - {least}, 0), 62))" for least in (0, 62, 124)]
    up = " * ".join(part.format(power) for part in parts)
    down = " / ".join(part.format(f"(-{power})") for part in parts)
    return f"(CASE WHEN {power} >= 0 THEN {number} * 1.0 * {up} ELSE {number} * 1.0 / {down} END)"
