"""W8: many rows in bounded memory, from a Parquet file by `ingest_file` and from an asynchronous iterator of batches.

Each run is a process of its own, `benchmarks.many_rows`, so that its peak is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from benchmarks.data import DAYS_A_TICKER, Digest, bars_of, digest_of
from benchmarks.databases import Place
from benchmarks.race import OURS, Act, Contestant, Heat, Measured, Track, difference
from benchmarks.workloads.states import copies, filled

_TICKERS_A_PIECE: Final = 100
_WAYS: Final = {"file": "ingest_file from Parquet", "batches": "upsert_daily from an async iterator"}


async def run(track: Track, place: Place, rows: int) -> None:
    """Run the workload on one database."""
    with tempfile.TemporaryDirectory(prefix="traderrr-benchmarks-") as directory:
        path = Path(directory, "bars.parquet")
        expected = _write_parquet(path, rows)

        def check(url: str, _measured: Measured) -> str | None:
            return difference(expected, place.digest(url))

        async with filled(place, None) as template:
            for way, work in _WAYS.items():
                us = _in_a_process_of_its_own(way, path, rows)
                await track.run(Heat(place.name, "W8", work, rows, [us], copies(place, template), check))


def _in_a_process_of_its_own(way: str, path: Path, rows: int) -> Contestant:
    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Act]:
        async def act(_given: None) -> Measured:
            return await _in_a_process(way, url, path, rows)

        yield act

    return Contestant(OURS, "ours", opened)


async def _in_a_process(way: str, url: str, path: Path, rows: int) -> Measured:
    command = [sys.executable, "-m", "benchmarks.many_rows", way, url, str(path)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise RuntimeError((errors.decode().strip().splitlines() or ["it ended without a word"])[-1])
    said = json.loads(out)
    return Measured(said["seconds"], {"rows/s": rows / said["seconds"], "peak, MB": said["peak"] / 1e6})


def _write_parquet(path: Path, rows: int) -> Digest:
    """Write so many bars, a few tickers at a time, and return their digest."""
    total = [0] * len(digest_of(bars_of(1, 1)))
    days = min(DAYS_A_TICKER, rows)
    with pq.ParquetWriter(path, bars_of(1, 1).schema) as writer:
        for first in range(0, -(-rows // days), _TICKERS_A_PIECE):
            piece = bars_of(_TICKERS_A_PIECE, days, first=first).slice(0, rows - total[0])
            writer.write_table(piece)
            total = [sum(pair) for pair in zip(total, digest_of(piece), strict=True)]
    return tuple(total)
