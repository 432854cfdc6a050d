"""What is copied: every table of the metadata, in the order of its foreign keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from traderrr_data.bulk.arrow import storage_of
from traderrr_data.errors import SchemaMismatchError
from traderrr_data.models import Base
from traderrr_data.models.types import CheckedType


@dataclass(frozen=True)
class Layout:
    """One table as it is copied.

    Attributes:
        table: of the metadata.
        schema: its columns as Arrow holds them; all that there are, or were at an older revision.
    """

    table: sa.Table
    schema: pa.Schema

    @property
    def name(self) -> str:
        """The table's name."""
        return self.table.name

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key, by which the rows are read."""
        return tuple(column.name for column in self.table.primary_key.columns)

    @cached_property
    def plain(self) -> sa.TableClause:
        """The table with texts that are taken as they are: what is stored need not be what we would store."""
        columns = [
            sa.column(column.name, sa.String() if pa.types.is_string(field.type) else column.type)
            for column, field in self._fields
        ]
        return sa.table(self.table.name, *columns)

    @property
    def has_long_texts(self) -> bool:
        """Whether a row may be as long as a document."""
        texts = (column for column, field in self._fields if pa.types.is_string(field.type))
        return any(_length(column.type) is None for column in texts)

    @cached_property
    def lengths(self) -> dict[str, int]:
        """How many characters the columns of limited text have room for."""
        found = {column.name: _length(column.type) for column, field in self._fields if pa.types.is_string(field.type)}
        return {name: length for name, length in found.items() if length is not None}

    @property
    def _fields(self) -> list[tuple[sa.Column[Any], pa.Field]]:
        return [(self.table.c[field.name], field) for field in self.schema]


def layouts(metadata: sa.MetaData = Base.metadata) -> list[Layout]:
    """Return all tables, each behind those that it refers to.

    Raises:
        SchemaMismatchError: a table has no primary key, or a column of a type that cannot be copied exactly.
    """
    return [_layout(table) for table in metadata.sorted_tables]


def _layout(table: sa.Table) -> Layout:
    if not table.primary_key.columns:
        raise SchemaMismatchError(f"the table {table.name} has no primary key, by which its rows could be copied")
    fields = [pa.field(c.name, _storage(table, c), c.nullable) for c in table.columns]
    return Layout(table, pa.schema(fields))


def _storage(table: sa.Table, column: sa.Column[Any]) -> pa.DataType:
    """Return the Arrow type that holds a column's values exactly."""
    match column.type:
        case CheckedType():
            return storage_of(column.type)
        case sa.Boolean():
            return pa.bool_()
        case sa.Integer():
            return pa.int64()
        case sa.Numeric(precision=int() as precision, scale=int() as scale) if not isinstance(column.type, sa.Float):
            return pa.decimal128(precision, scale)
        case sa.String():
            return pa.string()
        case sa.Date():
            return pa.date32()
    raise SchemaMismatchError(f"the column {column.name} of {table.name} is a {column.type!r}, which cannot be copied")


def _length(column_type: Any) -> int | None:
    length: int | None = getattr(column_type, "length", None)
    return length


def key_of(layout: Layout, row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a row."""
    return tuple(row[name] for name in layout.key)


def shown_key(names: Sequence[str], key: Sequence[Any]) -> str:
    """Return a key as an error may show it."""
    return ", ".join(f"{name}={value}" for name, value in zip(names, key, strict=False))
