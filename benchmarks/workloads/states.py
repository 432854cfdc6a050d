"""Databases in the state in which the work begins."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pyarrow as pa

from benchmarks.databases import Place
from traderrr_data import DatabaseManager, market_data


@contextlib.asynccontextmanager
async def filled(place: Place, bars: pa.Table | None) -> AsyncIterator[str]:
    """Give the URL of a new database, settled, with these bars or none; whoever works on it, all get the same."""
    url = await place.migrated()
    try:
        if bars is not None:
            async with DatabaseManager(url) as db, db.session_context() as session:
                await market_data.upsert_daily(session, bars)
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
