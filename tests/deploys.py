"""A process that migrates as it is told, line by line, through children that it forks: many deploys, one start.

``python -m tests.deploys`` reads commands from its standard input and answers each with one line:

* ``at-once NUMBER URL``: so many processes upgrade at the same moment; the answer counts what became of them.
* ``killed-at POINT FOLDER URL``: one process migrates with the revisions of a folder, and is killed with -9 before the
  POINT-th statement that changes something (a COMMIT counts as one; 0 is never); the answer is ``killed`` or ``done``.
* ``until-told FOLDER URL``: one process migrates and says ``started`` when it sends a statement with the word SLOWLY;
  whatever line comes next has it killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event

from traderrr_data import schema
from traderrr_data.engine import create_engine

ROOT: Final = Path(__file__).parents[1]
_NOTHING_TO_DO, _MIGRATED, _FAILED = 0, 10, 11
_READS: Final = ("SELECT", "SHOW", "PRAGMA", "DESC", "BEGIN", "ROLLBACK")


class Deploys:
    """The program of this module, as a test talks to it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, *words: str | int | Path) -> str:
        """Send a command and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().rstrip("\n")
        assert answer, "the program has ended"
        return answer


@contextlib.contextmanager
def running() -> Iterator[Deploys]:
    """Run the program for as long as the context lives."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.deploys"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Deploys(process)
        assert process.stdin is not None
        process.stdin.close()


def fork(work: Callable[[], int]) -> int:
    """Run a function in a child; its result is the child's exit code."""
    child = os.fork()
    if child:
        return child
    code = _FAILED
    try:
        code = work()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def outcome(child: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_once(number: str, url: str) -> str:
    """Upgrade in so many processes."""
    gate, opener = os.pipe()

    def deploy() -> int:
        steps = Steps()
        os.close(opener)
        os.read(gate, 1)  # returns when the last writer has closed its end, for all of them at the same moment
        asyncio.run(with_engine(url, schema.upgrade))
        return _MIGRATED if steps.count else _NOTHING_TO_DO

    children = [fork(deploy) for _ in range(int(number))]
    os.close(gate)
    os.close(opener)
    codes = Counter(map(outcome, children))
    migrated, idle = codes.pop(_MIGRATED, 0), codes.pop(_NOTHING_TO_DO, 0)
    return f"{migrated} migrated, {idle} found nothing to do, {codes.total()} failed"


class Steps(logging.Handler):
    """Counts the revisions that Alembic says it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        logger = logging.getLogger("alembic.runtime.migration")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Count one line."""
        self.count += record.getMessage().startswith("Running ")


async def with_engine(url: str, work: Callable[[Any], Any]) -> None:
    """Do something with an engine, and close it."""
    engine = create_engine(url)
    try:
        await work(engine)
    finally:
        await engine.dispose()


def killed_at(point: str, folder: str, url: str) -> str:
    """Migrate, and be killed before a statement."""

    def deploy() -> int:
        passed = 0

        def reach(statement: str) -> None:
            nonlocal passed
            if statement.lstrip().upper().startswith(_READS):
                return
            passed += 1
            if passed == int(point):
                os.kill(os.getpid(), signal.SIGKILL)

        migrate(folder, url, reach)
        return 0

    code = outcome(fork(deploy))
    return {0: "done", -signal.SIGKILL: "killed"}.get(code, f"failed with {code}")


def until_told(folder: str, url: str) -> str:
    """Migrate, and be killed in the middle of a statement."""
    reader, writer = os.pipe()

    def deploy() -> int:
        os.close(reader)
        migrate(folder, url, lambda statement: os.write(writer, b".") if "SLOWLY" in statement else None)
        return 0

    child = fork(deploy)
    os.close(writer)
    started = os.read(reader, 1)
    os.close(reader)
    print("started" if started else "ended", flush=True)
    sys.stdin.readline()
    os.kill(child, signal.SIGKILL)
    return {-signal.SIGKILL: "killed"}.get(outcome(child), "ended")


def migrate(folder: str, url: str, before: Callable[[str], object]) -> None:
    """Upgrade with the migrations of a folder, and say before each statement which it is."""
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))

    async def upgrade(engine: Any) -> None:
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: before(arguments[2]))
        event.listen(engine.sync_engine, "commit", lambda _connection: before("COMMIT"))

        def run(connection: sa.Connection) -> None:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

        async with engine.connect() as connection:
            await connection.run_sync(run)

    asyncio.run(with_engine(url, upgrade))


def main() -> None:
    """Answer line by line."""
    commands: dict[str, Callable[..., str]] = {"at-once": at_once, "killed-at": killed_at, "until-told": until_told}
    for line in iter(sys.stdin.readline, ""):
        name, *arguments = line.split()
        print(commands[name](*arguments), flush=True)


if __name__ == "__main__":
    main()
