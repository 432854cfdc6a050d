"""Backups as `transfer` makes and reads them; it is imported where it is used, since it loads pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from traderrr_data.bulk.loading import loaded
from traderrr_data.maintenance.threads import Progress
from traderrr_data.settings import Settings

if TYPE_CHECKING:
    from traderrr_data.transfer import CopyProgress

_TRANSFER = "traderrr_data.transfer"
_ROWS = 50_000
"""How many rows of a backup are in memory while it is checked."""


def is_copy(path: Path) -> bool:
    """Tell whether something is a folder of our Parquet files."""
    from traderrr_data.transfer.parquet import MANIFEST  # noqa: PLC0415 - see above

    return (path / MANIFEST).is_file()


async def copy(source: Path | Settings, target: Path | Settings, progress: Progress | None) -> None:
    """Copy all rows between a database and a folder, and compare both sides; see `transfer.copy`."""
    await loaded(_TRANSFER)
    from traderrr_data import transfer  # noqa: PLC0415 - see above

    def tell(at: CopyProgress) -> None:
        if progress is not None and at.phase == "copying":
            progress(at.total_rows / max(1, at.of_total_rows))

    await transfer.copy(source, target, progress=tell)


async def check(backup: Path) -> tuple[str, str]:
    """Read all of a folder; return what it is called as the source of a copy, and its revision.

    Raises:
        SchemaMismatchError: it holds no copy that is complete, or tables of a newer version.
        CopyMismatchError: a file is not what it was.
    """
    await loaded(_TRANSFER)
    from traderrr_data.transfer import parquet  # noqa: PLC0415 - see above
    from traderrr_data.transfer.result import Ledger  # noqa: PLC0415 - see above

    async with parquet.open_source(backup, batch_rows=_ROWS) as source:
        for layout in source.layouts():
            async for _ in source.pages(layout, Ledger(rounds=False)):
                pass
        return source.identity, source.revision


async def unfinished(database: Settings) -> tuple[int, str | None]:
    """Return how many rows a database has in our tables, and from which source a copy into it is under way."""
    await loaded(_TRANSFER)
    from traderrr_data.transfer.database import OWN_ROWS, open_target  # noqa: PLC0415 - see above
    from traderrr_data.transfer.layout import layouts  # noqa: PLC0415 - see above

    async with open_target(database) as target:
        rows = sum([await target.count(layout) for layout in layouts() if layout.name != OWN_ROWS])
        return rows, await target.unfinished()
