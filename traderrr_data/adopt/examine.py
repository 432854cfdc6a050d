"""One table's rows: which of them become rows of ours as they are, which after a change, and which cannot.

Nothing is written but temporary tables: of the rows that are set aside, and of those that Python has brought into form.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from traderrr_data.adopt import values
from traderrr_data.adopt.forms import Form, form_of, literal, quoted
from traderrr_data.adopt.recognise import OWNED, Source, ids_are_usable, key_of, required
from traderrr_data.adopt.report import DUPLICATE, TableReport
from traderrr_data.adopt.zones import Zone
from traderrr_data.models.types import ExactDecimal, SessionDate, UtcDateTime

_ROWS_A_BATCH = 5_000
_LENGTH_OF_A_BATCH = 8 << 20  # characters and bytes: one row may hold a whole document
_ARGUMENTS = 100
_STAMPS = ("created_at", "updated_at")


@dataclass(frozen=True)
class Choices:
    """What the caller has said, and what goes for every table.

    Attributes:
        bars_zone: of intraday instants without an offset; None if not said.
        local_zone: of metadata.last_updated without an offset.
        timeframe: of intraday bars that do not say it.
        user: whose rows are kept where several have some.
        now: when this happens, as stored.
        check: raises if the work has been cancelled.
    """

    bars_zone: Zone | None
    local_zone: Zone
    timeframe: str
    user: int | None
    now: str
    check: Callable[[], None]

    def zone_of(self, source: Source, column: str) -> Zone:
        """Return the zone of a column's instants without an offset."""
        if not source.is_ours and (source.table.name, column) == ("intraday_data", "datetime"):
            return self.bars_zone or dt.UTC
        if not source.is_ours and (source.table.name, column) == ("metadata", "last_updated"):
            return self.local_zone
        return dt.UTC


@dataclass(frozen=True)
class Examined:
    """A table whose rows are known.

    Attributes:
        source: the table.
        columns: the columns of ours that get a value.
        usual: as SQL, the rows that are moved as they are.
        moved: as SQL, a query for the rows of ours; nothing is ordered.
        report: what is said about it.
        aside: the temporary table (r, why) of the rows that are set aside.
        converted: the temporary table of the rows that Python brought into form; '' if there are none.
        key_values: as SQL, what the columns of a usual row get.
    """

    source: Source
    columns: tuple[str, ...]
    usual: str
    moved: str
    report: TableReport
    aside: str
    converted: str
    key_values: Mapping[str, str]

    def extra_query(self, key: Sequence[str]) -> str:
        """Return a query for the rows' keys and what they have in columns that are not ours, where they have any."""
        extras = [quoted(name) for name in self.source.extras]
        found = [f"{self.key_values[name]} AS {quoted(name)}" for name in key]
        usual = (
            f"SELECT {', '.join([*found, *extras])} FROM {self.usual} {'AND' if ' WHERE ' in self.usual else 'WHERE'}"
        )
        query = f"{usual} {_any_of(extras)}"
        if not self.converted:
            return query
        theirs = [f"s.{name}" for name in extras]
        return (
            f"{query} UNION ALL SELECT {', '.join([*(f'c.{quoted(name)}' for name in key), *theirs])}"
            f" FROM {self.converted} AS c JOIN {quoted(self.source.name)} AS s ON s.{self.source.rowid} = c.r"
            f" WHERE c.r NOT IN (SELECT r FROM {self.aside}) AND {_any_of(theirs)}"
        )


def _any_of(columns: Sequence[str]) -> str:
    """Return a condition that holds where one of the columns has a value; SQLite's functions take few arguments."""
    parts = [columns[start : start + _ARGUMENTS] for start in range(0, len(columns), _ARGUMENTS)]
    firsts = [f"coalesce({', '.join([*part, 'NULL'])})" for part in parts]
    return f"coalesce({', '.join([*firsts, 'NULL'])}) IS NOT NULL"


