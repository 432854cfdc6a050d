"""The work that is timed, a module for each kind."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.databases import Place
from benchmarks.race import Track
from benchmarks.workloads import calls, day, latest, memory, reads, upserts


@dataclass(frozen=True)
class Size:
    """How much work is done.

    Attributes:
        rows: of a batch or a table.
        minutes: of the trading day.
    """

    rows: int
    minutes: int


async def run(track: Track, place: Place, workload: str, size: Size) -> None:
    """Run one workload on one database."""
    match workload:
        case "W1" | "W2" | "W3":
            await upserts.run(track, place, workload, size.rows)
        case "W4" | "W5":
            await reads.run(track, place, workload, size.rows)
        case "W6":
            await latest.run(track, place, size.rows)
        case "W7":
            await calls.run(track, place, size.rows)
        case "W8":
            await memory.run(track, place, size.rows)
        case "W9":
            await day.run(track, place, size.rows, size.minutes)
        case "W10":
            await upserts.run_with_and_without_history(track, place, size.rows)
