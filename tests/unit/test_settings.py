"""Settings read every variable, say which one is wrong, and show no secret."""

from __future__ import annotations

import logging
import re
import ssl
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from tests import hostile
from traderrr_data import ConfigurationError, DatabaseManager, Settings
from traderrr_data.dialects import Tls
from traderrr_data.engine import create_engine
from traderrr_data.url import masked

SECRET = "S3cret-Pa55word"  # noqa: S105 - what the tests look for
EXAMPLE = Path(__file__).parents[2] / ".env.example"

WRONG_VALUES = {
    "DATABASE_TYPE": "oracle",
    "DB_PORT": "54x32",
    "DB_SCHEMA": 'bad"name',
    "DB_POOL_SIZE": "0",
    "DB_MAX_OVERFLOW": "-7",
    "DB_POOL_RECYCLE": "-77",
    "DB_POOL_TIMEOUT": "soonish",
    "DB_CONNECT_TIMEOUT": "0.0",
    "DB_STATEMENT_TIMEOUT": "-3.5",
    "DB_SSL": "sometimes",
    "DB_SQLITE_JOURNAL": "memoryless",
    "DB_REVISIONS_DAILY": "perhaps",
    "DB_REVISIONS_INTRADAY": "perhaps",
    "DB_LOCK_TIMEOUT": "-1.5",
    "DB_DDL_TIMEOUT": "0.000",
    "DB_MIGRATION_LOCK": "perhaps",
    "DB_TRANSACTION_POOLING": "perhaps",
    "SQL_ECHO": "perhaps",
}


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_every_variable_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = read(
        monkeypatch,
        DATABASE_TYPE="PostgreSQL",
        DATABASE_PATH="elsewhere.db",
        DB_USER="trader",
        DB_PASSWORD=SECRET,
        DB_HOST="db.example.com",
        DB_PORT="6543",
        DB_NAME="bars",
        DB_SCHEMA="market",
        DB_POOL_SIZE="3",
        DB_MAX_OVERFLOW="0",
        DB_POOL_RECYCLE="-1",
        DB_POOL_TIMEOUT="1.5",
        DB_CONNECT_TIMEOUT="2.5",
        DB_STATEMENT_TIMEOUT="3.5",
        DB_SSL="Verify-Full",
        DB_SSL_CA=str(tmp_path / "ca.pem"),
        DB_SSL_CERT=str(tmp_path / "cert.pem"),
        DB_SSL_KEY=str(tmp_path / "key.pem"),
        DB_SSL_KEY_PASSWORD=SECRET,
        DB_SQLITE_JOURNAL="DELETE",
        DB_REVISIONS_INTRADAY="false",
        DB_TRANSACTION_POOLING="true",
        DB_LOCK_TIMEOUT="4.5",
        DB_DDL_TIMEOUT="5.5",
        DB_MIGRATION_LOCK="off",
        SQL_ECHO="true",
    )
    wanted = sa.URL.create("postgresql+asyncpg", "trader", SECRET, "db.example.com", 6543, "bars")
    assert settings.url == wanted
    assert (settings.database_path, settings.db_schema) == ("elsewhere.db", "market")
    assert (settings.db_pool_size, settings.db_max_overflow, settings.db_pool_recycle) == (3, 0, -1)
    timeouts = (settings.db_pool_timeout, settings.db_connect_timeout, settings.db_statement_timeout)
    assert timeouts == (1.5, 2.5, 3.5)
    assert (settings.db_lock_timeout, settings.db_ddl_timeout, settings.db_migration_lock) == (4.5, 5.5, False)
    assert (settings.db_ssl, settings.db_ssl_ca) == ("verify-full", tmp_path / "ca.pem")
    assert settings.db_ssl_key_password == SecretStr(SECRET)
    assert (settings.db_ssl_cert, settings.db_ssl_key) == (tmp_path / "cert.pem", tmp_path / "key.pem")
    assert settings.db_transaction_pooling
    assert (settings.db_sqlite_journal, settings.sql_echo) == ("delete", True)
    assert settings.tables_without_revisions == ("intraday_data",)
    assert {name.upper() for name in Settings.model_fields} - set(WRONG_VALUES) == {
        "DATABASE_URL",
        "DATABASE_PATH",
        "DB_USER",
        "DB_PASSWORD",
        "DB_HOST",
        "DB_NAME",
        "DB_SSL_CA",
        "DB_SSL_CERT",
        "DB_SSL_KEY",
        "DB_SSL_KEY_PASSWORD",
    }


