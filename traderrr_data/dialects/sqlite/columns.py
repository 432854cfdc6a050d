"""How SQLite takes a large batch: in one visit to the connection's thread, some hundred rows a statement."""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Counts, Merge, RowByRow, Verdict, kept_columns

if TYPE_CHECKING:
    import pyarrow as pa

Cells: TypeAlias = tuple[Any, ...]

_ROWS_A_STATEMENT = 100  # with more, numbered parameters cost more than a statement
_ROWS_AT_ONCE = 10_000  # that have Python's cells
_EXACT = 2**53  # whole numbers up to this are doubles
_INSERTED: Verdict = "inserted"
_RANK = {1: 2, None: 1, 0: 0}  # of is_final as it is stored


async def merge_columns(connection: AsyncConnection, merge: Merge) -> Counts:
    """Merge checked columns into their table; a visit per statement would cost more than most statements do."""
    work = _Work(merge)
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # noqa: S101 - for the type checker: the connection is open
    await driver._execute(work.run, driver._conn)
    return Counts(**work.counts, verdicts=work.verdicts)


class _Work:
    """One batch's statements, and what came of its rows.

    Attributes:
        counts: how many rows had each verdict.
        verdicts: of each row, if the merge wants them.
    """

    def __init__(self, merge: Merge) -> None:
        names = merge.columns.column_names
        self.counts: Counter[str] = Counter()
        self.verdicts: list[Verdict] = []
        self._merge = merge
        self._table = _quoted(merge.table.name)
        self._kinds = [field.type for field in merge.columns.schema]
        self._at = {name: position for position, name in enumerate(names)}
        self._finality = ("is_final", "observed_at") if merge.keeps_final else ()
        self._same_key = " AND ".join(f"t.{_quoted(name)} = v{self._at[name]}" for name in merge.key)
        self._differs = " OR ".join(f"t.{_quoted(name)} IS NOT v{self._at[name]}" for name in merge.values) or "0"
        self._now = ""

    def run(self, connection: sqlite3.Connection) -> None:
        """Insert first where that met only new rows last time, and look first where most were stored."""
        cursor = connection.cursor()
        self._now = _text_of(dt.datetime.now(dt.UTC))
        # Where there is an id, every row that is tried takes a number, also if it is there already.
        always = self._merge.wants_verdicts or self._merge.table.autoincrement_column is not None
        look_first = always
        others: Verdict = "skipped" if self._merge.on_conflict == "ignore" else "unchanged"
        changed_rows: list[Cells] = []
        for chunk in _chunks(self._merge):
            if look_first:
                found = self._look(cursor, chunk)
                absent = [number for number, is_absent, *_ in found if is_absent]
                inserted = self._insert(cursor, chunk if len(absent) == len(chunk) else chunk.only(absent))
            else:
                absent = []  # nobody has looked
                inserted = self._insert(cursor, chunk)
                found = self._look(cursor, chunk) if inserted < len(chunk) else []
            changed = self._compare(chunk, [row for row in found if not row[1]])
            changed_rows += [chunk[number] for number, verdict in changed.items() if verdict == "updated"]
            if len(changed_rows) >= _ROWS_A_STATEMENT:
                self._update(cursor, changed_rows)
                changed_rows = []
            counts = Counter[str](changed.values())
            counts["inserted"] = inserted
            counts[others] = len(chunk) - counts.total()
            self.counts += counts
            if self._merge.wants_verdicts:
                known: dict[int, Verdict] = {**dict.fromkeys(absent, _INSERTED), **changed}
                self.verdicts += [known.get(number, others) for number in range(len(chunk))]
            look_first = always or inserted * 2 < len(chunk)
        self._update(cursor, changed_rows)
        cursor.close()

    def _insert(self, cursor: sqlite3.Cursor, chunk: _Chunk) -> int:
        """Insert the rows whose key is absent; the column defaults would tell the time in whole seconds only."""
        if not len(chunk):
            return 0
        names = ", ".join(map(_quoted, self._at))
        row = f"({','.join('?' * len(self._at))})"
        # The time is said once: its text in every row, or a number before each mark, takes longer than the insert.
        cursor.execute(
            f"INSERT INTO {self._table} ({names}, created_at, updated_at)"
            f" SELECT v.*, ?, ? FROM (VALUES {','.join([row] * len(chunk))}) AS v WHERE TRUE"
            f" ON CONFLICT ({', '.join(map(_quoted, self._merge.key))}) DO NOTHING",
            [self._now, self._now, *chunk.cells],
        )
        return cursor.rowcount

    def _look(self, cursor: sqlite3.Cursor, chunk: _Chunk) -> list[Cells]:
        """Return (number in the chunk, is absent, stored cells, finality) of rows that are absent or differ bitwise."""
        given = ",".join(f"v{position}" for position in range(len(self._at)))
        wanted = ",".join(f"t.{_quoted(name)}" for name in (*self._at, *self._finality))
        marks = ",?" * len(self._at)
        numbered = ",".join(f"({number}{marks})" for number in range(len(chunk)))
        absent = f"t.{_quoted(self._merge.key[0])} IS NULL"
        differs = "0" if self._merge.on_conflict == "ignore" else self._differs
        cursor.execute(
            f"WITH v(n,{given}) AS (VALUES {numbered}) SELECT n, {absent}, {wanted} FROM v"
            f" LEFT JOIN {self._table} t ON {self._same_key} WHERE {absent} OR {differs}",
            chunk.cells,
        )
        return cursor.fetchall()

    def _compare(self, chunk: _Chunk, different: Sequence[Cells]) -> dict[int, Verdict]:
        """Return what becomes of the rows that are stored and read otherwise, by number."""
        verdicts: dict[int, Verdict] = {}
        for number, _, *cells in different:
            row = chunk[number]
            if all(map(_reads_as, cells, row, self._kinds)):
                continue
            if self._merge.on_conflict == "repeat":
                raise RowByRow
            outranked = bool(self._finality) and self._outranks(cells[len(row) :], row)
            verdicts[number] = "skipped" if outranked else "updated"
        return verdicts

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
        self._keep(cursor, rows)
        order = [self._at[name] for name in (*values, *key)]
        sets = ", ".join(f"{_quoted(name)} = ?" for name in values)
        where = " AND ".join(f"{_quoted(name)} = ?" for name in key)
        cursor.executemany(
            f"UPDATE {self._table} SET updated_at = max(?, updated_at), {sets} WHERE {where}",
            [(self._now, *(row[position] for position in order)) for row in rows],
        )

    def _keep(self, cursor: sqlite3.Cursor, rows: Sequence[Cells]) -> None:
        """Keep the stored versions of rows, if anything is to be kept."""
        if self._merge.revisions is None:
            return
        kept = kept_columns(self._merge.table, self._merge.revisions)
        at = [self._at[name] for name in self._merge.key]
        marks = ",".join([f"({','.join('?' * len(at))})"] * len(rows))
        cursor.execute(
            f"WITH v({','.join(f'v{position}' for position in at)}) AS (VALUES {marks})"
            f" INSERT INTO {_quoted(self._merge.revisions.name)}"
            f" (table_name, change, known_until, {', '.join(map(_quoted, kept))})"
            f" SELECT '{self._merge.table.name}', 'update', max(?, t.updated_at),"
            f" {', '.join(f't.{_quoted(name)}' for name in kept.values())}"
            f" FROM v CROSS JOIN {self._table} t ON {self._same_key}",
            [*(row[position] for row in rows for position in at), self._now],
        )


