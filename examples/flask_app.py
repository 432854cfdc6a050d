"""A Flask application: synchronous views over the asynchronous data layer.

    python examples/flask_app.py --port 8000               # the database is the one that the environment names
    gunicorn --workers 2 'examples.flask_app:create_app()' # every worker process opens its own manager

The manager is made once, when the application is made, and closed once, when the process ends: never per request. It
lives on one event loop in a thread of its own, and every view hands its work to that loop. A connection belongs to the
event loop that made it, so a loop per request would break the pool.

Needs Flask and anyio: pip install 'traderrr-data[flask]'
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime as dt
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from flask import Flask, Response, jsonify, request
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import (
    DailyData,
    DatabaseManager,
    InvalidRowError,
    TraderrrDataError,
    close_db_manager,
    init_db_manager,
    market_data,
    portfolio,
)

logger = logging.getLogger("flask_app")

T = TypeVar("T")


class Database:
    """The data layer for synchronous code; any thread may use it."""

    def __init__(self, portal: BlockingPortal, manager: DatabaseManager) -> None:
        self._portal = portal
        self._manager = manager

    def read(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Return what `work` returns; everything that it reads is one snapshot."""
        return self._portal.call(self._read, work)

    def write(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Return what `work` returns, once it is committed; `work` may run again after a passing failure."""
        return self._portal.call(self._manager.run, work)

    def ping(self) -> None:
        """Return if the database answers."""
        self._portal.call(self._manager.ping)

    async def _read(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        async with self._manager.session_context(read_only=True) as session:
            return await work(session)


@contextlib.contextmanager
def open_database() -> Iterator[Database]:
    """Start the thread with the event loop and open the manager on it; close both at the end."""
    with start_blocking_portal() as portal:
        manager = portal.call(init_db_manager)
        logger.info("opened %s", manager.database_url)
        try:
            yield Database(portal, manager)
        finally:
            portal.call(close_db_manager)
            logger.info("closed the database")


def create_app() -> Flask:
    """Return the application with its database open; it is closed when the process ends."""
    until_exit = contextlib.ExitStack()
    database = until_exit.enter_context(open_database())
    atexit.register(until_exit.close)

    app = Flask(__name__)
    add_views(app, database)
    app.register_error_handler(TraderrrDataError, as_response)
    return app


def add_views(app: Flask, database: Database) -> None:
    """Add the views, which are ordinary synchronous functions."""

    @app.get("/health")
    def health() -> dict[str, str]:
        database.ping()
        return {"status": "ok"}

    @app.get("/bars/<ticker>")
    def bars(ticker: str) -> list[dict[str, Any]]:
        start = request.args.get("start", type=dt.date.fromisoformat)
        end = request.args.get("end", type=dt.date.fromisoformat)
        last = request.args.get("last", type=int)
        found = database.read(lambda s: market_data.list_daily(s, ticker, start=start, end=end, last=last))
        return [as_json(bar) for bar in found]

    @app.get("/portfolio")
    def value() -> dict[str, Any]:
        worth = database.read(portfolio.valuation)
        return {
            "positions": [{"ticker": p.ticker, "value": str(p.market_value)} for p in worth.positions],
            "totals": {currency or "unknown": str(total) for currency, total in worth.totals.items()},
            "unpriced": list(worth.unpriced),
        }

    @app.put("/positions/<ticker>")
    def set_position(ticker: str) -> dict[str, bool]:
        shares = request.get_json()["shares"]
        result = database.write(lambda session: portfolio.upsert_position(session, ticker, shares))
        return {"changed": result.written == 1}


def as_json(bar: DailyData) -> dict[str, Any]:
    """Return a bar for JSON; prices go as text, since JSON's readers make doubles of numbers."""
    prices = {name: str(getattr(bar, name)) for name in ("open", "high", "low", "close")}
    volume = None if bar.volume is None else str(bar.volume)
    return {"ticker": bar.ticker, "date": bar.date.isoformat(), **prices, "volume": volume}


def as_response(error: TraderrrDataError) -> tuple[Response, int]:
    """Answer a refused value with 400, and what may pass with 503; anything else is the program's fault."""
    status = 400 if isinstance(error, InvalidRowError) else 503 if error.retryable else 500
    if status >= 500:
        logger.error("%s: %s", type(error).__name__, error)
    return jsonify(error=str(error) if status == 400 else type(error).__name__), status


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve stored bars and the portfolio.")
    parser.add_argument("--port", type=int, default=8000)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is a Ctrl-C, too
    with contextlib.suppress(KeyboardInterrupt):
        create_app().run(port=parser.parse_args().port)


if __name__ == "__main__":
    main()
