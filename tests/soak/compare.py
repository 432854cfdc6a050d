"""Compare what was recorded with what a database holds: ``python -m tests.soak.compare FILE DATABASE URL``.

The database is asked through its own client, without the package under test.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeAlias

from sqlalchemy import make_url

from tests.backends import Backend, MysqlBackend, PostgresqlBackend, SqliteBackend
from tests.bars import days
from tests.servers import MysqlServer, PostgresqlServer, Row
from tests.soak.units import ENDED, FIRST, State, Unit, told

SHOWN: Final = 20
TABLES: Final = {"daily_data": ("close", "volume"), "signal_history": ("signal_value", "entry_price")}
_PAGE: Final = 10_000

Rows: TypeAlias = tuple[str | int | Decimal, ...]
"""Of one unit in one table: how many, how many dates, the first and last, the lowest and highest price, the volumes."""
Stored: TypeAlias = dict[str, dict[str, Rows]]
"""Rows by the name of the unit, and by table."""


def stored(run_sql: Callable[[str], list[Row]]) -> Stored:
    """Return all that is in a database."""
    found: Stored = defaultdict(dict)
    for table, (price, number) in TABLES.items():
        after = ""
        while page := run_sql(
            f"SELECT ticker, count(*), count(DISTINCT date), min(date), max(date), min({price}), max({price}),"
            f" sum({number}) FROM {table} WHERE ticker > '{after}' GROUP BY ticker ORDER BY ticker LIMIT {_PAGE};"
        ):
            for ticker, *texts in page:
                found[str(ticker)][table] = tuple(
                    str(text) if text is None or "-" in text else Decimal(text) for text in texts
                )
            after = str(page[-1][0])
    return found


def expected(unit: Unit) -> dict[str, Rows]:
    """Return what is there of a unit that is stored."""
    return {
        table: (rows, rows, str(FIRST), str(days(rows, FIRST)[-1]), unit.price, unit.price, rows * (rows - 1) // 2)
        for table, rows in zip(TABLES, (unit.bars, unit.signals), strict=True)
        if rows
    }


class Record:
    """What the workers told: the units, the last state of each, and the processes that ended in good order."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.units: dict[str, Unit] = {}
        self.states: dict[str, State] = {}
        self.ended: set[str] = set()
        for line in lines:
            if line.startswith(ENDED):
                self.ended.add(line.split()[1])
                continue
            state, unit = told(line)
            self.units[unit.name], self.states[unit.name] = unit, state

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(Counter(self.states.values()).items()))
        return f"{len(self.units)} units of work: {states}"


def differences(record: Record, found: Mapping[str, Mapping[str, Rows]]) -> Iterator[str]:
    """Return what is not as it was told."""
    there = {name for name, unit in record.units.items() if found.get(name) == expected(unit)}
    took_effect = there | {name for name, state in record.states.items() if state == "acknowledged"}
    replaced = {record.units[name].replaces for name in took_effect}
    for name, unit in record.units.items():
        state = record.states[name]
        said = f"{name} ({unit.kind}, {state})"
        if name in found and name not in there:
            yield f"{said} is stored in part, twice or changed: {dict(found[name])} instead of {expected(unit)}"
        elif name in there and name in replaced:
            yield f"{said} is stored, and so is what replaced it"
        elif name in there and state == "failed":
            yield f"{said} is stored"
        elif name not in there and name not in replaced and state == "acknowledged":
            yield f"{said} is not stored"
        elif state == "attempted" and unit.process in record.ended:
            yield f"{said} was never heard of again, though its process ended in good order"
    yield from (f"{name} is stored, and nobody wrote it" for name in sorted(found.keys() - record.units.keys()))
    if "acknowledged" not in record.states.values():
        yield "nothing was acknowledged"


def opened(name: str, url: str) -> Backend:
    """Return the client of a database that is there."""
    if name == "sqlite":
        return SqliteBackend(Path(make_url(url).database or "").parent)
    if name == "postgresql":
        return PostgresqlBackend(PostgresqlServer(make_url(url)))
    return MysqlBackend(name, MysqlServer(make_url(url)))


def main(file: str, name: str, url: str) -> int:
    """Print what was done and what differs; return 1 if anything does."""
    backend = opened(name, url)
    with Path(file).open(encoding="utf-8") as lines:
        record = Record(lines)
    found = list(differences(record, stored(lambda sql: backend.run_sql(url, sql))))
    print(f"{name}: {record}; differences: {len(found)}", *found[:SHOWN], sep="\n  ", flush=True)
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
