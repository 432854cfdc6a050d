"""Other packages: pandas, advanced-alchemy, connectorx and ADBC; one that is not installed is left out."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.data import DECIMALS, STORED, Given, as_rows
from benchmarks.databases import file_of
from benchmarks.opponents.sqlalchemy import Bar, connected
from benchmarks.race import Act, Contestant, LeftOut

_SELECT: Final = f"SELECT {', '.join(STORED)} FROM daily_data WHERE series = ''"
_DRIVERS: Final = {"sqlite": (), "postgresql": ("psycopg",), "mysql": ("pymysql",)}
"""What pandas connects with."""
_SECOND_LIBRARY: Final = "it would load a second SQLite library on a file that this process has had open"


@contextlib.contextmanager
def _plain(url: str) -> Iterator[Any]:
    """Give what pandas is usually given: a connection of sqlite3, or of SQLAlchemy with a synchronous driver."""
    where = make_url(url)
    if where.get_backend_name() == "sqlite":
        with contextlib.closing(sqlite3.connect(file_of(url))) as connection:
            yield connection
        return
    driver = "postgresql+psycopg" if where.get_backend_name() == "postgresql" else "mysql+pymysql"
    engine = sa.create_engine(where.set(drivername=driver))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextlib.asynccontextmanager
async def _to_sql(url: str) -> AsyncIterator[Act]:
    """New rows by to_sql, with the types that keep their decimals; sqlite3 takes doubles, and dates as text."""
    import pandas as pd

    types = dict.fromkeys((*DECIMALS, "volume"), sa.Numeric(24, 10)) | {"ticker": sa.String(64), "date": sa.Date()}
    forms = dict.fromkeys(DECIMALS, float) | {"date": str}
    with _plain(url) as connection:

        async def act(given: Given) -> None:
            frame = given.to_pandas() if isinstance(given, pa.Table) else pd.DataFrame(given)
            if isinstance(connection, sqlite3.Connection):
                frame.astype(forms).to_sql("daily_data", connection, if_exists="append", index=False)
            else:
                frame.to_sql("daily_data", connection, if_exists="append", index=False, dtype=types)
            connection.commit()

        yield act


@contextlib.asynccontextmanager
async def _read_sql(url: str) -> AsyncIterator[Act]:
    import pandas as pd

    with _plain(url) as connection:

        async def act(tickers: Sequence[str | None]) -> list[Any]:
            return [pd.read_sql(_query(ticker), connection) for ticker in tickers]

        yield act


@contextlib.asynccontextmanager
async def _upsert_many(url: str) -> AsyncIterator[Act]:
    from advanced_alchemy.repository import SQLAlchemyAsyncRepository

    class Bars(SQLAlchemyAsyncRepository[Bar]):
        model_type = Bar

    async with connected(url) as engine:

        async def act(given: Given) -> None:
            async with AsyncSession(engine) as session, session.begin():
                bars = [Bar(**row, series="") for row in as_rows(given)]
                await Bars(session=session).upsert_many(bars, match_fields=["ticker", "series", "date"])

        yield act


@contextlib.asynccontextmanager
async def _connectorx(url: str) -> AsyncIterator[Act]:
    """It connects inside of the clock, for every query: it takes nothing but a URL."""
    import connectorx

    where = make_url(url)
    plain = where.set(drivername=where.get_backend_name().replace("mariadb", "mysql")).render_as_string(
        hide_password=False
    )

    async def act(tickers: Sequence[str | None]) -> list[Any]:
        return [connectorx.read_sql(plain, _query(ticker), return_type="arrow") for ticker in tickers]

    yield act


@contextlib.asynccontextmanager
async def _adbc(url: str) -> AsyncIterator[Act]:
    """PostgreSQL's decimals arrive as text; they are cast, since exact numbers are what is wanted."""
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)) as connection:

        async def act(tickers: Sequence[str | None]) -> list[Any]:
            read = []
            for ticker in tickers:
                with connection.cursor() as cursor:
                    cursor.execute(_query(ticker))
                    read.append(_as_decimals(cursor.fetch_arrow_table()))
            return read

        yield act


def _as_decimals(table: pa.Table) -> pa.Table:
    for name in (*DECIMALS, "volume"):
        column = table[name]
        text = pa.chunked_array([getattr(chunk, "storage", chunk) for chunk in column.chunks], pa.string())
        table = table.set_column(table.column_names.index(name), name, text.cast(pa.decimal128(24, 10)))
    return table


def _query(ticker: str | None) -> str:
    where = "" if ticker is None else f" AND ticker = {ticker!r}"
    return f"{_SELECT}{where} ORDER BY ticker, date"


def _if_installed(contestant: Contestant, *packages: str) -> Contestant | LeftOut:
    # Imported, not only found: one that is there and does not load is no opponent either.
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            return LeftOut(contestant.name, f"{package} is not installed ({error})")
    return contestant


def upserts() -> list[Contestant | LeftOut]:
    """Return who can upsert."""
    upsert_many = Contestant("advanced-alchemy upsert_many", "peer", _upsert_many, most_rows=10_000)
    return [_if_installed(upsert_many, "advanced_alchemy")]


def loads(kind: str) -> list[Contestant | LeftOut]:
    """Return who can add new rows only to a kind of database."""
    to_sql = Contestant("pandas to_sql", "pandas", _to_sql, most_rows=10_000)
    return [_if_installed(to_sql, "pandas", *_DRIVERS[kind])]


def reads(kind: str) -> list[Contestant | LeftOut]:
    """Return who can read from a kind of database."""
    read_sql = Contestant("pandas read_sql", "pandas", _read_sql, most_rows=100_000)
    pandas = _if_installed(read_sql, "pandas", *_DRIVERS[kind])
    if kind == "sqlite":
        return [pandas, LeftOut("connectorx, ADBC", _SECOND_LIBRARY)]
    connectorx = _if_installed(Contestant("connectorx", "connectorx", _connectorx), "connectorx")
    if kind == "mysql":
        return [pandas, connectorx, LeftOut("ADBC", "it has no driver for this database")]
    return [
        pandas,
        connectorx,
        _if_installed(Contestant("ADBC, decimals cast", "adbc", _adbc), "adbc_driver_postgresql"),
    ]
