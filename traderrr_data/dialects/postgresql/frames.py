"""How PostgreSQL gives many rows: columns that it packs, or COPY, whose lines Arrow reads, of texts of any length."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import QUICKLY_BUILT, CellByCell, Key, Page, loose_scan
from traderrr_data.dialects.postgresql.driver import driver_of

if TYPE_CHECKING:
    import pyarrow as pa

_NULL = b"\\N"  # https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-TEXT-FORMAT


def each_value(column: sa.Column[Any], values: Sequence[Any] | None) -> sa.Select[Any]:
    """Return the query for the values of an index's first column."""
    if values is None:
        return loose_scan(column)
    array = sa.cast(sa.literal(list(values), ARRAY(column.type)), ARRAY(column.type))
    return sa.select(sa.func.unnest(array).label("value"))


def after_key(columns: Sequence[sa.ColumnElement[Any]], key: Key) -> sa.ColumnElement[bool]:
    """Return the condition that a row comes after a key, in the order of these columns."""
    values = [sa.literal(value, column.type) for column, value in zip(columns, key, strict=True)]
    return sa.tuple_(*columns) > sa.tuple_(*values)


async def fetch_page(
    connection: AsyncConnection,
    query: sa.Select[Any],
    key: Sequence[sa.ColumnElement[Any]],
    schema: pa.Schema,
    rows: int,
) -> Page | None:
    """Fetch the first rows of a query; see `Dialect`.

    A packed column must fit a value, which has 1 GiB at most: bars do, and documents need not.
    """
    from traderrr_data.dialects.postgresql.packed import is_packed  # noqa: PLC0415 - it loads numpy

    are_short = all(getattr(column.type, "length", 0) is not None for column in query.selected_columns)
    fetch = _fetch_packed if are_short and is_packed(schema) else _copy
    return await fetch(connection, query, key, schema, rows)


async def _fetch_packed(
    connection: AsyncConnection,
    query: sa.Select[Any],
    key: Sequence[sa.ColumnElement[Any]],
    schema: pa.Schema,
    rows: int,
) -> Page:
    from traderrr_data.dialects.postgresql import packed  # noqa: PLC0415 - it loads numpy

    page = query.order_by(*key).limit(rows).subquery("page")
    columns: list[sa.ColumnElement[bytes]] = [
        sa.literal_column(packed.packing(field, f'page."{field.name}"')) for field in schema
    ]
    count, *found = (await connection.execute(sa.select(sa.func.count(), *columns).select_from(page))).one()
    names = [column.name for column in key if column.name in schema.names]
    end: dict[str, Any] | None = None
    if count == rows:
        places = {field.name: place for place, field in enumerate(schema)}
        end = {name: packed.last_of(schema.field(name), found[places[name]], count) for name in names}

    def build() -> pa.RecordBatch:
        from traderrr_data.dialects.wire import in_order  # noqa: PLC0415 - it loads numpy

        return in_order(packed.batch_of(found, schema, count), names)

    is_sure = end is not None and None not in end.values()
    return Page(build, is_last=count < rows, end=end if is_sure else None, is_quick=count <= QUICKLY_BUILT)


async def _copy(
    connection: AsyncConnection,
    query: sa.Select[Any],
    key: Sequence[sa.ColumnElement[Any]],
    schema: pa.Schema,
    rows: int,
) -> Page | None:
    """Fetch them by COPY. Only asyncpg is spoken to.

    COPY takes no parameters. What a backslash in a literal means is a setting, so that such a query is not for it.
    """
    if connection.dialect.driver != "asyncpg":
        return None
    query = query.order_by(*key).limit(rows)
    statement = str(query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    if "\\" in statement:
        return None
    driver = await driver_of(connection)
    blocks: list[bytes] = []

    async def keep(block: bytes) -> None:
        blocks.append(block)

    try:
        status: str = await driver.copy_from_query(statement, output=keep)
    except Exception:
        # The server will take nothing more in this transaction, and the engine's listeners must know.
        with contextlib.suppress(Exception):
            await connection.exec_driver_sql("SELECT 1")
        raise
    count, text = int(status.removeprefix("COPY ")), b"".join(blocks)

    def build() -> pa.RecordBatch:
        from traderrr_data.dialects.wire import batch_of_text  # noqa: PLC0415 - it loads numpy

        batch = batch_of_text(text, schema, count, null=_NULL.decode(), zoned=True)
        if text.count(b"\\") > sum(column.null_count for column in batch.columns):
            raise CellByCell("a text has an escape")
        return batch

    return Page(build, is_last=count < rows, end=_end(blocks, schema, key) if count else None)


def _end(blocks: Sequence[bytes], schema: pa.Schema, key: Sequence[sa.ColumnElement[Any]]) -> dict[str, str] | None:
    """Return the last line's cells of the key as texts, which their columns' types can read; None if one is escaped."""
    line = b"".join(blocks[-2:]).removesuffix(b"\n").rpartition(b"\n")[2]
    cells = dict(zip(schema.names, line.decode().split("\t"), strict=False))
    end = {column.name: cells.get(column.name, "\\") for column in key if column.name in schema.names}
    return None if any("\\" in cell for cell in end.values()) else end
