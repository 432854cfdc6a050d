"""The command ``traderrr-data``."""

from traderrr_data.cli import adopt, copy, data, files, maintenance, schema
from traderrr_data.cli.app import add, main

__all__ = ["main"]

add(data.quickstart, "quickstart")
add(files.ingest, "ingest prices/*.csv --ticker-from-name --price-basis all")
add(data.show, "show AAPL --last 5")
add(data.coverage, "coverage --ticker AAPL --ticker MSFT")
add(data.diff, "diff --since 2026-11-20")
add(files.export, "export --output bars.parquet --ticker AAPL --start 2024-01-01")
add(copy.copy, 'copy "$OLD_DATABASE_URL" "$NEW_DATABASE_URL"')
add(data.info, "--json info")
add(adopt.adopt, "adopt market_data.db --dry-run")
add(adopt.rename_timeframe, "rename-timeframe unknown 1m --ticker AAPL")
add(schema.upgrade, "upgrade")
add(schema.downgrade, "downgrade base --yes")
add(schema.current, "current")
add(schema.history, "history")
add(schema.check, "check")
add(schema.sql, "sql > schema.sql")
add(maintenance.backup, "backup backups/ --keep 7")
add(maintenance.restore, "restore backups/market_data.db.backup-20261120T210000.000000Z")
add(maintenance.vacuum, "vacuum")
