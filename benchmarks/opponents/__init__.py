"""Other ways to do the same work, each as well as its author would do it.

Judge them by reading: every opponent of a database is in the module of that database's name, everybody who works on
all of them in `sqlalchemy` and `peers`. What is inside of the clock is the coroutine that a context manager yields.
"""

from __future__ import annotations

from typing import Final

from benchmarks.opponents import mysql, postgresql, sqlite

OF_KIND: Final = {"sqlite": sqlite, "postgresql": postgresql, "mysql": mysql}
"""The drivers' own opponents: each module has the same names."""
