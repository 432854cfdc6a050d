"""The examples, each run as its users would run it: a process of its own, spoken to over a real port."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.backends import Backend

PROJECT = Path(__file__).parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 15.0

BARS = [
    {"ticker": "AAPL", "date": "2014-06-06", "open": "649.90", "high": "651.26", "low": "644.47", "close": "645.57"},
    {"ticker": "AAPL", "date": "2014-06-09", "open": "92.70", "high": "93.88", "low": "91.75", "close": "93.70"},
]


class Program:
    """A process of one of the examples, and what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def output(self) -> str:
        """Everything on standard output and standard error."""
        return self._log.read_text(errors="replace")

    def wait_until(self, happened: Callable[[], bool], what: str) -> None:
        """Return when it happened; fail with the output if the process ends or too much time passes first."""
        deadline = time.monotonic() + START_SECONDS
        while not happened():
            assert self.process.poll() is None, f"the process ended before {what}:\n{self.output}"
            assert time.monotonic() < deadline, f"{what} did not happen in time:\n{self.output}"
            time.sleep(0.05)

    def stop(self, signal_number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(STOP_SECONDS)


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start a Python program that takes its database from the environment; the test may leave it running."""
    with contextlib.ExitStack() as stack:

        def start_program(*arguments: str) -> Program:
            log = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
            environment = {**os.environ, "DATABASE_URL": database_url, "PYTHONPATH": str(PROJECT)}
            process = subprocess.Popen(
                [sys.executable, "-W", "error::ResourceWarning", *arguments],
                env=environment | {"PYTHONUNBUFFERED": "1"},
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return Program(process, log)

        yield start_program


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def client_of(program: Program, port: int) -> Iterator[httpx.Client]:
    """Give a client of the program's server, once it answers that it is healthy."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return bool(client.get("/health").raise_for_status().json() == {"status": "ok"})
            return False

        program.wait_until(answers, "the server's answer")
        yield client


class Provider:
    """A provider of bars on a real port: it answers with `answer`, or fails while that is None."""

    def __init__(self) -> None:
        self.answer: list[dict[str, Any]] | None = []
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(provider.answer).encode()
                self.send_response(200 if provider.answer is not None else 500)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Write nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/bars.json"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that has no bars yet."""
    with Provider() as running:
        yield running


def test_the_flask_application_answers_many_threads_with_one_manager(
    start: Callable[..., Program], port: int, backend: Backend, database_url: str
) -> None:
    backend.run_sql(
        database_url,
        "INSERT INTO daily_data (ticker, date, open, high, low, close, volume) VALUES"
        " ('AAPL', '2014-06-06', 649.90, 651.26, 644.47, 645.57, 12497800),"
        " ('AAPL', '2014-06-09', 92.70, 93.88, 91.75, 93.70, 75414997);",
    )
    program = start(str(PROJECT / "examples" / "flask_app.py"), "--port", str(port))
    with client_of(program, port) as client:
        assert client.put("/positions/AAPL", json={"shares": "0.5"}).json() == {"changed": True}
        assert client.put("/positions/AAPL", json={"shares": "0.5"}).json() == {"changed": False}
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(client.get, ["/bars/AAPL?start=2014-06-09"] * 40))
        assert {answer.status_code for answer in answers} == {200}
        assert [bar["close"] for bar in answers[0].json()] == ["93.7000000000"]
        worth = client.get("/portfolio").json()
        assert worth["totals"] == {"unknown": "46.850000"}
        refused = client.put("/positions/AAPL", json={"shares": "1.0000000001"})
        assert refused.status_code == 400
        assert "more than 8 decimals" in refused.json()["error"]

    assert program.stop(signal.SIGTERM) == 0
    assert program.output.count("opened") == program.output.count("closed the database") == 1
    assert "Traceback" not in program.output
    assert "Warning" not in re.sub("WARNING.*development server.*", "", program.output)


