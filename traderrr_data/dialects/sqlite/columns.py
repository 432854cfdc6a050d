"""How SQLite takes a large batch: in one visit to the connection's thread, some hundred rows a statement."""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from itertools import chain
from operator import itemgetter
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

    A row's cells are those that vary, then those that are the same in every row of the batch, which a statement is
    given once.

    Attributes:
        counts: how many rows had each verdict.
        verdicts: of each row, if the merge wants them.
    """

    def __init__(self, merge: Merge) -> None:
        self.counts: Counter[str] = Counter()
        self.verdicts: list[Verdict] = []
        self._merge = merge
        self._table = _quoted(merge.table.name)
        self._constants = _constants(merge)
        self._varying = [name for name in merge.columns.column_names if name not in self._constants]
        self._at = {name: position for position, name in enumerate((*self._varying, *self._constants))}
        self._finality = ("is_final", "observed_at") if merge.keeps_final else ()
        self._compared = [] if merge.on_conflict == "ignore" else merge.values
        self._kinds = [merge.columns.schema.field(name).type for name in self._compared]
        self._same_key = " AND ".join(f"t.{_quoted(name)} = {self._given(name)}" for name in merge.key)
        self._absent: list[Any] = []
        self._changed: list[Cells] = []
        self._now = ""

    def run(self, connection: sqlite3.Connection) -> None:
        """Insert first where that met only new rows last time, and look first where most were stored."""
        cursor = connection.cursor()
        self._now = _text_of(dt.datetime.now(dt.UTC))
        # Where there is an id, every row that is tried takes a number, also if it is there already.
        always = self._merge.wants_verdicts or self._merge.table.autoincrement_column is not None
        look_first = always
        others: Verdict = "skipped" if self._merge.on_conflict == "ignore" else "unchanged"
        for chunk in self._chunks():
            verdicts: dict[int, Verdict] = {}
            if look_first:
                found = self._look(cursor, chunk)
                verdicts = {number: _INSERTED for number, is_absent, *_ in found if is_absent}
                inserted = len(verdicts)
                self._absent += chunk.cells if inserted == len(chunk) else chain.from_iterable(map(chunk.of, verdicts))
            else:
                inserted = self._insert(cursor, chunk.cells)
                found = self._look(cursor, chunk) if inserted < len(chunk) else []
            changed = self._compare(chunk, [row for row in found if not row[1]])
            self._write(cursor, least=_ROWS_A_STATEMENT)
            counts: Counter[str] = Counter(changed.values())
            counts["inserted"] = inserted
            counts[others] = len(chunk) - counts.total()
            self.counts += counts
            if self._merge.wants_verdicts:
                verdicts |= changed
                self.verdicts += [verdicts.get(number, others) for number in range(len(chunk))]
            look_first = always or inserted * 2 < len(chunk)
        self._write(cursor, least=1)
        cursor.close()

    def _chunks(self) -> Iterator[_Chunk]:
        """Yield each statement's rows; Python's cells of a whole batch would take ten times its columns' memory."""
        width = len(self._varying)
        for first in range(0, self._merge.columns.num_rows, _ROWS_AT_ONCE):
            columns = self._merge.columns.slice(first, _ROWS_AT_ONCE)
            cells: list[Any] = [None] * (columns.num_rows * width)
            for position, name in enumerate(self._varying):
                cells[position::width] = stored_cells(self._merge.table.c[name].type, columns[name])
            step = _ROWS_A_STATEMENT * width
            for start in range(0, len(cells), step):
                yield _Chunk(cells[start : start + step], width)

    def _given(self, name: str) -> str:
        """Return how a statement names a row's cell: a mark bound after those of the rows, if it is constant."""
        return "?" if name in self._constants else f"v{self._at[name]}"

    def _row(self, chunk: _Chunk, number: int) -> Cells:
        return (*chunk.of(number), *self._constants.values())

    def _constants_of(self, names: Iterable[str]) -> list[Any]:
        return [self._constants[name] for name in names if name in self._constants]

    def _write(self, cursor: sqlite3.Cursor, *, least: int) -> None:
        """Write what waits to be inserted or updated, a statement's rows at a time, while there are so many."""
        width = len(self._varying)
        while len(self._absent) >= least * width:
            self._insert(cursor, self._absent[: _ROWS_A_STATEMENT * width])
            del self._absent[: _ROWS_A_STATEMENT * width]
        while len(self._changed) >= least:
            self._update(cursor, self._changed[:_ROWS_A_STATEMENT])
            del self._changed[:_ROWS_A_STATEMENT]

    def _insert(self, cursor: sqlite3.Cursor, cells: Sequence[Any]) -> int:
        """Insert the rows whose key is absent; the column defaults would tell the time in whole seconds only."""
        names = ", ".join(map(_quoted, self._at))
        width = len(self._varying)
        # What is the same in all rows is said once: a number before each mark takes longer than the insert.
        cursor.execute(
            f"INSERT INTO {self._table} (created_at, updated_at, {names})"
            f" SELECT ?, ?, v.*{', ?' * len(self._constants)} FROM (VALUES {_marks(len(cells) // width, width)})"
            f" AS v WHERE TRUE ON CONFLICT ({', '.join(map(_quoted, self._merge.key))}) DO NOTHING",
            [self._now, self._now, *self._constants.values(), *cells],
        )
        return cursor.rowcount

    def _look(self, cursor: sqlite3.Cursor, chunk: _Chunk) -> list[Cells]:
        """Return (number, is absent, stored values, finality) of the chunk's rows that are absent or differ bitwise."""
        given = ",".join(f"v{position}" for position in range(chunk.width))
        wanted = "".join(f",t.{_quoted(name)}" for name in (*self._compared, *self._finality))
        absent = f"t.{_quoted(self._merge.key[0])} IS NULL"
        differs = "".join(f" OR t.{_quoted(name)} IS NOT {self._given(name)}" for name in self._compared)
        cursor.execute(
            f"WITH v(n,{given}) AS (VALUES {_numbered_marks(len(chunk), chunk.width)})"
            f" SELECT n,{absent}{wanted} FROM v LEFT JOIN {self._table} t ON {self._same_key} WHERE {absent}{differs}",
            [*chunk.cells, *self._constants_of(self._merge.key), *self._constants_of(self._compared)],
        )
        return cursor.fetchall()

    def _compare(self, chunk: _Chunk, different: Sequence[Cells]) -> dict[int, Verdict]:
        """Return what becomes of the rows that are stored and read otherwise, by number; have some updated."""
        verdicts: dict[int, Verdict] = {}
        compared = [(self._at[name], kind) for name, kind in zip(self._compared, self._kinds, strict=True)]
        for number, _, *cells in different:
            row = self._row(chunk, number)
            for cell, (at, kind) in zip(cells, compared):  # noqa: B905 - the finality follows
                if cell != row[at] and not _reads_as(cell, row[at], kind):
                    break
            else:
                continue
            if self._merge.on_conflict == "repeat":
                raise RowByRow
            if self._finality and self._outranks(cells[len(compared) :], row):
                verdicts[number] = "skipped"
            else:
                verdicts[number] = "updated"
                self._changed.append(row)
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
        values, key = self._merge.values, self._merge.key
        self._keep(cursor, rows)
        cells_of = itemgetter(*(self._at[name] for name in (*values, *key)))
        sets = ", ".join(f"{_quoted(name)} = ?" for name in values)
        where = " AND ".join(f"{_quoted(name)} = ?" for name in key)
        cursor.executemany(
            f"UPDATE {self._table} SET updated_at = max(?, updated_at), {sets} WHERE {where}",
            [(self._now, *cells_of(row)) for row in rows],
        )

    def _keep(self, cursor: sqlite3.Cursor, rows: Sequence[Cells]) -> None:
        """Keep the stored versions of rows, if anything is to be kept."""
        if self._merge.revisions is None:
            return
        kept = kept_columns(self._merge.table, self._merge.revisions)
        at = [self._at[name] for name in self._merge.key if name not in self._constants]
        cursor.execute(
            f"WITH v({','.join(f'v{position}' for position in at)}) AS (VALUES {_marks(len(rows), len(at))})"
            f" INSERT INTO {_quoted(self._merge.revisions.name)}"
            f" (table_name, change, known_until, {', '.join(map(_quoted, kept))})"
            f" SELECT '{self._merge.table.name}', 'update', max(?, t.updated_at),"
            f" {', '.join(f't.{_quoted(name)}' for name in kept.values())}"
            f" FROM v CROSS JOIN {self._table} t ON {self._same_key}",
            [*(row[position] for row in rows for position in at), self._now, *self._constants_of(self._merge.key)],
        )


def _constants(merge: Merge) -> dict[str, Any]:
    """Return the texts that stand in every row, but never the whole key: a statement needs something to vary."""
    if merge.columns.num_rows < _ROWS_A_STATEMENT:
        return {}
    constants = {}
    for name in merge.columns.column_names:
        column = merge.columns[name]
        if name != merge.key[-1] and str(column.type) == "string" and len(unique := column.unique()) == 1:
            constants[name] = unique[0].as_py()
    return constants


@lru_cache
def _marks(rows: int, width: int) -> str:
    return ",".join([f"({','.join('?' * width)})"] * rows)


@lru_cache
def _numbered_marks(rows: int, width: int) -> str:
    return ",".join(f"({number}{',?' * width})" for number in range(rows))


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

    def of(self, number: int) -> list[Any]:
        """Return a row's cells."""
        return self.cells[number * self.width : (number + 1) * self.width]


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
