"""What a database's own catalog says about its tables, as lines that two databases can be compared by."""

from __future__ import annotations

from typing import Final

from tests.backends import Backend

_SQLITE: Final = """
SELECT 'table', name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name;
SELECT 'column', m.name, c.cid, c.name, c.type, c."notnull", c.dflt_value, c.pk, c.hidden
  FROM sqlite_master AS m, pragma_table_xinfo(m.name) AS c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'
  ORDER BY m.name, c.cid;
SELECT 'index', m.name, l.name, l."unique", l.origin, x.seqno, x.name, x."desc", x.coll
  FROM sqlite_master AS m, pragma_index_list(m.name) AS l, pragma_index_xinfo(l.name) AS x
  WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' ORDER BY m.name, l.name, x.seqno;
SELECT 'kind', name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%' ORDER BY name;
SELECT 'reference', m.name, f.* FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f
  WHERE m.type = 'table' ORDER BY m.name, f.id, f.seq;
"""

_POSTGRESQL: Final = """
SELECT 'column', c.relname, row_number() OVER (PARTITION BY c.relname ORDER BY a.attnum), a.attname,
    format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), l.collname, a.attidentity
  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
  LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
  WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace ORDER BY c.relname, a.attnum;
SELECT 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated
  FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND contype <> 'n' ORDER BY 2, 3;
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 2, 3;
"""

_MYSQL: Final = """
SELECT 'column', table_name, ordinal_position, column_name, column_type, is_nullable, column_default,
    character_set_name, collation_name, datetime_precision, numeric_precision, numeric_scale, extra
  FROM information_schema.columns WHERE table_schema = database() ORDER BY table_name, ordinal_position;
SELECT 'table', table_name, engine, table_collation FROM information_schema.tables
  WHERE table_schema = database() ORDER BY table_name;
SELECT 'index', table_name, index_name, seq_in_index, column_name, non_unique, collation, sub_part, index_type
  FROM information_schema.statistics WHERE table_schema = database() ORDER BY table_name, index_name, seq_in_index;
SELECT 'check', t.table_name, t.constraint_name, c.check_clause FROM information_schema.table_constraints AS t
  JOIN information_schema.check_constraints AS c
  ON c.constraint_schema = t.constraint_schema AND c.constraint_name = t.constraint_name
  WHERE t.table_schema = database() ORDER BY t.table_name, t.constraint_name;
SELECT 'reference', table_name, constraint_name, referenced_table_name FROM information_schema.key_column_usage
  WHERE table_schema = database() AND referenced_table_name IS NOT NULL ORDER BY 2, 3;
"""

_QUERIES: Final = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL, "mysql": _MYSQL, "mariadb": _MYSQL}


def catalog(backend: Backend, url: str) -> list[str]:
    """Return everything that the catalog says about our tables.

    Columns in their order, types with precision and collation, defaults, NULLs, keys, CHECKs, indexes, and how the rows
    lie.
    """
    lines = [
        " | ".join("NULL" if part is None else part for part in row)
        for row in backend.run_sql(url, _QUERIES[backend.name])
    ]
    # Where the database keeps the text that made a table, it is compared without its layout and its order of CHECKs.
    return sorted(_plain(line) for line in lines if "traderrr_data_version" not in line)


def _plain(line: str) -> str:
    if not line.startswith("table | ") or "CREATE TABLE" not in line:
        return line
    name, _, rest = line.partition("(")
    body, _, options = rest.rpartition(")")
    parts = sorted(" ".join(part.split()) for part in _parts(body))
    return f"{' '.join(name.split())} ({', '.join(parts)}) {options.strip()}"


def _parts(body: str) -> list[str]:
    """Split at the commas outside of parentheses and quotes."""
    parts, depth, quoted = [""], 0, False
    for character in body:
        quoted ^= character == "'"
        depth += 0 if quoted else (character == "(") - (character == ")")
        if character == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts
