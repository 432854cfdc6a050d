"""What PostgreSQL's catalog says of our tables, to compare it with what the models would make."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa

from traderrr_data.dialects.base import Catalog

_CATALOG = """
SELECT c.relname, 'column ' || a.attname,
    concat_ws(' ', 'number', row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum),
      format_type(a.atttypid, a.atttypmod), 'COLLATE ' || l.collname, CASE WHEN a.attnotnull THEN 'NOT NULL' END,
      'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
  LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
  WHERE c.relkind IN ('r', 'p') AND c.relnamespace = {namespace} AND c.relname = ANY (:tables)
UNION ALL
SELECT c.relname, 'constraint ' || o.conname,
    pg_get_constraintdef(o.oid) || CASE WHEN o.convalidated THEN '' ELSE ', not validated' END
  FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
  WHERE o.contype <> 'n' AND c.relnamespace = {namespace} AND c.relname = ANY (:tables)
UNION ALL
SELECT c.relname, 'index ' || i.relname,
    pg_get_indexdef(x.indexrelid) || CASE WHEN x.indisvalid THEN '' ELSE ', not valid' END
  FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indrelid JOIN pg_class AS i ON i.oid = x.indexrelid
  WHERE c.relnamespace = {namespace} AND c.relname = ANY (:tables)
"""


def catalogs(connection: sa.Connection, tables: Sequence[sa.Table]) -> tuple[Catalog, Catalog]:
    """Return what is there, and what the models make as temporary tables, which are rolled back."""
    # In this order: the temporary tables hide the others, whose names would then be shown with their schema.
    found = _catalog(connection, tables, "quote_ident(current_schema())::regnamespace")
    for table in tables:
        text = str(sa.schema.CreateTable(table).compile(dialect=connection.dialect))
        connection.exec_driver_sql(text.replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1))
        for index in table.indexes:
            connection.execute(sa.schema.CreateIndex(index))
    expected = _catalog(connection, tables, "pg_my_temp_schema()")
    connection.rollback()
    return found, expected


def _catalog(connection: sa.Connection, tables: Sequence[sa.Table], namespace: str) -> Catalog:
    query = sa.text(_CATALOG.format(namespace=namespace)).bindparams(
        sa.bindparam("tables", [table.name for table in tables], sa.ARRAY(sa.Text))
    )
    return {
        (table, part): re.sub(r" ON \S+ USING ", " USING ", text) for table, part, text in connection.execute(query)
    }
