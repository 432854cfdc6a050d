"""The errors of this library, which are part of its interface.

::

    TraderrrDataError                      retryable = False
    ├── ConfigurationError (ValueError)    a setting is wrong; names the variable, never its value
    ├── InvalidRowError (ValueError)       refused before SQL; carries row index, column and reason
    ├── RowNotFoundError (LookupError)     a `get_` function found nothing
    ├── ConstraintViolationError           the database refused a row
    │   └── DuplicateRowError              ... because its key is already there
    ├── CopyRefusedError                   values that a copy's target cannot hold exactly; nothing was copied
    ├── CopyMismatchError                  what a copy's target holds is not what its source does
    ├── SchemaMismatchError                behind, ahead and incompatible, or not ours
    ├── CommitOutcomeUnknownError          the connection died during COMMIT: stored or not is not known
    ├── DatabaseUnavailableError           retryable: refused, lost, or no connection became free in time
    └── TransactionConflictError           retryable: deadlock, serialization, lock time-out, SQLITE_BUSY

The driver's own error is always the ``__cause__``. Errors are told apart by the database's codes, never by their text.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from sqlalchemy.exc import DontWrapMixin


class TraderrrDataError(Exception):
    """The root of every error that this library raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether the same unit of work, run again from its beginning, may succeed."""


class ConfigurationError(TraderrrDataError, ValueError):
    """A setting, a URL or the way an object is used is wrong; the message says what to do and shows no secret."""


class InvalidRowError(TraderrrDataError, ValueError, DontWrapMixin):
    """A value was refused before any SQL was sent, because a database would have lost or changed it.

    Attributes:
        row: position of the row in the batch that was given, from 0; None for a single object.
        column: name of the column, or None where the row as a whole is wrong.
        reason: what is wrong, without the row and the column.
    """

    # DontWrapMixin: raised while SQLAlchemy binds parameters, it reaches the caller as it is.

    def __init__(self, reason: str, *, row: int | None = None, column: str | None = None) -> None:
        self.row, self.column, self.reason = row, column, reason
        place = [*([f"row {row}"] if row is not None else []), *([f"column {column!r}"] if column is not None else [])]
        super().__init__(f"{', '.join(place)}: {reason}" if place else reason)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, which would otherwise lose the keyword arguments."""
        return (_rebuild_invalid_row, (self.reason, self.row, self.column))


def _rebuild_invalid_row(reason: str, row: int | None, column: str | None) -> InvalidRowError:
    return InvalidRowError(reason, row=row, column=column)


class RowNotFoundError(TraderrrDataError, LookupError):
    """The one row that was asked for is not stored."""


class ConstraintViolationError(TraderrrDataError):
    """The database refused a row: a CHECK, a NOT NULL, a length or a range."""


class DuplicateRowError(ConstraintViolationError):
    """A row with this key is already stored."""


class RefusedValue(NamedTuple):
    """A stored value that was not copied: where it stands, how it reads, and why."""

    table: str
    key: str
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.table} ({self.key}), column {self.column!r}: {self.reason}"


class CopyRefusedError(TraderrrDataError):
    """Values of the source cannot be held exactly by the target of a copy; the target is as it was before.

    Attributes:
        refused: the first of them.
        count: how many they are.
    """

    def __init__(self, refused: tuple[RefusedValue, ...], count: int) -> None:
        self.refused, self.count = refused, count
        listed = "; ".join(map(str, refused[:3]))
        more = f"; and {count - 3:,} more" if count > 3 else ""
        super().__init__(f"{count:,} values cannot be copied exactly, so nothing was: {listed}{more}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling."""
        return (type(self), (self.refused, self.count))


class CopyMismatchError(TraderrrDataError):
    """A copy is not equal to its source: something else wrote to the target, or what was read back is not what went in.

    The message names the table and the range of keys.
    """


class SchemaMismatchError(TraderrrDataError):
    """The tables are behind, ahead and incompatible, or somebody else's; the message names the command that helps."""


class CommitOutcomeUnknownError(TraderrrDataError):
    """The connection died while COMMIT was under way; look before writing again, or write idempotently."""


class DatabaseUnavailableError(TraderrrDataError):
    """The database refused or lost the connection, or the pool had none free in time."""

    retryable = True


class TransactionConflictError(TraderrrDataError):
    """Another transaction was in the way: deadlock, serialization failure, lock time-out or a busy SQLite file."""

    retryable = True
