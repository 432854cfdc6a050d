"""One query for the questions of many callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from operator import gt, itemgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

from traderrr_data.errors import InvalidRowError
from traderrr_data.ingest.reader.rows import Conversion, Kind

_CONVERTED_INLINE: Final = 2_000  # rows; more are converted in a thread, so that the event loop goes on


class Arm(NamedTuple):
    """One question's part of a query: its parameters as the driver takes them, and who waits for the rows."""

    parameters: Mapping[str, Any]
    rows: asyncio.Future[list[Any]]


class Query:
    """Asks up to `size` questions about one table at once; each is answered by rows of one line, the newest first.

    It is compiled here, once: SQLAlchemy would look at each of its parts again for every execution.
    """

    def __init__(self, kind: Kind, size: int, dialect: sa.Dialect, conversion: Conversion) -> None:
        self._size = size
        self._convert = conversion
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
        found = result.cursor.fetchall()
        result.close()
        if len(found) > _CONVERTED_INLINE:
            answers = await asyncio.to_thread(self._split, found, len(arms))
        else:
            answers = self._split(found, len(arms))
        for arm, answer in zip(arms, answers, strict=True):
            if arm.rows.done():
                continue
            if isinstance(answer, InvalidRowError):
                arm.rows.set_exception(answer)
            else:
                arm.rows.set_result(answer)

    def _split(self, found: Sequence[Sequence[Any]], arms: int) -> list[list[Any] | InvalidRowError]:
        answers: list[list[Any] | InvalidRowError] = [[] for _ in range(arms)]
        if not found:
            return answers
        *columns, numbers = zip(*found, strict=True)
        if any(map(gt, numbers, islice(numbers, 1, None))):  # no database has done so yet, but it may
            return self._split(sorted(found, key=itemgetter(-1)), arms)
        try:
            rows = iter(self._convert(columns))
        except InvalidRowError:
            return [self._converted_alone(found, number) for number in range(arms)]
        for number, count in Counter(numbers).items():
            answers[number] = list(islice(rows, count))
        return answers

    def _converted_alone(self, found: Sequence[Sequence[Any]], number: int) -> list[Any] | InvalidRowError:
        try:
            return self._convert(list(zip(*(row[:-1] for row in found if row[-1] == number), strict=True)))
        except InvalidRowError as error:
            return error


def _part(kind: Kind, number: int) -> sa.Select[Any]:
    """Return the query for one question; its parameters bear its number, and its rows, too."""

    def given(name: str, column_type: sa.types.TypeEngine[Any]) -> sa.BindParameter[Any]:
        return sa.bindparam(f"{name}__{number}", type_=column_type)

    # Without their types: SQLAlchemy would convert cell by cell, `Conversion` does so by columns.
    columns = [sa.type_coerce(kind.table.c[name], sa.types.NullType()).label(name) for name in kind.fields]
    query = sa.select(*columns).where(*(kind.table.c[name] == given(name, kind.type_of(name)) for name in kind.line))
    if kind.time is not None:
        time, time_type = kind.table.c[kind.time], kind.type_of(kind.time)
        query = query.where(time >= given("start", time_type), time <= given("until", time_type))
        query = query.order_by(time.desc())
    rows = query.limit(given("last", sa.Integer())).subquery()
    return sa.select(rows, sa.literal_column(str(number)).label("number"))
