"""Modules that take long to load, since they load pyarrow: loaded in a thread, so that the event loop goes on."""

from __future__ import annotations

import asyncio
import importlib
from typing import Final

COLUMNS: Final = "traderrr_data.bulk.columns"
"""What loads all that Arrow's columns need."""

# Not `sys.modules`: what another thread is still loading stands there, too, and an import of it waits for that thread.
_loaded: set[str] = set()


async def loaded(module: str = COLUMNS) -> None:
    """Load a module, unless it is loaded; importing it afterwards takes no time."""
    if module not in _loaded:
        await asyncio.to_thread(_load, module)
        _loaded.add(module)


def _load(module: str) -> None:
    importlib.import_module(module)
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used

    pa.array([None])  # with the first value that it is given pyarrow loads pandas, too, where that is installed
