"""Whatever is given: it is stored and read back as it was, or refused by an error of ours that names what is wrong."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from tests import hostile
from tests.bars import DAY, OPENING, daily, intraday
from traderrr_data import (
    ConfigurationError,
    DailyData,
    DatabaseManager,
    DuplicateRowError,
    InvalidRowError,
    RowNotFoundError,
    UpsertResult,
    market_data,
    portfolio,
    system,
    trading,
)
from traderrr_data.ingest import bar_writer, reader
from traderrr_data.models import Base, IntradayData, Metadata, PortfolioPerformance, PortfolioPosition, SignalHistory
from traderrr_data.models.types import ExactDecimal, SessionDate, UtcDateTime

Storing = Callable[..., Awaitable[UpsertResult]]

REFUSED: Final = (InvalidRowError, ConfigurationError, RowNotFoundError, DuplicateRowError)


async def add_runs(session: AsyncSession, rows: Any, **options: Any) -> UpsertResult:
    from traderrr_data import bulk  # noqa: PLC0415 - what add_performance does, for many

    return await bulk.upsert(session, PortfolioPerformance, rows, key=("dedupe_key",), on_conflict="repeat", **options)


async def upsert_positions(session: AsyncSession, rows: Any, **options: Any) -> UpsertResult:
    from traderrr_data import bulk  # noqa: PLC0415 - what upsert_position does, for many

    return await bulk.upsert(session, PortfolioPosition, rows, key=("ticker",), **options)


def signal(ticker: str, **values: Any) -> dict[str, Any]:
    return {"ticker": ticker, "date": DAY, "signal_type": "BUY", "dedupe_key": ticker, **values}


TABLES: Final[dict[type[Base], tuple[Storing, Callable[..., dict[str, Any]]]]] = {
    DailyData: (market_data.upsert_daily, daily),
    IntradayData: (
        market_data.upsert_intraday,
        lambda ticker, **values: intraday(ticker, **{"timeframe": "1m", **values}),
    ),
    Metadata: (market_data.upsert_metadata, lambda ticker, **values: {"ticker": ticker, **values}),
    SignalHistory: (trading.add_signals, signal),
    PortfolioPosition: (upsert_positions, lambda ticker, **values: {"ticker": ticker, "shares": 1, **values}),
    PortfolioPerformance: (add_runs, lambda ticker, **values: {"date": DAY, "dedupe_key": ticker, **values}),
}
CASES: Final = [
    pytest.param(model, column.name, id=f"{model.__tablename__}.{column.name}")
    for model in TABLES
    for column in model.__table__.columns
    if column.name not in ("id", "created_at", "updated_at")
]


def companion(model: type[Base], name: str) -> str:
    """Return a column that tells the rows of a batch apart, whatever becomes of another one."""
    columns = [column for column in ("dedupe_key", "ticker", "date", "datetime") if column in model.__table__.c]
    return next((column for column in columns if column != name), name)


def batch_of(model: type[Base], name: str, values: list[Any], prefix: str) -> list[dict[str, Any]]:
    """Return a valid row for each value, but for that value."""
    _, make = TABLES[model]
    rows = [make(f"{prefix}{number}") | {name: value} for number, value in enumerate(values)]
    for number, row in enumerate(rows):
        if (its := companion(model, name)) in ("date", "datetime"):
            row[its] += dt.timedelta(days=number)
    return rows


def is_named(bad: Any, name: str) -> bool:
    """Tell whether a rejection names a column; of prices, whichever of them is not where it may be."""
    prices = {"open", "high", "low", "close"}
    return bool(bad.reason) and (bad.column == name or (name in prices and bad.column in prices))


async def check_each(session: AsyncSession, model: type[Base], name: str, values: list[Any], prefix: str = "T") -> None:
    store, _ = TABLES[model]
    rows = batch_of(model, name, values, prefix)
    result = await store(session, rows, on_invalid="reject")
    refused = {bad.row for bad in result.rejected}
    assert [bad for bad in result.rejected if not is_named(bad, name)] == []
    column, its = model.__table__.c[name], companion(model, name)
    found: dict[Any, list[Any]] = {}
    for key, cell in await session.execute(sa.select(model.__table__.c[its], column)):
        found.setdefault(key, []).append(cell)
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        if number not in refused:
            assert any(hostile.reads_as(value, cell) for cell in found[row[its]]), (value, found[row[its]])


@pytest.mark.parametrize(("model", "name"), CASES)
async def test_a_value_is_stored_as_it_is_or_refused_by_the_name_of_its_column(
    session: AsyncSession, model: type[Base], name: str
) -> None:
    await check_each(session, model, name, hostile.EVERYTHING)


@pytest.mark.parametrize(("model", "name"), CASES)
async def test_a_value_of_a_large_batch_is_stored_as_it_is_or_refused(
    session: AsyncSession, model: type[Base], name: str
) -> None:
    """Values of one type go together, so that they are checked as a column."""
    for kind, usual in ((float, 1.5), (Decimal, Decimal(2)), (str, "1m"), (dt.datetime, OPENING), (dt.date, DAY)):
        values = [value for value in hostile.EVERYTHING if type(value) is kind]
        padding = [usual] * (1_000 if name == "ticker" or "date" not in name else 0)
        await check_each(session, model, name, [*values, *padding[len(values) :]], kind.__name__)


def fitting(column: sa.ColumnElement[Any]) -> st.SearchStrategy[Any]:
    """Return values that a column may well take, and others."""
    kinds: list[tuple[Any, st.SearchStrategy[Any]]] = [
        (ExactDecimal, hostile.number),
        ((UtcDateTime, SessionDate), hostile.time),
        (object, hostile.text),
    ]
    return next(values for kind, values in kinds if isinstance(column.type, kind)) | hostile.anything


columns = st.sampled_from([*DailyData.__table__.columns, sa.column("nonsense"), sa.column("")])
change = columns.flatmap(lambda column: st.tuples(st.just(column.name), fitting(column)))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(change, min_size=1, max_size=2).map(dict), min_size=1, max_size=20), st.booleans())
async def test_rows_of_anything_are_stored_as_they_are_or_refused(
    db: DatabaseManager, changes: list[dict[str, Any]], allow: bool
) -> None:
    rows = [daily(f"T{number}") | change for number, change in enumerate(changes)]
    async with db.session_context() as session:
        await market_data.delete_daily(session, start=dt.date(1000, 1, 1))
        result = await market_data.upsert_daily(session, rows, on_invalid="reject", allow_inconsistent=allow)
        assert all(bad.reason for bad in result.rejected)
        refused = {bad.row for bad in result.rejected}
        assert result.inserted + result.duplicates + len(refused) == len(rows)
        if result.duplicates:
            return
        for number, row in enumerate(rows):
            if number not in refused:
                [bar] = await market_data.list_daily(session, row["ticker"], series=row.get("series") or "")
                for name, value in row.items():
                    assert hostile.reads_as(value, getattr(bar, name)), (name, value, getattr(bar, name))


@pytest.mark.parametrize("rows", [None, 5, "text", b"bytes", object(), {"ticker": "A"}, [None], ["x"], [[]], [{}], [5]])
async def test_what_is_no_batch_is_refused(session: AsyncSession, rows: Any) -> None:
    for store, _ in TABLES.values():
        with pytest.raises(InvalidRowError):
            await store(session, rows)


@pytest.mark.parametrize("make", [list, tuple, iter, lambda rows: dict(enumerate(rows)).values()])
async def test_a_large_batch_may_be_any_collection(
    session: AsyncSession, make: Callable[[list[dict[str, Any]]], Any]
) -> None:
    rows = [daily(f"T{number}") for number in range(1_500)]
    assert (await market_data.upsert_daily(session, make(rows))).inserted == 1_500
    with pytest.raises(InvalidRowError):
        await market_data.upsert_daily(session, dict(enumerate(rows)))  # type: ignore[arg-type]


VALID: Final[dict[str, Any]] = {
    "ticker": "A",
    "tickers": ["A"],
    "timeframe": "1m",
    "since": OPENING,
    "date": DAY,
    "signal_type": "BUY",
    "event_type": "start",
    "description": "it began",
    "shares": 1,
    "rows": [],
    "old": "1m",
    "new": "2m",
    "today": DAY,
}
FREE: Final = {"session", "policy", "values", "verdicts", "allow_inconsistent", "exact", "newest_first"}
"""What is an object of ours, or means true or false whatever it is."""
FUNCTIONS: Final = [
    function
    for module in (market_data, portfolio, system, trading)
    for name, function in sorted(vars(module).items())
    if inspect.isfunction(function)
    and function.__module__ == module.__name__
    and not name.startswith("_")
    and next(iter(inspect.signature(function).parameters), "") == "session"
]
LISTED: Final = [
    *hostile.EVERYTHING,
    *([value] for value in hostile.QUOTES),
    ["A", 5, None],
    ["A\0"],
    ["\ud800"],
    {"A": 1},
    iter("A"),
]


def spelled(value: object) -> str:
    return f"{type(value).__name__} {'of many digits' if isinstance(value, int) else ascii(value)[:60]}"


async def outcome_of(call: Callable[[], Any]) -> str:
    """Return what a call did that it must not do."""
    try:
        answer = call()
        if isinstance(answer, AsyncIterator):
            async for _ in answer:
                pass
        elif inspect.isawaitable(answer):
            await answer
    except InvalidRowError as error:
        return "" if error.reason and (error.column or ":" in str(error)) else f"does not say what is wrong: {error}"
    except REFUSED as error:
        return "" if str(error) else "does not say what is wrong"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
async def test_an_argument_is_understood_or_refused_and_the_session_goes_on(
    db: DatabaseManager, function: Callable[..., Any]
) -> None:
    parameters = inspect.signature(function).parameters
    wrong = []
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("A")])
        for name in parameters.keys() - FREE - {"rows"}:
            for value in LISTED:
                needed = {key: VALID[key] for key in ("ticker", "today") if key in parameters}
                needed |= {
                    key: VALID.get(key, OPENING)
                    for key, parameter in parameters.items()
                    if parameter.default is parameter.empty and key not in FREE
                }
                said = await outcome_of(partial(function, session, **(needed | {name: value})))
                if said:
                    wrong.append((name, spelled(value), said))
                    break
    assert wrong == []


READING: Final = ["list_daily", "list_intraday", "latest_daily", "latest_intraday", "find_metadata"]


@pytest.mark.parametrize("name", READING)
async def test_a_reader_understands_an_argument_or_refuses_it(db: DatabaseManager, name: str) -> None:
    wrong = []
    async with reader(db) as questions:
        method = getattr(questions, name)
        parameters = inspect.signature(method).parameters
        for argument in parameters.keys() - FREE:
            for value in LISTED:
                needed = {key: VALID[key] for key, one in parameters.items() if one.default is one.empty}
                said = await outcome_of(partial(method, **(needed | {argument: value})))
                if said:
                    wrong.append((argument, spelled(value), said))
                    break
    assert wrong == []


async def test_a_writer_takes_a_row_as_it_is_or_refuses_it(db: DatabaseManager) -> None:
    wrong, taken = [], {}
    async with bar_writer(db, max_delay=0.001) as writer:
        for name in [column.name for column in DailyData.__table__.columns]:
            for number, value in enumerate(hostile.EVERYTHING):
                row = daily(f"{name}{number}") | {name: value}
                before = writer.status.accepted
                said = await outcome_of(partial(writer.put, row))
                if said:
                    wrong.append((name, spelled(value), said))
                elif writer.status.accepted > before and name not in ("ticker", "series", "date"):
                    taken[row["ticker"]] = name, value
        for value in hostile.EVERYTHING:
            said = await outcome_of(partial(writer.put, value))
            if said and "neither a mapping" not in said:
                wrong.append(("row", spelled(value), said))
        await writer.flush()
        assert writer.status.rejected == 0
    assert wrong == []
    async with db.session_context(read_only=True) as session:
        for ticker, bar in (await market_data.latest_daily(session, taken)).items():
            name, value = taken.pop(ticker)
            assert hostile.reads_as(value, getattr(bar, name)), (name, value, getattr(bar, name))
    assert taken == {}
