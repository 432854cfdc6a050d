"""How MySQL and MariaDB give many rows: a page as one text, which no driver has to take apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from traderrr_data.dialects.base import Key, Page

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_ROWS = 50_000  # whose text fits the usual max_allowed_packet of 16 MiB


def after_key(columns: Sequence[sa.ColumnElement[Any]], key: Key) -> sa.ColumnElement[bool]:
    """Return the condition that a row comes after a key; a comparison of tuples would not use the index.

    https://dev.mysql.com/doc/refman/8.4/en/range-optimization.html#row-constructor-range-optimization
    """
    (column, *others), (value, *rest) = columns, key
    beyond: sa.ColumnElement[bool] = column > value
    if not others:
        return beyond
    return sa.or_(beyond, sa.and_(column == value, after_key(others, tuple(rest))))


def each_value(column: sa.Column[Any], values: Sequence[Any] | None) -> sa.Select[Any]:
    """Return the query for the values of an index's first column; the server skips through the index by itself."""
    query = sa.select(column.label("value")).distinct()
    return query if values is None else query.where(column.in_(values))


async def fetch_page(
    connection: AsyncConnection,
    query: sa.Select[Any],
    key: Sequence[sa.ColumnElement[Any]],
    schema: pa.Schema,
    rows: int,
) -> Page | None:
    """Fetch the first rows of a query; see `Dialect`.

    The page's last key is found first: a page that ends there needs no LIMIT, for which the server would copy it.
    """
    rows = min(rows, _MOST_ROWS)
    bound = query.with_only_columns(*key, maintain_column_froms=True).order_by(*key).limit(1).offset(rows - 1)
    last = (await connection.execute(bound)).first()
    if last is not None:
        query = query.where(sa.not_(after_key(key, tuple(last))))
    cells = ", ".join(map(_cell, schema))
    lines: sa.ColumnElement[str] = sa.literal_column(f"GROUP_CONCAT(CONCAT_WS('\t', {cells}) SEPARATOR '\n')")
    found = await connection.execute(sa.select(sa.func.count(), lines).select_from(query.subquery("page")))
    count, text = found.one()
    names = [column.name for column in key if column.name in schema.names]

    def build() -> pa.RecordBatch:
        from traderrr_data.dialects.wire import batch_of_text, in_order  # noqa: PLC0415 - it loads numpy

        # A text that was cut, by group_concat_max_len or max_allowed_packet, has too few lines.
        return in_order(batch_of_text((text or "").encode() + b"\n", schema, count, null="", zoned=False), names)

    return Page(build, is_last=last is None, end=None if last is None else last._asdict())


def _cell(field: pa.Field) -> str:
    """Return a cell's text in SQL: empty for NULL, and what cannot be read for an empty text that might be NULL."""
    name = f"page.`{field.name}`"
    if not field.nullable:
        return name
    return f"IFNULL(IF({name} = '', '\r', {name}), '')" if str(field.type) == "string" else f"IFNULL({name}, '')"
