"""How PostgreSQL takes a batch: COPY BINARY where nothing of it is stored, else the server itself keeps what is needed.

A large batch goes by COPY BINARY, straight into the table if no stored key lies between its keys, else into a staging
table, and what is new or differs goes on from there. A small batch comes as arrays in one statement, since a temporary
table for each would bloat the catalog.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Counts, Merge, OnConflict, RowByRow, Verdict, kept_columns
from traderrr_data.dialects.postgresql.driver import driver_of

if TYPE_CHECKING:
    import pyarrow as pa

_STAGE = "traderrr_data_stage"
_STAGED_FROM = 2_000  # rows
_ROWS_A_MESSAGE = 20_000
_MOST_RANGES = 0.1  # of a batch's rows; more are not worth a look
_ATTEMPTS = 5
_NOTHING = dict.fromkeys(("absent", "inserted", "present", "locked", "updated", "outranked"), 0)
_CHANGED_AT = "greatest(statement_timestamp(), t.updated_at)"  # a clock that was put back ends no version early
_LAST_INSTANT = 253_402_300_799_999_999  # microseconds since 1970, of 9999-12-31 23:59:59.999999 UTC
_UNIQUE_VIOLATION = "23505"
_KINDS = {
    "int32": "int4",
    "int64": "int8",
    "date32": "date",
    "timestamp": "timestamptz",
    "bool": "bool",
    "decimal128": "numeric",
}


async def merge_columns(connection: AsyncConnection, merge: Merge) -> Counts:
    """Merge checked columns into their table."""
    if any(map(_reaches_the_last, merge.columns.columns)):
        raise RowByRow
    driver = await driver_of(connection)
    if merge.columns.num_rows < _STAGED_FROM:
        return await _merge_small(driver, merge)
    if await _is_apart(driver, merge) and await _copy(driver, merge):
        every: list[Verdict] = ["inserted"] * merge.columns.num_rows
        return Counts(inserted=len(every), verdicts=every if merge.wants_verdicts else None)
    return await _merge_large(driver, merge)


def _reaches_the_last(column: pa.ChunkedArray) -> bool:
    """Tell whether the last date or instant of Python's is in a column, for which only asyncpg writes infinity."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    if pa.types.is_date32(column.type):
        return bool(pc.max(column).as_py() == dt.date.max)
    return pa.types.is_timestamp(column.type) and bool(pc.max(column.cast(pa.int64())).as_py() == _LAST_INSTANT)


async def _is_apart(driver: Any, merge: Merge) -> bool:
    """Tell whether no stored key lies between the keys of the batch, one look at the index for each run of them."""
    from traderrr_data.dialects.wire import runs  # noqa: PLC0415 - it loads numpy

    found = await asyncio.to_thread(runs, merge.columns, merge.key)
    if found.num_rows > _MOST_RANGES * merge.columns.num_rows:
        return False
    *lines, (last_name, last_kind) = [(name, _kind(merge.columns.schema.field(name))) for name in merge.key]
    kinds = [*(kind for _, kind in lines), last_kind, last_kind]
    arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(kinds, 1))
    names = [*(f"key_{at}" for at in range(len(lines))), "oldest", "newest"]
    same_line = "".join(f't."{name}" = r.key_{at} AND ' for at, (name, _) in enumerate(lines))
    return not await driver.fetchval(
        f"SELECT EXISTS (SELECT FROM unnest({arrays}) AS r({', '.join(names)}),"
        f' LATERAL (SELECT FROM "{merge.table.name}" t'
        f' WHERE {same_line}t."{last_name}" BETWEEN r.oldest AND r.newest LIMIT 1) AS stored)',
        *(column.to_pylist() for column in found.columns),
    )


