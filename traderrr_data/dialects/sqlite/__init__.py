"""SQLite: the embedded default, and the file that the legacy application shares with us."""

from __future__ import annotations

from traderrr_data.dialects.base import READ_ONLY, Dialect, match_keys
from traderrr_data.dialects.sqlite import catalog, cells, columns, copying, facts, frames, migrations, rows

SQLITE = Dialect(
    name="SQLite",
    exact_decimals=False,
    transactional_ddl=True,
    reader_options={READ_ONLY: True},
    engine_arguments=facts.engine_arguments,
    install=facts.install,
    classify_error=facts.classify_error,
    migrating=migrations.migrating,
    script_head=migrations.script_head,
    guard_migration=migrations.guard_migration,
    catalogs=catalog.catalogs,
    catalog_options={READ_ONLY: True},
    size=facts.size,
    is_closed=facts.is_closed,
    is_at_rest=facts.is_at_rest,
    in_transaction=facts.in_transaction,
    ends_transaction=facts.ends_transaction,
    match_keys=match_keys,
    each_value=frames.each_value,
    after_key=frames.after_key,
    fetch_page=frames.fetch_page,
    insert_absent=rows.insert_absent,
    clock=rows.clock,
    copying=copying.COPYING,
    merge_columns=columns.merge_columns,
    merge_driver="aiosqlite",
    short_page=cells.SHORT_PAGE,
)