def test_without_variables_it_is_a_file_below_the_working_directory(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.url == sa.URL.create("sqlite+aiosqlite", database=str(tmp_path / "data/market_data.db"))
    assert (settings.db_pool_size, settings.db_max_overflow, settings.db_pool_recycle) == (5, 10, 3600)
    assert settings.db_password is None
    assert not settings.sql_echo


@pytest.mark.parametrize(
    ("database_type", "scheme", "user", "port"),
    [
        ("postgresql", "postgresql+asyncpg", "postgres", 5432),
        ("mysql", "mysql+aiomysql", "root", 3306),
        ("mariadb", "mariadb+aiomysql", "root", 3306),
    ],
)
def test_user_and_port_have_the_defaults_of_their_server(
    monkeypatch: pytest.MonkeyPatch, database_type: str, scheme: str, user: str, port: int
) -> None:
    url = read(monkeypatch, DATABASE_TYPE=database_type).url
    assert url == sa.URL.create(scheme, user, None, "localhost", port, "traderrr")


def test_a_dot_env_file_is_read_and_the_environment_wins_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("DB_NAME=from_the_file\nDB_HOST=file.example.com\nDATABASE_TYPE=mysql\n", encoding="utf-8")
    monkeypatch.setenv("DB_HOST", "environment.example.com")
    url = Settings().url
    assert (url.database, url.host) == ("from_the_file", "environment.example.com")


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, DATABASE_URL="", DB_PORT="", DB_STATEMENT_TIMEOUT="", DATABASE_TYPE="postgresql")
    assert (settings.url.port, settings.db_statement_timeout) == (5432, None)


def test_the_url_wins_over_the_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch,
        DATABASE_URL="postgresql://a:b@c:1/d",
        DATABASE_TYPE="mysql",
        DB_USER="other",
        DB_HOST="other",
        DB_NAME="other",
    )
    assert settings.url == sa.URL.create("postgresql+asyncpg", "a", "b", "c", 1, "d")


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://a:b@c:1/d")
    assert Settings.of("mysql://u@h/n").url == sa.URL.create("mysql+aiomysql", "u", None, "h", None, "n")
    assert Settings(db_pool_size=2).db_pool_size == 2


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES.items())
def test_a_wrong_value_names_its_variable_and_never_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    shown = "".join(traceback.format_exception(caught.value))
    assert f"{name}: " in str(caught.value)
    assert not re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", shown)


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WRONG_VALUES.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert re.findall(r"(?:^|; )([A-Z_]+): ", str(caught.value)) == [
        name.upper() for name in Settings.model_fields if name.upper() in WRONG_VALUES
    ]


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("postgresql://h/n", "postgresql+asyncpg"),
        ("postgres://h/n", "postgresql+asyncpg"),
        ("mysql://h/n", "mysql+aiomysql"),
        ("mariadb://h/n", "mariadb+aiomysql"),
        ("postgres+asyncpg://h/n", "postgresql+asyncpg"),
        ("mysql+asyncmy://h/n", "mysql+asyncmy"),
        ("postgresql+psycopg://h/n", "postgresql+psycopg"),
    ],
)
def test_the_scheme_picks_the_driver_and_a_named_one_stays(given: str, scheme: str) -> None:
    assert Settings.of(given).url.drivername == scheme


@pytest.mark.parametrize("url", ["oracle://h/n", "postgresl://h/n", "http://h/n"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite, postgresql, postgres, mysql, mariadb"):
        create_engine(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+nosuchdriver://h/n", "is not known"),
        ("mysql+asyncmy://h/n", "pip install asyncmy"),
        ("sqlite+pysqlite:///x.db", "not asynchronous: leave the driver out"),
    ],
)
def test_a_driver_that_is_missing_or_not_asynchronous_is_refused_with_what_to_do(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        create_engine(url)


@pytest.mark.parametrize("text", [f"postgresql:u:{SECRET}@h", f"postgresql://u:{SECRET}@h:{SECRET}/n", SECRET])
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        create_engine(text)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_unescaped_at_sign_in_a_password_is_refused_instead_of_becoming_the_hosts_name() -> None:
    with pytest.raises(ConfigurationError, match="%40") as caught:
        create_engine(f"postgresql://u:first@{SECRET}@h/n")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("database_type", ["postgresql", "mysql", "mariadb"])
def test_a_password_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, database_type: str) -> None:
    password = "p@ss:w/o?r%41d#+ä "  # noqa: S105 - what the test is about
    url = read(monkeypatch, DATABASE_TYPE=database_type, DB_PASSWORD=password).url
    assert (url.password, url.host) == (password, "localhost")
    again = Settings.of(url).url
    assert (again.password, again.host) == (password, "localhost")


@pytest.mark.parametrize("database_type", ["postgresql", "mysql", "mariadb"])
def test_the_password_is_neither_in_a_repr_nor_in_the_url_that_is_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, database_type: str
) -> None:
    caplog.set_level(logging.DEBUG)
    from_parts = read(monkeypatch, DATABASE_TYPE=database_type, DB_PASSWORD=SECRET)
    everywhere = f"{database_type}://u:{SECRET}@h/n?password={SECRET}&passwd={SECRET}"
    for settings in (from_parts, Settings.of(everywhere), Settings.of(sa.make_url(everywhere))):
        manager = DatabaseManager(settings)
        shown = [repr(settings), str(settings), repr(manager), str(manager), manager.database_url]
        shown += [repr(manager.engine), str(manager.engine.url), repr(manager.engine.url), str(settings.model_dump())]
        assert SECRET not in "\n".join(shown)
        assert manager.engine.url.password == SECRET
    assert SECRET not in caplog.text