def examine(connection: sqlite3.Connection, found: Source, choices: Choices) -> Examined:
    """Look at every row of a table.

    Args:
        connection: its `text_factory` is `values.decoded`.
        found: the table.
        choices: what the caller has said.
    """
    source = _with_rowid(connection, found)
    if "id" in source.columns and not ids_are_usable(connection, source):
        columns = {ours: theirs for ours, theirs in source.columns.items() if ours != "id"}
        source = replace(source, columns=columns, extras=(source.columns["id"], *source.extras))
    return _Examination(connection, source, choices).run()


def _with_rowid(connection: sqlite3.Connection, source: Source) -> Source:
    """Give a table without rowids some, in a temporary copy."""
    if source.rowid is not None:
        return source
    copy = f"source_{source.table.name}"
    names = [quoted(name) for name in source.all_columns]
    connection.execute(f"CREATE TEMP TABLE {copy} ({', '.join(names)})")
    connection.execute(f"INSERT INTO {copy} SELECT {', '.join(names)} FROM main.{quoted(source.name)}")
    return replace(source, name=copy, rowid="rowid")


class _Examination:
    def __init__(self, connection: sqlite3.Connection, source: Source, choices: Choices) -> None:
        self._connection = connection
        self._source = source
        self._choices = choices
        self._table = source.table
        self._rows = f"{quoted(source.name)} NOT INDEXED"
        self._aside = f"aside_{self._table.name}"
        self._converted = f"converted_{self._table.name}"
        self._given = [column for column in self._table.c if column.name in source.columns]
        self._forms = {column.name: self._form(column) for column in self._given}
        self._columns = tuple(c.name for c in self._table.c if c.name in self._values())
        self._report = TableReport(
            self._table.name, source.shape, extra_columns=source.extras, left_out=source.left_out, rebuilt=True
        )

    def run(self) -> Examined:
        """Set rows aside, convert rows, and count them all."""
        names = ", ".join(map(quoted, self._columns))
        self._connection.execute(f"CREATE TEMP TABLE {self._aside} (r INTEGER PRIMARY KEY, why)")
        self._connection.execute(f"CREATE TEMP TABLE {self._converted} (r INTEGER PRIMARY KEY, {names})")
        self._count()
        self._leave_to_other_users()
        odd = self._convert()
        usual = self._usual(odd=odd)
        if key_of(self._table) and (odd or not self._source.unique or self._report.changes):
            self._resolve_duplicates(usual)
            usual = self._usual(odd=odd)
        moved = self._moved(usual, odd=odd)
        self._settle(moved)
        return Examined(
            self._source,
            self._columns,
            usual,
            moved,
            self._report,
            self._aside,
            self._converted if odd else "",
            self._values(),
        )

    def _form(self, column: sa.Column[Any]) -> Form:
        zone = self._choices.zone_of(self._source, column.name)
        form = form_of(column, quoted(self._source.columns[column.name]), zoned=zone is not dt.UTC)
        if column.name in _STAMPS:  # where it is absent, the row's other one or the clock says it
            return replace(form, holds=f"({quoted(self._source.columns[column.name])} IS NULL OR {form.holds})")
        return form

    def _values(self) -> dict[str, str]:
        """Return for each column of ours what a usual row's value is."""
        found = {name: form.value for name, form in self._forms.items()}
        stamps = [found[name] for name in _STAMPS if name in found]
        for name in _STAMPS:
            first = [found[name]] if name in found else []
            found[name] = f"coalesce({', '.join([*first, *stamps, literal(self._choices.now), 'NULL'])})"
        if "timeframe" in self._table.c and "timeframe" not in found:
            found["timeframe"] = literal(self._choices.timeframe)
        if "series" in self._table.c and "series" not in found:
            found["series"] = "''"
        if not key_of(self._table) and "id" not in found:
            found["id"] = str(self._source.rowid)
        return found

    def _count(self) -> None:
        """Count the rows, and the changes that SQL makes."""
        changes = [
            (f"{name}: {change}", f"sum({condition} AND {self._forms[name].holds})")
            for name, form in self._forms.items()
            for change, condition in form.changes.items()
        ]
        undated = [f"{quoted(self._source.columns[name])} IS NULL" for name in _STAMPS if name in self._source.columns]
        changes.append(("updated_at: dated with the adoption", f"sum({' AND '.join(undated) or '1'})"))
        wanted = ", ".join(["count(*)", *(condition for _, condition in changes)])
        rows, *counted = self._connection.execute(f"SELECT {wanted} FROM {self._rows}").fetchone()
        self._report.rows = rows
        self._report.changes.update({name: n for (name, _), n in zip(changes, counted, strict=True) if n})

    def _leave_to_other_users(self) -> None:
        source, chosen = self._source, self._choices.user
        if source.user is None or self._table.name not in OWNED or chosen is None:
            return
        why = literal(f"it belongs to another user than {chosen}, who was chosen")
        self._connection.execute(
            f"INSERT INTO {self._aside} SELECT {source.rowid}, {why} FROM {self._rows}"
            f" WHERE {quoted(source.user)} IS NOT ?",
            [chosen],
        )

    def _convert(self) -> bool:
        """Bring the rows that are not in the usual form into it, or set them aside; tell whether there are any."""
        usual = " AND ".join(form.holds for form in self._forms.values())
        names = ", ".join(quoted(self._source.columns[column.name]) for column in self._given)
        cursor = self._connection.execute(
            f"SELECT {self._source.rowid}, {names} FROM {self._rows}"
            f" WHERE NOT ({usual}) AND {self._source.rowid} NOT IN (SELECT r FROM {self._aside})"
        )
        marks = ",".join("?" * (len(self._columns) + 1))
        found = False
        for rows in in_batches(cursor):
            self._choices.check()
            found = True
            converted, aside = [], []
            for r, *cells in rows:
                try:
                    row = self._converted_row(r, cells)
                except ValueError as error:
                    aside.append((r, str(error)))
                else:
                    converted.append((r, *(row[name] for name in self._columns)))
            self._connection.executemany(f"INSERT INTO {self._converted} VALUES ({marks})", converted)
            self._connection.executemany(f"INSERT INTO {self._aside} VALUES (?, ?)", aside)
        return found

    def _converted_row(self, r: int, cells: list[Any]) -> dict[str, Any]:
        """Return a row in our form; ValueError with the column and the reason if there is none."""
        changes: Counter[str] = Counter()
        row: dict[str, Any] = {}
        for column, cell in zip(self._given, cells, strict=True):
            try:
                row[column.name] = self._converted_value(column, cell, changes)
            except ValueError as error:
                raise ValueError(f"{column.name} {error}") from None
        for name in required(self._table):
            if row[name] is None:
                raise ValueError(f"{name} is missing")
        if row.get("volume") is not None and row["volume"] < 0:
            raise ValueError("volume is negative")
        created, updated = row.get("created_at"), row.get("updated_at")
        row["created_at"] = created or updated or self._choices.now
        row["updated_at"] = updated or created or self._choices.now
        row.setdefault("timeframe", self._choices.timeframe)
        row.setdefault("series", "")
        row.setdefault("id", r)
        for change, times in changes.items():
            kept = self._report.notes if change.endswith("kept") else self._report.changes
            kept[change] += times
        return row

    def _converted_value(self, column: sa.Column[Any], cell: Any, changes: Counter[str]) -> Any:
        def note(change: str) -> None:
            changes[f"{column.name}: {change}"] += 1

        kind = column.type
        if isinstance(kind, ExactDecimal):
            found = values.number(kind, cell, note)
            if found is not None and abs(found) >= kind.limit:
                note("has more digits than the column elsewhere, and was kept")
            elif found and kind.keeps_measurements and abs(found) < 5e-5:
                note("has more than ten decimals, which are not read, and was kept")
            return found
        if isinstance(kind, SessionDate):
            return values.date(cell, note)
        if isinstance(kind, UtcDateTime):
            return values.instant(cell, self._choices.zone_of(self._source, column.name), note)
        if isinstance(kind, sa.BigInteger):
            return cell
        return values.text(kind, cell, note)

    def _usual(self, *, odd: bool) -> str:
        """Return, as SQL, the rows that are moved as they are."""
        without = [self._aside, *([self._converted] if odd else [])]
        conditions = [f"{self._source.rowid} NOT IN (SELECT r FROM {name})" for name in without if self._has_rows(name)]
        return f"{self._rows}{' WHERE ' if conditions else ''}{' AND '.join(conditions)}"

    def _has_rows(self, table: str) -> bool:
        return bool(self._connection.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()[0])

    def _moved(self, usual: str, *, odd: bool, also: Mapping[str, str] | None = None) -> str:
        """Return a query for the rows of ours."""
        values_of = self._values()
        wanted = [f"{values_of[name]} AS {quoted(name)}" for name in self._columns]
        query = f"SELECT {', '.join([*wanted, *(also or {}).values()])} FROM {usual}"
        if not odd:
            return query
        names = [quoted(name) for name in (*self._columns, *(also or {}))]
        return (
            f"{query} UNION ALL SELECT {', '.join(names)} FROM {self._converted}"
            f" WHERE r NOT IN (SELECT r FROM {self._aside})"
        )

    def _resolve_duplicates(self, usual: str) -> None:
        """Set all rows of a key aside but one."""
        odd = self._has_rows(self._converted)
        rows = self._moved(usual, odd=odd, also={"r": f"{self._source.rowid} AS r"})
        key = ", ".join(f"{quoted(name)} COLLATE BINARY" for name in key_of(self._table))
        # A row without updated_at was given this moment: it is not the newest.
        told = f"CASE updated_at WHEN {literal(self._choices.now)} THEN NULL ELSE updated_at END"
        self._connection.execute(
            f"INSERT INTO {self._aside} SELECT r, {literal(DUPLICATE)} FROM (SELECT r, row_number() OVER"
            f" (PARTITION BY {key} ORDER BY {told} DESC, r DESC) AS n FROM ({rows})) WHERE n > 1"
        )

    def _settle(self, moved: str) -> None:
        """Count what is kept and what is not."""
        reasons = self._connection.execute(f"SELECT why, count(*) FROM {self._aside} GROUP BY why")
        self._report.rejected = Counter(dict(reasons.fetchall()))
        self._report.kept = self._report.rows - self._report.rejected.total()
        if "high" in self._table.c:
            wrong = "min(open, close) < low OR max(open, close) > high OR low > high"
            (count,) = self._connection.execute(f"SELECT count(*) FROM ({moved}) WHERE {wrong}").fetchone()
            if count:
                self._report.notes["prices out of order, kept"] = count


def reject_rows(examined: Examined, connection: sqlite3.Connection, source: Source) -> Iterator[list[tuple[Any, ...]]]:
    """Yield batches of (why, values by name) of the rows that were set aside."""
    names = source.all_columns
    wanted = ", ".join(f"s.{quoted(name)}" for name in names)
    cursor = connection.execute(
        f"SELECT a.why, {wanted} FROM {examined.aside} AS a JOIN {quoted(source.name)} AS s ON s.{source.rowid} = a.r"
        " ORDER BY a.r"
    )
    yield from in_batches(cursor)


def in_batches(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield rows by the thousand, and fewer where they are long."""
    batch: list[tuple[Any, ...]] = []
    length = 0
    for row in rows:
        batch.append(row)
        length += sum(len(cell) for cell in row if isinstance(cell, str | bytes))
        if len(batch) == _ROWS_A_BATCH or length > _LENGTH_OF_A_BATCH:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch
