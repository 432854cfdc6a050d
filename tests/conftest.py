"""The fixtures that every test may ask for; a test that asks for a database runs once on each wanted one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests import poolers, programs, servers
from tests.backends import Backend, MysqlBackend, PgbouncerBackend, PostgresqlBackend, SqliteBackend
from traderrr_data import DatabaseManager

_AnyServer = TypeVar("_AnyServer", bound=servers.Server)

KIND_OF_SERVER: Final = {"postgresql": "postgresql", "pgbouncer": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
"""The wanted databases that need a server; mysql and mariadb are two names, and URL schemes, for the same one."""

DATABASES: Final = ("sqlite", *KIND_OF_SERVER)
DEFAULT_DATABASES: Final = ("sqlite", "postgresql", "mysql")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that chooses the databases."""
    parser.addoption(
        "--database",
        action="append",
        choices=DATABASES,
        help=f"run the tests on this database; repeatable; without it on {', '.join(DEFAULT_DATABASES)}",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a database, itself or through a fixture, on each wanted one."""
    wanted = list(dict.fromkeys(metafunc.config.getoption("--database") or DEFAULT_DATABASES))
    if metafunc.definition.get_closest_marker("server"):
        wanted = [name for name in wanted if name in KIND_OF_SERVER]
    if metafunc.definition.get_closest_marker("pgbouncer"):
        wanted = ["pgbouncer"] if {"postgresql", "pgbouncer"} & set(wanted) else []
    if metafunc.definition.get_closest_marker("unpooled"):
        wanted = [name for name in wanted if name != "pgbouncer"]
    for fixture in ("backend", "other"):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, wanted, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave a test that has no database to the run that has SQLite, and one of servers to a run that has any."""
    marked = [item for item in items if any(map(item.get_closest_marker, ("server", "pgbouncer", "unpooled")))]
    without = [item for item in marked if not _has_database(item)]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]
    if "sqlite" in (config.getoption("--database") or DEFAULT_DATABASES):
        return
    alike = [item for item in items if "backend" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=alike)
    items[:] = [item for item in items if item not in alike]


def _has_database(item: pytest.Item) -> bool:
    return hasattr(item, "callspec") and isinstance(item.callspec.params.get("backend"), str)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail the run before its first test if a wanted database cannot be had."""
    wanted = {item.callspec.params.get("backend") for item in session.items if hasattr(item, "callspec")}
    if session.config.option.collectonly:
        return
    kinds = {KIND_OF_SERVER[name] for name in wanted if name in KIND_OF_SERVER} | (wanted & {"pgbouncer"})
    for kind in sorted(kinds):
        try:
            programs.provide(kind)
        except programs.ProgramMissingError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[servers.PostgresqlServer]:
    """The PostgreSQL server of this run, started when the first test needs it."""
    yield from _running(servers.postgresql())


@pytest.fixture(scope="session")
def pgbouncer(postgresql_server: servers.PostgresqlServer) -> Iterator[poolers.Pgbouncer]:
    """The pooler before that server, started when the first test needs it."""
    yield from _running(poolers.pgbouncer(postgresql_server))


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[servers.MysqlServer]:
    """The MySQL or MariaDB server of this run, started when the first test needs it."""
    yield from _running(servers.mysql())


def _running(server: contextlib.AbstractContextManager[_AnyServer]) -> Iterator[_AnyServer]:
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(server)
        except servers.ServerError as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.TESTS_FAILED)
        yield running


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The database that the test runs on."""
    yield from _backend(request.param, request, tmp_path_factory)


@pytest.fixture(scope="session")
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The second database of a test that has two: it runs on every pair of the wanted ones."""
    yield from _backend(request.param, request, tmp_path_factory)


@pytest.fixture(scope="session")
def every_backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[Backend]]:
    """All wanted databases, for a test that goes through them one after the other."""
    wanted = dict.fromkeys(request.config.getoption("--database") or DEFAULT_DATABASES)
    with contextlib.ExitStack() as stack:
        open_one = contextlib.contextmanager(_backend)
        yield [stack.enter_context(open_one(name, request, tmp_path_factory)) for name in wanted]


def _backend(name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    if name == "sqlite":
        yield SqliteBackend(tmp_path_factory.mktemp("sqlite"))
        return
    server = request.getfixturevalue(f"{KIND_OF_SERVER[name]}_server")
    on_server: PostgresqlBackend | MysqlBackend
    if name == "pgbouncer":
        on_server = PgbouncerBackend(server, request.getfixturevalue("pgbouncer"))
    else:
        on_server = PostgresqlBackend(server) if name == "postgresql" else MysqlBackend(name, server)
    with contextlib.closing(on_server):
        yield on_server


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the settings of whoever runs the tests away: their variables, and a .env file where they stand."""
    for name in list(os.environ):
        if name.upper().startswith(("DATABASE_", "DB_")) or name.upper() == "SQL_ECHO":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def empty_url(backend: Backend) -> Iterator[str]:
    """The URL of a new, empty database; SQLite's file does not exist yet."""
    url = backend.create_database()
    yield url
    backend.drop_database(url)


@pytest.fixture
def other_url(other: Backend) -> Iterator[str]:
    """The URL of a new, empty database of the second kind."""
    url = other.create_database()
    yield url
    other.drop_database(url)


@pytest.fixture
def database_url(backend: Backend) -> Iterator[str]:
    """The URL of a database at head without rows. A test that changes tables starts from `empty_url` instead."""
    with backend.migrated_database(_migrate) as url:
        yield url


def _migrate(url: str) -> None:
    async def bring_to_head() -> None:
        async with DatabaseManager(url) as db:
            await db.init_db()

    # In a thread of its own, since it would take the place of the event loop that this thread has for the test.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, bring_to_head()).result()


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[DatabaseManager]:
    """A manager of a database at head without rows; the test has to give every connection back."""
    async with DatabaseManager(database_url) as manager:
        yield manager
        checked_out = getattr(manager.engine.pool, "checkedout", None)  # not every kind of pool counts
        assert checked_out is None or checked_out() == 0, "the test left a connection checked out"


@pytest.fixture
async def session(db: DatabaseManager) -> AsyncIterator[AsyncSession]:
    """A session on a database at head without rows; it commits after the test."""
    async with db.session_context() as open_session:
        yield open_session
