"""How far the work is, also in the middle of a statement that goes through a whole table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Step: TypeAlias = Callable[[str, float], None]
"""Takes what is being done, and which part of the work is behind it."""

TICK = 100_000
"""After so many of its instructions SQLite lets others have a look."""

LOOKING, WRITING = 350, 100
"""How many instructions the rows of a table take, about, each."""

_TICKS_A_STEP = 10


class Meter:
    """Tells how far the work is."""

    def __init__(self, tell: Step) -> None:
        self._tell = tell
        self._name, self._behind, self._share = "", 0.0, 0.0
        self._ticks = self._of_ticks = 0

    def begin(self, name: str, behind: float, share: float = 0.0, *, instructions: int = 0) -> None:
        """Begin a step.

        Args:
            name: what is done.
            behind: which part of all work is done already.
            share: which part this step is.
            instructions: how many of SQLite's it will take, about; 0 if that is not known.
        """
        self._name, self._behind, self._share = name, behind, share
        self._ticks, self._of_ticks = 0, instructions // TICK
        self._tell(name, behind)

    def tick(self) -> None:
        """Note that SQLite has run so many instructions more."""
        self._ticks += 1
        if self._ticks % _TICKS_A_STEP == 0 and self._of_ticks:
            self._tell(self._name, self._behind + self._share * min(1.0, self._ticks / self._of_ticks))
