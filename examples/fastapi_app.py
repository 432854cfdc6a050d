"""A FastAPI application: one manager for its lifetime, and a session for each request.

    uvicorn examples.fastapi_app:app --port 8000           # the database is the one that the environment names

`Reading` gives a request one snapshot of the database, which refuses writes. `Writing` gives it a transaction that is
committed before the response is sent, or rolled back if the request fails.

Needs FastAPI and uvicorn: pip install 'traderrr-data[fastapi]'
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Annotated, TypedDict

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession

from traderrr_data import DatabaseManager, InvalidRowError, TraderrrDataError, market_data, portfolio

logger = logging.getLogger("uvicorn.error")


class State(TypedDict):
    """What lives as long as the application."""

    db: DatabaseManager


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
    """Open the database when the application starts, close it when it ends."""
    async with DatabaseManager() as db:
        await db.init_db()
        logger.info("opened %s", db.database_url)
        yield {"db": db}
    logger.info("closed the database")


async def reading(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a session that only reads."""
    db: DatabaseManager = request.state.db
    async with db.session_context(read_only=True) as session:
        yield session


async def writing(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a session that is committed when the function has returned, and rolled back when it has raised."""
    db: DatabaseManager = request.state.db
    async with db.session_context() as session:
        yield session


# With FastAPI's default scope, "request", the session would end after the response: a client would be told that its
# data is stored although the commit fails.
Reading = Annotated[AsyncSession, Depends(reading, scope="function")]
Writing = Annotated[AsyncSession, Depends(writing, scope="function")]


class Bar(BaseModel):
    """A daily bar; decimals are text in JSON, since JSON's readers make doubles of numbers."""

    model_config = ConfigDict(from_attributes=True)

    ticker: str
    date: dt.date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal | None = None


class Stored(BaseModel):
    """What became of the rows that a request sent."""

    inserted: int
    updated: int
    unchanged: int


app = FastAPI(title="traderrr_data", lifespan=lifespan)


@app.get("/bars/{ticker}", response_model=list[Bar])
async def list_bars(
    session: Reading,
    ticker: str,
    start: dt.date | None = None,
    end: dt.date | None = None,
    last: Annotated[int | None, Query(ge=0)] = None,
) -> object:
    """Return one ticker's daily bars, oldest first, from `start` up to the day before `end`."""
    return await market_data.list_daily(session, ticker, start=start, end=end, last=last)


@app.post("/bars")
async def store_bars(session: Writing, bars: list[Bar]) -> Stored:
    """Store daily bars; sent again, they change nothing."""
    result = await market_data.upsert_daily(session, [bar.model_dump(exclude_unset=True) for bar in bars])
    return Stored(inserted=result.inserted, updated=result.updated, unchanged=result.unchanged)


@app.put("/positions/{ticker}")
async def set_position(session: Writing, ticker: str, shares: Decimal) -> Stored:
    """Set how many shares are held."""
    result = await portfolio.upsert_position(session, ticker, shares)
    return Stored(inserted=result.inserted, updated=result.updated, unchanged=result.unchanged)


@app.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Tell whether the database answers."""
    db: DatabaseManager = request.state.db
    await db.ping()
    return {"status": "ok"}


@app.exception_handler(TraderrrDataError)
async def as_response(_request: Request, error: TraderrrDataError) -> JSONResponse:
    """Answer a refused value with 422, and what may pass with 503; anything else is the program's fault."""
    if isinstance(error, InvalidRowError):
        return JSONResponse({"detail": error.reason, "row": error.row, "column": error.column}, 422)
    logger.error("%s: %s", type(error).__name__, error)
    return JSONResponse({"detail": type(error).__name__}, 503 if error.retryable else 500)
