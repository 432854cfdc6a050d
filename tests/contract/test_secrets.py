"""A secret, planted wherever one can be, is in nothing that anybody sees."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from tests.backends import Backend
from tests.contract.test_engine import LOGINS
from tests.project import ROOT, Project
from traderrr_data import ConfigurationError, DatabaseManager, Metadata, Settings, TraderrrDataError, init_db_manager
from traderrr_data.url import masked

SECRET: Final = "S3cret-Pa55word"  # noqa: S105 - what the tests look for
HERE: Final = Project(ROOT)

SERVERS: Final = ("postgresql", "mysql", "mariadb")
IN_URL: Final = {
    "before the host": "{scheme}://u:{secret}@{host}/n",
    "in the query": "{scheme}://u@{host}/n?password={secret}",
    "in the query, by another name": "{scheme}://u@{host}/n?passwd={secret}",
    "of the key": "{scheme}://u:x@{host}/n?sslmode=require&sslpassword={secret}",
    "everywhere": "{scheme}://u:{secret}@{host}/n?password={secret}&sslmode=require&sslpassword={secret}",
}

MISTAKES: Final = {
    "an @ in the password": ("DATABASE_URL", "postgresql://u:first@{secret}@h/n"),
    "an @ and a /": ("DATABASE_URL", "postgresql://u:first@x/{secret}@h/n"),
    "an @ and a ?": ("DATABASE_URL", "postgresql://u:first@x?{secret}@h/n"),
    "an @ and a :": ("DATABASE_URL", "mysql://u:first@x:{secret}@h/n"),
    "no scheme": ("DATABASE_URL", "u:{secret}@h/n"),
    "no slashes": ("DATABASE_URL", "postgresql:u:{secret}@h/n"),
    "the password alone": ("DATABASE_URL", "{secret}"),
    "a port that is none": ("DATABASE_URL", "postgresql://u:x@h:{secret}/n"),
    "the name of the variable in front": ("DATABASE_URL", "DATABASE_URL=postgresql://u:{secret}@h/n"),
    "another database": ("DATABASE_URL", "oracle://u:{secret}@h/n"),
    "another driver": ("DATABASE_URL", "postgresql+nosuch://u:{secret}@h/n"),
    "a driver that is not asynchronous": ("DATABASE_URL", "mysql+pymysql://u:{secret}@h/n"),
    "an unknown parameter": ("DATABASE_URL", "postgresql://u:{secret}@h/n?pasword={secret}"),
    "said twice": ("DATABASE_URL", "postgresql://u@h/n?password={secret}&password={secret}"),
    "a file of a key that is not there": (
        "DATABASE_URL",
        "mysql://u@h/n?sslmode=require&sslcert=x&sslpassword={secret}",
    ),
    "a URL for the path": ("DATABASE_PATH", "postgresql://u:{secret}@h/n"),
    "a URL for the host": ("DB_HOST", "postgresql://u:{secret}@h/n"),
    "a login before the host": ("DB_HOST", "u:{secret}@h"),
    "a URL for the name": ("DB_NAME", "postgresql://u:{secret}@h/n"),
    "a URL for the user": ("DB_USER", "postgresql://u:{secret}@h/n"),
    "a URL for the type": ("DATABASE_TYPE", "postgresql://u:{secret}@h/n"),
    "a URL for the schema": ("DB_SCHEMA", "postgresql://u:{secret}@h/n"),
    "a password for the port": ("DB_PORT", "{secret}"),
    "a password for a time-out": ("DB_CONNECT_TIMEOUT", "{secret}"),
    "a password for the mode of TLS": ("DB_SSL", "{secret}"),
}


COMMANDS: Final = """
import json, os, sys
from traderrr_data.cli import main
for variables, arguments in json.load(sys.stdin):
    os.environ.update(variables)
    print("exit code", main(arguments), flush=True)
    for name in variables:
        del os.environ[name]
"""
"""A program that runs command lines, each with some variables, one after the other."""


def said_by_commands(*lines: tuple[Mapping[str, str], Sequence[str]]) -> tuple[str, list[int]]:
    """Return what command lines print in the working directory, and their exit codes."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        env=HERE.environment(),
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout + done.stderr, [int(code) for code in re.findall(r"exit code (\d+)", done.stdout)]


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Listen to every logger, those of the drivers as well."""
    names = (
        "sqlalchemy",
        "asyncpg",
        "aiomysql",
        "aiosqlite",
        "asyncio",
        "alembic",
        "traderrr_data",
        "pydantic_settings",
    )
    for name in (None, *names):
        caplog.set_level(logging.DEBUG, logger=name)
    yield
    assert SECRET not in caplog.text


def shown(error: BaseException) -> str:
    """Return all that an error and those behind it say, also those that are not printed."""
    texts = traceback.format_exception(error)
    link: BaseException | None = error
    while link is not None:
        texts += [str(link), repr(link), repr(link.args), pprint.pformat(getattr(link, "__notes__", None))]
        link = link.__cause__ or link.__context__
    return "\n".join(texts)


def dumped(settings: Settings) -> str:
    """Return every dump of settings, except what asks for the secret by name."""
    texts = [repr(settings), str(settings), pprint.pformat(settings), f"{settings!s}", repr(vars(settings))]
    texts += [str(settings.model_dump()), str(settings.model_dump(mode="json")), settings.model_dump_json()]
    texts += [str(dict(settings)), repr(copy.copy(settings)), repr(copy.deepcopy(settings)), repr(settings.url)]
    texts += [str(settings.url), masked(settings.url), json.dumps(settings.model_dump(mode="json"))]
    texts += [str(settings.model_copy(update={"db_pool_size": 2})), str(Settings.model_json_schema())]
    return "\n".join(texts)


def seen_in(db: DatabaseManager) -> str:
    """Return what a manager and what it is made of look like."""
    parts: list[Any] = [db, db.engine, db.engine.sync_engine, db.engine.url, db.engine.pool, db.engine.dialect]
    parts += [vars(db), db.get_session(), db.engine.sync_engine.get_execution_options(), db.engine.pool.status()]
    return "\n".join([db.database_url, *map(str, parts), *map(repr, parts)])


@pytest.mark.parametrize("scheme", SERVERS)
@pytest.mark.parametrize("template", IN_URL.values(), ids=IN_URL)
async def test_a_secret_of_a_url_is_in_no_repr_dump_or_error(scheme: str, template: str) -> None:
    url = template.format(scheme=scheme, secret=SECRET, host="127.0.0.1:1")
    for source in (url, sa.make_url(url), Settings(database_url=url)):
        async with DatabaseManager(source) as db:
            assert SECRET in "".join(
                value.get_secret_value()
                for value in (db.settings.database_url, db.settings.db_ssl_key_password)
                if value is not None
            )
            texts = [seen_in(db), dumped(db.settings), repr(await db.get_database_info())]
            for attempt in (db.ping(), db.init_db(), init_db_manager(source)):
                with pytest.raises(TraderrrDataError) as caught:
                    await attempt
                texts.append(shown(caught.value))
            assert SECRET not in "\n".join(texts)


@pytest.mark.parametrize("scheme", SERVERS)
async def test_a_secret_of_a_variable_or_a_file_is_in_no_repr_dump_or_error(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    variables = {"DATABASE_TYPE": scheme, "DB_HOST": "127.0.0.1", "DB_PORT": "1", "DB_SSL": "require"}
    secrets = {"DB_PASSWORD": SECRET, "DB_SSL_KEY_PASSWORD": SECRET}
    Path(".env").write_text("\n".join(f"{name}={value}" for name, value in secrets.items()))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    from_file = Settings()
    Path(".env").unlink()
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    for settings in (from_file, Settings()):
        assert settings.url.password == SECRET
        async with DatabaseManager(settings) as db:
            with pytest.raises(TraderrrDataError) as caught:
                await db.ping()
            assert SECRET not in "\n".join([seen_in(db), dumped(settings), shown(caught.value)])


@pytest.mark.parametrize(("variable", "template"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("from_file", [False, True], ids=["environment", "file"])
async def test_a_mistake_is_told_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, template: str, from_file: bool, tmp_path: Path
) -> None:
    value = template.format(secret=SECRET)
    variables = {variable: value, **({} if variable.startswith("DATABASE_") else {"DATABASE_TYPE": "postgresql"})}
    if from_file:
        Path(".env").write_text("".join(f"{name}='{text}'\n" for name, text in variables.items()))
    else:
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError) as caught:
        DatabaseManager()
    assert SECRET not in shown(caught.value)
    assert not [path for path in tmp_path.rglob("*") if SECRET in path.name]


def test_a_mistake_is_told_by_the_command_without_the_secret(tmp_path: Path) -> None:
    lines = []
    for variable, template in MISTAKES.values():
        variables = {"DATABASE_TYPE": "postgresql", variable: template.format(secret=SECRET)}
        lines += [(variables, [*options, "info"]) for options in ((), ("--debug",), ("--json",))]
    said, codes = said_by_commands(*lines)
    assert codes == [1] * len(lines)
    assert SECRET not in said
    assert not [path for path in tmp_path.rglob("*") if SECRET in path.name]


@pytest.mark.parametrize("content", [f"DB_PASSWORD={SECRET}\xff", f"DB_PASSWORD='{SECRET}\nDB_PORT=x"])
def test_a_file_of_settings_that_cannot_be_read_is_told_without_the_secret(content: str) -> None:
    Path(".env").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert SECRET not in shown(caught.value)


def test_settings_are_no_pickle() -> None:
    with pytest.raises(TypeError, match="passwords"):
        pickle.dumps(Settings(db_password=SECRET))


def test_a_url_said_in_the_wrong_place_is_not_repeated_with_its_secret() -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1:1/n?password={SECRET}"
    file = ("--database-url", "sqlite:///x.db")
    commands: list[Sequence[str]] = [
        *(
            (url, "info"),
            (f"--databse-url={url}", "info"),
            ("--database-url", url, "upgrade", url),
            (*file, "show", url),
        ),
        *(
            (*file, "export", "-o", url),
            (*file, "ingest", url),
            (*file, "upgrade", url),
            (*file, "diff", "--since", url),
        ),
        *(("--database-url", url, command) for command in ("info", "check", "upgrade", "quickstart", "current")),
    ]
    options: list[Sequence[str]] = [(), ("--debug",), ("--json",)]
    said, codes = said_by_commands(*(({"SQL_ECHO": "true"}, [*o, *command]) for o in options for command in commands))
    assert len(codes) == len(options) * len(commands)
    assert set(codes) == {1, 2}
    assert SECRET not in said


@pytest.fixture
def secret_url(backend: Backend, empty_url: str) -> Iterator[str]:
    """The URL of an empty database and of a user whose password is the secret; without users, it is the file's."""
    url = sa.make_url(empty_url)
    if backend.server is None:
        yield empty_url
        return
    names = {"user": "keeper", "password": SECRET, "database": str(url.database)}
    create, admit, drop = (part.format(**names) for part in LOGINS[backend.name])
    backend.server.run_sql(create)
    try:
        backend.run_sql(empty_url, admit)
        yield url.set(username="keeper", password=SECRET).render_as_string(hide_password=False)
    finally:
        backend.run_sql(empty_url, drop)


