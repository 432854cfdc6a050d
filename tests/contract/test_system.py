"""The event log, and the removal of what is too old."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import daily, intraday
from traderrr_data import (
    ConfigurationError,
    DatabaseManager,
    InvalidRowError,
    SystemEvent,
    market_data,
    system,
    trading,
)
from traderrr_data.access.system import Retention

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


def ago(**span: float) -> dt.datetime:
    return NOW - dt.timedelta(**span)


async def happened(session: AsyncSession, description: str, at: dt.datetime) -> None:
    """Store an event that came at another time than now."""
    session.add(SystemEvent(event_type="PAST", description=description, severity="INFO", created_at=at))
    await session.flush()


async def said(session: AsyncSession, **asked: object) -> list[str]:
    return [event.description for event in await system.list_events(session, **asked)]  # type: ignore[arg-type]


async def test_events_come_newest_first_and_then_by_the_latest_id(session: AsyncSession) -> None:
    assert await system.list_events(session) == []
    for description, at in (("a", ago(hours=2)), ("b", ago(hours=1)), ("c", ago(hours=2)), ("d", ago(hours=1))):
        await happened(session, description, at)
    assert await said(session) == ["d", "b", "c", "a"]


async def test_an_event_comes_back_whole(session: AsyncSession) -> None:
    description, details = "x" * 1_000 + " 🚀", "{'rows': 5}" * 10_000
    assert await system.add_event(session, "INGEST", description, severity="WARNING", details=details)
    [event] = await system.list_events(session)
    assert (event.event_type, event.severity, event.dedupe_key) == ("INGEST", "WARNING", None)
    assert (event.description, event.details) == (description, details)
    with pytest.raises(InvalidRowError, match="column 'description'"):
        await system.add_event(session, "INGEST", "a\x00b")


async def test_events_are_filtered_by_type_severity_and_window(session: AsyncSession) -> None:
    await system.add_event(session, "START", "up")
    await system.add_event(session, "STOP", "down", severity="ERROR")
    await happened(session, "old", ago(days=400))
    assert await said(session, event_type="START") == ["up"]
    assert await said(session, severity="ERROR") == ["down"]
    assert await said(session, event_type="START", severity="ERROR") == []
    assert await said(session, start=ago(days=400), end=ago(days=399)) == ["old"]
    assert await said(session, start=ago(days=400, seconds=-1), end=ago(days=399)) == []
    assert await said(session, end=ago(days=400)) == []


async def test_a_list_of_events_is_limited(session: AsyncSession) -> None:
    for number in range(55):
        await system.add_event(session, "TICK", str(number))
    assert len(await system.list_events(session)) == 50
    assert len(await system.list_events(session, limit=1000)) == 55
    assert await said(session, limit=2) == ["54", "53"]
    for limit in (0, 1001):
        with pytest.raises(ConfigurationError, match="limit is 1 to 1000"):
            await system.list_events(session, limit=limit)


async def test_deleting_events_counts_them(session: AsyncSession) -> None:
    for days in (3, 2, 1):
        await happened(session, str(days), ago(days=days))
    assert await system.delete_events(session, before=ago(days=2)) == 1
    assert await said(session) == ["1", "2"]
    assert await system.delete_events(session, before=NOW) == 2
    assert await system.delete_events(session, before=NOW) == 0


async def test_more_events_than_one_statement_deletes_are_deleted(session: AsyncSession) -> None:
    rows = [{"event_type": "T", "description": "d", "severity": "INFO", "created_at": ago(days=90)}] * 2_100
    await session.execute(sa.insert(SystemEvent), rows)
    await happened(session, "kept", NOW)
    assert await system.delete_events(session, before=ago(days=30)) == 2_100
    assert await said(session) == ["kept"]


async def store_something_of_each_age(session: AsyncSession) -> None:
    for days in (731, 730, 729, 0):
        date = ago(days=days).date()
        await market_data.upsert_daily(session, [daily(date=date), daily("MSFT", date, series="bid")])
    for minutes in (1, 0, -1):
        start = ago(days=30, minutes=minutes)
        await market_data.upsert_intraday(session, [intraday(datetime=start), intraday("aapl", start)], timeframe="1m")
        await market_data.upsert_intraday(session, [intraday(datetime=start)], timeframe="1h")
        await happened(session, str(minutes), start)
    for days in (91, 90, 89):
        await trading.add_signal(session, "AAPL", date=ago(days=days).date(), signal_type="BUY")
    await trading.add_performance(session, date=ago(days=5000).date())


async def test_a_purge_removes_what_is_older_than_the_policy_keeps_and_counts_it(session: AsyncSession) -> None:
    await store_something_of_each_age(session)
    removed = await system.purge(session, now=NOW)
    assert removed == {
        "daily_data": 2,
        "intraday_data": 3,
        "signal_history": 1,
        "system_events": 1,
        "bar_revisions": 0,
    }
    assert [line.rows for line in await market_data.coverage(session)] == [3, 3, 2, 2, 2]
    assert len(await trading.list_signals(session)) == 2
    assert await said(session) == ["-1", "0"]
    assert len(await trading.list_performance(session)) == 1, "performance is never purged"
    assert set((await system.purge(session, now=NOW)).values()) == {0}


async def test_a_policy_may_keep_a_table_for_ever_or_not_at_all(session: AsyncSession) -> None:
    await store_something_of_each_age(session)
    policy = Retention(daily_days=None, intraday_days=29, signal_days=None, event_days=0, revision_days=None)
    assert await system.purge(session, policy, now=NOW) == {"intraday_data": 9, "system_events": 3}
    assert [line.rows for line in await market_data.coverage(session)] == [4, 4]
    with pytest.raises(ConfigurationError, match=r"signal_days is 0 to \d+ days, or None for ever, not -1"):
        Retention(signal_days=-1)


async def test_a_purge_that_is_rolled_back_removed_nothing(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await store_something_of_each_age(session)
    async with db.get_session() as session:
        assert sum((await system.purge(session, now=NOW)).values()) == 7
        await session.rollback()
    async with db.session_context(read_only=True) as session:
        assert [line.rows for line in await market_data.coverage(session)] == [4, 4, 3, 3, 3]
