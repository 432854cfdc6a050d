"""How SQLite takes a large batch: in one visit to the connection's thread, some hundred rows a statement."""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Counts, Merge

if TYPE_CHECKING:
    import pyarrow as pa

Cells: TypeAlias = tuple[Any, ...]

_ROWS_A_STATEMENT = 500
_RANK = {1: 2, None: 1, 0: 0}  # of is_final as it is stored


async def merge_columns(connection: AsyncConnection, merge: Merge) -> Counts:
    """Merge checked columns into their table; a visit per statement would cost more than most statements do."""
    work = _Work(merge)
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # noqa: S101 - for the type checker: the connection is open
    await driver._execute(work.run, driver._conn)
    return work.counts


class _Work:
    """One batch's statements, and what came of them."""

    def __init__(self, merge: Merge) -> None:
        names = merge.columns.column_names
        self.counts = Counts()
        self._merge = merge
        self._rows = _parameters(merge)
        self._kinds = [field.type for field in merge.columns.schema]
        self._at = {name: position for position, name in enumerate(names)}
        self._finality = [name for name in ("is_final", "observed_at") if name in merge.table.c and merge.keeps_final]
        self._columns = ", ".join(_quoted(name) for name in names)
        self._same_key = " AND ".join(f"t.{_quoted(name)} = v{self._at[name]}" for name in merge.key)
        self._differs = " OR ".join(f"t.{_quoted(name)} IS NOT v{self._at[name]}" for name in merge.values) or "0"
        self._marks = "(" + ",".join("?" * len(names)) + ")"

    def run(self, connection: sqlite3.Connection) -> None:
        """Insert first where that met only new rows last time, and look first where most were stored."""
        cursor = connection.cursor()
        look_first = False
        for start in range(0, len(self._rows), _ROWS_A_STATEMENT):
            chunk = self._rows[start : start + _ROWS_A_STATEMENT]
            if look_first and not self._merge.ignores_stored:
                stored = self._look(cursor, chunk)
                inserted = self._insert(cursor, [chunk[number] for number, *cells in stored if cells[0] is None])
                stored = [row for row in stored if row[1] is not None]
            else:
                inserted = self._insert(cursor, chunk)
                there = inserted < len(chunk) and not self._merge.ignores_stored
                stored = self._look(cursor, chunk) if there else []
            look_first = inserted * 2 < len(chunk)
            self._settle(cursor, chunk, inserted, stored)
        cursor.close()

    def _insert(self, cursor: sqlite3.Cursor, rows: Sequence[Cells]) -> int:
        if not rows:
            return 0
        key = ", ".join(_quoted(name) for name in self._merge.key)
        cursor.execute(
            f"INSERT INTO {_quoted(self._merge.table.name)} ({self._columns})"  # noqa: S608 - names of our tables
            f" VALUES {','.join([self._marks] * len(rows))} ON CONFLICT ({key}) DO NOTHING",
            list(chain.from_iterable(rows)),
        )
        return cursor.rowcount

    def _look(self, cursor: sqlite3.Cursor, rows: Sequence[Cells]) -> list[Cells]:
        """Return (number in the chunk, stored cells, finality) of the rows that are absent or differ bitwise."""
        given = ",".join(f"v{position}" for position in range(len(self._at)))
        wanted = ",".join(f"t.{_quoted(name)}" for name in (*self._at, *self._finality))
        numbered = ",".join(f"({number},{self._marks[1:]}" for number in range(len(rows)))
        cursor.execute(
            f"WITH v(n,{given}) AS (VALUES {numbered}) SELECT n, {wanted} FROM v"  # noqa: S608 - as above
            f" LEFT JOIN {_quoted(self._merge.table.name)} t ON {self._same_key}"
            f" WHERE t.{_quoted(self._merge.key[0])} IS NULL OR {self._differs}",
            list(chain.from_iterable(rows)),
        )
        return cursor.fetchall()

    def _settle(self, cursor: sqlite3.Cursor, chunk: Sequence[Cells], inserted: int, stored: Sequence[Cells]) -> None:
        changed = []
        skipped = len(chunk) - inserted if self._merge.ignores_stored else 0
        for number, *cells in stored:
            row = chunk[number]
            if all(map(_reads_as, cells, row, self._kinds)):
                continue
            if self._finality and self._outranks(cells[len(row) :], row):
                skipped += 1
            else:
                changed.append(row)
        self._update(cursor, changed)
        self.counts.inserted += inserted
        self.counts.updated += len(changed)
        self.counts.skipped += skipped
        self.counts.unchanged += len(chunk) - inserted - len(changed) - skipped

    def _outranks(self, stored: Sequence[Any], row: Cells) -> bool:
        """Tell what `bulk.rows.outranks` tells, of stored forms."""
        final, observed = stored
        given_final = row[self._at["is_final"]] if "is_final" in self._at else None
        if _RANK[final] != _RANK[given_final]:
            return _RANK[final] > _RANK[given_final]
        given_observed = row[self._at["observed_at"]] if "observed_at" in self._at else None
        if observed is None or given_observed is None:
            return False
        return _instant(observed) > _instant(given_observed)

    def _update(self, cursor: sqlite3.Cursor, rows: Sequence[Cells]) -> None:
        if not rows:
            return
        values, key = self._merge.values, self._merge.key
        order = [self._at[name] for name in (*values, *key)]
        cursor.executemany(
            f"UPDATE {_quoted(self._merge.table.name)} SET "  # noqa: S608 - as above
            + ", ".join(f"{_quoted(name)} = ?" for name in values)
            + ", updated_at = CURRENT_TIMESTAMP WHERE "
            + " AND ".join(f"{_quoted(name)} = ?" for name in key),
            [tuple(row[position] for position in order) for row in rows],
        )