async def test_a_secret_is_shown_by_nothing_that_goes_well(secret_url: str) -> None:
    settings = Settings(database_url=secret_url, db_ssl_key_password=SECRET, sql_echo=True)
    async with DatabaseManager(settings) as db:
        await db.init_db()
        async with db.session_context() as session:
            session.add(Metadata(ticker="AAPL"))
        texts = [seen_in(db), dumped(settings), repr(await db.get_database_info())]
        with pytest.raises(TraderrrDataError) as caught:
            async with db.session_context() as session:
                session.add(Metadata(ticker="AAPL"))
        texts.append(shown(caught.value))
        async with db.session_context() as session:
            connection = await session.connection()
            raw = await connection.get_raw_connection()
            driver = raw.driver_connection
            texts += map(repr, (session, connection, connection.sync_connection, raw, driver, connection.info))
    assert SECRET not in "\n".join(texts)


def test_no_command_shows_the_secret(secret_url: str) -> None:
    variables = {"DATABASE_URL": secret_url, "SQL_ECHO": "true", "DB_SSL_KEY_PASSWORD": SECRET}
    commands = [(name,) for name in ("upgrade", "info", "check", "current", "sql", "quickstart")] + [
        ("upgrade", "nosuch")
    ]
    said, codes = said_by_commands(*((variables, ["--debug", *command]) for command in commands))
    assert codes == [0] * 6 + [1]
    for words in (
        ("upgrade", "head"),
        ("current", "-v"),
        ("check",),
        ("upgrade", "head", "--sql"),
        ("upgrade", "nosuch"),
    ):
        done = HERE.run("-m", "alembic", *words, **variables)
        assert (done.returncode == 0) is (words[-1] != "nosuch"), done.stderr
        said += done.stdout + done.stderr
    assert SECRET not in said


@pytest.mark.server
def test_no_command_shows_a_secret_that_is_refused(secret_url: str) -> None:
    wrong = sa.make_url(secret_url).set(password=f"{SECRET}-wrong").render_as_string(hide_password=False)
    said, codes = said_by_commands(
        *(({"DATABASE_URL": wrong, "SQL_ECHO": "1"}, [*o, "upgrade"]) for o in ((), ("--debug",), ("--json",)))
    )
    assert codes == [1] * 3
    done = HERE.run("-m", "alembic", "upgrade", "head", DATABASE_URL=wrong)
    assert done.returncode == 1
    assert SECRET not in said + done.stdout + done.stderr
