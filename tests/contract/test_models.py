"""What the tables promise to whoever writes to them, also to those who go around this library."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.backends import Backend
from tests.bars import DAY, daily, days, intraday
from tests.servers import ServerError
from traderrr_data import (
    Base,
    ConstraintViolationError,
    DailyData,
    DatabaseManager,
    DuplicateRowError,
    IntradayData,
    Metadata,
    PortfolioPerformance,
    PortfolioPosition,
    SignalHistory,
    SystemEvent,
    TimestampMixin,
    market_data,
    schema,
    system,
    trading,
)
from traderrr_data.models.types import ByteText

TABLES = {
    "daily_data": DailyData,
    "intraday_data": IntradayData,
    "metadata": Metadata,
    "signal_history": SignalHistory,
    "portfolio_positions": PortfolioPosition,
    "portfolio_performance": PortfolioPerformance,
    "system_events": SystemEvent,
}
A_SIGNAL: dict[str, Any] = {"ticker": "AAPL", "date": DAY, "signal_type": "BUY"}
AN_EVENT = {"event_type": "START", "description": "up", "severity": "INFO"}
WITH_ID: list[tuple[Any, dict[str, Any]]] = [
    (Metadata, {"ticker": "AAPL"}),
    (SignalHistory, A_SIGNAL),
    (PortfolioPosition, {"ticker": "AAPL", "shares": 1}),
    (PortfolioPerformance, {"date": DAY}),
    (SystemEvent, AN_EVENT),
]
EVERY_ROW: list[tuple[Any, dict[str, Any]]] = [
    (DailyData, daily()),
    (IntradayData, intraday(timeframe="1m")),
    *WITH_ID,
]
BAR = {"ticker": "'AAPL'", "date": "'2025-01-02'"} | dict.fromkeys(("open", "high", "low", "close", "volume"), "1")


def insert_bar(**values: str) -> str:
    row = BAR | values
    return f"INSERT INTO daily_data ({', '.join(row)}) VALUES ({', '.join(row.values())});"


def every_column(row: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}


def test_the_seven_tables_and_their_classes() -> None:
    ours = {mapper.class_.__tablename__: mapper.class_ for mapper in Base.registry.mappers}
    assert ours.items() >= TABLES.items()
    assert set(Base.metadata.tables) == {*TABLES, "bar_revisions", "traderrr_data_compat"}
    assert all(issubclass(model, TimestampMixin) for model in TABLES.values())


def test_a_server_is_given_the_same_tables_under_both_of_its_names() -> None:
    for name, other in (("mysql+aiomysql://", "mariadb+aiomysql://"), ("postgresql://", "postgres://")):
        first, second = DatabaseManager(f"{name}h/d").engine, DatabaseManager(f"{other}h/d").engine
        tables = [
            [part for part in schema.sql(url).split("\n\n") if "CREATE" in part] for url in (first.url, second.url)
        ]
        assert tables[0] == tables[1]
        assert len(tables[0]) > len(TABLES)
        for table in Base.metadata.sorted_tables:
            statement = sa.schema.CreateTable(table)
            assert str(statement.compile(first.sync_engine)) == str(statement.compile(second.sync_engine))


async def test_the_columns_stand_in_the_order_in_which_old_code_reads_them(session: AsyncSession) -> None:
    old = {
        "daily_data": "ticker date open high low close volume dividends stock_splits updated_at",
        "intraday_data": "ticker datetime open high low close volume updated_at",
        "metadata": "ticker company_name sector industry market_cap last_updated",
        "signal_history": "id ticker date signal_type signal_value confidence entry_price target_price stop_loss"
        " regime reasons created_at",
        "portfolio_performance": "id date portfolio_value daily_return volatility sharpe_ratio max_drawdown created_at",
        "system_events": "id event_type description details severity created_at",
        "portfolio_positions": "ticker shares created_at updated_at",
    }
    for table, columns in old.items():
        keys = list((await session.execute(sa.text(f"SELECT * FROM {table}"))).keys())
        assert keys[: len(columns.split())] == columns.split()
        assert keys == [column.name for column in Base.metadata.tables[table].columns]


def test_what_the_old_application_inserts_is_taken(backend: Backend, database_url: str) -> None:
    backend.run_sql(
        database_url,
        "INSERT INTO daily_data (ticker, date, open, high, low, close, volume, dividends, stock_splits)"
        " VALUES ('AAPL', '2025-01-02', 269.2799987792969, 270, 269, 269.5, 27871099501, 0.0, 0.0);"
        "INSERT INTO intraday_data (ticker, datetime, open, high, low, close, volume)"
        " VALUES ('AAPL', '2025-01-02 14:30:00', 1, 1, 1, 1, 0);"
        "INSERT INTO metadata (ticker, company_name, sector, industry, market_cap, last_updated)"
        " VALUES ('AAPL', '', '', '', 0.0, '2025-01-02 09:30:00.123456');"
        "INSERT INTO portfolio_positions (ticker, shares, updated_at) VALUES ('AAPL', 0.5, '2025-01-02 09:30:00');"
        "INSERT INTO signal_history"
        " (ticker, date, signal_type, confidence, entry_price, target_price, stop_loss, regime, reasons)"
        " VALUES ('AAPL', '2025-01-02', 'BUY', 0.7, NULL, NULL, NULL, NULL, NULL);"
        "INSERT INTO portfolio_performance"
        " (date, portfolio_value, daily_return, volatility, sharpe_ratio, max_drawdown)"
        " VALUES ('2025-01-02', 100000.0, NULL, NULL, NULL, -0.1);"
        "INSERT INTO system_events (event_type, description, details, severity) VALUES ('START', 'up', '{}', 'INFO');",
    )
    for table in TABLES:
        assert backend.run_sql(database_url, f"SELECT count(*) FROM {table};") == [("1",)]
    defaults = backend.run_sql(database_url, "SELECT series, timeframe, is_final FROM intraday_data;")
    assert defaults == [("", "unknown", None)]


async def test_a_bar_that_sql_inserted_reads_as_any_other(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    backend.run_sql(database_url, insert_bar(close="269.2799987793", volume="27871099501"))
    async with db.session_context() as session:
        [bar] = await market_data.list_daily(session, "AAPL")
        assert (bar.close, bar.volume, bar.series) == (Decimal("269.2799987793"), Decimal(27871099501), "")
        assert (await market_data.upsert_daily(session, [bar], allow_inconsistent=True)).unchanged == 1


@pytest.mark.parametrize(("model", "row"), EVERY_ROW, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_second_row_with_the_same_key_is_refused(
    session: AsyncSession, model: Any, row: dict[str, Any]
) -> None:
    if "dedupe_key" in model.__table__.c:
        row = row | {"dedupe_key": "run 1"}
    await session.execute(sa.insert(model).values(row))
    with pytest.raises(DuplicateRowError):
        async with session.begin_nested():
            await session.execute(sa.insert(model).values(row))
    assert await session.scalar(sa.select(sa.func.count()).select_from(model)) == 1


async def test_bars_of_two_timeframes_may_begin_at_one_instant(session: AsyncSession) -> None:
    session.add_all([IntradayData(**intraday(timeframe=timeframe)) for timeframe in ("1m", "5m")])
    await session.flush()
    assert len(await market_data.list_intraday(session, "AAPL", timeframe="1m")) == 1


async def test_the_database_refuses_what_can_never_be_true(session: AsyncSession) -> None:
    await session.execute(sa.text(insert_bar()))
    wrong = [
        *({"date": "'2025-01-03'", name: "'abc'"} for name in ("open", "close", "volume")),
        {"date": "'not a date'"},
        {"date": "'2025-01-03'", "volume": "-1"},
        {"ticker": "''"},
        *({"date": "'2025-01-03'", name: "NULL"} for name in ("ticker", "open", "close")),
    ]
    statements = [
        *(insert_bar(**values) for values in wrong),
        "INSERT INTO metadata (ticker) VALUES ('');",
        "INSERT INTO metadata (ticker, market_cap) VALUES ('A', 'many');",
        "INSERT INTO portfolio_positions (ticker, shares) VALUES ('', 1);",
        "INSERT INTO portfolio_positions (ticker, shares) VALUES ('A', 'many');",
        "INSERT INTO signal_history (ticker, date, signal_type) VALUES ('', '2025-01-02', 'BUY');",
        "INSERT INTO signal_history (ticker, date, signal_type) VALUES ('A', 'soon', 'BUY');",
        "INSERT INTO signal_history (ticker, date, signal_type, stop_loss) VALUES ('A', '2025-01-02', 'BUY', 'low');",
        "INSERT INTO portfolio_performance (date) VALUES ('soon');",
        "INSERT INTO portfolio_performance (date, max_drawdown) VALUES ('2025-01-02', 'deep');",
        "INSERT INTO intraday_data (ticker, datetime, open, high, low, close) VALUES ('A', 'noon', 1, 1, 1, 1);",
    ]
    for statement in statements:
        with pytest.raises(ConstraintViolationError):
            async with session.begin_nested():
                await session.execute(sa.text(statement))
                pytest.fail(f"taken: {statement}")
    assert await session.scalar(sa.select(sa.func.count()).select_from(DailyData)) == 1


async def test_a_date_written_in_another_way_is_refused_or_read_as_that_date(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    try:
        backend.run_sql(database_url, insert_bar(date="'20250102'"))
    except ServerError:
        return
    async with db.session_context(read_only=True) as session:
        assert [bar.date for bar in await market_data.list_daily(session, "AAPL")] == [DAY]


def test_what_real_markets_do_is_not_refused(backend: Backend, database_url: str) -> None:
    backend.run_sql(database_url, insert_bar(open="17.73", high="17.85", low="-40.32", close="-37.63"))
    backend.run_sql(database_url, insert_bar(ticker="'aapl'", high="0", volume="NULL"))
    assert backend.run_sql(database_url, "SELECT count(*) FROM daily_data WHERE ticker = 'aapl';") == [("1",)]


async def test_a_missing_value_is_a_violation_of_ours(session: AsyncSession) -> None:
    for model, row in EVERY_ROW:
        required = [c.name for c in model.__table__.columns if not c.nullable and c.server_default is None]
        for name in set(required) - {"id"}:
            with pytest.raises(ConstraintViolationError):
                async with session.begin_nested():
                    await session.execute(sa.insert(model).values(row | {name: None}))


TEXTS = [
    (model, row, column)
    for model, row in EVERY_ROW
    for column in model.__table__.columns
    if isinstance(column.type, ByteText) and column.name not in ("price_basis", "timeframe")
]


async def test_every_text_fits_its_column_to_the_last_character(session: AsyncSession) -> None:
    assert len(TEXTS) > 15
    for number, (model, row, column) in enumerate(TEXTS):
        text = "🚀" * column.type.length
        other = {name: f"T{number}" for name in ("ticker", "dedupe_key") if name in model.__table__.c}
        await session.execute(sa.insert(model).values(row | other | {column.name: text}))
        assert (await session.scalars(sa.select(column).where(column == text))).all() == [text]


async def test_tickers_that_differ_by_case_have_each_their_row(session: AsyncSession) -> None:
    for ticker in ("AAPL", "aapl"):
        session.add_all(
            [DailyData(**daily(ticker)), Metadata(ticker=ticker), PortfolioPosition(ticker=ticker, shares=1)]
        )
    await session.flush()
    for model in (DailyData, Metadata, PortfolioPosition):
        of_one = sa.select(sa.func.count()).select_from(model).where(model.__table__.c.ticker == "aapl")
        assert await session.scalar(of_one) == 1
        groups = sa.select(sa.func.count()).select_from(model).group_by(model.__table__.c.ticker)
        assert (await session.scalars(groups)).all() == [1, 1]


async def test_timestamps_are_the_databases_clock_in_utc_wherever_the_client_is(
    backend: Backend, db: DatabaseManager, database_url: str
) -> None:
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=2)
    backend.run_sql(database_url, f"{backend.leave_utc} INSERT INTO metadata (ticker) VALUES ('SQL');")
    async with db.session_context() as session:
        await market_data.upsert_metadata(session, [{"ticker": "UPSERT"}])
        session.add(Metadata(ticker="ORM"))
    async with db.session_context() as session:
        for row in await market_data.list_metadata(session):
            for at in (row.created_at, row.updated_at):
                assert before <= at <= dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2), row.ticker


async def test_two_rows_of_one_transaction_have_each_their_own_time(session: AsyncSession) -> None:
    await system.add_event(session, "A", "first")
    await session.execute(sa.select(sa.func.count()).select_from(SystemEvent))
    await system.add_event(session, "A", "second")
    second, first = await system.list_events(session)
    assert (first.description, second.description) == ("first", "second")
    assert first.created_at <= second.created_at


async def test_a_row_is_found_by_its_own_timestamps(db: DatabaseManager) -> None:
    async with db.session_context() as session:
        await system.add_event(session, "START", "up")
        await market_data.upsert_daily(session, [daily()])
    async with db.session_context() as session:
        [event] = await system.list_events(session)
        assert len(await system.list_events(session, start=event.created_at)) == 1
        assert len(await system.list_events(session, end=event.created_at)) == 0
        [bar] = await market_data.list_daily(session, "AAPL")
        for column, at in ((DailyData.created_at, bar.created_at), (DailyData.updated_at, bar.updated_at)):
            for condition in (column == at, column >= at, column <= at):
                assert (await session.scalars(sa.select(DailyData.ticker).where(condition))).all() == ["AAPL"]
            assert (await session.scalars(sa.select(DailyData.ticker).where(column > at))).all() == []


async def test_changing_an_object_moves_its_updated_at(session: AsyncSession) -> None:
    long_ago = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    position = PortfolioPosition(ticker="AAPL", shares=1, created_at=long_ago, updated_at=long_ago)
    session.add(position)
    await session.flush()
    position.shares = Decimal(2)
    await session.flush()
    assert position.created_at == long_ago
    assert dt.datetime.now(dt.UTC) - position.updated_at < dt.timedelta(seconds=3)


@pytest.mark.parametrize(("model", "row"), EVERY_ROW, ids=lambda value: getattr(value, "__name__", ""))
async def test_every_column_is_readable_after_insert_update_and_the_end(
    db: DatabaseManager, model: Any, row: dict[str, Any]
) -> None:
    async with db.session_context() as session:
        stored = model(**row)
        session.add(stored)
        await session.flush()
        inserted = every_column(stored)
        changeable = {
            "volume": 5,
            "sector": "Tech",
            "regime": "SIDEWAYS",
            "shares": 5,
            "volatility": 5,
            "details": "{}",
        }
        column = next(name for name in changeable if name in model.__table__.c)
        setattr(stored, column, changeable[column])
        await session.flush()
        every_column(stored)
    updated = every_column(stored)
    assert {name for name in updated if updated[name] != inserted[name]} <= {column, "updated_at"}
    async with db.session_context(read_only=True) as session:
        assert every_column((await session.scalars(sa.select(model))).one()) == updated


@pytest.mark.parametrize(("model", "row"), WITH_ID, ids=lambda value: getattr(value, "__name__", ""))
async def test_ids_have_64_bits_are_never_used_twice_and_may_be_zero(
    session: AsyncSession, model: Any, row: dict[str, Any]
) -> None:
    async def inserted(**values: int) -> int:
        stored = model(**row, **values)
        session.add(stored)
        await session.flush()
        found = await session.scalar(sa.select(model.id).where(model.id == stored.id))
        await session.delete(stored)
        await session.flush()
        return int(found or 0)

    first = await inserted()
    assert await inserted() == first + 1, "an id whose row was deleted stays used"
    assert await inserted(id=0) == 0
    assert await session.scalar(sa.select(sa.func.count()).select_from(model).where(model.id != 0)) == 0
    assert await inserted(id=5_000_000_000) == 5_000_000_000


async def test_an_id_of_zero_is_stored_as_zero(session: AsyncSession) -> None:
    session.add(Metadata(id=0, ticker="AAPL"))
    await session.flush()
    assert (await session.scalars(sa.select(Metadata.id))).all() == [0]


async def test_instants_beyond_a_32_bit_clock_are_stored(session: AsyncSession) -> None:
    instants = [dt.datetime(year, 6, 1, tzinfo=dt.UTC) for year in (1901, 1969, 2040, 2107)]
    await market_data.upsert_metadata(session, [{"ticker": f"T{at.year}", "last_updated": at} for at in instants])
    assert [row.last_updated for row in await market_data.list_metadata(session)] == instants


async def test_long_texts_fit_where_the_old_application_wrote_them(session: AsyncSession) -> None:
    text = "é" * 70_000
    await trading.add_signal(session, "AAPL", date=DAY, signal_type="BUY", reasons=text)
    await system.add_event(session, "LONG", text, details=text)
    [signal] = await trading.list_signals(session)
    [event] = await system.list_events(session)
    assert {signal.reasons, event.description, event.details} == {text}


async def test_objects_in_a_session_are_flushed_before_a_query_sees_them(session: AsyncSession) -> None:
    session.add_all([DailyData(**daily(date=date)) for date in days(3)])
    assert [bar.date for bar in await market_data.list_daily(session, "AAPL")] == days(3)
