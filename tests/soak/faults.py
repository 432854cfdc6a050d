"""The workers of one database, and what is done to them, to it, and to the network between."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import re
import sqlite3
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from sqlalchemy import make_url

from tests.backends import Backend
from tests.contract.test_engine import OTHERS
from tests.project import ROOT
from tests.proxy import Part, Proxy
from tests.servers import Server, ServerError

Fault: TypeAlias = Callable[[], Awaitable[None]]

WORKERS: Final = ("0", "1")
PATIENCE: Final = 60  # seconds until every worker is well again after a fault, or has ended
PYTHON: Final = (sys.executable, "-W", "error", "-m")
STORED: Final = re.compile(r"acknowledged (\w+)\.\S+ (?!put)\w")
"""The line of a unit of work that is stored, and not only in a worker's spill."""


class Broken(Exception):  # noqa: N818 - it says what a worker did
    """A worker did not go on, or did not end as it should."""


class Soak:
    """One database, and those who write into it.

    Attributes:
        faults: how often each was done.
    """

    def __init__(self, backend: Backend, url: str, network: Proxy | None, folder: Path, seed: int) -> None:
        self.faults = Counter[str]()
        self._backend = backend
        self._url = url
        self._network = network
        self._folder = folder
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311 - it can be done again
        self._processes: dict[str, Process] = {}
        self._started = 0

    async def run(self, seconds: float) -> None:
        """Do one fault after the other, each as often as the others, until the time is up; end in good order."""
        ends, faults = time.monotonic() + seconds, self._possible_faults()
        (self._folder / "record").touch()
        with _recorder(self._folder / "record") as self._told, (self._folder / "record").open() as self._lines:
            try:
                for worker in WORKERS:
                    await self._start(worker)
                await self._all_go_on("start")
                while time.monotonic() < ends:
                    for name in self._chance.sample(list(faults), len(faults)):
                        await asyncio.sleep(self._chance.random())
                        self.faults[name] += 1
                        await faults[name]()
                        await self._all_go_on(name)
                for worker in WORKERS:
                    await self._end(worker)
                    await self._start(worker, "drain")
                    await self._ended(worker)
            finally:
                for process in self._processes.values():
                    if process.returncode is None:
                        process.kill()
                        await process.wait()

    def _possible_faults(self) -> dict[str, Fault]:
        of_workers: dict[str, Fault] = {"worker killed": self._kill, "worker told to end": self._tell_to_end}
        network, server = self._network, self._backend.server
        if network is None or server is None:
            return of_workers | {"file locked": self._lock}
        return of_workers | {
            "server killed": functools.partial(self._kill_server, server),
            "connections killed": self._kill_connections,
            "network cut": functools.partial(self._cut, network),
            "network stalled": functools.partial(self._stall, network),
            "COMMIT lost": functools.partial(self._lose, network, "request"),
            "answer to COMMIT lost": functools.partial(self._lose, network, "answer"),
        }

    async def _kill(self) -> None:
        worker = self._chance.choice(WORKERS)
        self._processes[worker].kill()
        await self._processes[worker].wait()
        await self._start(worker)

    async def _kill_now_and_then(self) -> None:
        if self._chance.random() < 0.5:
            self.faults["worker killed during an outage"] += 1
            await self._kill()

    async def _tell_to_end(self) -> None:
        worker = self._chance.choice(WORKERS)
        await self._end(worker)
        await self._start(worker)

    async def _lock(self) -> None:
        """Hold the file's lock, for longer or shorter than the workers want to wait; one may die waiting."""
        with contextlib.closing(sqlite3.connect(make_url(self._url).database or "", timeout=PATIENCE)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            await asyncio.sleep(self._chance.random() * 5)
            await self._kill_now_and_then()

    async def _kill_server(self, server: Server) -> None:
        """Let the server be away for a moment; a worker may die meanwhile, and its successor begin."""
        server.kill()
        await asyncio.sleep(self._chance.random())
        await self._kill_now_and_then()
        server.start()  # not in a thread: the kernel would end the server together with that

    async def _kill_connections(self) -> None:
        for (ending,) in self._backend.run_sql(self._url, OTHERS[self._backend.name]):
            with contextlib.suppress(ServerError):  # it has just ended by itself
                self._backend.run_sql(self._url, f"{ending};")

    async def _cut(self, network: Proxy) -> None:
        network.cut()

    async def _stall(self, network: Proxy) -> None:
        network.stall()
        await asyncio.sleep(self._chance.random() * 3)
        network.flow()

    async def _lose(self, network: Proxy, part: Part) -> None:
        """Break the connection that sends the next COMMIT, before the server gets it or when it has done it."""
        network.lose(b"COMMIT", part)
        try:
            await asyncio.wait_for(network.lost.wait(), PATIENCE)
        except TimeoutError:
            raise Broken(f"worker {WORKERS[0]} sent no COMMIT for {PATIENCE} s") from None

    async def _start(self, worker: str, *words: str) -> None:
        """Start a worker's next process; the first worker is behind the network that faults befall."""
        self._started += 1
        url = self._network.url(self._url) if self._network is not None and worker == WORKERS[0] else self._url
        said = (url, str(self._folder / f"spill{worker}"), f"{worker}.{self._started}", str(self._seed), *words)
        self._processes[worker] = await asyncio.create_subprocess_exec(
            *PYTHON, "tests.soak.worker", *said, cwd=ROOT, stdout=self._told
        )

    async def _end(self, worker: str) -> None:
        self._processes[worker].terminate()
        await self._ended(worker)

    async def _ended(self, worker: str) -> None:
        try:
            code = await asyncio.wait_for(self._processes[worker].wait(), PATIENCE)
        except TimeoutError:
            raise Broken(f"worker {worker} did not end within {PATIENCE} s") from None
        if code:
            raise Broken(f"worker {worker} ended with code {code}")

    async def _all_go_on(self, after: str) -> None:
        """Wait until each worker has stored another unit of work."""
        self._lines.read()
        waiting, ends = set(WORKERS), time.monotonic() + PATIENCE
        while waiting:
            await asyncio.sleep(0.05)
            waiting -= {match[1] for line in self._lines if (match := STORED.match(line))}
            for worker, process in self._processes.items():
                if process.returncode is not None:
                    raise Broken(f"worker {worker} ended by itself after {after!r}, with code {process.returncode}")
            if time.monotonic() > ends:
                raise Broken(f"worker {', '.join(waiting)} stored nothing for {PATIENCE} s after {after!r}")


@contextlib.contextmanager
def _recorder(record: Path) -> Iterator[int]:
    """Give the pipe into which workers tell; when all have closed it, everything is written down."""
    with subprocess.Popen([*PYTHON, "tests.soak.recorder", record], cwd=ROOT, stdin=subprocess.PIPE) as recorder:
        assert recorder.stdin is not None
        yield recorder.stdin.fileno()