def _quoted(name: str) -> str:
    return f'"{name}"'


def _reads_as(stored: Any, given: Any, kind: pa.DataType) -> bool:
    """Tell whether a stored cell reads as the one given, also where legacy code wrote another form of it."""
    if stored == given or stored is None or given is None:
        return bool(stored == given)
    if scale := getattr(kind, "scale", 0):
        if abs(stored - given) > 2 / 10**scale:
            return False  # without the digits, which take a hundred times as long
        quantum = Decimal(1).scaleb(-scale)
        pair = [
            Decimal(repr(cell)).quantize(quantum, ROUND_HALF_EVEN) for cell in (stored, given) if math.isfinite(cell)
        ]
        return len(pair) == 2 and pair[0] == pair[1]
    return str(kind).startswith("timestamp") and _instant(stored) == _instant(given)


def _text_of(instant: dt.datetime) -> str:
    """Return an instant in the form in which SQLite stores it, with a fraction only where there is one."""
    return instant.replace(tzinfo=None).isoformat(sep=" ")


def _instant(text: str) -> dt.datetime:
    instant = dt.datetime.fromisoformat(text)
    return instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant


@dataclass(frozen=True)
class _Chunk:
    """A statement's rows: their cells, one row after the other."""

    cells: list[Any]
    width: int

    def __len__(self) -> int:
        return len(self.cells) // self.width

    def __getitem__(self, number: int) -> Cells:
        return tuple(self.cells[number * self.width : (number + 1) * self.width])

    def only(self, numbers: Sequence[int]) -> _Chunk:
        return _Chunk(list(chain.from_iterable(map(self.__getitem__, numbers))), self.width)


