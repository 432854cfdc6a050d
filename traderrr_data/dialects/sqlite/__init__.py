"""SQLite: the embedded default, and the file that the legacy application shares with us."""

from __future__ import annotations

from traderrr_data.dialects.base import READ_ONLY, Dialect
from traderrr_data.dialects.sqlite import facts

SQLITE = Dialect(
    name="SQLite",
    exact_decimals=False,
    transactional_ddl=True,
    max_parameters=32_766,  # SQLITE_MAX_VARIABLE_NUMBER since 3.32
    reader_options={READ_ONLY: True},
    engine_arguments=facts.engine_arguments,
    install=facts.install,
    classify_error=facts.classify_error,
    migrating=facts.migrating,
    verify_migration=facts.verify_migration,
    size=facts.size,
)
