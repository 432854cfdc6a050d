"""PostgreSQL through asyncpg."""

from __future__ import annotations

from pathlib import Path

from traderrr_data.dialects.base import Dialect
from traderrr_data.dialects.postgresql import catalog, columns, copying, facts, frames, migrations, rows

POSTGRESQL = Dialect(
    name="PostgreSQL",
    exact_decimals=True,
    transactional_ddl=True,
    reader_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    engine_arguments=facts.engine_arguments,
    install=facts.install,
    classify_error=facts.classify_error,
    migrating=migrations.migrating,
    script_head=migrations.script_head,
    guard_migration=migrations.guard_migration,
    catalogs=catalog.catalogs,
    catalog_options={},
    size=facts.size,
    is_closed=facts.is_closed,
    is_at_rest=facts.is_at_rest,
    in_transaction=facts.in_transaction,
    ends_transaction=facts.ends_transaction,
    match_keys=rows.match_keys,
    each_value=frames.each_value,
    after_key=frames.after_key,
    fetch_page=frames.fetch_page,
    insert_absent=rows.insert_absent,
    clock=rows.clock,
    scripts=Path(__file__).parent,
    copying=copying.COPYING,
    merge_columns=columns.merge_columns,
    merge_driver="asyncpg",
)
