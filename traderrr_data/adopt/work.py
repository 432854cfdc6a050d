"""Taking a file over: look, refuse or copy, and change everything in one transaction."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from traderrr_data import schema
from traderrr_data.adopt import changeover, refuse
from traderrr_data.adopt.examine import Choices, Examined, examine
from traderrr_data.adopt.file import (
    back_up,
    checked,
    is_half_done,
    journal_mode_of,
    reading,
    recover,
    start_log,
    translated,
    writing,
)
from traderrr_data.adopt.forms import quoted
from traderrr_data.adopt.head import Head
from traderrr_data.adopt.meter import LOOKING, TICK, WRITING, Meter, Step
from traderrr_data.adopt.rebuild import CREATE_REJECTS, create_absent, put_aside, rebuild
from traderrr_data.adopt.recognise import TABLES, Source, objects_of, sources_of
from traderrr_data.adopt.report import REJECTS, AdoptionReport, TableReport
from traderrr_data.adopt.verify import Before, broken_by
from traderrr_data.adopt.zones import MachineZone, Zone
from traderrr_data.errors import ConfigurationError, SchemaMismatchError, TransactionConflictError
from traderrr_data.models.base import VERSION_TABLE

LOCK_TIMEOUT = 30.0
LEGACY_INDEX = "idx_daily_data_ticker_date"
"""The old code makes it at every start; the primary key serves the same queries."""
_ATTEMPTS = 5


class CancelledWorkError(Exception):
    """The work was told to stop."""


@dataclass
class Work:
    """One adoption; `run` does it in the calling thread.

    Attributes:
        given: the file.
        head: what the tables have to become.
        timezone: of instants without an offset; None if not said.
        timeframe: of intraday bars that do not say it.
        user: whose rows are kept.
        dry_run: look only.
        finish: end the changeover, too.
        lock_timeout: seconds to wait for others who use the file.
        step: told about each step.
    """

    given: str | os.PathLike[str]
    head: Head
    timezone: Zone | None = None
    timeframe: str = "unknown"
    user: int | None = None
    dry_run: bool = False
    finish: bool = False
    lock_timeout: float = LOCK_TIMEOUT
    step: Step = lambda _name, _done: None
    _stopped: bool = field(default=False, init=False)
    _done: bool = field(default=False, init=False)
    _meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self._meter = Meter(self.step)

    def stop(self) -> None:
        """Let the work end at once, with nothing changed; for another thread."""
        self._stopped = True

    def check(self) -> None:
        """Raise CancelledWorkError if the work was told to stop."""
        if self._stopped:
            raise CancelledWorkError

    def run(self) -> AdoptionReport:
        """Do it.

        Raises:
            CancelledWorkError: it was told to stop.
        """
        began = time.monotonic()
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        path = checked(self.given)
        report = AdoptionReport(path=path, dry_run=self.dry_run)
        try:
            self._look(path, report, now)
            if not (self.dry_run or report.refusals):
                self._change(path, report, now)
        except sqlite3.Error as error:
            if self._stopped:
                raise CancelledWorkError from error
            raise translated(error, path) from error
        if report.refusals and not self.dry_run:
            raise ConfigurationError(f"{path}: {'; '.join(report.refusals)} - nothing was changed")
        report.seconds = time.monotonic() - began
        return report

    def _look(self, path: Path, report: AdoptionReport, now: dt.datetime) -> None:
        """Find out, without a trace, what is in the file."""
        self._meter.begin("looking", 0.0)
        if not self.dry_run:
            try:
                with reading(path) as connection:
                    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.Error as error:
                if not is_half_done(error):
                    raise
                recover(path)
        # Not later: a file that is closed takes with it every lock that this process has on it.
        report.journal_mode = journal_mode_of(path)
        with reading(path) as connection:
            self._watch(connection)
            connection.execute("BEGIN")
            sources = self._survey(connection, report)
            self._done = self._is_done(connection, report)
            if not self.dry_run or report.refusals:
                return
            choices = self._choices(now)
            for source, behind, share, rows in self._in_parts(sources, report):
                self._meter.begin(f"looking at {source.name}", behind, share, instructions=LOOKING * rows)
                replace_report(report, examine(connection, source, choices).report)

    def _survey(self, connection: sqlite3.Connection, report: AdoptionReport) -> dict[str, Source]:
        """Fill the report with what is in the file, and why it cannot be adopted."""
        things = objects_of(connection)
        report.revision = revision_of(connection)
        known = {revision.revision for revision in schema.history()}
        if report.revision not in (None, schema.head()):
            state = schema.State.BEHIND if report.revision in known else schema.State.INCOMPATIBLE
            found = schema.Status(state, report.revision, schema.head())
            raise SchemaMismatchError(schema.describe(found))
        sources, refusals = sources_of(connection)
        refusals += refuse.taken_names(things, self.head)
        report.refusals = refusals
        to_rebuild = {source.table.name for source in self._to_rebuild(sources)}
        report.tables = []
        for name in TABLES:
            if name in sources:
                (rows,) = connection.execute(f"SELECT count(*) FROM {quoted(sources[name].name)}").fetchone()
                shape = sources[name].shape
                report.tables.append(TableReport(name, shape, rows, rows, rebuilt=name in to_rebuild))
            else:
                report.tables.append(TableReport(name, "absent"))
        report.others = refuse.others(things, self.head)
        report.zone = str(self.timezone or MachineZone())
        legacy = [source for source in sources.values() if not source.is_ours]
        refusals += refuse.users(connection, legacy, self.user)
        if self.timezone is None:
            refusals += refuse.unknown_zone(connection, legacy)
        return sources

    def _to_rebuild(self, sources: dict[str, Source]) -> list[Source]:
        return [
            source
            for name, source in sources.items()
            if not source.is_ours or (self.finish and not self.head.is_strict(name, source.sql))
        ]

    def _in_parts(
        self, sources: dict[str, Source], report: AdoptionReport
    ) -> Iterator[tuple[Source, float, float, int]]:
        """Yield the tables that are made anew, with which part of them is behind, which part each is, and its rows."""
        rows = {table.name: table.rows + 1 for table in report.tables if table.rebuilt}
        behind, total = 0, sum(rows.values())
        for source in self._to_rebuild(sources):
            mine = rows[source.table.name]
            yield source, behind / total, mine / total, mine
            behind += mine

    def _is_done(self, connection: sqlite3.Connection, report: AdoptionReport) -> bool:
        """Tell whether the tables are as they have to be."""
        as_wanted = all(table.shape == "ours" and not table.rebuilt for table in report.tables)
        changeover_is_over = not (self.finish and changeover.is_on(connection))
        return report.revision is not None and as_wanted and changeover_is_over

    def _choices(self, now: dt.datetime) -> Choices:
        stored = now.replace(tzinfo=None).isoformat(sep=" ")
        local = self.timezone or MachineZone()
        return Choices(self.timezone, local, self.timeframe, self.user, stored, self.check)

    def _watch(self, connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(self._tick, TICK)

    def _tick(self) -> bool:
        """Look up from a long statement: say how far it is, and whether it should end."""
        self._meter.tick()
        return self._stopped

    def _change(self, path: Path, report: AdoptionReport, now: dt.datetime) -> None:
        """Do what is to be done, if anything is."""
        starts_log = self.finish and report.journal_mode != "wal"
        if self._done and not starts_log:
            return
        with writing(path, self.lock_timeout) as connection:
            self._watch(connection)
            if not self._done:
                self._lock_and_copy(connection, path, report)
                if report.refusals or self._done:
                    return
                self._adopt_or_undo(connection, report, now)
            report.changed = True
            if starts_log:
                start_log(connection, self.lock_timeout)
                report.journal_mode = "wal"
        report.adopted_at, report.finished = now, self.finish
        self._meter.begin("done", 1.0)

    def _lock_and_copy(self, connection: sqlite3.Connection, path: Path, report: AdoptionReport) -> None:
        """Copy the file and take it for ourselves, with nobody's change in between."""
        for _ in range(_ATTEMPTS):
            self._meter.begin("waiting for the file", 0.02)
            connection.execute("BEGIN IMMEDIATE")  # others may read, and none may write
            self._survey(connection, report)
            self._done = self._is_done(connection, report)  # another process may have done it while this one waited
            if report.refusals or self._done:
                return
            self._meter.begin("copying the file", 0.05)
            copy = back_up(path, self._copied)
            version = connection.execute("PRAGMA data_version").fetchone()
            connection.execute("ROLLBACK")
            self._meter.begin("waiting for the file", 0.2)
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error:
                copy.unlink()
                raise
            if connection.execute("PRAGMA data_version").fetchone() == version:
                report.backup = copy
                return
            connection.execute("ROLLBACK")
            copy.unlink()
        raise TransactionConflictError(f"{path}: another process writes to the file all the time; nothing was changed")

    def _copied(self, part: float) -> None:
        self.check()
        self._meter.begin("copying the file", 0.05 + 0.15 * part)

    def _adopt_or_undo(self, connection: sqlite3.Connection, report: AdoptionReport, now: dt.datetime) -> None:
        try:
            self._adopt(connection, report, now)
            self._meter.begin("committing", 0.98)
            self.check()
            connection.set_progress_handler(None, 0)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                connection.set_progress_handler(None, 0)
                self._survey(connection, report)
                if not self._is_done(connection, report) and report.backup is not None:
                    report.backup.unlink()  # of a file that is as it was: a disk that is full needs the room
            raise

    def _adopt(self, connection: sqlite3.Connection, report: AdoptionReport, now: dt.datetime) -> None:
        choices, strict = self._choices(now), self.finish
        before = Before.of(connection)
        sources, _ = sources_of(connection)
        self._meter.begin("making tables", 0.25)
        present = {thing.name.lower() for thing in objects_of(connection)}
        if REJECTS not in present:
            connection.execute(CREATE_REJECTS)
        changeover.remove(connection)
        create_absent(connection, self.head, [n for n in self.head.tables if n not in present], strict=strict)
        for source, behind, share, rows in self._in_parts(sources, report):
            self.check()
            begin, half = 0.25 + 0.7 * behind, 0.35 * share
            self._meter.begin(f"looking at {source.name}", begin, half, instructions=LOOKING * rows)
            old = put_aside(connection, source)
            examined = examine(connection, old.source, choices)
            self._meter.begin(f"writing {source.table.name}", begin + half, half, instructions=WRITING * rows)
            report.notes += rebuild(connection, old, examined, self.head, choices.now, strict=strict)
            forget(connection, examined)
            replace_report(report, examined.report)
        self._stamp(connection)
        self._meter.begin("checking", 0.95)
        if strict:
            connection.execute(f"DROP INDEX IF EXISTS {LEGACY_INDEX}")
        else:
            changeover.install(connection, self.timeframe)
        report.notes += broken_by(connection, before)
        report.revision = revision_of(connection)

    def _stamp(self, connection: sqlite3.Connection) -> None:
        for table, rows in self.head.rows.items():
            (stored,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            if not stored:
                marks = ",".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def forget(connection: sqlite3.Connection, examined: Examined) -> None:
    """Drop the temporary tables of an examination."""
    name = examined.source.table.name
    for kind in ("aside", "converted", "source"):
        connection.execute(f"DROP TABLE IF EXISTS temp.{kind}_{name}")


def replace_report(report: AdoptionReport, of_table: TableReport) -> None:
    """Put what was found out about a table into the place of what was known before."""
    report.tables = [of_table if table.name == of_table.name else table for table in report.tables]


def revision_of(connection: sqlite3.Connection) -> str | None:
    """Return the revision of our migrations that a file is at."""
    present = {thing.name for thing in objects_of(connection)}
    if VERSION_TABLE not in present:
        return None
    row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    return None if row is None else str(row[0])
