"""MySQL and MariaDB through aiomysql."""

from __future__ import annotations

from traderrr_data.dialects.base import READ_ONLY, Dialect
from traderrr_data.dialects.mysql import facts, rows

MYSQL = Dialect(
    name="MySQL/MariaDB",
    exact_decimals=True,
    transactional_ddl=False,  # every DDL statement commits: a migration that fails half-way continues at the next run
    max_parameters=32_767,  # no limit of the text protocol, but max_allowed_packet
    reader_options={READ_ONLY: True},
    engine_arguments=facts.engine_arguments,
    install=facts.install,
    classify_error=facts.classify_error,
    migrating=facts.migrating,
    verify_migration=facts.verify_migration,
    size=facts.size,
    ends_transaction=facts.ends_transaction,
    insert_new=rows.insert_new,
)
