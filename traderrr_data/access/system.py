"""The event log, and the removal of what is too old. No function commits."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import bulk
from traderrr_data.access.bars import deleted
from traderrr_data.access.trading import checked_limit
from traderrr_data.access.window import as_read, if_said, whole, window
from traderrr_data.models import BarRevision, DailyData, IntradayData, SignalHistory, SystemEvent

_ROWS_A_STATEMENT = 1000
_LONGEST = 100_000  # days


@dataclass(frozen=True)
class Retention:
    """For how many days rows are kept; None keeps them for ever.

    Attributes:
        daily_days: daily bars, by session date.
        intraday_days: intraday bars, by their start.
        signal_days: signals, by date.
        event_days: events, by when they were stored.
        revision_days: versions of bars that were overwritten or deleted, by when that was.
    """

    daily_days: int | None = 730
    intraday_days: int | None = 30
    signal_days: int | None = 90
    event_days: int | None = 30
    revision_days: int | None = 730

    def __post_init__(self) -> None:
        """Refuse what would delete the future.

        Raises:
            ConfigurationError: a number of days is negative or absurd.
        """
        for name, days in vars(self).items():
            if days is not None:
                whole(name, days, 0, _LONGEST, said=f"0 to {_LONGEST} days, or None for ever")


async def add_event(
    session: AsyncSession,
    event_type: str,
    description: str,
    *,
    severity: str = "INFO",
    details: str | None = None,
    dedupe_key: str | None = None,
) -> bool:
    """Store an event and tell whether it is new: False if one with its dedupe_key, and equal, is stored.

    The caller commits.

    Raises:
        InvalidRowError: a value cannot be stored exactly.
        DuplicateRowError: another event is stored under the dedupe_key.
    """
    row = {
        "event_type": event_type,
        "description": description,
        "severity": severity,
        "details": details,
        "dedupe_key": dedupe_key,
    }
    return (await bulk.upsert(session, SystemEvent, [row], key=("dedupe_key",), on_conflict="repeat")).inserted == 1


async def list_events(
    session: AsyncSession,
    *,
    event_type: str | None = None,
    severity: str | None = None,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    limit: int = 50,
) -> Sequence[SystemEvent]:
    """Return events, the newest first, then the latest id.

    Args:
        session: any open session; nothing is written.
        event_type: None for all.
        severity: None for all.
        start: stored at this instant or later; None for the earliest.
        end: stored before this instant; None for all up to the newest.
        limit: at most so many, 1 to 1000.

    Raises:
        ConfigurationError: the limit is out of its range.
    """
    query = (
        sa.select(SystemEvent)
        .where(
            *window(SystemEvent.created_at, start, end),
            *if_said(SystemEvent.event_type, event_type),
            *if_said(SystemEvent.severity, severity),
        )
        .order_by(SystemEvent.created_at.desc(), SystemEvent.id.desc())
        .limit(checked_limit(limit))
    )
    return (await session.scalars(query, execution_options={"populate_existing": True})).all()


async def delete_events(session: AsyncSession, *, before: dt.datetime) -> int:
    """Delete the events that were stored before an instant, and return how many. The caller commits."""
    return await _delete_by_id(session, SystemEvent, SystemEvent.created_at < as_read(SystemEvent.created_at, before))


async def purge(
    session: AsyncSession, policy: Retention | None = None, *, now: dt.datetime | None = None
) -> dict[str, int]:
    """Delete what is older than the policy keeps, in small statements. The caller commits.

    It is there to free space: bars that it deletes are gone, and leave no version behind.

    Args:
        session: an open session.
        policy: None for Retention().
        now: the instant from which ages are counted; the present one if None.

    Returns:
        Rows removed, by table; a table that the policy keeps for ever is not among them.
    """
    policy, now = (
        policy or Retention(),
        dt.datetime.now(dt.UTC) if now is None else as_read(BarRevision.known_until, now),
    )

    def cutoff(days: int) -> dt.datetime:
        return now - dt.timedelta(days=days)

    removed: dict[str, int] = {}
    if policy.daily_days is not None:
        oldest, line = cutoff(policy.daily_days).date(), ("ticker", "series")
        removed["daily_data"] = await _delete_by_line(session, DailyData, line, DailyData.date, oldest)
    if policy.intraday_days is not None:
        first, parts = cutoff(policy.intraday_days), ("ticker", "series", "timeframe")
        removed["intraday_data"] = await _delete_by_line(session, IntradayData, parts, IntradayData.datetime, first)
    if policy.signal_days is not None:
        old = SignalHistory.date < cutoff(policy.signal_days).date()
        removed["signal_history"] = await _delete_by_id(session, SignalHistory, old)
    if policy.event_days is not None:
        removed["system_events"] = await delete_events(session, before=cutoff(policy.event_days))
    if policy.revision_days is not None:
        forgotten = BarRevision.known_until < cutoff(policy.revision_days)
        removed["bar_revisions"] = await _delete_by_id(session, BarRevision, forgotten)
    return removed


async def _delete_by_line(session: AsyncSession, model: Any, line: tuple[str, ...], time: Any, cutoff: dt.date) -> int:
    """Delete bars line by line from the oldest on: each statement is one short range of the primary key."""
    columns = [model.__table__.c[name] for name in line]
    removed = 0
    for key in (await session.execute(sa.select(*columns).distinct())).all():
        same = [column == value for column, value in zip(columns, key, strict=True)]
        later = sa.select(time).where(*same, time < cutoff).order_by(time).offset(_ROWS_A_STATEMENT).limit(1)
        while (bound := await session.scalar(later)) is not None:
            removed += await deleted(session, sa.delete(model).where(*same, time < bound))
        removed += await deleted(session, sa.delete(model).where(*same, time < cutoff))
    return removed


async def _delete_by_id(session: AsyncSession, model: Any, old: sa.ColumnElement[bool]) -> int:
    removed = 0
    query = sa.select(model.id).where(old).order_by(model.id).limit(_ROWS_A_STATEMENT)
    while ids := (await session.scalars(query)).all():
        removed += await deleted(session, sa.delete(model).where(model.id.in_(ids)))
    return removed
