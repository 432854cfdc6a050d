"""The process of W8: ``python -m benchmarks.many_rows WAY URL FILE`` stores a Parquet file and says what that took.

It imports nothing of the opponents, whose memory would count as ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from traderrr_data import DatabaseManager, market_data
from traderrr_data.ingest import ingest_file

_ROWS_A_BATCH: Final = 65_536


async def _work(way: str, url: str, path: Path) -> None:
    async with DatabaseManager(url) as db:
        if way == "file":
            await ingest_file(db, path)
            return
        async with db.session_context() as session:
            await market_data.upsert_daily(session, _batches(path))


async def _batches(path: Path) -> AsyncIterator[pa.RecordBatch]:
    with pq.ParquetFile(path, pre_buffer=False) as file:  # else Arrow keeps all that it has read
        batches = file.iter_batches(_ROWS_A_BATCH)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield batch


def _peak() -> int:
    """Return the most memory that this process has had, in bytes; what getrusage says includes its parent's (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    began = time.perf_counter()
    asyncio.run(_work(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
    print(json.dumps({"seconds": time.perf_counter() - began, "peak": _peak()}))
