"""Runs the blocks of one document, one after the other, in a copy of the project and on a database of its own."""

from __future__ import annotations
import __future__

import ast
import asyncio
import contextlib
import inspect
import io
import os
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from dotenv import dotenv_values

from tests.docs.markdown import HIDDEN, PROJECT, Block
from traderrr_data import DatabaseManager, Settings

DATABASE = Path("data", "market_data.db")
"""The default of DATABASE_PATH: Python, commands and SQL of a document meet in one file."""

_COPIED = ("traderrr_data", "migrations", "examples", "tools", "docs", "alembic.ini", ".env.example")
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | __future__.annotations.compiler_flag
# What an installation of the copy would put there.
_COMMAND = f"""#!{sys.executable}
import sys
from traderrr_data.cli import main
sys.exit(main())
"""


class BlockError(AssertionError):
    """A block did not do what its document says."""


class Runner:
    """The state that the blocks of a document share.

    Args:
        document: for error messages.
        directory: where the blocks run; it becomes a copy of the project, so that commands may change it.
    """

    def __init__(self, document: Path, directory: Path) -> None:
        self._document = document
        self._directory = directory
        self._names: dict[str, Any] = {"__name__": "document"}
        self._output: str | None = None
        self._run_as: dict[str, Callable[[Block], Awaitable[str | None]]] = {
            HIDDEN: self._run_python,
            "python": self._run_python,
            "pyi": self._parse,
            "bash": self._run_bash,
            "diff": self._apply,
            "sql": self._run_sql,
            "ini": self._read_settings,
            "text": self._compare_output,
        }

    async def __aenter__(self) -> Self:
        for name in _COPIED:
            origin, copy = PROJECT / name, self._directory / name
            if origin.is_dir():
                shutil.copytree(origin, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(origin, copy)
        command = self._directory / ".bin" / "traderrr-data"
        command.parent.mkdir()
        command.write_text(_COMMAND)
        command.chmod(0o755)
        os.chdir(self._directory)  # the fixture that cleans the surroundings goes back
        return self

    async def __aexit__(self, *_: object) -> None:
        if (db := self._names.get("db")) is not None:
            await db.close()

    async def run(self, block: Block) -> None:
        """Run one block.

        Raises:
            BlockError: it failed, its output is not what the document shows, or nothing knows how to run it.
        """
        run = self._run_as.get(block.language)
        if run is None:
            raise BlockError(f"{self._place(block)}: nothing runs blocks of {block.language or 'no language'}")
        try:
            output = await (run(block) if block.file is None else self._write(block, block.file))
        except BlockError:
            raise
        except Exception as error:
            raise BlockError(f"{self._place(block)}: {type(error).__name__}: {error}") from error
        if block.language != HIDDEN:
            self._output = output

    def _place(self, block: Block) -> str:
        return f"{self._document.name}:{block.line}"

    async def _run_python(self, block: Block) -> str:
        """Run a program as a process; run anything else here, with `await`, and a `session` of `db` if there is one."""
        if "asyncio.run(" in block.text:
            return await self._run_process(block, sys.executable, "-W", "error", "-c", block.text)
        code = compile("\n" * block.line + block.text, str(self._document), "exec", flags=_FLAGS, dont_inherit=True)
        output = io.StringIO()
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(db := self._names.get("db"), DatabaseManager):
                self._names["session"] = await stack.enter_async_context(db.session_context())
            with contextlib.redirect_stdout(output):
                # A function's body, whatever the code: a document is as much to be trusted as a test.
                if inspect.iscoroutine(running := eval(code, self._names)):  # noqa: S307
                    await running
        return output.getvalue()

    async def _parse(self, block: Block) -> None:
        ast.parse(block.text)

    async def _run_bash(self, block: Block) -> str:
        return await self._run_process(block, "bash", "-euo", "pipefail", "-c", block.text)

    async def _apply(self, block: Block) -> None:
        """Change the copy of the project as the difference says."""
        patch = self._directory / "block.diff"
        patch.write_text(block.text)
        await self._run_process(block, "git", "apply", "--verbose", str(patch))

    async def _write(self, block: Block, path: str) -> None:
        (self._directory / path).write_text(block.text)

    async def _run_process(self, block: Block, *command: str) -> str:
        first = [str(self._directory / ".bin"), str(Path(sys.executable).parent)]
        process = await asyncio.create_subprocess_exec(
            *command,
            env={
                **os.environ,
                "PATH": os.pathsep.join([*first, os.environ["PATH"]]),
                "PYTHONPATH": str(self._directory),
                "PYTHONUNBUFFERED": "1",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = (stream.decode() for stream in await process.communicate())
        if process.returncode:
            raise BlockError(f"{self._place(block)}: ended with {process.returncode}:\n{output}{errors}")
        return output

    async def _run_sql(self, block: Block) -> None:
        """Run statements on the document's SQLite file as the old code would; `rows` is what the last one found."""
        with contextlib.closing(sqlite3.connect(DATABASE, isolation_level=None)) as connection:
            statement = ""
            for line in block.text.splitlines(keepends=True):
                statement += line
                if sqlite3.complete_statement(statement):
                    self._names["rows"] = connection.execute(statement).fetchall()
                    statement = ""
        if statement.strip():
            raise BlockError(f"{self._place(block)}: the last statement does not end")

    async def _read_settings(self, block: Block) -> None:
        """Read a file of settings: every variable must be one of ours, and together they must name a database."""
        values = dotenv_values(stream=io.StringIO(block.text))
        if unknown := [name for name in values if name.lower() not in Settings.model_fields]:
            raise BlockError(f"{self._place(block)}: no setting is called {', '.join(unknown)}")
        file = self._directory / "block.env"
        file.write_text(block.text)
        self._names["settings"] = settings = Settings(_env_file=file)
        settings.url  # noqa: B018 - reading it checks it

    async def _compare_output(self, block: Block) -> None:
        """Compare the output of the block before."""
        if self._output is None:
            raise BlockError(f"{self._place(block)}: this text is not the output of a block before it")
        if self._output.rstrip("\n") != block.text.rstrip("\n"):
            raise BlockError(f"{self._place(block)}: the output was\n{self._output}")
