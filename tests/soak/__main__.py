"""Write into databases while they, the network and the writers are killed at random, and compare what is stored.

Workers (processes of their own) write units of work and tell what they were told of each to a recorder, which is
another process and is not killed; a third one compares that with the database afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests import servers
from tests.backends import Backend, MysqlBackend, PostgresqlBackend, SqliteBackend
from tests.project import ROOT
from tests.proxy import proxy_to
from tests.soak.faults import PYTHON, Broken, Soak
from traderrr_data import DatabaseManager

DATABASES: Final = ("sqlite", "postgresql", "mysql", "mariadb")


@contextlib.contextmanager
def opened(name: str, folder: Path) -> Iterator[Backend]:
    """Give a database system, whose server lives as long as the context."""
    if name == "sqlite":
        yield SqliteBackend(folder)
    elif name == "postgresql":
        with servers.postgresql() as postgresql:
            yield PostgresqlBackend(postgresql)
    else:
        with servers.mysql() as mysql:
            yield MysqlBackend(name, mysql)


async def write_and_do_harm(backend: Backend, url: str, folder: Path, *, seconds: float, seed: int) -> None:
    """Do both in a new database, and print what was done; Broken if a worker did not go on."""
    async with DatabaseManager(url) as db:
        await db.init_db()
    async with contextlib.AsyncExitStack() as stack:
        network = await stack.enter_async_context(proxy_to(url)) if backend.server is not None else None
        soak = Soak(backend, url, network, folder, seed)
        try:
            await soak.run(seconds)
        finally:
            faults = ", ".join(f"{count} {fault}" for fault, count in sorted(soak.faults.items()))
            print(f"{backend.name}: {seconds / 60:g} minutes; {soak.faults.total()} faults: {faults}", flush=True)


def soak_one(name: str, folder: Path, *, seconds: float, seed: int) -> int:
    """Do it with one database; return 1 if anything is not as it was told, else 0."""
    print(f"{name}: seed {seed}", flush=True)
    with opened(name, folder) as backend:
        url = backend.create_database()
        try:
            asyncio.run(write_and_do_harm(backend, url, folder, seconds=seconds, seed=seed))
        except Broken as error:
            print(f"{name}: {error}", flush=True)
            return 1
        comparing: list[str | Path] = [*PYTHON, "tests.soak.compare", folder / "record", name, url]
        compared = subprocess.run(comparing, cwd=ROOT, check=False)
        backend.drop_database(url)
        return compared.returncode


def main() -> None:
    """Read the options, and run; each of several databases in a process of its own, all at once."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--database", action="append", choices=DATABASES, help="repeatable (the first three)")
    parser.add_argument("--minutes", type=float, default=15, help="for how long (15)")
    parser.add_argument("--seed", type=int, help="decides over the faults; without it, any")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    databases = options.database or DATABASES[:3]
    if len(databases) > 1:
        words = ("--minutes", str(options.minutes), "--seed", str(seed))
        runs = [subprocess.Popen([*PYTHON, "tests.soak", "--database", name, *words]) for name in databases]
        sys.exit(max([run.wait() for run in runs]))
    with servers.temporary_directory(open_to_all=False) as folder:
        sys.exit(soak_one(databases[0], folder, seconds=options.minutes * 60, seed=seed))


if __name__ == "__main__":
    main()
