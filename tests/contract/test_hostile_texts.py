"""Texts that mean something to a server are texts: nothing that is given becomes a part of a statement."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests import hostile
from tests.backends import Backend
from tests.bars import DAY, OPENING, daily, days, intraday, minutes
from traderrr_data import (
    ConfigurationError,
    DatabaseManager,
    InvalidRowError,
    market_data,
    portfolio,
    system,
    trading,
)
from traderrr_data.ingest import UnreadableFileError, bar_writer, ingest_file, reader

TICKERS: Final = sorted(hostile.QUOTES)
SERIES: Final = [text for text in TICKERS if len(text) <= 32]
FAR: Final = dt.date(9999, 12, 31)


@pytest.fixture(params=["as usual", "by other rules"])
def rules_of_literals(request: pytest.FixtureRequest, backend: Backend) -> str:
    """A statement by which a session takes literals as it does by default, or otherwise."""
    return "SELECT 1" if request.param == "as usual" else backend.other_literals


@pytest.fixture
async def hostile_session(db: DatabaseManager, rules_of_literals: str) -> AsyncIterator[AsyncSession]:
    """A session in which literals are read by these rules; a bar beside those of the test is left alone."""
    async with db.session_context() as session:
        await session.execute(sa.text(rules_of_literals))
        await market_data.upsert_daily(session, [daily("CANARY", source="as it was")])
        yield session
        [canary] = await market_data.list_daily(session, "CANARY")
        assert (canary.source, int(canary.close)) == ("as it was", 11)


@pytest.fixture
def statements(db: DatabaseManager) -> Iterator[list[str]]:
    """The text of every statement that SQLAlchemy sends."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    sa.event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(db.engine.sync_engine, "before_cursor_execute", note)


@pytest.mark.parametrize("rows_each", [1, 60, 200])
async def test_bars_under_hostile_names_are_what_they_are(hostile_session: AsyncSession, rows_each: int) -> None:
    """In batches of each size that a database takes in a way of its own, new ones and changed ones."""
    session = hostile_session
    rows = [daily(name, day, source=name[:64]) for name in TICKERS for day in days(rows_each)]
    assert (await market_data.upsert_daily(session, rows)).inserted == len(rows)
    assert (await market_data.upsert_daily(session, rows)).unchanged == len(rows)
    changed = [row | {"source": f"{row['source'][:32]}{row['source'][:32]}", "close": 12} for row in rows]
    assert (await market_data.upsert_daily(session, changed)).updated == len(rows)
    for name in TICKERS:
        bars = await market_data.list_daily(session, name)
        assert {(bar.ticker, bar.source) for bar in bars} == {(name, name[:32] * 2)}
        assert len(bars) == rows_each
    found = await market_data.daily_frame(session, TICKERS)
    assert found["ticker"].to_pylist() == [name for name in TICKERS for _ in range(rows_each)]
    assert found["source"].to_pylist() == [name[:32] * 2 for name in TICKERS for _ in range(rows_each)]


async def test_lines_of_hostile_names_are_told_apart(hostile_session: AsyncSession) -> None:
    session, names = hostile_session, SERIES
    for number, name in enumerate(names):
        await market_data.upsert_intraday(session, [intraday(name, volume=number)], timeframe="1m", series=name)
        await market_data.upsert_daily(session, [daily("A", volume=number)], series=name)
    for number, name in enumerate(names):
        [bar] = await market_data.list_intraday(session, name, timeframe="1m", series=name)
        [other] = await market_data.list_daily(session, "A", series=name)
        assert {bar.volume, other.volume} == {number}
        assert (await market_data.latest_intraday(session, [name], timeframe="1m", series=name)).keys() == {name}
        frame = await market_data.intraday_frame(session, [name], timeframe="1m", series=name)
        assert (frame["volume"].to_pylist(), frame["series"].to_pylist()) == ([number], [name])
        batches = [batch async for batch in market_data.stream_daily(session, series=name, batch_rows=1)]
        assert [batch["volume"].to_pylist() for batch in batches] == [[number]]
    lines = await market_data.coverage(session, names)
    assert [(line.ticker, line.series) for line in lines] == [(name, name) for name in names]
    for name in names:
        assert await market_data.delete_intraday(session, name, series=name) == 1
    assert await market_data.delete_daily(session, "A") == len(names)


async def test_what_is_asked_for_by_hostile_names_is_found(hostile_session: AsyncSession) -> None:
    session = hostile_session
    await market_data.upsert_daily(session, [daily(name) for name in TICKERS])
    await market_data.upsert_daily(session, [daily(name, close=12) for name in TICKERS])
    now = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    assert list(await market_data.latest_daily(session, TICKERS)) == TICKERS
    assert list(await market_data.latest_daily(session, TICKERS, as_of=now)) == TICKERS
    for name in TICKERS:
        assert [bar.close for bar in await market_data.list_daily(session, name, as_of=now)] == [12]
        assert [old.close for old in await market_data.revisions(session, name)] == [11]
        frame = await market_data.daily_frame(session, [name], as_of=now)
        assert frame["ticker"].to_pylist() == [name]
    assert await market_data.diff(session, since=OPENING, tickers=TICKERS) == []
    replaced = await market_data.replace_daily(session, TICKERS[0], [daily(TICKERS[0], days(2)[1])], end=FAR)
    assert (replaced.inserted, replaced.deleted) == (1, 1)


