"""What bars and instruments are asked, and in which order the answers come."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.bars import DAY, OPENING, daily, days, flat, intraday, minutes
from traderrr_data import (
    BarRevision,
    ConfigurationError,
    DailyData,
    DatabaseManager,
    DuplicateRowError,
    InvalidRowError,
    Metadata,
    RowNotFoundError,
    market_data,
)
from traderrr_data.access.bars import Coverage
from traderrr_data.access.market_data import Summary

TEN = days(10)
MINUTES = minutes(10)


@pytest.fixture
async def bars(session: AsyncSession) -> AsyncSession:
    """Ten daily bars and ten of a minute for AAPL, two for MSFT and aapl, and some that no question means."""
    await market_data.upsert_daily(session, [daily(date=date, volume=at) for at, date in enumerate(TEN)])
    await market_data.upsert_daily(session, [daily(ticker, date) for ticker in ("aapl", "MSFT") for date in TEN[:2]])
    await market_data.upsert_daily(session, [daily(date=TEN[3], close=10)], series="adjusted")
    rows = [intraday(datetime=minute, volume=at) for at, minute in enumerate(MINUTES)]
    await market_data.upsert_intraday(session, rows, timeframe="1m")
    await market_data.upsert_intraday(session, [intraday("MSFT"), intraday()], timeframe="5m")
    await market_data.upsert_intraday(session, [intraday(close=10)], timeframe="1m", series="bid")
    return session


def checked_out(engine: AsyncEngine) -> int:
    return int(engine.pool.checkedout())  # type: ignore[attr-defined]


async def test_daily_bars_come_oldest_first(bars: AsyncSession) -> None:
    assert [bar.date for bar in await market_data.list_daily(bars, "AAPL")] == TEN
    assert [bar.volume for bar in await market_data.list_daily(bars, "AAPL")] == list(range(10))
    assert [bar.date for bar in await market_data.list_daily(bars, "aapl")] == TEN[:2]
    assert [bar.date for bar in await market_data.list_daily(bars, "AAPL", newest_first=True)] == TEN[::-1]


async def test_a_window_of_daily_bars_holds_its_start_and_not_its_end(bars: AsyncSession) -> None:
    async def dates(**window: Any) -> list[dt.date]:
        return [bar.date for bar in await market_data.list_daily(bars, "AAPL", **window)]

    assert await dates(start=TEN[2], end=TEN[5]) == TEN[2:5]
    assert await dates(start=TEN[2]) == TEN[2:]
    assert await dates(end=TEN[5]) == TEN[:5]
    assert await dates(start=TEN[5], end=TEN[5]) == []
    assert await dates(start=TEN[5], end=TEN[2]) == []
    assert await dates(start="2025-01-04", end="2025-01-06") == TEN[2:4]
    with pytest.raises(InvalidRowError, match="not midnight"):
        await dates(start=OPENING)


async def test_the_last_bars_are_the_newest_of_the_window_in_the_order_asked_for(bars: AsyncSession) -> None:
    async def dates(**asked: Any) -> list[dt.date]:
        return [bar.date for bar in await market_data.list_daily(bars, "AAPL", **asked)]

    assert await dates(last=3) == TEN[7:]
    assert await dates(last=3, newest_first=True) == TEN[:6:-1]
    assert await dates(last=3, end=TEN[5]) == TEN[2:5]
    assert await dates(last=100) == TEN
    assert await dates(last=0) == []
    with pytest.raises(ConfigurationError, match="last is a number of bars"):
        await dates(last=-1)


async def test_intraday_bars_come_oldest_first_for_one_timeframe_and_window(bars: AsyncSession) -> None:
    async def times(timeframe: str = "1m", **asked: Any) -> list[dt.datetime]:
        found = await market_data.list_intraday(bars, "AAPL", timeframe=timeframe, **asked)
        return [bar.datetime for bar in found]

    assert await times() == MINUTES
    assert await times("60s") == MINUTES
    assert await times("5m") == MINUTES[:1]
    assert await times("1h") == []
    assert await times(start=MINUTES[2], end=MINUTES[5]) == MINUTES[2:5]
    eastern = dt.timezone(dt.timedelta(hours=-5))
    assert await times(start=MINUTES[2].astimezone(eastern), end=MINUTES[5].astimezone(eastern)) == MINUTES[2:5]
    assert await times(last=2) == MINUTES[8:]
    assert await times(newest_first=True) == MINUTES[::-1]
    assert [bar.close for bar in await market_data.list_intraday(bars, "AAPL", timeframe="1m", series="bid")] == [10]
    with pytest.raises(InvalidRowError, match="no time zone"):
        await times(start=MINUTES[0].replace(tzinfo=None))


async def test_a_bar_on_the_edge_of_a_microsecond_is_inside_or_outside(session: AsyncSession) -> None:
    instant = OPENING + dt.timedelta(microseconds=1)
    await market_data.upsert_intraday(session, [intraday(datetime=instant), intraday()], timeframe="1m")

    async def found(**window: Any) -> int:
        return len(await market_data.list_intraday(session, "AAPL", timeframe="1m", **window))

    assert (await found(start=OPENING), await found(start=instant), await found(end=instant)) == (2, 1, 1)


async def test_nothing_stored_is_no_error(session: AsyncSession) -> None:
    assert await market_data.list_daily(session, "AAPL") == []
    assert await market_data.list_intraday(session, "AAPL", timeframe="1m") == []
    assert await market_data.latest_daily(session) == {}
    assert await market_data.latest_intraday(session, ["AAPL"], timeframe="1m") == {}
    assert await market_data.coverage(session) == []
    assert await market_data.list_metadata(session) == []
    assert [batch async for batch in market_data.stream_daily(session)] == []
    assert (await market_data.daily_frame(session)).num_rows == 0
    assert (await market_data.intraday_frame(session, timeframe="1m")).column_names[:3] == [
        "ticker",
        "datetime",
        "timeframe",
    ]
    assert await market_data.delete_daily(session, "AAPL") == 0


async def test_the_latest_bar_of_each_ticker(bars: AsyncSession) -> None:
    latest = await market_data.latest_daily(bars)
    assert [(ticker, bar.date) for ticker, bar in latest.items()] == [
        ("AAPL", TEN[9]),
        ("MSFT", TEN[1]),
        ("aapl", TEN[1]),
    ]
    assert list(await market_data.latest_daily(bars, ["MSFT", "NONE", "MSFT"])) == ["MSFT"]
    assert await market_data.latest_daily(bars, []) == {}
    assert (await market_data.latest_daily(bars, series="adjusted"))["AAPL"].date == TEN[3]
    minute = await market_data.latest_intraday(bars, timeframe="1m")
    assert {ticker: bar.datetime for ticker, bar in minute.items()} == {"AAPL": MINUTES[9]}
    assert list(await market_data.latest_intraday(bars, timeframe="300s")) == ["AAPL", "MSFT"]


@pytest.mark.parametrize(
    "ask", [market_data.latest_daily, market_data.coverage, market_data.list_metadata, market_data.daily_frame]
)
async def test_one_ticker_given_for_a_list_is_refused(session: AsyncSession, ask: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"say \['AAPL'\]"):
        await ask(session, "AAPL")


async def test_coverage_tells_what_is_stored_of_every_line(bars: AsyncSession) -> None:
    await market_data.upsert_daily(bars, [daily(date=TEN[4], is_final=True), daily(date=TEN[5], is_final=False)])
    await market_data.upsert_intraday(bars, [intraday(is_final=True)], timeframe="5m")
    assert await market_data.coverage(bars) == [
        Coverage("AAPL", "", None, TEN[0], TEN[9], TEN[4], 10),
        Coverage("AAPL", "adjusted", None, TEN[3], TEN[3], None, 1),
        Coverage("MSFT", "", None, TEN[0], TEN[1], None, 2),
        Coverage("aapl", "", None, TEN[0], TEN[1], None, 2),
        Coverage("AAPL", "", "1m", MINUTES[0], MINUTES[9], None, 10),
        Coverage("AAPL", "", "5m", OPENING, OPENING, OPENING, 1),
        Coverage("AAPL", "bid", "1m", OPENING, OPENING, None, 1),
        Coverage("MSFT", "", "5m", OPENING, OPENING, None, 1),
    ]
    assert [line.ticker for line in await market_data.coverage(bars, ["MSFT"])] == ["MSFT", "MSFT"]
    assert {type(line.first) for line in await market_data.coverage(bars, ["aapl"])} == {dt.date}


async def test_a_stream_comes_in_order_and_in_batches_of_the_size_asked_for(bars: AsyncSession) -> None:
    expected = [("AAPL", date) for date in TEN] + [(t, date) for t in ("MSFT", "aapl") for date in TEN[:2]]
    for size in (1, 3, 7, 14, 100):
        batches = [batch async for batch in market_data.stream_daily(bars, batch_rows=size)]
        assert all(batch.num_rows == size for batch in batches[:-1])
        rows = pa.Table.from_batches(batches).select(["ticker", "date"]).to_pylist()
        assert [(row["ticker"], row["date"]) for row in rows] == expected
    batches = [batch async for batch in market_data.stream_intraday(bars, timeframe="1m", batch_rows=4)]
    assert [batch.num_rows for batch in batches] == [4, 4, 2]
    assert pa.Table.from_batches(batches)["datetime"].to_pylist() == MINUTES
    with pytest.raises(ConfigurationError, match="batch_rows"):
        await anext(market_data.stream_daily(bars, batch_rows=0))


async def test_a_stream_takes_tickers_and_a_window(bars: AsyncSession) -> None:
    batches = market_data.stream_daily(bars, ["MSFT", "AAPL"], start=TEN[1], end=TEN[3], batch_rows=2)
    rows = [row async for batch in batches for row in batch.select(["ticker", "date"]).to_pylist()]
    assert [(row["ticker"], row["date"]) for row in rows] == [("AAPL", TEN[1]), ("AAPL", TEN[2]), ("MSFT", TEN[1])]
    adjusted = market_data.stream_daily(bars, series="adjusted")
    assert [batch.num_rows async for batch in adjusted] == [1]


async def test_a_stream_that_is_left_early_leaves_no_connection_behind(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date) for date in TEN])
    async with db.session_context(read_only=True) as session:
        async for batch in market_data.stream_daily(session, batch_rows=2):
            assert batch.num_rows == 2
            break
        assert len(await market_data.list_daily(session, "AAPL")) == 10, "the session goes on"
    assert checked_out(db.engine) == 0

    async def fail() -> None:
        async with db.session_context(read_only=True) as session:
            async for _ in market_data.stream_daily(session, batch_rows=2):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert checked_out(db.engine) == 0


async def test_a_read_only_stream_sees_one_snapshot_while_others_write(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date) for date in TEN])
    seen: list[Decimal] = []
    async with db.session_context(read_only=True) as session:
        async for batch in market_data.stream_daily(session, batch_rows=3):
            if not seen:
                async with db.session_context() as writer:
                    await market_data.upsert_daily(writer, [daily(date=date, close=10) for date in TEN])
            seen += batch["close"].to_pylist()
    assert seen == [11] * 10


async def test_a_frame_has_exact_decimals_or_correctly_rounded_floats(session: AsyncSession) -> None:
    prices = [Decimal(text) for text in ("0.1", "0.0000000001", "269.28", "123456.7890123456", "-37.63", "9.95")]
    rows = [daily(date=date, **flat(price)) for date, price in zip(TEN, prices, strict=False)]
    rows[0]["volume"], rows[1]["volume"] = None, "0.12345678"
    await market_data.upsert_daily(session, rows)
    exact = await market_data.daily_frame(session)
    assert exact.schema.field("close").type == pa.decimal128(20, 10)
    assert exact.schema.field("volume").type == pa.decimal128(24, 8)
    assert exact["close"].to_pylist() == prices
    floats = await market_data.daily_frame(session, exact=False)
    assert floats.schema.field("close").type == pa.float64()
    assert floats["close"].to_pylist() == [float(price) for price in prices]
    assert floats["volume"].to_pylist()[:3] == [None, 0.12345678, 100.0]


async def test_a_frame_has_every_column_that_a_caller_gives(session: AsyncSession) -> None:
    given = daily(dividends=Decimal("0.24"), stock_splits=Decimal(4), source="x", price_basis="split", is_final=True)
    await market_data.upsert_daily(session, [given | {"observed_at": OPENING}])
    [row] = (await market_data.daily_frame(session)).to_pylist()
    assert row == given | {"observed_at": OPENING, "series": ""}
    await market_data.upsert_intraday(session, [intraday(is_final=False)], timeframe="1m")
    table = await market_data.intraday_frame(session, ["AAPL"], timeframe="1m", start=OPENING)
    assert table.schema.field("datetime").type == pa.timestamp("us", tz="UTC")
    [row] = table.to_pylist()
    assert (row["datetime"], row["timeframe"], row["is_final"]) == (OPENING, "1m", False)


async def test_deleting_bars_counts_them_and_keeps_the_rest(bars: AsyncSession) -> None:
    assert await market_data.delete_daily(bars, "AAPL", start=TEN[2], end=TEN[4], series="") == 2
    assert await market_data.delete_daily(bars, "AAPL", start=TEN[2], end=TEN[4]) == 1, "every series, if none is said"
    assert await market_data.delete_daily(bars, before=TEN[1]) == 3
    assert [line.rows for line in await market_data.coverage(bars) if line.timeframe is None] == [7, 1, 1]
    assert await market_data.delete_intraday(bars, "AAPL", timeframe="60s", before=MINUTES[5], series="") == 5
    assert await market_data.delete_intraday(bars, "MSFT") == 1
    assert [line.rows for line in await market_data.coverage(bars) if line.timeframe is not None] == [5, 1, 1]


async def test_deleting_everything_by_an_oversight_is_refused(bars: AsyncSession) -> None:
    with pytest.raises(ConfigurationError, match="would delete every bar"):
        await market_data.delete_daily(bars)
    with pytest.raises(ConfigurationError, match="would delete every bar"):
        await market_data.delete_intraday(bars, timeframe="1m")
    with pytest.raises(ConfigurationError, match="two words for the same limit"):
        await market_data.delete_daily(bars, before=TEN[1], end=TEN[1])


async def test_bars_of_an_unknown_timeframe_are_given_theirs_with_their_history(session: AsyncSession) -> None:
    bars = [intraday(ticker, time) for ticker in ("AAPL", "MSFT") for time in minutes(3)]
    await market_data.upsert_intraday(session, bars, timeframe="unknown")
    await market_data.upsert_intraday(session, [bars[0] | {"close": "1.5", "low": 1}], timeframe="unknown")
    before = (await market_data.list_intraday(session, "AAPL", timeframe="unknown"))[0].updated_at
    assert await market_data.rename_timeframe(session, "unknown", "60s", tickers=["AAPL"]) == 3
    assert [(line.ticker, line.timeframe) for line in await market_data.coverage(session)] == [
        ("AAPL", "1m"),
        ("MSFT", "unknown"),
    ]
    session.expunge_all()
    assert (await market_data.list_intraday(session, "AAPL", timeframe="1m"))[0].updated_at == before
    history = await session.scalars(sa.select(BarRevision.timeframe))
    assert history.all() == ["1m"]
    await market_data.upsert_intraday(session, [bars[3]], timeframe="1m")
    with pytest.raises(DuplicateRowError, match="1 bars are stored as unknown and as 1m"):
        await market_data.rename_timeframe(session, "unknown", "1m")
    with pytest.raises(InvalidRowError, match="not a timeframe"):
        await market_data.rename_timeframe(session, "unknown", "soon")
    assert await market_data.rename_timeframe(session, "1m", "60s") == 0


async def test_metadata_is_found_got_or_listed_by_ticker(session: AsyncSession) -> None:
    rows: list[dict[str, Any]] = [
        {"ticker": "MSFT", "company_name": "Microsoft", "currency": "USD", "mic": "XNAS", "last_updated": OPENING},
        {"ticker": "AAPL", "company_name": "Apple", "market_cap": "3500000000000.5"},
    ]
    await market_data.upsert_metadata(session, rows)
    assert [row.ticker for row in await market_data.list_metadata(session)] == ["AAPL", "MSFT"]
    assert [row.ticker for row in await market_data.list_metadata(session, ["MSFT", "NONE"])] == ["MSFT"]
    apple = await market_data.get_metadata(session, "AAPL")
    assert (apple.market_cap, apple.sector) == (Decimal("3500000000000.5"), None)
    found = await market_data.find_metadata(session, "MSFT")
    assert found is not None
    assert (found.currency, found.mic, found.last_updated) == ("USD", "XNAS", OPENING)
    assert await market_data.find_metadata(session, "aapl") is None
    with pytest.raises(RowNotFoundError, match="'aapl'"):
        await market_data.get_metadata(session, "aapl")


async def test_a_portfolio_summary_begins_with_the_largest(session: AsyncSession) -> None:
    await market_data.upsert_metadata(
        session,
        [
            {"ticker": "AAPL", "company_name": "Apple", "sector": "Tech", "market_cap": 3},
            {"ticker": "MSFT", "market_cap": "3000000000000"},
            {"ticker": "ZERO", "market_cap": 0},
            {"ticker": "NOCAP", "company_name": "No Cap"},
        ],
    )
    await market_data.upsert_daily(session, [daily(date=date, volume=at, close=10) for at, date in enumerate(TEN)])
    await market_data.upsert_daily(session, [daily("BARE")])
    asked = ["NOTHING", "AAPL", "NOCAP", "MSFT", "ZERO", "BARE", "AAPL"]
    assert await market_data.portfolio_summary(session, asked) == [
        Summary("MSFT", None, None, Decimal(3_000_000_000_000), None, None, None),
        Summary("AAPL", "Apple", "Tech", Decimal(3), Decimal(10), Decimal(9), TEN[9]),
        Summary("ZERO", None, None, Decimal(0), None, None, None),
        Summary("BARE", None, None, None, Decimal(11), Decimal(100), DAY),
        Summary("NOCAP", "No Cap", None, None, None, None, None),
        Summary("NOTHING", None, None, None, None, None, None),
    ]
    assert await market_data.portfolio_summary(session, []) == []


async def test_objects_stay_readable_after_their_session_has_ended(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily(date=date) for date in TEN])
        await market_data.upsert_metadata(session, [{"ticker": "AAPL"}])
        written = [*await market_data.list_daily(session, "AAPL"), await market_data.get_metadata(session, "AAPL")]
    async with db.session_context(read_only=True) as session:
        read = await market_data.list_daily(session, "AAPL")
    for row in [*written, *read]:
        for column in row.__table__.columns:
            getattr(row, column.key)
    assert [bar.date for bar in read] == TEN


async def test_objects_stay_readable_after_an_error_rolled_their_session_back(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
    held: list[DailyData | Metadata] = []

    async def fail() -> None:
        async with db.session_context() as session:
            await market_data.upsert_metadata(session, [{"ticker": "AAPL", "company_name": "Apple"}])
            held.extend(await market_data.list_daily(session, "AAPL"))
            held.extend(await market_data.list_metadata(session))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    for row in held:
        for column in row.__table__.columns:
            getattr(row, column.key)
    assert [row.ticker for row in held] == ["AAPL", "AAPL"]


async def test_a_list_shows_what_this_session_has_just_upserted(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily()])
    [before] = await market_data.list_daily(session, "AAPL")
    await market_data.upsert_daily(session, [daily(close=10)])
    [after] = await market_data.list_daily(session, "AAPL")
    assert after.close == 10
    assert before is after, "one object for one row of one session"
