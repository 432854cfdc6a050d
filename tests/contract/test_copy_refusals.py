"""What a target cannot hold exactly is listed, and then nothing is copied; legacy noise is rounded only on request."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.bars import DAY, OPENING, daily, days, flat, intraday
from tests.filled import fill, many_bars
from traderrr_data import (
    Base,
    CopyMismatchError,
    CopyRefusedError,
    DailyData,
    DatabaseManager,
    PortfolioPerformance,
    SystemEvent,
    market_data,
    schema,
    transfer,
)

NOISE = 269.2799987792969


@pytest.fixture
async def legacy(tmp_path: Path) -> Path:
    """A SQLite file at head, with rows in every table, that a test may spoil as the legacy application could."""
    path = tmp_path / "legacy.db"
    async with DatabaseManager(f"sqlite:///{path}") as db:
        await db.init_db()
        await fill(db)
    return path


def spoil(path: Path, *statements: str, values: tuple[Any, ...] = ()) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = on")
        for statement in statements:
            assert connection.execute(statement, values).rowcount > 0, statement
        connection.commit()


async def refusal(path: Path, target: str | Path, **options: Any) -> CopyRefusedError:
    with pytest.raises(CopyRefusedError) as caught:
        await transfer.copy(f"sqlite:///{path}", target, **options)
    return caught.value


async def count_rows(url: str) -> int:
    """Return the rows of all tables but the one that the migrations fill."""
    async with DatabaseManager(url) as db, db.session_context(read_only=True) as session:
        tables = [table for table in Base.metadata.sorted_tables if not table.name.startswith("traderrr_data_")]
        return sum([(await session.scalar(sa.select(sa.func.count()).select_from(table))) or 0 for table in tables])


async def test_noise_is_refused_with_its_place_and_nothing_is_copied(legacy: Path, empty_url: str) -> None:
    spoil(legacy, "UPDATE daily_data SET close = ?, high = 300 WHERE ticker = 'AAPL' AND series = ''", values=(NOISE,))
    error = await refusal(legacy, empty_url)
    assert error.count == 1
    [value] = error.refused
    assert (value.table, value.column, value.value) == ("daily_data", "close", "269.2799987792969")
    assert value.key == f"ticker=AAPL, series=, date={DAY}"
    assert "more than 10 decimals" in value.reason
    assert "--round takes it as 269.2799987793" in str(error)
    assert await count_rows(empty_url) == 0
    spoil(legacy, "UPDATE daily_data SET close = 269.28 WHERE ticker = 'AAPL' AND series = ''")
    await transfer.copy(f"sqlite:///{legacy}", empty_url)
    assert await count_rows(empty_url) > 100


async def test_noise_is_rounded_on_request_with_its_count_and_the_largest_difference(
    legacy: Path, empty_url: str, tmp_path: Path
) -> None:
    spoil(legacy, "UPDATE daily_data SET close = ?, low = 1 WHERE ticker LIKE 'Q%'", values=(NOISE,))
    spoil(legacy, "UPDATE portfolio_performance SET portfolio_value = 3502345678901.1234")  # beyond what SQL can judge
    spoil(legacy, "UPDATE signal_history SET confidence = 0.12345678901 WHERE id = 0")
    result = await transfer.copy(f"sqlite:///{legacy}", empty_url, round_noise=True)
    rounded = {table.table: (table.rounded, table.largest_rounding) for table in result.tables if table.rounded}
    assert rounded.keys() == {"daily_data", "signal_history"}
    assert rounded["daily_data"][0] == 10
    assert rounded["daily_data"][1] == pytest.approx(Decimal("3.1e-12"), rel=Decimal("0.1"))
    assert rounded["signal_history"][0] == 1
    assert rounded["signal_history"][1] == pytest.approx(Decimal("1e-11"), rel=Decimal("0.1"))
    async with DatabaseManager(empty_url) as db, db.session_context(read_only=True) as session:
        closes = await session.scalars(sa.select(DailyData.close).where(DailyData.ticker.like("Q%")).distinct())
        assert closes.all() == [Decimal("269.2799987793")]
    again = await transfer.copy(f"sqlite:///{legacy}", empty_url, round_noise=True)
    assert again.written == 0
    files = await transfer.copy(f"sqlite:///{legacy}", tmp_path / "files", round_noise=True)
    assert [table.target for table in files.tables] == [table.target for table in result.tables]


SPOILED = [
    ("bar_revisions", "close", "UPDATE bar_revisions SET close = 9e999", "inf is not a finite number"),
    ("bar_revisions", "close", "UPDATE bar_revisions SET close = x'00000000'", "is neither text in UTF-8 nor a number"),
    ("bar_revisions", "close", "UPDATE bar_revisions SET close = 'many'", "'many' is not a number"),
    ("bar_revisions", "close", "UPDATE bar_revisions SET close = 12345678901", "more than 10 digits before the point"),
    ("bar_revisions", "is_final", "UPDATE bar_revisions SET is_final = 2", "2 is not true or false"),
    ("bar_revisions", "observed_at", "UPDATE bar_revisions SET observed_at = 'soon'", "'soon.*is not an instant"),
    (
        "bar_revisions",
        "observed_at",
        "UPDATE bar_revisions SET observed_at = '2025-01-02 00:00:00.1234567'",
        "is not an instant",
    ),
    ("bar_revisions", "observed_at", "UPDATE bar_revisions SET observed_at = 20250102", "20250102 is not an instant"),
    ("bar_revisions", "date", "UPDATE bar_revisions SET date = '2025-02-30'", "is not a day of the calendar"),
    ("bar_revisions", "date", "UPDATE bar_revisions SET date = '0999-12-31'", "is before the year 1000"),
    ("system_events", "details", "UPDATE system_events SET details = 'a' || char(0) || 'b' WHERE id = 0", "has a NUL"),
    ("system_events", "details", "UPDATE system_events SET details = x'0102' WHERE id = 0", "neither text in UTF-8"),
    (
        "system_events",
        "details",
        "UPDATE system_events SET details = CAST(x'61edb080' AS TEXT) WHERE id = 0",
        "neither text in UTF-8",
    ),
    (
        "system_events",
        "event_type",
        "UPDATE system_events SET event_type = printf('%065d', 1) WHERE id = 0",
        "65 characters are more than the 64 that fit",
    ),
    (
        "portfolio_performance",
        "max_drawdown",
        "UPDATE portfolio_performance SET max_drawdown = -9e999 WHERE id = 1",
        "-inf",
    ),
]


@pytest.mark.parametrize("spoiled", SPOILED, ids=lambda spoiled: spoiled[2])
async def test_a_cell_that_nobody_can_read_exactly_is_refused(
    legacy: Path, empty_url: str, spoiled: tuple[str, str, str, str]
) -> None:
    table, column, statement, reason = spoiled
    spoil(legacy, statement)
    error = await refusal(legacy, empty_url, round_noise=True)
    assert error.count == 1
    assert (error.refused[0].table, error.refused[0].column) == (table, column)
    assert re.search(reason, error.refused[0].reason)
    assert await count_rows(empty_url) == 0


async def test_other_forms_of_the_same_instant_or_date_are_read_as_what_they_say(legacy: Path, empty_url: str) -> None:
    spoil(
        legacy,
        "UPDATE system_events SET created_at = '2025-01-02T09:30:00-05:00' WHERE id = 0",
        "UPDATE system_events SET updated_at = '2025-01-02' WHERE id = 0",
        "UPDATE bar_revisions SET date = '2025-01-02 00:00:00'",
    )
    await transfer.copy(f"sqlite:///{legacy}", empty_url)
    async with DatabaseManager(empty_url) as db, db.session_context(read_only=True) as session:
        event = await session.get_one(SystemEvent, 0)
        assert event.created_at == OPENING
        assert event.updated_at == OPENING.replace(hour=0, minute=0)


async def test_of_many_refused_values_the_first_are_listed_and_all_counted(
    legacy: Path, empty_url: str, tmp_path: Path
) -> None:
    async with DatabaseManager(f"sqlite:///{legacy}") as db, db.session_context() as session:
        await market_data.upsert_daily(session, many_bars(400))
    spoil(legacy, "UPDATE daily_data SET close = open + 0.00000000001 WHERE ticker LIKE 'M%' AND open > 0")
    error = await refusal(legacy, empty_url, batch_rows=90)
    assert (error.count, len(error.refused)) == (399, 100)
    assert str(error).endswith("and 396 more")
    assert await count_rows(empty_url) == 0
    with pytest.raises(CopyRefusedError):
        await transfer.copy(f"sqlite:///{legacy}", tmp_path / "files", batch_rows=90)
    assert not (tmp_path / "files").exists()


async def test_a_refusal_after_some_pages_takes_them_back(legacy: Path, empty_url: str) -> None:
    spoil(legacy, "UPDATE system_events SET severity = printf('%033d', 1) WHERE id = 1000000")  # the last table
    written: list[transfer.CopyProgress] = []
    error = await refusal(legacy, empty_url, batch_rows=5, progress=written.append)
    assert (error.count, len(written) > 10) == (1, True)
    assert await count_rows(empty_url) == 0
    spoil(legacy, "UPDATE system_events SET severity = 'INFO' WHERE id = 1000000")
    assert not (await transfer.copy(f"sqlite:///{legacy}", empty_url)).resumed


async def test_a_decimal_beyond_a_double_goes_where_it_is_held_and_is_refused_elsewhere(
    empty_url: str, other_url: str, tmp_path: Path
) -> None:
    async with DatabaseManager(empty_url) as db:
        await db.init_db()
        fits = db.dialect.exact_decimals
        exact = Decimal("9999999999.99999999" if fits else "9999999999.99999")
        async with db.session_context() as session:
            bars = [daily(date=day, **flat(exact)) for day in days(3)]
            await market_data.upsert_daily(session, [*bars, daily("FITS")])
            session.add(PortfolioPerformance(date=DAY, portfolio_value=Decimal("12345678901.25")))
    await transfer.copy(empty_url, tmp_path / "files")
    for source in (empty_url, tmp_path / "files"):
        async with DatabaseManager(other_url) as db:
            holds = db.dialect.exact_decimals or not fits
        if holds:
            await transfer.copy(source, other_url)
            async with DatabaseManager(other_url) as db, db.session_context(read_only=True) as session:
                assert {bar.close for bar in await market_data.list_daily(session, "AAPL")} == {exact}
            continue
        with pytest.raises(CopyRefusedError) as caught:
            await transfer.copy(source, other_url, round_noise=True)
        assert caught.value.count == 12
        assert "more digits than the double" in caught.value.refused[0].reason
        assert await count_rows(other_url) == 0


async def test_what_only_a_server_can_hold_is_read_exactly_or_refused(empty_url: str, tmp_path: Path) -> None:
    """Rows that others wrote: an instant before the year 1000."""
    async with DatabaseManager(empty_url) as db:
        await db.init_db()
        async with db.session_context() as session:
            await market_data.upsert_intraday(session, [intraday()], timeframe="1m")
            await session.execute(sa.text("UPDATE intraday_data SET observed_at = '0900-01-01 00:00:00'"))
    with pytest.raises(CopyRefusedError, match="before the year 1000"):
        await transfer.copy(empty_url, tmp_path / "files")


async def test_a_damaged_file_of_a_directory_is_found_and_nothing_of_it_stays(
    legacy: Path, empty_url: str, tmp_path: Path
) -> None:
    directory = tmp_path / "files"
    await transfer.copy(f"sqlite:///{legacy}", directory, batch_rows=20)
    part = max((directory / "daily_data").iterdir())
    other = min((directory / "daily_data").iterdir())
    intact = part.read_bytes()
    for damaged in (intact[:-20], other.read_bytes(), b""):
        part.write_bytes(damaged)
        with pytest.raises(CopyMismatchError, match=part.name):
            await transfer.copy(directory, empty_url)
        assert await count_rows(empty_url) == 0
    part.unlink()
    with pytest.raises(CopyMismatchError, match=part.name):
        await transfer.copy(directory, empty_url)
    part.write_bytes(intact)
    assert (await transfer.copy(directory, empty_url)).written > 100
    assert schema.head() in (directory / "manifest.json").read_text(encoding="utf-8")