def _chunks(merge: Merge) -> Iterator[_Chunk]:
    """Yield each statement's rows; Python's cells of a whole batch would take ten times its columns' memory."""
    width = merge.columns.num_columns
    for first in range(0, merge.columns.num_rows, _ROWS_AT_ONCE):
        columns = merge.columns.slice(first, _ROWS_AT_ONCE)
        cells: list[Any] = [None] * (columns.num_rows * width)
        for position, name in enumerate(columns.column_names):
            cells[position::width] = stored_cells(merge.table.c[name].type, columns[name])
        step = _ROWS_A_STATEMENT * width
        for start in range(0, len(cells), step):
            yield _Chunk(cells[start : start + step], width)


def stored_cells(column_type: sa.types.TypeEngine[Any], column: pa.ChunkedArray) -> list[Any]:
    """Return a column in the form in which SQLite stores it.

    Raises:
        OverflowError: a decimal does not fit 64 bits.
    """
    import numpy as np  # noqa: PLC0415 - loaded only where Arrow is used

    from traderrr_data.dialects.wire import nulls, whole_numbers  # noqa: PLC0415 - as above

    kind = str(column.type)
    if kind.startswith("decimal128"):
        whole, power = whole_numbers(column.combine_chunks()), 10**column.type.scale
        cells = (whole / float(power)).tolist()
        for position in np.flatnonzero(np.abs(whole) > _EXACT).tolist():
            cells[position] = int(whole[position]) / power  # Python rounds once where numpy would round twice
        if getattr(column_type, "keeps_whole_numbers", False):
            units, exact = (whole // power).tolist(), whole % power == 0
            cells = units if exact.all() else [u if e else c for u, e, c in zip(units, exact, cells, strict=True)]
    elif kind.startswith("timestamp"):
        micros = np.asarray(column.combine_chunks().cast("int64").fill_null(0))
        text = np.datetime_as_string(micros.view("datetime64[us]"), unit="us").tolist()
        cells = [instant.replace("T", " ").removesuffix(".000000") for instant in text]
    elif kind.startswith("date") or kind == "string":
        encoded = column.combine_chunks().dictionary_encode()  # few values of many rows, each made once
        values = np.array([*encoded.dictionary.cast("string").to_pylist(), None], dtype=object)
        return values[encoded.indices.fill_null(len(values) - 1)].tolist()  # type: ignore[no-any-return]
    else:
        return column.to_pylist()  # type: ignore[no-any-return]
    null = nulls(column.combine_chunks())
    return [None if empty else cell for empty, cell in zip(null, cells, strict=True)] if null.any() else cells
