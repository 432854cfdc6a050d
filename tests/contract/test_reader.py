"""The reader for many tasks: the answers of `market_data`, in few visits, and nobody gets somebody else's trouble."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from tests.bars import DAY, OPENING, daily, days, flat, intraday, minutes
from traderrr_data import (
    ConfigurationError,
    DatabaseManager,
    DatabaseUnavailableError,
    InvalidRowError,
    Metadata,
    market_data,
)
from traderrr_data.ingest import DailyBar, Instrument, IntradayBar, reader

TICKERS = [f"T{number:02}" for number in range(40)]


@pytest.fixture
async def filled(db: DatabaseManager) -> DatabaseManager:
    """Bars with every column, and some with few."""
    async with db.session_context() as session:
        prices = ["0.0000000001", "153.3", "-37.63", "262143.9999999999", "300000.1234", 7]
        odd = [
            daily(
                "ODD", date, **flat(price), volume=[None, 5, "0.5", 10**14][n % 4], is_final=[None, True, False][n % 3]
            )
            for n, (date, price) in enumerate(zip(days(len(prices)), prices, strict=True))
        ]
        odd[0] |= {
            "observed_at": OPENING.replace(microsecond=7),
            "source": "é",
            "price_basis": "raw",
            "dividends": "0.1",
        }
        await market_data.upsert_daily(session, odd)
        plain = [daily(ticker, date, **flat(n)) for n, date in enumerate(days(30)) for ticker in TICKERS]
        await market_data.upsert_daily(session, plain)
        await market_data.upsert_daily(session, [daily("T00", close=12)], series="other")
        rows = [intraday(ticker, instant) for ticker in TICKERS[:3] for instant in minutes(10)]
        await market_data.upsert_intraday(session, rows, timeframe="1m")
        await market_data.upsert_intraday(session, rows[:1], timeframe="5m")
        company = {"ticker": "T00", "market_cap": "1.5", "last_updated": OPENING, "currency": "USD"}
        await market_data.upsert_metadata(session, [company, {"ticker": "T01"}])
    return db


def as_tuples(kind: type[Any], objects: Sequence[Any]) -> list[Any]:
    """Return objects of a model as the reader returns them."""
    return [kind(*(getattr(one, name) for name in kind._fields)) for one in objects]


def spelled(rows: Sequence[tuple[Any, ...]]) -> list[list[str]]:
    """Return rows so that 1.5 and 1.50 differ, and True and 1."""
    return [[repr(cell) for cell in row] for row in rows]


@contextlib.contextmanager
def counted_statements(db: DatabaseManager) -> Iterator[list[str]]:
    """Collect the statements that are sent."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    sa.event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(db.engine.sync_engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"last": 2},
        {"last": 0},
        {"last": 100},
        {"newest_first": True},
        {"last": 3, "newest_first": True},
        {"start": days(6)[2]},
        {"end": days(6)[2]},
        {"start": days(6)[1], "end": days(6)[3]},
        {"start": days(6)[1], "end": days(6)[4], "last": 2},
        {"start": days(6)[4], "end": days(6)[1]},
        {"end": dt.date(1000, 1, 1)},
        {"start": dt.date.max},
        {"series": "other"},
    ],
)
async def test_daily_bars_are_those_of_market_data(filled: DatabaseManager, options: dict[str, Any]) -> None:
    async with filled.session_context(read_only=True) as session, reader(filled) as bars:
        for ticker in ("ODD", "T00", "NONE"):
            expected = as_tuples(DailyBar, await market_data.list_daily(session, ticker, **options))
            assert spelled(await bars.list_daily(ticker, **options)) == spelled(expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"last": 2},
        {"start": minutes(9)[2], "end": minutes(9)[5]},
        {"start": minutes(9)[2].astimezone(dt.timezone(dt.timedelta(hours=-5))), "newest_first": True},
    ],
)
async def test_intraday_bars_are_those_of_market_data(filled: DatabaseManager, options: dict[str, Any]) -> None:
    async with filled.session_context(read_only=True) as session, reader(filled) as bars:
        for timeframe in ("1m", "5m", "1h"):
            asked = {"timeframe": timeframe, **options}
            expected = as_tuples(IntradayBar, await market_data.list_intraday(session, "T01", **asked))
            assert spelled(await bars.list_intraday("T01", **asked)) == spelled(expected)


async def test_latest_bars_and_metadata_are_those_of_market_data(filled: DatabaseManager) -> None:
    async with filled.session_context(read_only=True) as session, reader(filled) as bars:
        wanted = ["T07", "NONE", "ODD", "T00", "T07"]
        latest = await market_data.latest_daily(session, wanted)
        assert await bars.latest_daily(wanted) == dict(
            zip(latest, as_tuples(DailyBar, list(latest.values())), strict=True)
        )
        assert list(await bars.latest_daily(wanted)) == ["ODD", "T00", "T07"]
        assert list(await bars.latest_daily(["T00", "T01"], series="other")) == ["T00"]
        newest = await bars.latest_intraday(TICKERS, timeframe="1m")
        assert {ticker: bar.datetime for ticker, bar in newest.items()} == dict.fromkeys(TICKERS[:3], minutes(10)[-1])
        assert await bars.latest_daily([]) == {}
        [company] = as_tuples(Instrument, [await market_data.get_metadata(session, "T00")])
        assert spelled([await bars.find_metadata("T00") or ()]) == spelled([company])
        assert await bars.find_metadata("NONE") is None


