"""The session that the manager hands out: of one task at a time, and whole when that task is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from traderrr_data.errors import ConfigurationError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_OWNER = "traderrr_data_task"


class _OneTaskSession(Session):
    """A session whose open transaction belongs to the task that began it."""

    def add(self, instance: object, **options: Any) -> None:
        _refuse_another_task(self)
        super().add(instance, **options)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        # Claimed here, before it has a connection: the wait for one lets other tasks run.
        _refuse_another_task(self)
        self.info[_OWNER] = asyncio.current_task()
        super().flush(objects)
        if not self.in_transaction():
            self.info.pop(_OWNER, None)

    def rollback(self) -> None:
        _check_owner(self)
        super().rollback()

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        _check_owner(self)
        return super().connection(*arguments, **options)

    def begin_nested(self) -> SessionTransaction:
        _check_owner(self)
        return super().begin_nested()


class DataSession(AsyncSession):
    """SQLAlchemy's AsyncSession, with two promises more.

    * Two tasks that use it at once are refused: their work would end in one transaction, or in none.
    * A cancellation that arrives during `commit` waits for its outcome.
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
            await outlast_cancellation(commit)
            if not commit.cancelled() and (error := commit.exception()) is not None:
                logger.warning("a commit failed while its task was being cancelled: %s", error)
            raise


async def outlast_cancellation(task: asyncio.Future[Any]) -> None:
    """Return when a task is done, however often the one that waits is cancelled meanwhile."""
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue


async def to_its_end(function: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
    """Run a function in a thread; a cancellation waits until it has ended, so that its files may be removed."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **options))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await outlast_cancellation(work)
        if not work.cancelled():
            work.exception()  # is looked at, so that nobody complains that it never was
        raise


def _refuse_another_task(session: Session) -> None:
    owner = session.info.get(_OWNER)
    if owner is not None and owner is not asyncio.current_task() and not owner.done():
        raise ConfigurationError(
            "this session is in use by another task: open one session for each task (`session_context`), and limit its"
            " time by `asyncio.timeout`, since `asyncio.wait_for` is another task on Python 3.11"
        )


def _check_owner(session: Session) -> None:
    _refuse_another_task(session)
    if session.in_transaction():
        session.info[_OWNER] = asyncio.current_task()


@event.listens_for(_OneTaskSession, "do_orm_execute")
def _before_execute(state: Any) -> None:
    _check_owner(state.session)


@event.listens_for(_OneTaskSession, "after_begin")
def _after_begin(session: Session, _transaction: SessionTransaction, _connection: object) -> None:
    _check_owner(session)


@event.listens_for(_OneTaskSession, "after_transaction_end")
def _after_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_OWNER, None)