def test_the_fastapi_application_commits_before_it_answers_and_rolls_back_what_it_refuses(
    start: Callable[..., Program], port: int, backend: Backend, database_url: str
) -> None:
    program = start("-m", "uvicorn", "examples.fastapi_app:app", "--port", str(port))
    with client_of(program, port) as client:
        assert client.post("/bars", json=BARS).json() == {"inserted": 2, "updated": 0, "unchanged": 0}
        assert backend.run_sql(database_url, "SELECT count(*) FROM daily_data;") == [("2",)]
        assert client.post("/bars", json=BARS).json() == {"inserted": 0, "updated": 0, "unchanged": 2}

        inconsistent = BARS[0] | {"date": "2014-06-10", "high": "1"}
        refused = client.post("/bars", json=[BARS[0] | {"date": "2014-06-05"}, inconsistent])
        assert refused.status_code == 422
        assert (refused.json()["row"], refused.json()["column"]) == (1, "open")

        bars = client.get("/bars/AAPL", params={"start": "2014-01-01", "end": "2015-01-01"}).json()
        assert [(bar["date"], bar["close"]) for bar in bars] == [
            ("2014-06-06", "645.5700000000"),
            ("2014-06-09", "93.7000000000"),
        ]
        assert client.put("/positions/AAPL", params={"shares": "0.12345678"}).json()["inserted"] == 1
        assert client.get("/bars/aapl").json() == []

    assert program.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert program.output.count("opened") == program.output.count("closed the database") == 1
    assert "Traceback" not in program.output


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_the_ingestor_stores_what_is_new_survives_its_source_and_ends_on_a_signal(
    start: Callable[..., Program],
    provider: Provider,
    backend: Backend,
    database_url: str,
    signal_number: signal.Signals,
) -> None:
    minute = {"ticker": "AAPL", "open": 272.1, "high": 272.3, "low": 272.05, "close": 272.28, "volume": 1200}
    provider.answer = [minute | {"datetime": "2026-11-20T14:30:00Z"}]
    ingestor = str(PROJECT / "examples" / "ingestor.py")
    program = start(ingestor, provider.url, "--timeframe", "1m", "--every", "0.1")
    program.wait_until(lambda: "1 new, 0 changed, 0 unchanged" in program.output, "the first bar")
    program.wait_until(lambda: "0 new, 0 changed, 1 unchanged" in program.output, "a poll without news")

    provider.answer = None
    program.wait_until(lambda: "the source failed" in program.output, "the report of a failed poll")

    grown = minute | {"datetime": "2026-11-20T14:30:00Z", "close": "272.30", "volume": 1300}
    provider.answer = [
        grown,
        minute | {"datetime": "2026-11-20T14:31:00Z"},
        minute | {"datetime": "2026-11-20 14:32:00"},  # which time zone?
    ]
    program.wait_until(lambda: "1 new, 1 changed, 0 unchanged" in program.output, "the bars after the failure")
    assert "bar 2 was not stored: datetime: 2026-11-20 14:32:00 has no time zone" in program.output

    assert program.stop(signal_number) == 0
    assert program.output.rstrip().endswith("stopped")
    assert "Traceback" not in program.output
    stored = "SELECT count(*), sum(volume) FROM intraday_data WHERE timeframe = '1m' AND source = '127.0.0.1';"
    [(count, volume)] = backend.run_sql(database_url, stored)
    assert (count, float(volume or 0)) == ("2", 2500.0)


def test_the_ingestor_ends_with_one_sentence_if_it_was_started_wrongly(
    start: Callable[..., Program], provider: Provider
) -> None:
    provider.answer = [{"ticker": "AAPL"}]
    program = start(str(PROJECT / "examples" / "ingestor.py"), provider.url, "--timeframe", "fortnight")
    assert program.process.wait(START_SECONDS) == 1
    assert program.output.splitlines()[-1].startswith("InvalidRowError: column 'timeframe': 'fortnight' is not")
    assert "Traceback" not in program.output
