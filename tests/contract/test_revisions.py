"""What was overwritten is kept: bars as they stood at an instant, and what was rewritten since."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bars import OPENING, daily, days, intraday
from traderrr_data import DailyData, DatabaseManager, InvalidRowError, market_data, system

Copy: TypeAlias = dict[tuple[str, dt.date], tuple[Any, ...]]

VALUES = ("open", "high", "low", "close", "volume", "source", "is_final", "observed_at", "created_at", "updated_at")
DAYS = days(4)
TICKERS = ("AAPL", "MSFT")

rows = st.lists(
    st.builds(
        lambda ticker, date, close, final: daily(ticker, date, close=close, is_final=final),
        st.sampled_from(TICKERS),
        st.sampled_from(DAYS),
        st.sampled_from([Decimal(10), Decimal(11), Decimal(12)]),
        st.sampled_from([None, True, False]),
    ),
    min_size=1,
    max_size=6,
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), rows),
        st.tuples(st.just("one by one"), rows),
        st.tuples(st.just("staged"), rows),
        st.tuples(st.just("replace"), st.sampled_from(TICKERS), rows),
        st.tuples(st.just("delete"), st.sampled_from(TICKERS), st.sampled_from(DAYS)),
    ),
    min_size=1,
    max_size=8,
)
FILLING = [daily("FILLING", date) for date in days(2_200)]


def copied(bars: Sequence[DailyData]) -> Copy:
    return {(bar.ticker, bar.date): tuple(getattr(bar, name) for name in VALUES) for bar in bars}


async def apply(db: DatabaseManager, operation: tuple[Any, ...]) -> None:
    async with db.session_context() as session:
        match operation:
            case "upsert", batch:
                await market_data.upsert_daily(session, batch)
            case "one by one", batch:  # rows with different columns are never taken as columns
                await market_data.upsert_daily(session, [*batch, {**daily("ODD"), "dividends": None}])
            case "staged", batch:
                await market_data.upsert_daily(session, [*FILLING, *batch])
            case "replace", ticker, batch:
                await market_data.replace_daily(session, ticker, [{**row, "ticker": ticker} for row in batch])
            case "delete", ticker, date:
                await market_data.delete_daily(session, ticker, start=date)


async def all_bars(db: DatabaseManager, as_of: dt.datetime | None = None) -> Copy:
    async with db.session_context(read_only=True) as session:
        found = [bar for ticker in TICKERS for bar in await market_data.list_daily(session, ticker, as_of=as_of)]
        newest = await market_data.latest_daily(session, TICKERS, as_of=as_of)
        frame = await market_data.daily_frame(session, TICKERS, as_of=as_of)
    last = {bar.ticker: bar.date for bar in found}
    assert {ticker: bar.date for ticker, bar in newest.items()} == last
    closes = zip(*(frame[name].to_pylist() for name in ("ticker", "date", "close")), strict=True)
    assert [(bar.ticker, bar.date, bar.close) for bar in found] == list(closes)
    return copied(found)


async def now(db: DatabaseManager) -> dt.datetime:
    """An instant after all that was stored, and before all that will be."""
    async with db.session_context() as session:
        connection = await session.connection()
        first = await db.dialect.clock(connection)
        while (instant := await db.dialect.clock(connection)) <= first:
            pass
        while await db.dialect.clock(connection) <= instant:
            pass
        return instant


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations)
async def test_every_past_instant_gives_the_bars_as_they_stood(
    db: DatabaseManager, history: list[tuple[Any, ...]]
) -> None:
    kept: list[tuple[dt.datetime, Copy]] = []
    for operation in history:
        await apply(db, operation)
        kept.append((await now(db), await all_bars(db)))
    for instant, bars in kept:
        assert await all_bars(db, instant) == bars
    assert await all_bars(db, dt.datetime(2020, 1, 1, tzinfo=dt.UTC)) == {}


async def test_intraday_bars_stand_as_they_stood(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_intraday(session, [intraday()], timeframe="1m")
    before = await now(db)
    async with db.session_context() as session:
        await market_data.upsert_intraday(session, [intraday(close=10)], timeframe="1m")
        [then] = await market_data.list_intraday(session, "AAPL", timeframe="1m", as_of=before)
        newest = await market_data.latest_intraday(session, ["AAPL"], timeframe="1m", as_of=before)
        frame = await market_data.intraday_frame(session, timeframe="1m", as_of=before)
        [today] = await market_data.list_intraday(session, "AAPL", timeframe="1m")
        [kept] = await market_data.revisions(session, "AAPL", timeframe="1m")
    assert [then.close, newest["AAPL"].close, *frame["close"].to_pylist()] == [11, 11, 11]
    assert [today.close, kept.close] == [10, 11]
    assert (kept.datetime, kept.change) == (OPENING, "update")


async def test_a_past_bar_does_not_take_the_place_of_the_sessions_own(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
    before = await now(db)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(close=10)])
        [today] = await market_data.list_daily(session, "AAPL")
        [then] = await market_data.list_daily(session, "AAPL", as_of=before)
        assert [today.close, then.close] == [10, 11]
    async with db.session_context(read_only=True) as session:
        assert [bar.close for bar in await market_data.list_daily(session, "AAPL")] == [10]


async def test_no_bar_stood_twice_though_an_object_came_right_after_its_deletion(db: DatabaseManager) -> None:
    """Where the clock of a column's default tells whole seconds, the object says that it came before."""
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
    before = await now(db)
    async with db.session_context() as session:
        await market_data.delete_daily(session, "AAPL")
        session.add(DailyData(**daily(close=10), series=""))
    async with db.session_context(read_only=True) as session:
        assert [bar.close for bar in await market_data.list_daily(session, "AAPL", as_of=before)] == [11]
        assert [bar.close for bar in (await market_data.latest_daily(session, as_of=before)).values()] == [11]
        assert [bar.close for bar in await market_data.list_daily(session, "AAPL")] == [10]


