"""Give files that are partly bad to whatever reads files, for as long as is asked for, and keep those that break it.

A file is either read, with every row stored as it was or set aside with a reason, or refused by an error of ours. Each
case has a number of its own, by which it can be made again: ``python -m tests.fuzz --only NUMBER``.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import datetime as dt
import logging
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from tests import hostile
from tests.fuzz.files import Case, any_case
from traderrr_data import (
    ConfigurationError,
    ConstraintViolationError,
    DatabaseManager,
    InvalidRowError,
    market_data,
)
from traderrr_data.ingest import FileResult, SpillError, UnreadableFileError, bar_writer, ingest_file

PATIENCE: Final = 60  # seconds for one file
MOST_MEGABYTES: Final = 2_000
FIRST: Final = dt.date(1000, 1, 1)


class Broken(Exception):  # noqa: N818 - it says what a file did
    """A promise was not kept."""


async def check_file(db: DatabaseManager, case: Case, path: Path) -> str:
    """Read one file of bars twice, and return what became of it."""
    async with db.session_context() as session:
        await market_data.delete_daily(session, start=FIRST)
        await market_data.delete_intraday(session, start=dt.datetime(1000, 1, 1, tzinfo=dt.UTC))
    try:
        result = await ingest_file(db, path, **case.options)
    except (UnreadableFileError, ConfigurationError) as error:
        if len(str(error)) > 2_000:
            raise Broken(f"a message of {len(str(error))} characters") from error
        return type(error).__name__
    rejected = list(_rejected(result))
    if len(rejected) != result.rejected:
        raise Broken(f"{result.rejected} rows were rejected, and {len(rejected)} were set aside")
    if any(not reason for _, _, reason, *_ in rejected):
        raise Broken("a row was set aside without a reason")
    again = await ingest_file(db, path, **case.options)
    if (again.inserted, again.rejected, again.rows) != (0, result.rejected, result.rows):
        raise Broken(f"again, it was another file: {result} {again}")
    await _check_stored(db, case, result, {int(number) for number, *_ in rejected})
    return "read"


def _rejected(result: FileResult) -> Iterator[list[str]]:
    if result.rejected_file is not None:
        with result.rejected_file.open(encoding="utf-8", newline="") as file:
            csv.field_size_limit(sys.maxsize)
            yield from list(csv.reader(file))[1:]


async def _check_stored(db: DatabaseManager, case: Case, result: FileResult, rejected: set[int]) -> None:
    async with db.session_context(read_only=True) as session:
        daily = await market_data.daily_frame(session)
        lines = await market_data.coverage(session)
        stored = [bar async for batch in market_data.stream_daily(session) for bar in batch.to_pylist()]
        bars: list[Any] = []
        for line in lines:
            if line.timeframe is None:
                bars += await market_data.list_daily(session, line.ticker, series=line.series)
            else:
                bars += await market_data.list_intraday(
                    session, line.ticker, timeframe=line.timeframe, series=line.series
                )
    if len(bars) != sum(line.rows for line in lines) or len(stored) > len(bars) or daily.num_rows > len(bars):
        raise Broken("what is stored is read in two ways, and differs")
    if len(bars) != result.inserted:
        raise Broken(f"{result.inserted} rows were inserted, and {len(bars)} are there")
    if case.rows is not None and not result.duplicates:
        _compare(case.rows, bars, result, rejected)


def _compare(rows: list[dict[str, str]], bars: list[Any], result: FileResult, rejected: set[int]) -> None:
    if result.rows != len(rows):
        raise Broken(f"{len(rows)} rows were written, and {result.rows} were read")
    by_ticker: dict[str, list[Any]] = {}
    for bar in bars:
        by_ticker.setdefault(bar.ticker, []).append(bar)
    for number, row in enumerate(rows, 1):
        if number in rejected or all(row[name] == "" for name in ("open", "high", "low", "close")):
            continue
        found = by_ticker.get(row["ticker"], [])
        if not any(all(_same(name, cell, getattr(bar, name)) for name, cell in row.items()) for bar in found):
            raise Broken(f"row {number} is not stored as it was: {row}")


def _same(name: str, cell: str, stored: Any) -> bool:
    if cell == "":
        return stored in (None, "")
    if name == "timeframe":
        return str(stored) in (cell, "1h")
    if isinstance(stored, bool):
        return cell.lower() == str(stored).lower()
    if isinstance(stored, Decimal):
        return Decimal(cell) == stored
    return hostile.reads_as(cell, stored)


async def check_spill(db: DatabaseManager, path: Path) -> str:
    """Let a writer take a file over, and return what became of it."""
    try:
        async with bar_writer(db, spill=path) as writer:
            await writer.flush()
            status = writer.status
    except (SpillError, ConfigurationError) as error:
        return type(error).__name__
    except (InvalidRowError, ConstraintViolationError) as error:
        if not path.with_name(f"{path.name}.rejected").exists():
            raise Broken("a row was refused, and not set aside") from error
        return "read, but for rows that were set aside"
    if status.pending:
        raise Broken(f"{status.pending} rows are neither stored nor set aside")
    return "read"


async def run_case(db: DatabaseManager, number: int, folder: Path) -> str:
    """Make one file, and give it to its reader."""
    case = any_case(random.Random(number))  # noqa: S311 - a case can be made again
    path = case.write(folder)
    async with asyncio.timeout(PATIENCE):
        if path.suffix == ".spill":
            outcome = await check_spill(db, path)
        else:
            outcome = await check_file(db, case, path)
    return f"{case.name}: {outcome}"


async def run(options: argparse.Namespace, folder: Path) -> int:
    """Run cases until the time is up, and return how many broke something."""
    outcomes, broken, ends = Counter[str](), 0, time.monotonic() + options.seconds
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    numbers = [options.only] if options.only is not None else range(seed, seed + 10**9)
    print(f"from {numbers[0]} on", flush=True)
    async with DatabaseManager(f"sqlite:///{folder / 'fuzz.db'}") as db:
        await db.init_db()
        for number in numbers:
            if time.monotonic() > ends or broken >= options.most:
                break
            place = folder / str(number)
            place.mkdir()
            try:
                outcomes[await run_case(db, number, place)] += 1
            except Exception:
                broken += 1
                print(f"--only {number}:", *traceback.format_exc(limit=-4).splitlines(), sep="\n    ", flush=True)
            finally:
                for path in place.iterdir():
                    path.unlink()
                place.rmdir()
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8} {outcome}")
    print(f"{outcomes.total() + broken} files, {broken} of them broke something; {megabytes} MB at most")
    return broken + (megabytes > MOST_MEGABYTES)


def main() -> None:
    """Read the options, and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for how long (600)")
    parser.add_argument("--seed", type=int, help="the first case's number; without it, any")
    parser.add_argument("--only", type=int, help="only the case of this number")
    parser.add_argument("--most", type=int, default=5, help="stop after so many files that break something (5)")
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(min(asyncio.run(run(parser.parse_args(), Path(folder))), 1))


if __name__ == "__main__":
    main()
