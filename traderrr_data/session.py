"""The session that the manager hands out: of one task at a time, and whole when that task is cancelled."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from traderrr_data.dialects import READ_ONLY
from traderrr_data.errors import CommitOutcomeUnknownError, ConfigurationError, DatabaseUnavailableError

logger = logging.getLogger(__name__)

_OWNER = "traderrr_data_task"


class _OneTaskSession(Session):
    """A session whose open transaction belongs to the task that began it."""

    def rollback(self) -> None:
        _check_owner(self)
        super().rollback()


class DataSession(AsyncSession):
    """SQLAlchemy's AsyncSession, with three promises more.

    * Two tasks that use it at once are refused: their work would end in one transaction, or in none.
    * A cancellation that arrives during COMMIT waits for its outcome.
    * A connection that dies during COMMIT is reported as such.
    """

    sync_session_class = _OneTaskSession

    async def commit(self) -> None:
        """Flush and commit.

        Raises:
            CommitOutcomeUnknownError: the connection died during the COMMIT itself.
        """
        if self.new or self.dirty or self.deleted:
            await self.flush()
        _check_owner(self.sync_session)
        commit = asyncio.ensure_future(super().commit())
        self.info[_OWNER] = commit
        try:
            await asyncio.shield(commit)
        except asyncio.CancelledError:
            await _outlast_cancellation(commit)
            if not commit.cancelled() and (error := commit.exception()) is not None:
                logger.warning("a commit failed while its task was being cancelled: %s", error)
            raise
        except DatabaseUnavailableError as error:
            if self.info.get(READ_ONLY):
                raise
            raise CommitOutcomeUnknownError(f"the connection was lost during COMMIT: {error}") from error


async def _outlast_cancellation(task: asyncio.Future[Any]) -> None:
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue


def _check_owner(session: Session) -> None:
    task = asyncio.current_task()
    owner = session.info.get(_OWNER)
    if owner is not None and owner is not task and not owner.done():
        raise ConfigurationError(
            "this session is in use by another task: open one session for each task (`session_context`)"
        )
    if session.in_transaction():
        session.info[_OWNER] = task


@event.listens_for(_OneTaskSession, "do_orm_execute")
def _before_execute(state: Any) -> None:
    _check_owner(state.session)


@event.listens_for(_OneTaskSession, "before_flush")
def _before_flush(session: Session, _context: object, _instances: object) -> None:
    _check_owner(session)


@event.listens_for(_OneTaskSession, "after_begin")
def _after_begin(session: Session, _transaction: SessionTransaction, _connection: object) -> None:
    _check_owner(session)


@event.listens_for(_OneTaskSession, "after_transaction_end")
def _after_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_OWNER, None)
