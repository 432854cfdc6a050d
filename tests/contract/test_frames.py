"""Frames and streams hold, cell by cell, what the lists hold, however the rows came out of the database."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bars import DAY, OPENING, daily, days, flat, intraday, minutes
from traderrr_data import DailyData, DatabaseManager, IntradayData, dialects, market_data
from traderrr_data.access.bars import columns_of
from traderrr_data.bulk.arrow import schema_of

BLOCKED = 0.05  # seconds
LONG_PAGE = 20_000  # rows; some databases have another way out for few rows
SOURCES = [
    None,
    "",
    "a,b",
    'say "x"',
    "it's",
    "back\\slash",
    "\\N",
    "\\",
    "\t",
    "a\nb",
    "\r",
    "\r\n",
    "\x01\x1f",
    "é東🚀",
]
ODD_TICKERS = ["AAPL", "A'B", 'A"B', "A\\B", "A,B", "A%B", ":a", "BRKb.N^A", "BÉ", "aapl", "東京", "🚀", "\\N", "t"]


def cells(bars: Sequence[Any], names: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: getattr(bar, name) for name in names} for bar in bars]


def stored_in(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def floats(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: float(v) if isinstance(v, Decimal) else v for k, v in row.items()} for row in rows]


async def holds_what_the_lists_hold(session: AsyncSession) -> int:
    """Compare every daily and 1m bar of both kinds of frame with the lists; return how many there are."""
    session.expunge_all()
    compared = 0
    tickers = sorted(set(await session.scalars(sa.select(DailyData.ticker).union(sa.select(IntradayData.ticker)))))
    exact = [await market_data.daily_frame(session), await market_data.intraday_frame(session, timeframe="1m")]
    rounded = [
        await market_data.daily_frame(session, exact=False),
        await market_data.intraday_frame(session, timeframe="1m", exact=False),
    ]
    read: list[list[dict[str, Any]]] = [[], []]
    for ticker in tickers:
        of_days = await market_data.list_daily(session, ticker)
        of_minutes = await market_data.list_intraday(session, ticker, timeframe="1m")
        read[0] += cells(of_days, exact[0].column_names)
        read[1] += cells(of_minutes, exact[1].column_names)
        assert stored_in(await market_data.daily_frame(session, [ticker])) == cells(of_days, exact[0].column_names)
    long_pages = [
        [row async for batch in stream for row in batch.to_pylist()]
        for stream in (
            market_data.stream_daily(session, batch_rows=LONG_PAGE),
            market_data.stream_intraday(session, timeframe="1m", batch_rows=LONG_PAGE),
        )
    ]
    assert long_pages == read
    for number in (0, 1):
        assert stored_in(exact[number]) == read[number]
        assert stored_in(rounded[number]) == floats(read[number])
        compared += len(read[number])
    return compared


def odd_rows(make: Any, **fixed: Any) -> list[dict[str, Any]]:
    """Bars with hard texts, NULLs, instants and numbers."""
    prices = ["-37.63", "0", "0.0000000001", "149.99", "123456.7890123", "628500.005", "9999999999.99", "-0.0000000003"]
    volumes: list[Any] = [None, 0, "0.00000001", "12345678.12345678", 4_000_000_000, 9007199254740993, 10**15, "1.5"]
    instants = [None, OPENING, OPENING + dt.timedelta(microseconds=1), dt.datetime(1000, 1, 1, tzinfo=dt.UTC)]
    return [
        make(
            ticker,
            **flat(prices[number % len(prices)]),
            **fixed,
            source=SOURCES[number % len(SOURCES)],
            is_final=(True, False, None)[number % 3],
            price_basis=(None, "raw", "split", "all")[number % 4],
            observed_at=instants[number % len(instants)],
        )
        | {"volume": volumes[number % len(volumes)]}
        for number, ticker in enumerate(ODD_TICKERS)
    ]


async def test_a_frame_holds_what_the_lists_hold(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, odd_rows(daily))
    await market_data.upsert_intraday(session, odd_rows(intraday), timeframe="1m")
    assert await holds_what_the_lists_hold(session) == 2 * len(ODD_TICKERS)


@pytest.mark.parametrize("source", SOURCES)
async def test_a_source_comes_back_whatever_it_is_made_of(session: AsyncSession, source: str | None) -> None:
    rows = [daily(date=date, source=text) for date, text in zip(days(3), [source, "x", source], strict=True)]
    await market_data.upsert_daily(session, rows)
    assert (await market_data.daily_frame(session))["source"].to_pylist() == [source, "x", source]
    batches = [batch async for batch in market_data.stream_daily(session, batch_rows=1)]
    assert [batch["source"][0].as_py() for batch in batches] == [source, "x", source]


async def test_prices_of_all_digits_come_back_where_they_can_be_stored(db: DatabaseManager) -> None:
    most = Decimal("9999999999.99999999") if db.dialect.exact_decimals else Decimal("99999.9999999999")
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("A", **flat(most)), daily("B", **flat(-most))])
        assert await holds_what_the_lists_hold(session) == 2
        assert (await market_data.daily_frame(session))["close"].to_pylist() == [most, -most]


@pytest.mark.parametrize("rows", [10, LONG_PAGE])
@pytest.mark.parametrize("price", [149.99, -37.63, 0.24, 628500.5, float(np.float32(153.3))])
async def test_usual_bars_do_not_go_cell_by_cell(session: AsyncSession, price: float, rows: int) -> None:
    bars = [daily(date=date, **flat(price), dividends=0.24, source="yfinance", is_final=True) for date in days(9)]
    bars += [daily("B", **flat(price), volume=None, observed_at=OPENING)]
    await market_data.upsert_daily(session, bars)
    names = [column.name for column in DailyData.__table__.columns]
    wanted = columns_of(DailyData, names, "date", None, start=None, end=None)
    dialect, connection = dialects.for_session(session), await session.connection()
    page = await dialect.fetch_page(connection, wanted.query, wanted.key, schema_of(DailyData, names, exact=True), rows)
    assert page is not None
    assert page.build().num_rows == 10


PRICES = [
    "10",
    "10.001",
    "5.0000001",
    "10.0000001",
    "12.0004",
    "0.001",
    "-10.0000001",
    "99999999",
    "1000000000",
    "0.24",
]
VOLUMES: list[Any] = [10**8, 10**12, 922_337_203_685, "12345678.5", None, 0, "0.00000001", 10, "13.0004", 99_999_999]


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
async def test_numbers_of_every_size_come_back_in_pages_of_every_size(session: AsyncSession, rows: int) -> None:
    stored = [
        daily(ticker, date, **flat(PRICES[(number + at) % len(PRICES)]), source="" if at % 2 else None)
        | {"volume": VOLUMES[(number * 3 + at) % len(VOLUMES)]}
        for number, ticker in enumerate(["A", "A\\B", "東京"])
        for at, date in enumerate(days(10))
    ]
    await market_data.upsert_daily(session, stored)
    assert await holds_what_the_lists_hold(session) == 30
    batches = [batch async for batch in market_data.stream_daily(session, batch_rows=rows)]
    assert pa.Table.from_batches(batches).to_pylist() == (await market_data.daily_frame(session)).to_pylist()


async def test_dates_and_instants_that_are_far_off_come_back(session: AsyncSession) -> None:
    dates = [
        dt.date(1000, 1, 1),
        dt.date(1582, 10, 15),
        dt.date(1969, 12, 31),
        dt.date(2000, 1, 14),
        dt.date(9999, 12, 31),
    ]
    instants = [dt.datetime(date.year, date.month, date.day, 23, 59, 59, 999_999, dt.UTC) for date in dates]
    await market_data.upsert_daily(session, [daily(date=date) for date in dates])
    await market_data.upsert_intraday(session, [intraday(datetime=instant) for instant in instants], timeframe="1m")
    assert await holds_what_the_lists_hold(session) == 2 * len(dates)
    batches = [batch async for batch in market_data.stream_intraday(session, timeframe="1m", batch_rows=1)]
    assert [batch["datetime"][0].as_py() for batch in batches] == instants


@pytest.mark.parametrize("exact", [True, False])
async def test_the_frame_of_one_ticker_is_as_that_ticker_in_the_frame_of_all(
    session: AsyncSession, exact: bool
) -> None:
    await market_data.upsert_daily(session, odd_rows(daily))
    whole = await market_data.daily_frame(session, exact=exact)
    for ticker in ODD_TICKERS:
        alone = await market_data.daily_frame(session, [ticker], exact=exact)
        assert alone.schema == whole.schema
        assert alone.to_pylist() == [row for row in whole.to_pylist() if row["ticker"] == ticker]


MEASURED = ["153.30000305175781", "0.1", "0.30000000000000004", "1.00000000005", "0.00000000015", "-153.30000305175781"]
MEASURED += ["524288.5", "524289.12345678901", "900000.1", "123456789.12345678", "99999.99999999999", "7e-11", "1e9"]


@pytest.mark.parametrize("price", MEASURED)
async def test_numbers_that_others_wrote_read_alike_in_frames_and_lists(session: AsyncSession, price: str) -> None:
    await market_data.upsert_daily(session, [daily(date=date) for date in days(3)])
    await market_data.upsert_intraday(session, [intraday(datetime=minute) for minute in minutes(2)], timeframe="1m")
    await session.execute(sa.text(f"UPDATE daily_data SET close = {price} WHERE date > '2025-01-02'"))
    await session.execute(sa.text(f"UPDATE intraday_data SET volume = abs({price}), low = {price}"))
    assert await holds_what_the_lists_hold(session) == 5


@pytest.mark.parametrize("tail", [-1, 0, 1])
async def test_a_frame_is_whole_where_its_first_page_ends(db: DatabaseManager, tail: int) -> None:
    """Its pages are of different lengths, and come out of the database in different ways."""
    count = (db.dialect.short_page or 100) + tail
    await stored_bars(db, 1, count)
    async with db.session_context(read_only=True) as session:
        for exact in (True, False):
            frame = await market_data.daily_frame(session, exact=exact)
            assert frame["date"].to_pylist() == sorted(set(frame["date"].to_pylist()))
            assert frame.num_rows == count
            assert frame.equals(await market_data.daily_frame(session, ["T000"], exact=exact))
        bars = await market_data.list_daily(session, "T000", last=3)
        assert stored_in(frame.slice(count - 3)) == floats(cells(bars, frame.column_names))


async def test_a_short_frame_after_a_cell_that_only_its_digits_tell_is_whole(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily(date=date) for date in days(3)])
    for close in ("123456789.12345678", "5e-11", "9e9"):
        await session.execute(sa.text(f"UPDATE daily_data SET close = {close} WHERE date = '{days(3)[1]}'"))
        assert await holds_what_the_lists_hold(session) == 3


@pytest.mark.parametrize("volumes", [[None, None], [None, 1], [2, "0.5"], ["0.5", None], [10**15, "0.00000001"]])
async def test_volumes_of_one_frame_may_be_whole_or_not(session: AsyncSession, volumes: list[Any]) -> None:
    rows = [daily(date=date, volume=volume) for date, volume in zip(days(2), volumes, strict=True)]
    await market_data.upsert_daily(session, rows)
    assert await holds_what_the_lists_hold(session) == 2
    found = (await market_data.daily_frame(session))["volume"].to_pylist()
    assert found == [None if volume is None else Decimal(volume) for volume in volumes]


async def test_many_measurements_read_alike_in_frames_and_lists(session: AsyncSession) -> None:
    source = random.Random(3)  # noqa: S311 - test data
    await market_data.upsert_daily(session, [daily(date=date) for date in days(600)])
    table = DailyData.__table__
    for date in days(600):
        price = source.choice(
            [
                source.uniform(0, 1000),
                float(np.float32(source.uniform(0, 1000))),
                source.randint(0, 10**7) / 100,
                (2 * source.randint(0, 10**13) + 1) / 2e10,
                source.uniform(0, 1e6),
            ]
        )
        statement = f"UPDATE daily_data SET close = {price!r}, volume = {price!r} WHERE date = '{date}'"
        await session.execute(sa.text(statement))
    assert await session.scalar(sa.select(sa.func.count()).select_from(table)) == 600
    assert await holds_what_the_lists_hold(session) == 600


@pytest.mark.parametrize("instant", ["2025-01-02T14:30:00", "2025-01-02", "2025-01-02 14:30", "2025-01-02 14:30:00.5"])
async def test_instants_that_others_wrote_read_alike_in_frames_and_lists(session: AsyncSession, instant: str) -> None:
    await market_data.upsert_intraday(session, [intraday(datetime=minute) for minute in minutes(3)], timeframe="1m")
    await session.execute(sa.text(f"UPDATE intraday_data SET observed_at = '{instant}'"))
    assert await holds_what_the_lists_hold(session) == 3


async def test_batches_end_where_they_should_on_every_boundary(session: AsyncSession) -> None:
    tickers = ["A", "A\\B", "B", "東京"]
    await market_data.upsert_intraday(
        session, [intraday(ticker, minute) for ticker in tickers for minute in minutes(6)], timeframe="1m"
    )
    await market_data.upsert_intraday(session, [intraday("A", close=10), intraday("C")], timeframe="5m")
    await market_data.upsert_intraday(session, [intraday("A", close=10)], timeframe="1m", series="bid")
    expected = [(ticker, minute) for ticker in tickers for minute in minutes(6)]
    for size in (1, 5, 6, 7, 12, 23, 24, 25):
        batches = [b async for b in market_data.stream_intraday(session, timeframe="1m", batch_rows=size)]
        assert [b.num_rows for b in batches] == [min(size, 24 - at) for at in range(0, 24, size)]
        rows = pa.Table.from_batches(batches).to_pylist()
        assert [(row["ticker"], row["datetime"]) for row in rows] == expected
        assert {(row["series"], row["timeframe"]) for row in rows} == {("", "1m")}
    some = market_data.stream_intraday(session, ["B", "A\\B", "B"], timeframe="60s", start=minutes(6)[2], batch_rows=3)
    assert [b["ticker"].to_pylist() async for b in some] == [["A\\B"] * 3, ["A\\B"] + ["B"] * 2, ["B"] * 2]


async def test_nothing_found_is_a_frame_with_all_columns(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily()])
    questions: tuple[dict[str, Any], ...] = (
        {"tickers": []},
        {"tickers": ["B"]},
        {"start": days(3)[2]},
        {"series": "none"},
    )
    for asked in questions:
        for exact in (True, False):
            frame = await market_data.daily_frame(session, **asked, exact=exact)
            assert frame.num_rows == 0
            assert frame.schema == (await market_data.daily_frame(session, exact=exact)).schema


async def test_a_frame_sees_what_its_own_session_has_not_committed_and_the_session_goes_on(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
        assert (await market_data.daily_frame(session)).num_rows == 1
        session.add(DailyData(**daily("ADDED"), series=""))
        assert (await market_data.daily_frame(session))["ticker"].to_pylist() == ["AAPL", "ADDED"]
        async with db.session_context(read_only=True) as other:
            assert (await market_data.daily_frame(other)).num_rows == 0
        await market_data.upsert_daily(session, [daily("LATER")])
    async with db.session_context(read_only=True) as session:
        assert (await market_data.daily_frame(session))["ticker"].to_pylist() == ["AAPL", "ADDED", "LATER"]


async def test_a_frame_may_be_the_first_statement_of_a_transaction(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        assert (await market_data.daily_frame(session)).num_rows == 0
        await market_data.upsert_daily(session, [daily()])
        await session.rollback()
        assert (await market_data.daily_frame(session)).num_rows == 0


async def test_a_page_that_is_a_connections_first_statement_begins_its_transaction(db: DatabaseManager) -> None:
    names = [column.name for column in DailyData.__table__.columns]
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily()])
        wanted = columns_of(DailyData, names, "date", None, start=None, end=None)
    reader = db.engine.execution_options(**db.dialect.reader_options)
    for _ in range(2):  # the second time on the connection that the first one gave back
        async with reader.connect() as connection:
            schema = schema_of(DailyData, names, exact=True)
            page = await db.dialect.fetch_page(connection, wanted.query, wanted.key, schema, 10)
            assert page is not None
            assert page.build().num_rows == 1
            assert connection.in_transaction()


async def stored_bars(db: DatabaseManager, tickers: int, each: int) -> None:
    dates = pa.array(np.tile(np.arange(each, dtype=np.int32) + 10_000, tickers)).cast(pa.date32())
    count = tickers * each
    prices = np.round(np.random.default_rng(1).uniform(1, 900, count), 2)
    table = pa.table({"ticker": np.repeat([f"T{n:03}" for n in range(tickers)], each), "date": dates, **flat(prices)})
    async with db.session_context() as session:
        await market_data.upsert_daily(session, table)


async def test_a_list_of_tickers_comes_whole_and_in_order_whatever_each_has(db: DatabaseManager) -> None:
    # None of some, few of most, and many of one: groups of tickers grow and shrink.
    counts = {f"T{number:03}": 60 if number == 41 else number % 4 for number in range(90)}
    async with db.session_context() as session:
        given = [daily(ticker, date) for ticker, count in counts.items() for date in days(count)]
        await market_data.upsert_daily(session, [*given, *(daily("T041A", date) for date in days(9))])
    expected = sorted((row["ticker"], row["date"]) for row in given)
    wanted = [*reversed(counts), "ABSENT", "T999"]
    async with db.session_context(read_only=True) as session:
        frame = await market_data.daily_frame(session, wanted)
        batches = [batch async for batch in market_data.stream_daily(session, wanted, batch_rows=7)]
        assert (await market_data.daily_frame(session, [])).num_rows == 0
    assert max(batch.num_rows for batch in batches) == 7
    for table in (frame, pa.Table.from_batches(batches)):
        assert list(zip(*(table[name].to_pylist() for name in ("ticker", "date")), strict=True)) == expected


async def test_the_frame_of_five_hundred_tickers_has_them_all(db: DatabaseManager) -> None:
    await stored_bars(db, 520, 4)
    async with db.session_context(read_only=True) as session:
        wanted = [f"T{number:03}" for number in range(500)]
        frame = await market_data.daily_frame(session, iter(wanted))
        assert frame["ticker"].to_pylist() == [ticker for ticker in wanted for _ in range(4)]
        assert frame.num_rows == 2_000


async def longest_block(work: Any) -> float:
    """Return the longest time for which the event loop did not turn while something was awaited."""
    longest, done = 0.0, False

    async def beat() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not done:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0)
    await work
    done = True
    await heart
    return longest


async def test_the_event_loop_turns_while_a_large_frame_is_read(db: DatabaseManager) -> None:
    await stored_bars(db, 30, 2_000)
    async with db.session_context(read_only=True) as session:
        await market_data.daily_frame(session, ["T000"])  # what is loaded once is loaded
        blocks: list[float] = []
        while len(blocks) < 10 and min(blocks, default=1.0) >= BLOCKED:  # on a busy machine it waits for a processor
            blocks.append(await longest_block(market_data.daily_frame(session)))
        assert min(blocks) < BLOCKED
        assert (await market_data.daily_frame(session)).num_rows == 60_000


async def test_a_frame_that_is_cancelled_leaves_the_pool_whole(db: DatabaseManager) -> None:
    await stored_bars(db, 10, 2_000)

    async def read() -> pa.Table:
        async with db.session_context(read_only=True) as session:
            return await market_data.daily_frame(session)

    async def cancelled_after(turns: int) -> None:
        task = asyncio.create_task(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.result().num_rows == 20_000

    for turns in (1, 2, 5, 20, 50, 100, 200, 400):
        await cancelled_after(turns)
    assert (await read()).num_rows == 20_000


async def test_a_stream_in_a_transaction_that_writes_between_its_batches_goes_on(db: DatabaseManager) -> None:
    await stored_bars(db, 3, 5)

    async def copied(batches: AsyncIterator[pa.RecordBatch], session: AsyncSession) -> int:
        count = 0
        async for batch in batches:
            count += batch.num_rows
            await market_data.upsert_daily(session, batch.drop_columns(["series"]), series="copy")
        return count

    async with db.session_context() as session:
        assert await copied(market_data.stream_daily(session, batch_rows=4), session) == 15
        assert (await market_data.daily_frame(session, series="copy")).num_rows == 15


async def test_the_latest_of_more_tickers_than_a_statement_has_parameters(session: AsyncSession) -> None:
    await market_data.upsert_daily(session, [daily(ticker, date) for ticker in ODD_TICKERS for date in days(3)])
    asked = [f"NONE{number}" for number in range(40_000)] + ODD_TICKERS
    latest = await market_data.latest_daily(session, iter(asked))
    assert list(latest) == sorted(ODD_TICKERS)
    assert {bar.date for bar in latest.values()} == {DAY + dt.timedelta(days=2)}
    assert list(await market_data.latest_daily(session)) == sorted(ODD_TICKERS)