async def test_every_other_table_keeps_hostile_texts_as_they_are(hostile_session: AsyncSession) -> None:
    session = hostile_session
    await market_data.upsert_metadata(session, [{"ticker": name, "company_name": name} for name in TICKERS])
    await market_data.upsert_metadata(session, [{"ticker": name, "sector": name} for name in TICKERS])
    for name in TICKERS:
        kind = name[:32]
        assert await trading.add_signal(session, name, date=DAY, signal_type=kind, reasons=name, dedupe_key=name)
        assert not await trading.add_signal(session, name, date=DAY, signal_type=kind, reasons=name, dedupe_key=name)
        assert await system.add_event(session, name, name, severity=kind, details=name, dedupe_key=name)
        await portfolio.upsert_position(session, name, 1)
        [found] = await trading.list_signals(session, name, signal_type=kind)
        [event] = await system.list_events(session, event_type=name, severity=kind)
        about = await market_data.get_metadata(session, name)
        held = await portfolio.find_position(session, name)
        assert held is not None
        assert {found.reasons, event.description, event.details, about.company_name, about.sector} == {name}
        assert (await trading.signal_stats(session, name)).by_type == {kind: 1}
        assert [one.ticker for one in await market_data.portfolio_summary(session, [name])] == [name]
        assert await trading.delete_signals(session, name) == 1
        assert await portfolio.delete_position(session, name) == 1


async def test_a_reader_and_a_writer_take_hostile_names(db: DatabaseManager) -> None:
    async with bar_writer(db) as writer:
        for name in TICKERS:
            await writer.put(daily(name, source=name[:64]))
            await writer.put(intraday(name, timeframe="1m"))
    async with reader(db) as questions:
        assert sorted(await questions.latest_daily(TICKERS)) == TICKERS
        for name in TICKERS:
            [bar] = await questions.list_daily(name)
            assert (bar.ticker, bar.source) == (name, name[:64])


async def test_no_value_stands_in_a_statement_of_sqlalchemys(db: DatabaseManager, statements: list[str]) -> None:
    names = [f"xyzzy{number}" for number in range(3)]
    async with db.session_context() as session:
        for count in (1, 1_000):
            rows = [daily(name, day, series="xyzzy", source="xyzzy") for name in names for day in days(count)]
            await market_data.upsert_daily(session, rows)
            bars = [intraday(name, minute) for name in names for minute in minutes(count)]
            await market_data.upsert_intraday(session, bars, timeframe="1m", series="xyzzy")
        await market_data.upsert_daily(session, [daily("xyzzy"), {**daily("xyzzy2"), "source": None}])
        await market_data.list_daily(session, "xyzzy", series="xyzzy", start=DAY, end=FAR)
        await market_data.latest_intraday(session, names, timeframe="1m", series="xyzzy")
        await market_data.daily_frame(session, names, series="xyzzy")
        await market_data.coverage(session, names)
        await trading.add_signal(session, "xyzzy", date=DAY, signal_type="xyzzy", reasons="xyzzy")
        await trading.list_signals(session, "xyzzy", signal_type="xyzzy")
        await system.add_event(session, "xyzzy", "xyzzy", dedupe_key="xyzzy")
        await market_data.delete_daily(session, "xyzzy", series="xyzzy")
    async with reader(db) as questions:
        await questions.latest_daily(names, series="xyzzy")
    assert statements
    assert [text for text in statements if "xyzzy" in text] == []


async def test_columns_of_hostile_names_are_refused(session: AsyncSession) -> None:
    for name in [*TICKERS, "close = 0, open", "ticker\0", "", "rowid", "oid", "*", "created_at", "CLOSE"]:
        with pytest.raises(InvalidRowError) as refused:
            await market_data.upsert_daily(session, [{**daily(), name: 1}])
        assert (refused.value.row, refused.value.column) == (0, name)
        many = [{**daily(f"T{number}"), name: 1} for number in range(1_200)]
        with pytest.raises(InvalidRowError):
            await market_data.upsert_daily(session, many)
        with pytest.raises(InvalidRowError):
            await market_data.upsert_daily(session, pa.Table.from_pylist(many))
        with pytest.raises(InvalidRowError):
            await trading.add_signal(session, "A", date=DAY, signal_type="BUY", **{name: 1})


async def test_files_with_columns_of_hostile_names_are_refused(db: DatabaseManager, tmp_path: Path) -> None:
    for name in TICKERS:
        table = pa.Table.from_pylist([{**daily(), name: 1}])
        pq.write_table(table, tmp_path / "x.parquet")
        quoted = name.replace('"', '""')
        text = f'ticker,date,open,high,low,close,"{quoted}"\nA,2025-01-02,1,1,1,1,1\n'
        (tmp_path / "x.csv").write_text(text, encoding="utf-8")
        for path in (tmp_path / "x.parquet", tmp_path / "x.csv"):
            with pytest.raises(UnreadableFileError, match="the column"):
                await ingest_file(db, path)


async def test_a_file_of_hostile_tickers_is_stored_as_it_is(db: DatabaseManager, tmp_path: Path) -> None:
    rows = [daily(name, day, source=name[:64]) for name in TICKERS for day in days(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert (await ingest_file(db, tmp_path / "x.parquet")).inserted == len(rows)
    async with db.session_context(read_only=True) as session:
        assert [line.ticker for line in await market_data.coverage(session)] == TICKERS
    for option in ("ticker", "series"):
        (tmp_path / "y.csv").write_text("date,open,high,low,close\n2025-01-02,1,1,1,1\n", encoding="utf-8")
        for name in SERIES:
            said: dict[str, Any] = {"ticker": "A", option: name}
            assert (await ingest_file(db, tmp_path / "y.csv", **said)).rejected == 0
    for name in TICKERS:
        with pytest.raises(ConfigurationError):
            await ingest_file(db, tmp_path / "y.csv", ticker="A", timeframe=name)
