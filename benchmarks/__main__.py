"""The command ``python -m benchmarks``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from benchmarks import output, report, workloads
from benchmarks.databases import DEFAULT_DATABASES, KINDS, kind_of, place
from benchmarks.race import Track

_DEFAULT_ROWS: Final = 100_000


def main(
    *,
    database: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(KINDS)}, for a server that is started, or a URL of a server's administrator; repeatable.",
            show_default=", ".join(DEFAULT_DATABASES),
        ),
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(report.TITLES)}. Repeatable.", show_default="all")
    ] = None,
    rows: Annotated[int, typer.Option(min=100, help="How many bars a batch or a table has.")] = _DEFAULT_ROWS,
    repeat: Annotated[int, typer.Option(min=1, help="How often everybody does the work.")] = 5,
    minutes: Annotated[int, typer.Option(min=1, help="How long the trading day of W9 is.")] = 30,
    json: Annotated[Path | None, typer.Option(help="Write every timing to this file.", dir_okay=False)] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the tables into this document, between its marks.", dir_okay=False)
    ] = None,
) -> None:
    """Measure traderrr_data and others in turns, and print ratios: with 1.4 it is 1.4 times as fast as the other.

    Takes what it needs by itself: servers with their default durability, and databases of its own on them.
    """
    databases = database or list(DEFAULT_DATABASES)
    wanted = workload or list(report.TITLES)
    for name in databases:
        if kind_of(name) is None:
            raise typer.BadParameter(f"{name} is none of {', '.join(KINDS)}", param_hint="--database")
    for name in wanted:
        if name not in report.TITLES:
            raise typer.BadParameter(f"{name} is none of {', '.join(report.TITLES)}", param_hint="--workload")
    if markdown is not None:
        try:
            output.place_in(markdown)  # now, not after hours of measuring
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--markdown") from error
    terminal = output.console()
    facts = output.facts(rows=rows, repetitions=repeat)
    sheets: dict[tuple[str, str], report.Sheet] = {}
    with terminal.status("") as status:
        track = Track(repeat, status.update)
        for name in databases:
            with place(name) as system:
                facts[system.name] = system.version.partition(" on ")[0]
                for which in wanted:
                    asyncio.run(workloads.run(track, system, which, workloads.Size(rows, minutes)))
                    sheets[which, system.name] = sheet = report.workload_sheet(track, system.name, which)
                    output.show([sheet], terminal)
                    if json is not None:  # each time: a run of hours may be stopped
                        output.write_json(json, track, facts)
    ran = report.facts_sheet(facts)
    targets = [sheet for sheet in (report.target_sheet(track), report.memory_sheet(track)) if sheet.rows]
    output.show([ran, *targets], terminal)
    if markdown is not None:
        in_order = [sheets[pair] for pair in sorted(sheets, key=lambda pair: list(report.TITLES).index(pair[0]))]
        output.write_markdown(markdown, [ran, *in_order, *targets])
    if any(contestant.failed for contestants in track.left_out.values() for contestant in contestants):
        sys.exit(1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)  # its tracebacks would show passwords
    app.command()(main)
    app()
