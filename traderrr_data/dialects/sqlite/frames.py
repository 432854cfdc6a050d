"""How SQLite gives many rows: a short page cell by cell, a long one as one text for each column.

The texts are put together beside the interpreter, in one step. Cells take its lock anew for each row, for which a busy
event loop lets them wait; a short page of them is there sooner all the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Key, Page, loose_scan
from traderrr_data.dialects.sqlite.cells import SHORT_PAGE, short_page

if TYPE_CHECKING:
    import pyarrow as pa


def each_value(column: sa.Column[Any], values: Sequence[Any] | None) -> sa.Select[Any]:
    """Return the query for the values of an index's first column; they are one parameter, however many."""
    if values is None:
        return loose_scan(column)
    given = sa.func.json_each(json.dumps(list(values))).table_valued("value")
    return sa.select(sa.type_coerce(given.c.value, column.type).label("value"))


def after_key(columns: Sequence[sa.ColumnElement[Any]], key: Key) -> sa.ColumnElement[bool]:
    """Return the condition that a row comes after a key; a text is compared as it is stored, whatever its form."""
    values = [
        sa.literal(value, sa.String() if isinstance(value, str) else column.type)
        for column, value in zip(columns, key, strict=True)
    ]
    return sa.tuple_(*columns) > sa.tuple_(*values)


async def fetch_page(
    connection: AsyncConnection,
    query: sa.Select[Any],
    key: Sequence[sa.ColumnElement[Any]],
    schema: pa.Schema,
    rows: int,
) -> Page | None:
    """Fetch the first rows of a query; see `Dialect`. None if SQL cannot tell what one of the cells reads as."""
    query = query.order_by(*key).limit(rows)
    names = [column.name for column in key if column.name in schema.names]
    if rows <= SHORT_PAGE:
        return await short_page(connection, query, names, schema, rows)
    columns = [_column(column, field) for column, field in zip(query.selected_columns, schema, strict=True)]
    page = query.add_columns(*(column.scaled for column in columns if column.scaled is not None)).subquery("page")
    sure = " AND ".join(column.sure for column in columns if column.sure) or "1"
    sums = [f"CAST(group_concat(coalesce({column.cell}, ''), '\n') AS BLOB)" for column in columns]
    wanted: list[sa.ColumnElement[Any]] = [
        sa.literal_column(text) for text in ("count(*)", f"total(CASE WHEN {sure} THEN 1 ELSE 0 END)", *sums)
    ]
    count, surely, *found = (await connection.execute(sa.select(*wanted).select_from(page))).one()
    if surely < count:
        return None
    texts = [(text or b"") + b"\n" for text in found]

    def build() -> pa.RecordBatch:
        import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

        from traderrr_data.dialects.wire import in_order  # noqa: PLC0415 - as above

        arrays = [column.array(text, count) for column, text in zip(columns, texts, strict=True)]
        return in_order(pa.record_batch(arrays, schema=schema), names)

    last = {name: _last_line(texts[schema.names.index(name)], count) for name in names}
    return Page(build, is_last=count < rows, end=None if None in last.values() else last)


def _last_line(text: bytes, count: int) -> str | None:
    if not count or text.count(b"\n") != count:
        return None
    try:
        return text[:-1].rpartition(b"\n")[2].decode()
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class _Column:
    """One column on its way out.

    Attributes:
        field: what it shall be.
        cell: the SQL of a cell's text, in which there is no end of a line.
        sure: the SQL that is true where that text tells what the cell reads as.
        scaled: what the two say of a decimal as a whole number of its last decimal, computed once a row.
    """

    field: pa.Field
    cell: str
    sure: str = ""
    scaled: sa.ColumnElement[Any] | None = None

    def array(self, text: bytes, count: int) -> pa.Array:
        """Return the lines of a text as Arrow holds them."""
        import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

        from traderrr_data.dialects.wire import array_of_lines, decimals_of_doubles  # noqa: PLC0415 - as above

        if self.scaled is None:
            return array_of_lines(text, self.field, count)
        return decimals_of_doubles(array_of_lines(text, self.field.with_type(pa.int64()), count), self.field.type)


@lru_cache(256)  # making expressions takes longer than reading a short page
def _column(column: sa.ColumnElement[Any], field: pa.Field) -> _Column:
    stored = f'page."{field.name}"'
    if str(field.type) == "string":
        return _Column(field, stored, f"{stored} IS NOT ''" if field.nullable else "")
    if not str(field.type).startswith("decimal"):
        return _Column(field, stored)
    return (_whole_or_double if getattr(column.type, "keeps_whole_numbers", False) else _double)(column, field, stored)


def _double(column: sa.ColumnElement[Any], field: pa.Field, stored: str) -> _Column:
    """Scale doubles, and say when that gives the decimals by which they read.

    A double reads as its shortest decimal form, rounded half-even to the column's decimals. Up to 5e15 of these the
    doubles lie closer together than these decimals, so that at most one of them has this double as its nearest: if a
    quotient gives the double back, that is the one. For other doubles, such as those of 32-bit measurements, the
    product is rounded, which is sure away from the middle between two decimals.
    """
    value = sa.type_coerce(column, sa.Float())
    zero: sa.ColumnElement[Any] = sa.literal_column("0")
    half: sa.ColumnElement[Any] = sa.literal_column("0.5")
    power: sa.ColumnElement[Any] = sa.literal_column(f"1e{field.type.scale}")
    whole = sa.cast(value * power + half, sa.Integer()) - sa.type_coerce(value < zero, sa.Integer()).self_group()
    name = f"scaled {field.name}"
    return _Column(field, f'page."{name}"', _sure(stored, f'page."{name}"', field.type.scale), whole.label(name))


def _whole_or_double(_column: sa.ColumnElement[Any], field: pa.Field, stored: str) -> _Column:
    scale = field.type.scale
    whole = f"CAST({stored} * 1e{scale} + 0.5 AS INTEGER)"
    return _Column(
        field,
        f"CASE typeof({stored}) WHEN 'real' THEN {whole} || 'e-{scale}' ELSE {stored} END",
        f"(typeof({stored}) IN ('integer', 'null') OR {stored} < 1e{15 - scale} AND {_sure(stored, whole, scale)})",
    )


def _sure(stored: str, whole: str, scale: int) -> str:
    given_back = f"{stored} IS {whole} / 1e{scale}"
    # How far the product may be off, by the multiplication and by the double's own spelling, grows with it.
    clear = f"abs({stored} * 1e{scale} - {whole}) < 0.499999999 - {stored} * 4e{scale - 16}"
    return f"({given_back} OR {stored} >= 0 AND {stored} < 1e{15 - scale} AND {clear})"
