"""A row on its way from a caller to the database: which table it is for, and whether the two will take it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from traderrr_data.bulk.rows import Row, Shape, check_row, shape_of
from traderrr_data.errors import TraderrrDataError
from traderrr_data.models import Base, DailyData, IntradayData

Outcome: TypeAlias = Literal["inserted", "updated", "unchanged", "skipped", "duplicate"]
"""What became of a row, in the words of `UpsertResult`. Only rows of `put` can be a duplicate: one that a newer row
with the same key overtook before it was written."""


def _shape(model: type[Base]) -> Shape:
    return shape_of(model, tuple(column.name for column in Base.metadata.tables[model.__tablename__].primary_key))


DAILY: Final = _shape(DailyData)
INTRADAY: Final = _shape(IntradayData)
_OF_TABLE: Final = {shape.table.name: shape for shape in (DAILY, INTRADAY)}


@dataclass(slots=True)
class Accepted:
    """A checked row that is not settled yet.

    Attributes:
        shape: of its table.
        values: by column name, as they will be read back.
        key: by which the table knows it.
        caller: waits for the outcome; None for a row of `put`.
        end: where its record ends in the spill; None if it is in memory only.
        flaw: why a row that came back from the spill cannot be stored any more.
    """

    shape: Shape
    values: Row
    key: tuple[Any, ...]
    caller: asyncio.Future[Outcome] | None = None
    end: int | None = None
    flaw: TraderrrDataError | None = None

    @property
    def is_unattended(self) -> bool:
        """Nobody waits for what becomes of it."""
        return self.caller is None or self.caller.cancelled()

    def may_follow(self, earlier: Accepted) -> bool:
        """Tell whether a batch with both rows, which have the same key, ends as one after the other would.

        A batch keeps one of them. The outcome of the other would not be known, columns that only it has would be
        lost, and "observed later" orders rows only if all of them say when.
        """
        return (
            self.caller is None
            and earlier.caller is None
            and self.values.keys() == earlier.values.keys()
            and (self.values.get("observed_at") is None) == (earlier.values.get("observed_at") is None)
        )


class Acceptance:
    """What is required of a row.

    Args:
        timeframe: of intraday rows that do not name one; a row that names another is invalid.
        series: of rows that do not name one; if it is not empty, a row that names another is invalid.
        exact_decimals: the database can store every decimal.
        allow_inconsistent: take bars whose prices are out of order.

    Raises:
        InvalidRowError: there is no such timeframe, or no series can have this name.
    """

    def __init__(self, *, timeframe: str | None, series: str, exact_decimals: bool, allow_inconsistent: bool) -> None:
        self._of_daily = DAILY.coerce({"series": series})
        self._of_intraday = INTRADAY.coerce(
            {"series": series} | ({} if timeframe is None else {"timeframe": timeframe})
        )
        self._rules = {"exact_decimals": exact_decimals, "allow_inconsistent": allow_inconsistent}

    def check(self, given: Mapping[str, Any] | Base) -> Accepted:
        """Return the checked row; one with an instant is intraday, any other daily.

        Raises:
            InvalidRowError: it cannot be stored.
        """
        has_instant = "datetime" in given if isinstance(given, Mapping) else isinstance(given, IntradayData)
        if has_instant:
            return self._check(INTRADAY, given, self._of_intraday)
        return self._check(DAILY, given, self._of_daily)

    def check_again(self, table: str, values: Row) -> Accepted:
        """Return a row that was accepted once, in text as the spill keeps it.

        Raises:
            InvalidRowError: the rules have changed since.
        """
        return self._check(_OF_TABLE[table], values, {})

    def flawed(self, table: str, values: Row, end: int, flaw: TraderrrDataError) -> Accepted:
        """Return a row that is to be set aside."""
        return Accepted(_OF_TABLE[table], values, (end,), end=end, flaw=flaw)

    def _check(self, shape: Shape, given: object, fixed: Mapping[str, Any]) -> Accepted:
        values = check_row(given, shape, fixed, **self._rules)
        return Accepted(shape, values, tuple(values[name] for name in shape.key))