async def _copy(driver: Any, merge: Merge) -> bool:
    """Copy the batch straight into its table; False, with nothing done, if another writer has stored a key of it."""
    try:
        async with driver.transaction():
            await driver.copy_to_table(
                merge.table.name,
                columns=merge.columns.column_names,
                source=binary(merge.columns),
                format="binary",
            )
    except Exception as error:
        if getattr(error, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
        return False
    return True


async def _merge_large(driver: Any, merge: Merge) -> Counts:
    """Look for what is new or differs in a staging table, and bring only that into the table."""
    rows = _numbered(merge.columns)
    columns = ", ".join(f'"{field.name}" {_kind(field)}' for field in rows.schema)
    await driver.execute(f"CREATE TEMPORARY TABLE {_STAGE} ({columns}) ON COMMIT DROP")
    await driver.copy_to_table(_STAGE, schema_name="pg_temp", source=binary(rows), format="binary")
    statements = _Statements(merge, f"pg_temp.{_STAGE}")
    find = (
        "SELECT array_agg(n) FILTER (WHERE absent), array_agg(n) FILTER (WHERE NOT absent)"
        f" FROM ({statements.find}) AS found"
    )
    # ANY would compare each row with each number from a connection's sixth batch on, when the plan is made for whatever
    # parameters there are. A plain join is taken for much larger than it is, since the stage has no statistics.
    stage = f"MATERIALIZED (SELECT * FROM pg_temp.{_STAGE} WHERE n IN (SELECT unnest"
    steps = [f"absent AS {stage}($1::int4[])))", f"present AS {stage}($2::int4[])))"]

    async def look_and_change() -> Mapping[str, Any]:
        absent, different = await driver.fetchrow(find)
        if absent is None and different is None:
            return _NOTHING
        return await driver.fetchrow(statements.change(steps), absent or [], different or [])  # type: ignore[no-any-return]

    counts = await _settled(merge, look_and_change)
    await driver.execute(f"DROP TABLE pg_temp.{_STAGE}")
    return counts


async def _merge_small(driver: Any, merge: Merge) -> Counts:
    """Do all in one statement, which gets each column as the text of an array."""
    statement = _small_statement(
        merge.table,
        merge.key,
        merge.columns.schema,
        on_conflict=merge.on_conflict,
        revisions=merge.revisions,
        wants_verdicts=merge.wants_verdicts,
    )
    arrays = list(map(_array, _numbered(merge.columns).columns))
    return await _settled(merge, lambda: driver.fetchrow(statement, *arrays))


@lru_cache(64)  # making it takes as long as the server takes for some rows
def _small_statement(
    table: sa.Table,
    key: tuple[str, ...],
    schema: pa.Schema,
    *,
    on_conflict: OnConflict,
    revisions: sa.Table | None,
    wants_verdicts: bool,
) -> str:
    merge = Merge(table, key, schema.empty_table(), on_conflict, revisions, wants_verdicts)
    kinds = ["int4", *map(_kind, schema)]
    arrays = ", ".join(f"${place}::text::{kind}[]" for place, kind in enumerate(kinds, 1))
    statements = _Statements(merge, "given")
    steps = [
        f"given AS MATERIALIZED (SELECT * FROM unnest({arrays}) AS u({_listed(['n', *schema.names])}))",
        f"found AS MATERIALIZED ({statements.find})",
        "absent AS MATERIALIZED (SELECT s.* FROM given s JOIN found USING (n) WHERE found.absent)",
        "present AS MATERIALIZED (SELECT s.* FROM given s JOIN found USING (n) WHERE NOT found.absent)",
    ]
    return statements.change(steps)


def _array(column: pa.ChunkedArray) -> str:
    """Return a column as PostgreSQL spells an array: to encode objects one by one takes several times as long."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    cells = column.combine_chunks()
    if pa.types.is_string(cells.type):
        escaped = pc.replace_substring(pc.replace_substring(cells, "\\", "\\\\"), '"', '\\"')
        cells = pc.binary_join_element_wise('"', escaped, '"', "")
    elif pa.types.is_timestamp(cells.type):
        cells = pc.binary_join_element_wise(cells.cast(pa.timestamp("us")).cast(pa.string()), "Z", "")
    else:
        cells = cells.cast(pa.string())
    return f"{{{','.join(cells.fill_null('NULL').to_pylist())}}}"


async def _settled(merge: Merge, attempt: Callable[[], Awaitable[Mapping[str, Any]]]) -> Counts:
    """Bring a batch in, once more where another writer stored, changed or deleted a row of it meanwhile; return counts.

    Raises:
        RowByRow: an addition is stored otherwise, or nothing tells what became of each row.
    """
    counts = Counts()
    for _ in range(_ATTEMPTS):
        found = await attempt()
        counts.inserted += found["inserted"]
        counts.updated += found["updated"]
        counts.skipped = found["outranked"]  # those of an earlier attempt were found again
        undisturbed = found["inserted"] == found["absent"] and found["locked"] == found["present"]
        if merge.on_conflict == "ignore" or undisturbed:
            break
        if merge.wants_verdicts:
            raise RowByRow
    else:
        raise RowByRow  # not the key but another unique index is in the way: let the database say which
    if merge.on_conflict == "repeat" and counts.updated:
        raise RowByRow
    given = merge.columns.num_rows
    others = given - counts.inserted - counts.updated - counts.skipped
    verdict: Verdict = "skipped" if merge.on_conflict == "ignore" else "unchanged"
    setattr(counts, verdict, getattr(counts, verdict) + others)
    if merge.wants_verdicts:
        numbers: dict[Verdict, str] = {"inserted": "new", "updated": "changed", "skipped": "kept"}
        known = {number: its for its, answer in numbers.items() for number in found.get(answer) or ()}
        counts.verdicts = [known.get(number, verdict) for number in range(given)]
    return counts


class _Statements:
    """The SQL of one merge; all names are those of our own tables.

    Args:
        merge: the batch.
        source: what holds the rows given, numbered by `n`.
    """

    def __init__(self, merge: Merge, source: str) -> None:
        self._merge, self._source = merge, source
        self._table = f'"{merge.table.name}"'
        self._same_key = " AND ".join(f't."{name}" = s."{name}"' for name in merge.key)
        differs = (f't."{name}" IS DISTINCT FROM s."{name}"' for name in merge.values)
        self._differs = "false" if merge.on_conflict == "ignore" else " OR ".join(differs) or "false"

    @property
    def find(self) -> str:
        """Find the rows that are absent, and those that are stored otherwise."""
        absent = f't."{self._merge.key[0]}" IS NULL'
        return (
            f"SELECT s.n, {absent} AS absent FROM {self._source} s LEFT JOIN {self._table} t ON {self._same_key}"
            f" WHERE {absent} OR {self._differs}"
        )

    def change(self, steps: Sequence[str]) -> str:
        """Insert the rows that `steps` call absent; lock, keep and update those that they call present.

        Both happen in the order of the keys, the same for all writers.
        """
        merge, kept, names = self._merge, {}, self._merge.columns.column_names
        if merge.revisions is not None:
            kept = kept_columns(merge.table, merge.revisions)
        old = [f't."{name}" AS "old_{name}"' for name in kept.values()]
        locked = ["s.n", f"{_outranks(merge)} AS outranked", f"{_CHANGED_AT} AS changed_at", *old]
        sets = [*(f'"{name}" = s."{name}"' for name in merge.values), "updated_at = d.changed_at"]
        every = [
            *steps,
            f"""added AS (
                INSERT INTO {self._table} ({_listed(names)}) SELECT {_listed(names)}
                FROM absent s ORDER BY n
                ON CONFLICT ({_listed(merge.key)}) DO NOTHING RETURNING 1)""",
            f"""different AS MATERIALIZED (
                SELECT {", ".join(locked)}
                FROM present s JOIN {self._table} t ON {self._same_key}
                WHERE {self._differs} ORDER BY s.n FOR UPDATE OF t)""",
            f"""changed AS (
                UPDATE {self._table} t SET {", ".join(sets)} FROM present s JOIN different d USING (n)
                WHERE {self._same_key} AND NOT d.outranked RETURNING s.n)""",
        ]
        if merge.revisions is not None:
            every.append(f"""remembered AS (
                INSERT INTO "{merge.revisions.name}" (table_name, change, known_until, {_listed(kept)})
                SELECT '{merge.table.name}', 'update', changed_at, {_listed(f"old_{name}" for name in kept.values())}
                FROM different WHERE NOT outranked)""")
        answers = [
            "(SELECT count(*) FROM absent) AS absent",
            "(SELECT count(*) FROM added) AS inserted",
            "(SELECT count(*) FROM present) AS present",
            "(SELECT count(*) FROM different) AS locked",
            "(SELECT count(*) FROM changed) AS updated",
            "(SELECT count(*) FROM different WHERE outranked) AS outranked",
        ]
        if merge.wants_verdicts:
            answers += [
                "(SELECT array_agg(n) FROM absent) AS new",
                "(SELECT array_agg(n) FROM changed) AS changed",
                "(SELECT array_agg(n) FROM different WHERE outranked) AS kept",
            ]
        return f"WITH {', '.join(every)} SELECT {', '.join(answers)}"


async def binary(rows: pa.Table) -> AsyncIterator[bytes]:
    """Yield rows in the form that COPY BINARY reads."""
    import pgpq  # noqa: PLC0415 - loaded only where Arrow is used

    encoder = pgpq.ArrowToPostgresBinaryEncoder(rows.schema)
    yield encoder.write_header()
    for batch in rows.to_batches(max_chunksize=_ROWS_A_MESSAGE):
        yield await asyncio.to_thread(encoder.write_batch, batch)
    yield encoder.finish()


def _numbered(columns: pa.Table) -> pa.Table:
    import numpy as np  # noqa: PLC0415 - loaded only where Arrow is used
    import pyarrow as pa  # noqa: PLC0415 - as above

    return columns.add_column(0, "n", pa.array(np.arange(columns.num_rows, dtype=np.int32)))


def _kind(field: pa.Field) -> str:
    """Return PostgreSQL's type of a staged column."""
    return _KINDS.get(str(field.type).partition("[")[0].partition("(")[0], "text")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _outranks(merge: Merge) -> str:
    """Return what `bulk.rows.outranks` tells, in SQL."""
    if not merge.keeps_final:
        return "false"
    given = merge.columns.column_names
    stored_rank, given_rank = _rank("t.is_final"), _rank("s.is_final" if "is_final" in given else "NULL::bool")
    later = "COALESCE(t.observed_at > s.observed_at, false)" if "observed_at" in given else "false"
    return f"({stored_rank} > {given_rank} OR {stored_rank} = {given_rank} AND {later})"


def _rank(final: str) -> str:
    return f"CASE {final} WHEN true THEN 2 WHEN false THEN 0 ELSE 1 END"