def _quoted(name: str) -> str:
    return f'"{name}"'


def _reads_as(stored: Any, given: Any, kind: pa.DataType) -> bool:
    """Tell whether a stored cell reads as the one given, also where legacy code wrote another form of it."""
    if stored == given or stored is None or given is None:
        return bool(stored == given)
    if scale := getattr(kind, "scale", 0):
        quantum = Decimal(1).scaleb(-scale)
        pair = [
            Decimal(repr(cell)).quantize(quantum, ROUND_HALF_EVEN) for cell in (stored, given) if math.isfinite(cell)
        ]
        return len(pair) == 2 and pair[0] == pair[1]
    return str(kind).startswith("timestamp") and _instant(stored) == _instant(given)


def _instant(text: str) -> dt.datetime:
    instant = dt.datetime.fromisoformat(text)
    return instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant


def _parameters(merge: Merge) -> list[Cells]:
    table = merge.table
    columns = [_cells(table.c[name].type, merge.columns[name]) for name in merge.columns.column_names]
    return list(zip(*columns, strict=True))


def _cells(column_type: sa.types.TypeEngine[Any], column: pa.ChunkedArray) -> list[Any]:
    """Return a column in the form in which SQLite stores it."""
    import numpy as np  # noqa: PLC0415 - loaded only where Arrow is used

    from traderrr_data.dialects.wire import nulls, whole_numbers  # noqa: PLC0415 - as above

    kind = str(column.type)
    if kind.startswith("decimal128"):
        whole, power = whole_numbers(column.combine_chunks()), 10**column.type.scale
        cells = (whole / float(power)).tolist()  # exact: the batch was checked to have at most 15 digits
        if getattr(column_type, "keeps_whole_numbers", False):
            units = (whole // power).tolist()
            cells = [
                unit if exact else cell for unit, exact, cell in zip(units, whole % power == 0, cells, strict=True)
            ]
    elif kind.startswith("timestamp"):
        micros = np.asarray(column.combine_chunks().cast("int64").fill_null(0))
        text = np.datetime_as_string(micros.view("datetime64[us]"), unit="us").tolist()
        cells = [instant.replace("T", " ").removesuffix(".000000") for instant in text]
    elif kind.startswith("date"):
        return column.cast("string").to_pylist()  # type: ignore[no-any-return]
    else:
        return column.to_pylist()  # type: ignore[no-any-return]
    null = nulls(column.combine_chunks())
    return [None if empty else cell for empty, cell in zip(null, cells, strict=True)] if null.any() else cells
