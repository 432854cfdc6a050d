"""The face of the reader, and the visits that it pays to the database."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Iterable, Mapping
from operator import itemgetter
from types import TracebackType
from typing import Any, Final, Self

from traderrr_data.access.bars import MOST_BARS
from traderrr_data.access.window import bounds, each_once, whole
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import ConfigurationError, InvalidRowError
from traderrr_data.ingest.reading.query import Arm, Query
from traderrr_data.ingest.reading.rows import (
    DAILY,
    INSTRUMENT,
    INTRADAY,
    Conversion,
    DailyBar,
    Instrument,
    IntradayBar,
    Kind,
)
from traderrr_data.models import DailyData, IntradayData

_ARMS: Final = 16  # of one query; more take longer to plan
_ROWS: Final = 500  # of one query, about; many at once set Python's garbage collector to work
_EXPECTED: Final = 250  # of an arm that does not limit its rows
_ALL: Final = 2**31 - 1
_DAYS: Final = (dt.date(1000, 1, 1), dt.date.max, dt.timedelta(days=1))
_INSTANTS: Final = (
    dt.datetime(1000, 1, 1, tzinfo=dt.UTC),
    dt.datetime.max.replace(tzinfo=dt.UTC),
    dt.timedelta(microseconds=1),
)


def reader(db: DatabaseManager, *, connections: int = 2) -> Reader:
    """Return a reader for many tasks; use it by ``async with``.

    Args:
        db: the database.
        connections: of its pool that are used at a time, at most.

    Raises:
        ConfigurationError: there is to be no connection.
    """
    if connections < 1:
        raise ConfigurationError(f"a reader needs a connection, not {connections}")
    return Reader(db, connections)


class Reader:
    """What `reader` returns: the small questions of `market_data`, for hundreds of tasks at once, without a session.

    The calls and their answers are those of the functions with the same names, but the rows are named tuples, without
    created_at and updated_at. Each answer is a committed state of the database that was read after the call; two
    answers may be two states, also two tickers of `latest_daily`. A call that a task gives up disturbs no other.

    All methods raise `InvalidRowError` for an argument that no row can have, `ConfigurationError` outside of the
    block, and `DatabaseUnavailableError` while the database is away; nothing is tried again.
    """

    def __init__(self, db: DatabaseManager, connections: int) -> None:
        # An answer is one statement's, so a transaction would be nothing but two more journeys to the server. Behind a
        # pooler it is what our settings hold in.
        self._in_transactions = db.settings.db_transaction_pooling
        alone = {"isolation_level": "AUTOCOMMIT"}
        self._engine = db.engine.execution_options(**(db.dialect.reader_options if self._in_transactions else alone))
        self._exact_decimals = db.dialect.exact_decimals
        self._connections = connections
        self._waiting: dict[Kind, deque[Arm]] = {kind: deque() for kind in (DAILY, INTRADAY, INSTRUMENT)}
        self._queries: dict[tuple[Kind, int], Query] = {}
        self._visits: set[asyncio.Task[None]] = set()
        self._is_called = self._is_open = False

    async def __aenter__(self) -> Self:
        """Begin to take questions; no connection is taken yet."""
        self._is_open = True
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Take no more questions, and answer those that were asked."""
        self._is_open = False
        self._call()
        while self._visits:
            await asyncio.wait(self._visits)

    async def list_daily(
        self,
        ticker: str,
        *,
        start: dt.date | None = None,
        end: dt.date | None = None,
        last: int | None = None,
        newest_first: bool = False,
        series: str = "",
    ) -> list[DailyBar]:
        """Return one ticker's daily bars, oldest first; as `market_data.list_daily`."""
        line = self._line(DAILY, ticker=ticker, series=series)
        rows = await self._list(DAILY, line, bounds(DailyData.date, start, end), last)
        return _by_time(DAILY, rows, newest_first=newest_first)

    async def list_intraday(
        self,
        ticker: str,
        *,
        timeframe: str,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        last: int | None = None,
        newest_first: bool = False,
        series: str = "",
    ) -> list[IntradayBar]:
        """Return one ticker's intraday bars of one timeframe, oldest first; as `market_data.list_intraday`."""
        line = self._line(INTRADAY, ticker=ticker, series=series, timeframe=timeframe)
        rows = await self._list(INTRADAY, line, bounds(IntradayData.datetime, start, end), last)
        return _by_time(INTRADAY, rows, newest_first=newest_first)

    async def latest_daily(self, tickers: Iterable[str], *, series: str = "") -> dict[str, DailyBar]:
        """Return the newest daily bar of each ticker, by ticker, sorted; one without bars is not among them."""
        return await self._latest(DAILY, tickers, series=series)

    async def latest_intraday(
        self, tickers: Iterable[str], *, timeframe: str, series: str = ""
    ) -> dict[str, IntradayBar]:
        """Return the newest intraday bar of each ticker; as `latest_daily`, for one timeframe."""
        return await self._latest(INTRADAY, tickers, series=series, timeframe=timeframe)

    async def find_metadata(self, ticker: str) -> Instrument | None:
        """Return what is known of one ticker, or None."""
        rows = await self._ask(INSTRUMENT, self._line(INSTRUMENT, ticker=ticker) | {"last": 1})
        return rows[0] if rows else None

    async def _list(self, kind: Kind, line: Mapping[str, Any], window: tuple[Any, Any], last: int | None) -> list[Any]:
        last = _ALL if last is None else min(whole("last", last, 0, MOST_BARS, said="a number of bars"), _ALL)
        return await self._ask(kind, {**line, **self._window(kind, *window), "last": last})

    async def _latest(self, kind: Kind, tickers: Iterable[str], **line: Any) -> dict[str, Any]:
        rest = {**self._window(kind, None, None), "last": 1}
        wanted = each_once(kind.table.c.ticker, tickers) or []
        asked = [{**self._line(kind, ticker=ticker, **line), **rest} for ticker in wanted]
        found = await asyncio.gather(*(self._ask(kind, parameters) for parameters in asked))
        return {rows[0].ticker: rows[0] for rows in found if rows}

    def _line(self, kind: Kind, **given: Any) -> dict[str, Any]:
        """Return the parameters that name one line of rows, as the driver takes them."""
        parameters = {}
        for name, value in given.items():
            if value is None:
                raise InvalidRowError("must have a value", column=name)
            try:
                parameters[name] = kind.type_of(name).process_bind_param(value, self._engine.dialect)
            except InvalidRowError as error:
                raise InvalidRowError(error.reason, column=name) from error
        return parameters

    def _window(self, kind: Kind, start: Any, end: Any) -> dict[str, Any]:
        """Return the parameters that limit time, both of them inclusive, so that there is a last one for no limit."""
        assert kind.time is not None  # noqa: S101 - only bars have a window
        first, last, step = _DAYS if kind is DAILY else _INSTANTS
        if end is not None and end <= first:
            start, end = last, first + step  # nothing is before it
        bind, dialect = kind.type_of(kind.time).process_bind_param, self._engine.dialect
        until = last if end is None else end - step
        return {"start": bind(first if start is None else start, dialect), "until": bind(until, dialect)}

    def _ask(self, kind: Kind, parameters: Mapping[str, Any]) -> asyncio.Future[list[Any]]:
        """Return a future of one line's rows; what is asked in one turn of the event loop is asked together."""
        if not self._is_open:
            raise ConfigurationError("the reader is not open: use it by `async with`")
        rows: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[kind].append(Arm(parameters, rows))
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._call)
        return rows

    def _call(self) -> None:
        """Pay as many visits as the questions are worth."""
        self._is_called = False
        queries = sum(-(-len(arms) // _ARMS) for arms in self._waiting.values())
        for _ in range(min(queries, self._connections - len(self._visits))):
            visit = asyncio.create_task(self._visit())
            self._visits.add(visit)
            visit.add_done_callback(self._after_visit)

    def _after_visit(self, visit: asyncio.Task[None]) -> None:
        """Call again for what was asked while the visit was giving its connection back."""
        self._visits.discard(visit)
        self._call()

    async def _visit(self) -> None:
        """Ask on one connection until there are no more questions."""
        arms: list[Arm] = []
        try:
            async with self._engine.connect() as connection:
                while any(self._waiting.values()):
                    kind = max(self._waiting, key=lambda kind: len(self._waiting[kind]))
                    arms = self._take(kind)
                    await self._query(kind, len(arms)).answer(connection, arms)
                    if self._in_transactions:
                        await connection.rollback()  # its snapshot is older than the next questions
        except Exception as error:
            # A query that failed was only these callers'; without a connection nobody can be answered.
            for arm in arms or self._take_all():
                if not arm.rows.done():
                    arm.rows.set_exception(error)
        finally:
            for arm in arms:  # this task was cancelled
                arm.rows.cancel()

    def _take(self, kind: Kind) -> list[Arm]:
        """Return the next questions, as many as are worth one query."""
        waiting = self._waiting[kind]
        arms, rows = [waiting.popleft()], 0
        while waiting and len(arms) < _ARMS:
            rows += min(arms[-1].parameters["last"], _EXPECTED)
            if rows >= _ROWS:
                break
            arms.append(waiting.popleft())
        return arms

    def _take_all(self) -> list[Arm]:
        arms = [arm for waiting in self._waiting.values() for arm in waiting]
        for waiting in self._waiting.values():
            waiting.clear()
        return arms

    def _query(self, kind: Kind, arms: int) -> Query:
        size = 1 << (arms - 1).bit_length()  # few sizes, each of which is prepared once
        if (kind, size) not in self._queries:
            conversion = Conversion(kind, self._engine.dialect, exact_decimals=self._exact_decimals)
            self._queries[kind, size] = Query(kind, size, self._engine.dialect, conversion)
        return self._queries[kind, size]


def _by_time(kind: Kind, rows: list[Any], *, newest_first: bool) -> list[Any]:
    # They come in order, but no standard says that a part of a query keeps its own; sorting what is sorted is cheap.
    rows.sort(key=itemgetter(kind.row._fields.index(kind.time or "")), reverse=newest_first)
    return rows
