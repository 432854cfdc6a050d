"""The frame of every command: its options, its one event loop, its errors and its exit code."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar

import sqlalchemy as sa
import typer
from rich.console import RenderableType
from sqlalchemy.exc import SQLAlchemyError

from traderrr_data import schema
from traderrr_data.cli import output
from traderrr_data.db import DatabaseManager
from traderrr_data.errors import SchemaMismatchError, TraderrrDataError
from traderrr_data.settings import Settings
from traderrr_data.url import without_passwords

T = TypeVar("T")

DONE, FAILED, WRONG_USE, ROWS_REJECTED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

_EXIT_CODES = "Exit codes: 0 done; 1 failed; 2 wrong use; 3 done, but rows were rejected; 130 or 143 interrupted."
# Newer releases of typer bring a click of their own, so click's UsageError is not theirs; this is in either.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


class InterruptedCommandError(Exception):
    """Ctrl-C or SIGTERM, as an error that typer leaves alone: what it makes of Ctrl-C differs by its version."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Invocation:
    """What was said before the command."""

    database_url: str | None = None
    as_json: bool = False
    debug: bool = False

    @property
    def settings(self) -> Settings:
        """The settings of the database; ConfigurationError if one is wrong."""
        return Settings.of(self.database_url)

    def show(self, document: Any, *parts: RenderableType) -> None:
        """Print the answer: the document for a machine, or its parts for a person."""
        output.show(document, *parts, as_json=self.as_json)

    def run(self, work: Callable[[DatabaseManager], Awaitable[T]], *, settings: Settings | None = None) -> T:
        """Return what a coroutine function makes of the database, in an event loop of its own."""

        async def with_manager() -> T:
            async with DatabaseManager(settings or self.settings) as db:
                return await work(db)

        return self.wait(with_manager)

    def wait(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what a coroutine function returns, run in a loop of its own that SIGTERM ends as Ctrl-C does."""
        is_terminated = False

        async def until_terminated() -> T:
            task = asyncio.current_task()

            def terminate() -> None:
                nonlocal is_terminated
                is_terminated = True
                if task is not None:
                    task.cancel()

            if threading.current_thread() is threading.main_thread():
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
            return await work()

        try:
            return asyncio.run(until_terminated())
        except KeyboardInterrupt:
            raise InterruptedCommandError(INTERRUPTED) from None
        except asyncio.CancelledError:
            if is_terminated:
                raise InterruptedCommandError(TERMINATED) from None
            raise

    def read(self, work: Callable[[DatabaseManager], Awaitable[T]]) -> T:
        """Do as `run` on a database that must have our tables; one that is not there is not made.

        Raises:
            SchemaMismatchError: its tables are absent, behind, or not ours.
        """
        settings = self.settings
        refuse_missing(settings.url)

        async def checked(db: DatabaseManager) -> T:
            schema.require_usable(await schema.status(db.engine))
            return await work(db)

        return self.run(checked, settings=settings)


def missing_file(url: sa.URL) -> Path | None:
    """Return the file that a URL names, if there is none: connecting would make it, and its folders."""
    path = Path(url.database or "")
    return path if path.is_absolute() and not path.exists() else None


def refuse_missing(url: sa.URL) -> None:
    """Raise SchemaMismatchError if a URL names a file that is not there."""
    if (missing := missing_file(url)) is not None:
        raise SchemaMismatchError(f"there is no database {missing}: run `traderrr-data upgrade`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; arguments are those of the process if None."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks is no failure
    invocation = Invocation(as_json="--json" in given, debug="--debug" in given)
    try:
        command = typer.main.get_command(app)
        code = command.main(given or ["--help"], prog_name="traderrr-data", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (InterruptedCommandError, KeyboardInterrupt) as error:
        return _interrupted(invocation, error.code if isinstance(error, InterruptedCommandError) else INTERRUPTED)
    except typer.Abort:
        return _fail(invocation, "Abort", "nothing was changed", FAILED)
    except Exception as error:
        return _failed(invocation, error)
    if code == INTERRUPTED:
        return _interrupted(invocation)
    return int(code or DONE) if given else WRONG_USE


def _interrupted(invocation: Invocation, code: int = INTERRUPTED) -> int:
    sentence = "interrupted: what was not complete is undone, and the command may be run again"
    return _fail(invocation, "KeyboardInterrupt", sentence, code)


def _failed(invocation: Invocation, error: Exception) -> int:
    if invocation.debug:
        print(without_passwords("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    kind = type(error).__name__
    if isinstance(error, _UsageError):
        path = error.ctx.command_path if error.ctx is not None else "traderrr-data"
        return _fail(invocation, kind, f"{error.format_message().rstrip('.')} (see `{path} --help`)", WRONG_USE)
    sentence = output.sentence_of(error)
    if not isinstance(error, TraderrrDataError | SQLAlchemyError | OSError):
        sentence = f"unexpected {kind}: {sentence} (--debug shows where)"
    return _fail(invocation, kind, sentence, FAILED)


def _fail(invocation: Invocation, kind: str, sentence: str, code: int) -> int:
    sentence = without_passwords(sentence)  # a URL in the wrong place is quoted as what it was taken for
    output.complain(sentence)
    if invocation.as_json:
        invocation.show({"error": {"type": kind, "message": sentence}})
    return code


def _version(wanted: bool) -> None:
    if wanted:
        try:
            version = metadata.version("traderrr-data")
        except metadata.PackageNotFoundError:
            version = "of a source tree that is not installed"
        print(f"traderrr-data {version}")
        raise typer.Exit(DONE)


def _options(
    context: typer.Context,
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", metavar="URL", help="The database."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer with one JSON document; decimals are strings.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from, and the logs.")] = False,
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep market data in an ordinary SQL database: SQLite, PostgreSQL, MySQL or MariaDB.

    The database is the one of --database-url, else of DATABASE_URL and the other variables of the environment or of
    a file .env, else the SQLite file data/market_data.db.

    Example: traderrr-data --database-url sqlite:///bars.db quickstart
    """
    invocation: Invocation = context.obj
    invocation.database_url, invocation.as_json, invocation.debug = database_url, as_json, debug
    _configure_logging(debug=debug)


def _configure_logging(*, debug: bool) -> None:
    """Send our warnings to stderr, and nothing else unless asked: stdout is the answer's."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"sentence": {"format": "traderrr-data: %(message)s" if not debug else logging.BASIC_FORMAT}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "sentence"},
                "nowhere": {"class": "logging.NullHandler"},
            },
            "loggers": {
                "traderrr_data": {"level": "WARNING", "handlers": [] if debug else ["stderr"]},
                # A command writes for as long as its file is; that others wait meanwhile is no news to its user.
                "traderrr_data.dialects": {"level": "WARNING" if debug else "ERROR"},
                # With a handler of its own it adds none that writes to stdout (SQL_ECHO).
                "sqlalchemy.engine.Engine": {"handlers": ["stderr"]},
            },
            "root": {"handlers": ["stderr" if debug else "nowhere"]},
        }
    )


app = typer.Typer(
    name="traderrr-data",
    epilog=_EXIT_CODES,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.callback()(_options)


def add(command: Callable[..., None], example: str) -> None:
    """Make a function a command, with an example in its help."""
    # A step back such as -1 is a revision, not an option.
    steps_back = {"ignore_unknown_options": command.__name__ == "downgrade"}
    app.command(epilog=f"Example: traderrr-data {example}", context_settings=steps_back)(command)
