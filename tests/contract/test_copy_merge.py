"""A merge brings the rows of one database into another that has rows of its own, by their keys, and may be repeated."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.bars import DAY, OPENING, daily, days, flat, intraday
from tests.filled import fill
from traderrr_data import (
    BarRevision,
    Base,
    ConfigurationError,
    CopyRefusedError,
    DailyData,
    DatabaseManager,
    Metadata,
    PortfolioPosition,
    SignalHistory,
    SystemEvent,
    market_data,
    transfer,
)
from traderrr_data.transfer import TableCopy

PAST = dt.datetime(2020, 1, 1, 12, 0, 0, 5, dt.UTC)


@pytest.fixture
def target_url(backend: Backend) -> Iterator[str]:
    """The URL of another new, empty database."""
    url = backend.create_database()
    yield url
    backend.drop_database(url)


async def made(url: str, *rows: Any) -> None:
    """Bring a database to head and store objects."""
    async with DatabaseManager(url) as db:
        await db.init_db()
        async with db.session_context() as session:
            session.add_all(rows)


async def merged(source: str | Path, target: str, **options: Any) -> dict[str, TableCopy]:
    result = await transfer.copy(source, target, merge=True, **options)
    return {table.table: table for table in result.tables}


async def rows_of(url: str, model: Any) -> list[Any]:
    async with DatabaseManager(url) as db, db.session_context(read_only=True) as session:
        return list(await session.scalars(sa.select(model).order_by(*sa.inspect(model).primary_key)))


async def test_new_rows_come_as_they_are_and_the_targets_own_stay(empty_url: str, target_url: str) -> None:
    stamps = {"created_at": PAST, "updated_at": PAST}
    await made(empty_url, DailyData(**daily("AAPL"), **stamps), SignalHistory(id=7, **_signal("BUY"), **stamps))
    await made(target_url, DailyData(**daily("MSFT")), SignalHistory(**_signal("SELL")))
    found = await merged(empty_url, target_url)
    assert (found["daily_data"].written, found["daily_data"].replaced, found["daily_data"].source.rows) == (1, 0, 1)
    bars = await rows_of(target_url, DailyData)
    assert [(bar.ticker, bar.created_at == PAST, bar.updated_at == PAST) for bar in bars] == [
        ("AAPL", True, True),
        ("MSFT", False, False),
    ]
    assert [(row.id, row.signal_type) for row in await rows_of(target_url, SignalHistory)] == [(1, "SELL"), (7, "BUY")]
    async with DatabaseManager(target_url) as db, db.session_context() as session:
        session.add(event := SignalHistory(**_signal("HOLD")))
        await session.flush()
        assert event.id == 8


async def test_of_one_key_the_source_wins_as_in_any_upsert_and_what_it_replaces_is_kept(
    empty_url: str, target_url: str
) -> None:
    await made(
        empty_url,
        *(DailyData(**daily("AAPL", day, **flat(2))) for day in days(3)),
        DailyData(**daily("FINAL", is_final=False, **flat(2))),
        Metadata(ticker="AAPL", sector="new"),
        PortfolioPosition(ticker="AAPL", shares=2),
    )
    await made(
        target_url,
        DailyData(**daily("AAPL", days(3)[0], **flat(1))),
        DailyData(**daily("AAPL", days(3)[1], **flat(2))),
        DailyData(**daily("FINAL", is_final=True, **flat(1))),
        Metadata(ticker="MSFT"),
        Metadata(ticker="AAPL", sector="old"),
        PortfolioPosition(ticker="AAPL", shares=2),
    )
    found = await merged(empty_url, target_url)
    bars = found["daily_data"]
    assert (bars.written, bars.replaced, bars.found, bars.kept) == (2, 1, 1, 1)
    assert (found["metadata"].replaced, found["portfolio_positions"].found) == (1, 1)
    assert [bar.close for bar in await rows_of(target_url, DailyData)] == [2, 2, 2, 1]
    assert [(row.id, row.sector) for row in await rows_of(target_url, Metadata)] == [(1, None), (2, "new")]
    [kept] = await rows_of(target_url, BarRevision)
    assert (kept.ticker, kept.close, kept.change) == ("AAPL", 1, "update")
    again = await merged(empty_url, target_url)
    assert sum(table.written for table in again.values()) == 0
    assert len(await rows_of(target_url, BarRevision)) == 1


async def test_rows_without_a_key_are_known_by_all_that_is_in_them(empty_url: str, target_url: str) -> None:
    same = {"created_at": PAST, "updated_at": PAST}
    await made(
        empty_url,
        *(SystemEvent(id=number, **_event("twice"), **same) for number in (1, 2)),
        SystemEvent(id=3, **_event("new"), **same),
        SystemEvent(id=4, **_event("both"), **same),
    )
    await made(
        target_url,
        SystemEvent(id=1, **_event("other"), **same),
        SystemEvent(id=9, **_event("both"), **same),
        SystemEvent(id=4, **_event("later"), created_at=OPENING, updated_at=PAST),
    )
    events = (await merged(empty_url, target_url))["system_events"]
    assert (events.written, events.found, events.renumbered) == (3, 1, 1)
    stored = [(row.id, row.description) for row in await rows_of(target_url, SystemEvent)]
    assert stored == [(1, "other"), (2, "twice"), (3, "new"), (4, "later"), (9, "both"), (10, "twice")]
    again = (await merged(empty_url, target_url))["system_events"]
    assert (again.written, again.found) == (0, 4)


async def test_rows_with_a_dedupe_key_are_known_by_it(empty_url: str, target_url: str) -> None:
    await made(empty_url, *(SignalHistory(**_signal("BUY"), dedupe_key=f"key {number}") for number in range(3)))
    await made(
        target_url,
        SignalHistory(**_signal("HOLD")),
        SignalHistory(**_signal("BUY"), dedupe_key="key 0"),
        SignalHistory(**_signal("SELL"), dedupe_key="key 2"),
    )
    signals = (await merged(empty_url, target_url))["signal_history"]
    assert (signals.written, signals.replaced, signals.found, signals.renumbered) == (2, 1, 1, 1)
    stored = {row.dedupe_key: (row.id, row.signal_type) for row in await rows_of(target_url, SignalHistory)}
    assert stored == {None: (1, "HOLD"), "key 0": (2, "BUY"), "key 2": (3, "BUY"), "key 1": (4, "BUY")}


async def test_a_full_database_goes_into_a_full_one_and_from_files_too(
    empty_url: str, target_url: str, tmp_path: Path
) -> None:
    await made(empty_url)
    await made(target_url, DailyData(**daily("OWN")), SystemEvent(**_event("own")))
    async with DatabaseManager(empty_url) as db:
        await fill(db, bars=100)
    found = await merged(empty_url, target_url, batch_rows=9)
    assert sum(table.written for table in found.values()) > 200
    assert all(table.source == table.target for table in found.values())
    for model in (mapper.class_ for mapper in Base.registry.mappers):
        expected = len(await rows_of(empty_url, model)) + (model in (DailyData, SystemEvent))
        assert len(await rows_of(target_url, model)) == expected, model
    await transfer.copy(empty_url, tmp_path / "files")
    again = await merged(tmp_path / "files", target_url)
    assert sum(table.written for table in again.values()) == 0


async def test_a_value_that_is_refused_stops_a_merge_before_its_first_row(empty_url: str, target_url: str) -> None:
    await made(empty_url, DailyData(**daily("AAPL")), SystemEvent(**_event("x")))
    await made(target_url, DailyData(**daily("MSFT")))
    async with DatabaseManager(empty_url) as db, db.session_context() as session:
        await session.execute(sa.text("UPDATE system_events SET created_at = '0900-01-01 00:00:00'"))
    with pytest.raises(CopyRefusedError, match="before the year 1000"):
        await merged(empty_url, target_url)
    assert [bar.ticker for bar in await rows_of(target_url, DailyData)] == ["MSFT"]


async def test_an_empty_target_takes_a_merge_and_a_directory_does_not(
    empty_url: str, target_url: str, tmp_path: Path
) -> None:
    await made(empty_url, DailyData(**daily("AAPL", **flat(Decimal("1.5")))))
    assert (await merged(empty_url, target_url))["daily_data"].written == 1
    with pytest.raises(ConfigurationError, match="only a database can be merged into"):
        await transfer.copy(empty_url, tmp_path / "files", merge=True)
    assert not (tmp_path / "files").exists()


async def test_intraday_bars_merge_by_their_whole_key(empty_url: str, target_url: str) -> None:
    for url, timeframe in ((empty_url, "1m"), (target_url, "5m")):
        await made(url)
        async with DatabaseManager(url) as db, db.session_context() as session:
            await market_data.upsert_intraday(session, [intraday()], timeframe=timeframe)
    assert (await merged(empty_url, target_url))["intraday_data"].written == 1


def _signal(kind: str) -> dict[str, Any]:
    return {"ticker": "AAPL", "date": DAY, "signal_type": kind}


def _event(description: str) -> dict[str, Any]:
    return {"event_type": "tick", "description": description, "severity": "INFO"}
