"""Units of work: what each one stores, and the lines in which a worker tells of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from tests.bars import days, flat

State: TypeAlias = Literal["attempted", "acknowledged", "failed", "unknown", "cancelled"]
"""Only acknowledged and failed say whether it is stored."""

FIRST: Final = dt.date(2000, 1, 1)
NOTHING: Final = "-"
ENDED: Final = "ended"


@dataclass(frozen=True)
class Unit:
    """What is stored together or not at all, under a ticker that no other unit has.

    Attributes:
        name: the ticker: the worker, which of its processes, and a number, such as 0.3.17.
        kind: how it is written.
        bars: how many daily bars it has, one for each day from `FIRST` on.
        signals: how many signals it has, in the same way.
        replaces: the unit whose rows it removes in its transaction.
    """

    name: str
    kind: str
    bars: int = 0
    signals: int = 0
    replaces: str = NOTHING

    @property
    def price(self) -> int:
        """The price in all rows."""
        return int(self.name.rpartition(".")[2]) % 1_000 + 1

    @property
    def process(self) -> str:
        """The process that writes it."""
        return self.name.rpartition(".")[0]

    def bar_rows(self) -> list[dict[str, Any]]:
        """Return the bars."""
        dates = enumerate(days(self.bars, FIRST))
        return [{"ticker": self.name, "date": day, **flat(self.price), "volume": number} for number, day in dates]

    def signal_rows(self) -> list[dict[str, Any]]:
        """Return the signals, without a dedupe_key: written twice, they are there twice."""
        return [
            {
                "ticker": self.name,
                "date": day,
                "signal_type": "BUY",
                "signal_value": self.price,
                "entry_price": number,
            }
            for number, day in enumerate(days(self.signals, FIRST))
        ]

    def line(self, state: State) -> str:
        """Return the line that tells its state."""
        return f"{state} {self.name} {self.kind} {self.bars} {self.signals} {self.replaces}\n"


def told(line: str) -> tuple[State, Unit]:
    """Read such a line."""
    state, name, kind, bars, signals, replaces = line.split()
    return cast("State", state), Unit(name, kind, int(bars), int(signals), replaces)
