"""One query for the questions of many callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress, islice
from operator import gt, itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

from traderrr_data.errors import InvalidRowError
from traderrr_data.ingest.reading.rows import Cells, Conversion, Kind

_CONVERTED_INLINE: Final = 2_000  # rows; more are converted in a thread, so that the event loop goes on


_NUMBER: Final = itemgetter(-1)

Line: TypeAlias = Mapping[str, Any]
"""What names a line of rows and limits it, as the driver takes it."""


class Arm(NamedTuple):
    """One question's part of a query, and who waits for the rows."""

    parameters: Line
    rows: asyncio.Future[list[Any]]


class Query:
    """Asks up to `size` questions about one table at once; each is answered by rows of one line, the newest first.

    It is compiled here, once: SQLAlchemy would look at each of its parts again for every execution.
    """

    def __init__(self, kind: Kind, size: int, dialect: sa.Dialect, conversion: Conversion) -> None:
        self._size = size
        self._conversion = conversion
        compiled = sa.union_all(*(_part(kind, number) for number in range(size))).compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)  # noqa: S101 - for the type checker
        self._text = compiled.string
        # Which parameter of which part stands at each place; a compiler may add some of its own, with their values.
        self._places: list[tuple[int, Any]] = []
        for place in compiled.positiontup or ():
            name, _, number = place.partition("__")
            self._places.append((int(number), name) if number else (-1, compiled.params[place]))

    async def answer(self, connection: AsyncConnection, arms: Sequence[Arm]) -> None:
        """Give each arm its rows; a row that cannot be read is the error of its own arm."""
        asked = [arm.parameters for arm in arms]
        asked += [{**asked[0], "last": 0}] * (self._size - len(asked))
        parameters = tuple(what if at < 0 else asked[at][what] for at, what in self._places)
        result = await connection.exec_driver_sql(self._text, parameters)
        # The driver's rows as they are: SQLAlchemy's would be made only to be taken apart.
        found = list(result.cursor.fetchall())
        result.close()
        lines = asked[: len(arms)]
        if len(found) > _CONVERTED_INLINE:
            answers = await asyncio.to_thread(self._split, found, lines)
        else:
            answers = self._split(found, lines)
        for arm, answer in zip(arms, answers, strict=True):
            if arm.rows.done():
                continue
            if isinstance(answer, InvalidRowError):
                arm.rows.set_exception(answer)
            else:
                arm.rows.set_result(answer)

    def _split(self, found: list[Sequence[Any]], lines: Sequence[Line]) -> list[list[Any] | InvalidRowError]:
        """Return the rows of each line; `found` is emptied."""
        if not found:
            return [[] for _ in lines]
        if any(map(gt, map(_NUMBER, found), map(_NUMBER, islice(found, 1, None)))):
            found.sort(key=_NUMBER)  # no standard says that the parts of a query come in their order
        *columns, numbers = zip(*found, strict=True)
        found.clear()  # or the garbage collector would look after all cells twice
        counts = Counter(numbers)
        try:
            rows = iter(self._conversion.rows(columns, [(lines[number], count) for number, count in counts.items()]))
        except InvalidRowError:
            return [self._rows_of(columns, numbers, number, line) for number, line in enumerate(lines)]
        return [list(islice(rows, counts[number])) for number in range(len(lines))]

    def _rows_of(
        self, columns: Sequence[Cells], numbers: Cells, number: int, line: Line
    ) -> list[Any] | InvalidRowError:
        mine = [number == other for other in numbers]
        try:
            return self._conversion.rows([list(compress(cells, mine)) for cells in columns], [(line, sum(mine))])
        except InvalidRowError as error:
            return error


def _part(kind: Kind, number: int) -> sa.Select[Any]:
    """Return the query for one question; its parameters bear its number, and its rows, too."""

    def given(name: str, column_type: sa.types.TypeEngine[Any]) -> sa.BindParameter[Any]:
        return sa.bindparam(f"{name}__{number}", type_=column_type)

    # Without their types: SQLAlchemy would convert cell by cell, `Conversion` does so by columns.
    columns = [sa.type_coerce(kind.table.c[name], sa.types.NullType()).label(name) for name in kind.fetched]
    query = sa.select(*columns).where(*(kind.table.c[name] == given(name, kind.type_of(name)) for name in kind.line))
    if kind.time is not None:
        time, time_type = kind.table.c[kind.time], kind.type_of(kind.time)
        query = query.where(time >= given("start", time_type), time <= given("until", time_type))
        query = query.order_by(time.desc())
    rows = query.limit(given("last", sa.Integer())).subquery()
    return sa.select(rows, sa.literal_column(str(number)).label("number"))