async def test_a_hundred_calls_at_once_take_few_statements(filled: DatabaseManager) -> None:
    async with reader(filled) as bars:
        with counted_statements(filled) as sent:
            asked = [(ticker, last) for ticker in TICKERS for last in (1, 2, 3)]
            found = await asyncio.gather(*(bars.list_daily(ticker, last=last) for ticker, last in asked))
        assert [(rows[0].ticker, len(rows)) for rows in found] == asked
        assert len([statement for statement in sent if "daily_data" in statement]) <= 10


async def test_no_more_connections_are_used_than_were_allowed(filled: DatabaseManager) -> None:
    checked_out: list[int] = []
    sa.event.listen(
        filled.engine.sync_engine.pool,
        "checkout",
        lambda *_: checked_out.append(filled.engine.pool.checkedout()),  # type: ignore[attr-defined]
    )
    async with reader(filled, connections=2) as bars:
        for _ in range(3):
            await asyncio.gather(*(bars.list_daily(ticker) for ticker in TICKERS * 3))
    assert max(checked_out) <= 2
    with pytest.raises(ConfigurationError):
        reader(filled, connections=0)


async def test_an_answer_is_never_older_than_its_question(filled: DatabaseManager) -> None:
    """Each of many readers sees what it wrote itself just before, whatever was being read meanwhile."""

    async def write_and_read(ticker: str) -> None:
        for number in range(5):
            async with filled.session_context() as session:
                await market_data.upsert_daily(session, [daily(ticker, DAY, **flat(number + 1000))])
            [bar] = await bars.list_daily(ticker, end=days(2)[1])
            assert bar.close == number + 1000

    async def noise() -> None:
        while True:
            await bars.list_daily("T39")

    async with reader(filled, connections=1) as bars:
        tasks = [asyncio.create_task(noise()) for _ in range(5)]
        await asyncio.gather(*(write_and_read(ticker) for ticker in TICKERS[:8]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_not_committed_is_not_seen(filled: DatabaseManager) -> None:
    async with reader(filled) as bars:
        async with filled.session_context() as session:
            await market_data.upsert_daily(session, [daily("NEW")])
            assert await bars.list_daily("NEW") == []
        assert len(await bars.list_daily("NEW")) == 1


@pytest.mark.parametrize("ticker", ["", " AAPL", 12, None, "x" * 65])
async def test_a_call_with_a_bad_argument_fails_alone(filled: DatabaseManager, ticker: Any) -> None:
    async with reader(filled) as bars:
        good = [bars.list_daily(name, last=1) for name in TICKERS]
        *answers, bad = await asyncio.gather(*good, bars.list_daily(ticker), return_exceptions=True)
        assert isinstance(bad, InvalidRowError)
        assert bad.column == "ticker"
        assert all(isinstance(answer, list) and len(answer) == 1 for answer in answers)


async def test_other_arguments_are_checked_too(filled: DatabaseManager) -> None:
    async with reader(filled) as bars:
        with pytest.raises(ConfigurationError):
            await bars.list_daily("T00", last=-1)
        with pytest.raises(ConfigurationError):
            await bars.latest_daily("T00")
        with pytest.raises(InvalidRowError):
            await bars.list_intraday("T00", timeframe="1 minute")
        with pytest.raises(InvalidRowError):
            await bars.list_intraday("T00", timeframe="1m", start=dt.datetime(2025, 1, 2))  # noqa: DTZ001 - that is it
        with pytest.raises(InvalidRowError):
            await bars.list_daily("T00", start="tomorrow")  # type: ignore[arg-type]


async def test_a_call_that_is_given_up_disturbs_no_other(filled: DatabaseManager) -> None:
    async with reader(filled) as bars:
        tasks = [asyncio.create_task(bars.list_daily(ticker)) for ticker in TICKERS]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [len(rows) for rows in results[1::2] if isinstance(rows, list)] == [30] * 20
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
        assert len(await bars.list_daily("T00")) == 30


async def test_the_end_of_the_block_answers_what_was_asked(filled: DatabaseManager) -> None:
    async with reader(filled) as bars:
        tasks = [asyncio.create_task(bars.list_daily(ticker)) for ticker in TICKERS]
        await asyncio.sleep(0)
    assert [len(rows) for rows in await asyncio.gather(*tasks)] == [30] * 40
    with pytest.raises(ConfigurationError, match="not open"):
        await bars.list_daily("T00")


async def test_every_caller_learns_that_there_is_no_connection(filled: DatabaseManager) -> None:
    impatient = filled.settings.model_copy(update={"db_pool_size": 1, "db_max_overflow": 0, "db_pool_timeout": 0.1})
    async with DatabaseManager(impatient) as other, reader(other) as bars:
        async with other.session_context(read_only=True) as session:
            await session.execute(sa.select(Metadata.ticker))
            errors = await asyncio.gather(*(bars.list_daily(t) for t in TICKERS), return_exceptions=True)
            assert {type(error) for error in errors} == {DatabaseUnavailableError}
        assert len(await bars.list_daily("T00")) == 30


async def test_a_failing_query_fails_those_who_asked_it(filled: DatabaseManager) -> None:
    async with filled.engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE metadata RENAME TO elsewhere"))
    try:
        async with reader(filled) as bars:
            instrument, rows = await asyncio.gather(
                bars.find_metadata("T00"), bars.list_daily("T00"), return_exceptions=True
            )
            assert isinstance(instrument, Exception)
            assert isinstance(rows, list)
            assert rows[-1].close == Decimal(29)
    finally:
        async with filled.engine.begin() as connection:
            await connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO metadata"))
