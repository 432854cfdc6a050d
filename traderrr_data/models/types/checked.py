"""What every column type does: refuse what a database would lose or change."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from traderrr_data.errors import InvalidRowError

T = TypeVar("T")


class PlainStorage(sa.types.UserDefinedType[Any]):
    """A SQLite column that takes Python's value as it is, under the type name that the legacy files use."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        return self.name


class CheckedType(sa.types.TypeDecorator[T], Generic[T]):
    """A column type that refuses what a database would lose or change."""

    impl: Any = sa.types.NullType
    cache_ok = True

    @property
    def frozen(self) -> str:
        """The type as source text that a migration can keep: it never imports this package."""
        raise NotImplementedError

    def coerce(self, value: object) -> T:
        """Return the value as it will be read back; ValueError with the reason if it cannot be stored."""
        raise NotImplementedError

    def to_double_storage(self, value: T) -> object:
        """Return what a database without exact decimals keeps; ValueError if that would not read back as `value`."""
        return value

    def process_bind_param(self, value: T | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        try:
            coerced = self.coerce(value)
            return self.to_double_storage(coerced) if dialect.name == "sqlite" else coerced
        except ValueError as error:
            raise InvalidRowError(str(error)) from error


class Flag(CheckedType[bool]):
    """True or False, nothing that merely looks like it."""

    impl = sa.Boolean
    cache_ok = True

    @property
    def frozen(self) -> str:
        return "sa.Boolean()"

    def coerce(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        if is_numpy_scalar(value, "b"):
            return bool(value)
        raise ValueError(f"{shown(value)} is neither true nor false")


def is_numpy_scalar(value: object, kind: str) -> bool:
    """Tell a single value of numpy's of one kind, without loading numpy."""
    return getattr(getattr(value, "dtype", None), "kind", "") == kind and getattr(value, "ndim", 1) == 0


def shown(value: object) -> str:
    """Return a value as an error may show it: in ASCII, and not at length."""
    try:
        text = ascii(value) if isinstance(value, str) else str(value)
    except Exception:  # the number of more digits than Python spells, or an object's own
        text = f"a value of {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
