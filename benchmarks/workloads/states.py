"""Databases in the state in which the work begins."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import pyarrow as pa

from benchmarks.databases import Place
from benchmarks.opponents import OF_KIND

_ROWS_A_PIECE: Final = 100_000


@contextlib.asynccontextmanager
async def filled(place: Place, bars: pa.Table | None) -> AsyncIterator[str]:
    """Give the URL of a new database, settled, with these bars or none; whoever works on it, all get the same."""
    url = await place.migrated()
    try:
        if bars is not None:
            pieces = (bars.slice(start, _ROWS_A_PIECE) for start in range(0, bars.num_rows, _ROWS_A_PIECE))
            await OF_KIND[place.kind].fill(url, "daily_data", pieces)
        place.settle(url)
        yield url
    finally:
        place.drop(url)


def copies(place: Place, template: str) -> Callable[[], contextlib.AbstractContextManager[str]]:
    """Return what gives a copy of a database for every start."""

    @contextlib.contextmanager
    def fresh() -> Iterator[str]:
        url = place.copy(template)
        try:
            yield url
        finally:
            place.drop(url)

    return fresh


def always(url: str) -> Callable[[], contextlib.AbstractContextManager[str]]:
    """Return what gives the same database for every start, for work that does not change it."""
    return lambda: contextlib.nullcontext(url)
