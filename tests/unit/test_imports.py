"""The rooms of the house: who may import whom, and what is said in one place only."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import traderrr_data
from traderrr_data import market_data, portfolio, system, trading

PACKAGE = Path(traderrr_data.__file__).parent
PROJECT = PACKAGE.parent

LOWER = {
    "errors",
    "url",
    "files",
    "models",
    "dialects",
    "settings",
    "engine",
    "session",
    "schema",
    "db",
    "bulk",
    "access",
}
UPPER = {"ingest", "adopt", "transfer", "maintenance"}
MAY_IMPORT = {
    "errors": set(),
    "sample": set(),
    "models": {"errors"},
    "dialects": {"url", "errors"},
    "url": {"errors"},
    "files": set(),
    "settings": {"url", "errors"},
    "session": {"dialects", "errors"},
    "engine": {"settings", "dialects", "errors"},
    "schema": {"models", "dialects", "settings", "errors"},
    "db": {"settings", "url", "engine", "session", "dialects", "models", "errors", "schema"},
    "bulk": {"models", "dialects", "errors"},
    "access": {"models", "dialects", "bulk", "errors"},
    **dict.fromkeys(UPPER, LOWER | {"sample"}),
    "maintenance": LOWER | {"transfer"},
    "cli": LOWER | UPPER | {"sample", "traderrr_data"},
    "__main__": {"cli"},
    "__init__": LOWER | UPPER,
}
MIGRATIONS = PROJECT / "migrations"
DRIVERS = {"sqlite3", "aiosqlite", "asyncpg", "psycopg", "aiomysql", "pymysql", "MySQLdb"}
DATABASE_WORDS = ("sqlite", "postgres", "mysql", "mariadb")
MAY_NAME_DATABASES = {"dialects", "url", "settings", "engine", "adopt", "maintenance"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def package_files() -> list[Path]:
    # A wheel carries the migrations inside of the package; they have rules of their own.
    return sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) != "migrations")


def modules_imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    """Return the rooms that a file imports; what it takes from the package itself counts as `traderrr_data`."""
    rooms = set()
    for module in modules_imported(parse(path)):
        root, _, rest = module.partition(".")
        if root == "traderrr_data":
            room = rest.partition(".")[0]
            rooms.add(room if room in MAY_IMPORT else "traderrr_data")
    return rooms


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def code_without_docstrings(tree: ast.Module) -> Iterator[ast.AST]:
    text = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return (node for node in ast.walk(tree) if id(node) not in text)


def every_module() -> list[ModuleType]:
    found = pkgutil.walk_packages([str(PACKAGE)], "traderrr_data.")
    return [importlib.import_module(info.name) for info in found if ".migrations" not in info.name]


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    assert rooms_imported(path) - {room} <= MAY_IMPORT[room]


def test_the_migrations_import_what_opens_a_database_and_history_imports_nothing_of_ours() -> None:
    assert rooms_imported(MIGRATIONS / "env.py") <= {"settings", "engine", "dialects", "models", "errors"}
    versions = sorted((MIGRATIONS / "versions").glob("*.py"))
    assert versions
    for version in versions:
        assert rooms_imported(version) == set(), version.name


def test_drivers_are_imported_only_where_databases_may_be_named() -> None:
    importers = {
        room_of(path)
        for path in package_files()
        if {module.partition(".")[0] for module in modules_imported(parse(path))} & DRIVERS
    }
    assert importers <= MAY_NAME_DATABASES


def test_databases_are_named_only_where_their_differences_live() -> None:
    for path in package_files():
        if room_of(path) in MAY_NAME_DATABASES or path.is_relative_to(PACKAGE / "models" / "types"):
            continue
        for node in code_without_docstrings(parse(path)):
            said = {ast.Constant: "value", ast.Name: "id", ast.Attribute: "attr", ast.alias: "name", ast.keyword: "arg"}
            text = str(getattr(node, said.get(type(node), ""), "")).lower()
            assert not any(word in text for word in DATABASE_WORDS), (
                f"{path}:{getattr(node, 'lineno', '?')} says {text!r}"
            )


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        room_of(path)
        for path in package_files()
        for node in ast.walk(parse(path))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"})
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {a.name for a in node.names} & {"environ", "getenv"}
        )
    }
    assert readers <= {"settings"}


def test_the_type_date_is_never_hidden_by_a_column_of_that_name() -> None:
    # `date: Mapped[date] = mapped_column()` binds the column before the annotation is read.
    for path in [*package_files(), *MIGRATIONS.rglob("*.py")]:
        for node in ast.walk(parse(path)):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "datetime"), (
                f"{path}: import datetime as dt"
            )


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    assert not {path.stem for path in package_files()} & {"utils", "util", "helpers", "common", "misc"}


def test_all_is_the_truth() -> None:
    for module in [traderrr_data, *every_module()]:
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__} has no {name}"
    public = {
        name
        for name, value in vars(traderrr_data).items()
        if not name.startswith("_") and not (inspect.ismodule(value) and name in MAY_IMPORT)
    }
    assert public == set(traderrr_data.__all__)
    assert list(traderrr_data.__all__) == sorted(traderrr_data.__all__)


@pytest.mark.parametrize("module", [market_data, trading, portfolio, system], ids=lambda module: module.__name__)
def test_every_access_function_takes_its_session_first(module: ModuleType) -> None:
    functions = [
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_") and name != "checked_limit"
    ]
    assert functions
    for function in functions:
        assert next(iter(inspect.signature(function).parameters)) == "session", function.__name__


def run_alone(program: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=cwd,
        env={"PYTHONPATH": str(PROJECT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_upgrade_loads_no_arrow(tmp_path: Path) -> None:
    program = """
import asyncio, sys
import traderrr_data, traderrr_data.schema

async def upgrade():
    async with traderrr_data.DatabaseManager("sqlite:///new.db") as db:
        await traderrr_data.schema.upgrade(db.engine)

asyncio.run(upgrade())
print(sorted({"pyarrow", "pandas", "numpy", "polars"} & set(sys.modules)))
"""
    assert run_alone(program, tmp_path) == "[]"


def test_importing_makes_no_engine_and_touches_no_database(tmp_path: Path) -> None:
    program = """
import gc, importlib, pkgutil
import sqlalchemy, traderrr_data
for found in pkgutil.walk_packages(traderrr_data.__path__, "traderrr_data."):
    if ".migrations" not in found.name and not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print([found for found in gc.get_objects() if isinstance(found, sqlalchemy.Engine)])
"""
    assert run_alone(program, tmp_path) == "[]"
    assert list(tmp_path.iterdir()) == []
