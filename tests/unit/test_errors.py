"""The error tree is part of the interface: who may be caught as what, and what an error carries."""

from __future__ import annotations

import pickle

import pytest

import traderrr_data
from traderrr_data import errors

PARENTS = {
    "TraderrrDataError": {"Exception"},
    "ConfigurationError": {"TraderrrDataError", "ValueError"},
    "InvalidRowError": {"TraderrrDataError", "ValueError"},
    "RowNotFoundError": {"TraderrrDataError", "LookupError"},
    "ConstraintViolationError": {"TraderrrDataError"},
    "DuplicateRowError": {"ConstraintViolationError"},
    "CopyRefusedError": {"TraderrrDataError"},
    "CopyMismatchError": {"TraderrrDataError"},
    "SchemaMismatchError": {"TraderrrDataError"},
    "CommitOutcomeUnknownError": {"TraderrrDataError"},
    "DatabaseUnavailableError": {"TraderrrDataError"},
    "TransactionConflictError": {"TraderrrDataError"},
}
RETRYABLE = {"DatabaseUnavailableError", "TransactionConflictError"}


@pytest.mark.parametrize(("name", "parents"), PARENTS.items())
def test_every_error_has_its_place_in_the_tree_and_is_public(name: str, parents: set[str]) -> None:
    kind = getattr(traderrr_data, name)
    assert {base.__name__ for base in kind.__bases__} >= parents
    assert name in traderrr_data.__all__
    assert name in (errors.__doc__ or "")


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    assert {name for name in PARENTS if getattr(errors, name).retryable} == RETRYABLE


def test_no_error_of_the_module_is_forgotten_here() -> None:
    defined = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
    }
    assert defined == set(PARENTS)


def test_an_invalid_row_says_where_and_why() -> None:
    error = errors.InvalidRowError("is negative", row=3, column="volume")
    assert str(error) == "row 3, column 'volume': is negative"
    assert (error.row, error.column, error.reason) == (3, "volume", "is negative")
    assert str(errors.InvalidRowError("is empty")) == "is empty"


def test_an_invalid_row_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(errors.InvalidRowError("is negative", row=0, column="volume")))  # noqa: S301 - ours
    assert (copy.row, copy.column, copy.reason, str(copy)) == (
        0,
        "volume",
        "is negative",
        "row 0, column 'volume': is negative",
    )