async def test_an_instant_without_a_zone_is_refused(db: DatabaseManager) -> None:
    async with db.session_context(read_only=True) as session:
        with pytest.raises(InvalidRowError, match="as_of"):
            await market_data.list_daily(session, "AAPL", as_of=dt.datetime(2025, 1, 1))  # noqa: DTZ001 - refused


async def test_a_difference_is_what_reads_otherwise_and_not_what_is_new_or_changed_back(db: DatabaseManager) -> None:
    first, second, third, fourth = days(4)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date) for date in (first, second, third)])
    since = await now(db)
    for close in (10, 11):
        async with db.session_context() as session:
            await market_data.upsert_daily(session, [daily(date=first, close=close)])
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=second, close=10), daily(date=fourth)])
        await market_data.delete_daily(session, "AAPL", start=third, end=fourth)
    until = await now(db)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=first, close=9)])
        changed, gone = await market_data.diff(session, since=since, until=until)
        assert len(await market_data.diff(session, since=since)) == 3
        assert await market_data.diff(session, since=since, tickers=["MSFT"]) == []
        assert len(await market_data.revisions(session, "AAPL", start=first, end=second)) == 3
    assert (changed.ticker, changed.time, changed.columns) == ("AAPL", second, ("close",))
    assert changed.new is not None
    assert (changed.old["close"], changed.new["close"]) == (11, 10)
    assert (gone.time, gone.new, gone.old["close"]) == (third, None, 11)


async def test_a_rollback_leaves_no_version(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
    async with db.get_session() as session:
        await market_data.upsert_daily(session, [daily(close=10)])
        await market_data.delete_daily(session, "AAPL")
        await session.rollback()
    async with db.session_context(read_only=True) as session:
        assert await market_data.revisions(session, "AAPL") == []


async def test_versions_have_a_retention_of_their_own(db: DatabaseManager) -> None:
    today = dt.datetime.now(dt.UTC)
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
        await market_data.upsert_daily(session, [daily(close=10)])
        forever = dict.fromkeys(("daily_days", "intraday_days", "signal_days", "event_days"))
        kept = await system.purge(session, system.Retention(**forever, revision_days=10), now=today)
        assert kept == {"bar_revisions": 0}
        later = today + dt.timedelta(days=11)
        assert await system.purge(session, system.Retention(**forever, revision_days=10), now=later) == {
            "bar_revisions": 1
        }
        assert await market_data.revisions(session, "AAPL") == []