def test_the_masked_url_shows_no_secret_of_the_query_string() -> None:
    names = ("password", "passwd", "sslpassword", "sslkey", "passfile")
    query = "&".join(f"{name}={SECRET}" for name in names)
    shown = masked(sa.make_url(f"postgresql://u:{SECRET}@h/n?{query}&application_name=x"))
    assert SECRET not in shown
    assert "application_name=x" in shown
    assert shown.startswith("postgresql://u:***@h/n")


def test_a_relative_path_is_tied_to_the_directory_of_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manager = DatabaseManager("sqlite:///sub/bars.db")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert manager.engine.url.database == str(tmp_path / "sub/bars.db")


def test_a_bare_file_name_memory_and_the_home_directory_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Settings(database_path="market.db").url.database == str(tmp_path / "market.db")
    assert Settings(database_path=":memory:").url.database == ":memory:"
    assert Settings(database_path="~/market.db").url.database == str(tmp_path / "home/market.db")
    for path in ("market.db", ":memory:"):
        create_engine(Settings(database_path=path))


def test_missing_folders_are_made(tmp_path: Path) -> None:
    create_engine(f"sqlite:///{tmp_path}/a/b/c.db")
    assert (tmp_path / "a/b").is_dir()


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path / "file"))):
        create_engine(f"sqlite:///{tmp_path}/file/bars.db")


@pytest.mark.parametrize(
    ("mode", "verified", "host"),
    [
        ("prefer", ssl.CERT_NONE, False),
        ("require", ssl.CERT_NONE, False),
        ("verify-ca", ssl.CERT_REQUIRED, False),
        ("verify-full", ssl.CERT_REQUIRED, True),
    ],
)
def test_the_tls_mode_decides_what_is_verified(mode: Any, verified: ssl.VerifyMode, host: bool) -> None:
    context = Tls(mode).context()
    assert (context.verify_mode, context.check_hostname) == (verified, host)


@pytest.mark.parametrize("variable", ["DB_SSL_CA", "DB_SSL_CERT"])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_tls_file_that_is_absent_or_no_certificate_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str, variable: str
) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate", encoding="utf-8")
    for path in (tmp_path / "absent.pem", rubbish):
        with pytest.raises(ConfigurationError, match="DB_SSL_CA, DB_SSL_CERT or DB_SSL_KEY"):
            create_engine(read(monkeypatch, DATABASE_TYPE=scheme, DB_SSL="verify-ca", **{variable: str(path)}))


def test_tls_files_without_a_mode_are_refused_rather_than_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="say nothing without DB_SSL"):
        create_engine(read(monkeypatch, DATABASE_TYPE="postgresql", DB_SSL_CA="ca.pem"))


def test_a_tls_mode_that_the_driver_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="disable, require or verify-full"):
        create_engine(read(monkeypatch, DATABASE_TYPE="mysql", DB_SSL="prefer"))


def example_with_its_variables_set() -> str:
    return re.sub(r"^#(?=[A-Z_]+=)", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_example_names_every_setting_once_and_nothing_else() -> None:
    named = re.findall(r"^#?([A-Z_]+)=", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


def test_the_example_as_it_is_changes_nothing() -> None:
    defaults = Settings()
    Path(".env").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    assert Settings() == defaults


def test_the_example_with_all_lines_taken_shows_the_defaults() -> None:
    defaults = Settings()
    Path(".env").write_text(example_with_its_variables_set(), encoding="utf-8")
    taken = Settings()
    assert taken.url.host == "db.example.com"
    assert taken.model_dump(exclude={"database_url"}) == defaults.model_dump(exclude={"database_url"})


def test_importing_the_package_connects_to_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    script = "import traderrr_data, traderrr_data.models, sys; print(sorted(set(sys.modules) & {'pyarrow', 'pandas'}))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_the_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().db_name = "other"


@pytest.mark.parametrize("name", ["db_schema", "db_sqlite_journal", "db_ssl", "database_type"])
def test_an_identifier_in_a_setting_is_checked(name: str) -> None:
    for value in [*hostile.QUOTES, 'a"b', "a b", "a\n", "public, other", "x" * 64, "1a"]:
        with pytest.raises(ConfigurationError, match=name.upper()):
            Settings(**{name: value})


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e30", "-1", "1; DROP TABLE daily_data", "1e400"])
@pytest.mark.parametrize("name", ["db_statement_timeout", "db_connect_timeout", "db_pool_timeout", "db_lock_timeout"])
def test_a_number_in_a_setting_is_one_that_a_server_can_be_told(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name.upper()):
        Settings(**{name: value})
