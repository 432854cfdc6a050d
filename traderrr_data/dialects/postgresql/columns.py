"""How PostgreSQL takes a large batch: COPY BINARY into a staging table, and a merge of what is new or differs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Counts, Merge

if TYPE_CHECKING:
    import pyarrow as pa

_STAGE = "pg_temp.traderrr_data_stage"
_ROWS_A_MESSAGE = 20_000


async def merge_columns(connection: AsyncConnection, merge: Merge) -> Counts:
    """Merge checked columns into their table."""
    statements = _Statements(merge)
    # Through SQLAlchemy, which begins the transaction only with its first statement.
    await connection.exec_driver_sql(statements.create_stage)
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # noqa: S101 - for the type checker: the connection is open
    await driver.copy_to_table(
        "traderrr_data_stage", schema_name="pg_temp", source=_binary(_staged(merge.columns)), format="binary"
    )
    await connection.exec_driver_sql(f"ANALYZE {_STAGE}")  # without it the planner takes the stage for tiny
    given = merge.columns.num_rows
    inserted, absent, different = tuple((await connection.exec_driver_sql(statements.insert)).one())
    updated = skipped = 0
    if merge.ignores_stored:
        skipped = given - inserted
    elif different or inserted < absent:  # fewer than were absent: another writer was faster
        updated, skipped = tuple((await connection.exec_driver_sql(statements.update)).one())
    await connection.exec_driver_sql(f"DROP TABLE {_STAGE}")
    return Counts(inserted, updated, given - inserted - updated - skipped, skipped)


async def _binary(table: pa.Table) -> AsyncIterator[bytes]:
    import pgpq  # noqa: PLC0415 - loaded only where Arrow is used

    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    yield encoder.write_header()
    for batch in table.to_batches(max_chunksize=_ROWS_A_MESSAGE):
        yield encoder.write_batch(batch)
    yield encoder.finish()


def _staged(columns: pa.Table) -> pa.Table:
    """Return the rows numbered, with decimals as whole numbers of their last decimal: 8 bytes that cost no encoding."""
    import numpy as np  # noqa: PLC0415 - loaded only where Arrow is used
    import pyarrow as pa  # noqa: PLC0415 - as above

    from traderrr_data.dialects.wire import nulls, whole_numbers  # noqa: PLC0415 - as above

    staged = {"n": pa.array(np.arange(columns.num_rows, dtype=np.int32))}
    for name in columns.column_names:
        column = columns[name].combine_chunks()
        if pa.types.is_decimal(column.type):
            column = pa.array(whole_numbers(column), pa.int64(), mask=nulls(column))
        staged[name] = column
    return pa.table(staged)


class _Statements:
    """The SQL of one merge; all names are those of our own tables."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._table = f'"{merge.table.name}"'
        self._scales = {field.name: getattr(field.type, "scale", 0) for field in merge.columns.schema}
        self._same_key = " AND ".join(f't."{name}" = s."{name}"' for name in merge.key)
        differs = (f't."{name}" IS DISTINCT FROM {self._given(name)}' for name in merge.values)
        self._differs = " OR ".join(differs) or "false"

    def _given(self, name: str) -> str:
        """A staged value as the column has it; a product with a power of ten is exact, a quotient is slower."""
        return f'(s."{name}" * 1e-{self._scales[name]})' if self._scales[name] else f's."{name}"'

    @property
    def create_stage(self) -> str:
        kinds = {
            "decimal128": "int8",
            "date32": "date",
            "timestamp": "timestamptz",
            "bool": "bool",
            "string": 'text COLLATE "C"',
        }
        columns = ", ".join(
            f'"{field.name}" {kinds[str(field.type).partition("(")[0].partition("[")[0]]}'
            for field in self._merge.columns.schema
        )
        return f"CREATE TEMPORARY TABLE traderrr_data_stage (n int4, {columns}) ON COMMIT DROP"

    @property
    def insert(self) -> str:
        """Insert what is absent; the rows: inserted, absent before, stored and different."""
        names = self._merge.columns.column_names
        columns = ", ".join(f'"{name}"' for name in names)
        key = ", ".join(f'"{name}"' for name in self._merge.key)
        absent = f't."{self._merge.key[0]}" IS NULL'
        return f"""
            WITH found AS MATERIALIZED (
                SELECT s.n, {absent} AS absent FROM {_STAGE} s LEFT JOIN {self._table} t ON {self._same_key}
                WHERE {absent} OR {self._differs}
            ), added AS (
                INSERT INTO {self._table} ({columns})
                SELECT {", ".join(map(self._given, names))} FROM {_STAGE} s JOIN found USING (n)
                WHERE found.absent ORDER BY n ON CONFLICT ({key}) DO NOTHING RETURNING 1
            )
            SELECT (SELECT count(*) FROM added), count(*) FILTER (WHERE absent), count(*) FILTER (WHERE NOT absent)
            FROM found"""  # noqa: S608 - names of our tables

    @property
    def update(self) -> str:
        """Update what differs, locked in the order of the keys; the rows: updated, kept back."""
        sets = ", ".join(f'"{name}" = {self._given(name)}' for name in self._merge.values)
        return f"""
            WITH different AS MATERIALIZED (
                SELECT s.n, {self._outranks()} AS kept FROM {self._table} t JOIN {_STAGE} s ON {self._same_key}
                WHERE {self._differs} ORDER BY s.n FOR UPDATE OF t
            ), changed AS (
                UPDATE {self._table} t SET {sets}, updated_at = statement_timestamp()
                FROM {_STAGE} s JOIN different USING (n) WHERE {self._same_key} AND NOT different.kept RETURNING 1
            )
            SELECT (SELECT count(*) FROM changed), count(*) FILTER (WHERE kept) FROM different"""  # noqa: S608 - as above

    def _outranks(self) -> str:
        """What `bulk.rows.outranks` tells, in SQL."""
        if not self._merge.keeps_final or "is_final" not in self._merge.table.c:
            return "false"
        given = self._merge.columns.column_names
        stored_rank, given_rank = _rank("t.is_final"), _rank("s.is_final" if "is_final" in given else "NULL::bool")
        later = "COALESCE(t.observed_at > s.observed_at, false)" if "observed_at" in given else "false"
        return f"({stored_rank} > {given_rank} OR {stored_rank} = {given_rank} AND {later})"


def _rank(final: str) -> str:
    return f"CASE {final} WHEN true THEN 2 WHEN false THEN 0 ELSE 1 END"
