"""The command that copies a database: copy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traderrr_data.cli import output
from traderrr_data.cli.app import FAILED, Invocation
from traderrr_data.errors import CopyRefusedError

if TYPE_CHECKING:
    from traderrr_data.transfer import CopyProgress, CopyResult, TableCopy

_SHOWN = 20
_REFUSED = ("table", "key", "column", "value", "reason")
_SIDES = ("table", "side", "rows", "keys", "checksum")
_COUNTS = ("written", "found", "replaced", "kept", "renumbered", "rounded", "largest_rounding")


def copy(
    context: typer.Context,
    *,
    source: Annotated[str, typer.Argument(help="A database's URL, or the directory of an earlier copy.")],
    target: Annotated[str, typer.Argument(help="A database's URL, or a directory for Parquet files.")],
    merge: Annotated[bool, typer.Option("--merge", help="Bring the rows into a database that has others.")] = False,
    round_noise: Annotated[
        bool, typer.Option("--round", help="Round numbers of legacy files to the decimals of their columns.")
    ] = False,
) -> None:
    """Copy a database into another one or into files, or back.

    All tables are copied: into another database, or to and from a directory of Parquet files. Rows keep their ids and
    timestamps. They are those of one moment, whoever writes to the source meanwhile, and each table is read back and
    compared. A copy that was interrupted goes on when the command is run again; until it is complete the target says
    so. A value that the target cannot hold exactly is listed, and then nothing is copied.
    """
    from traderrr_data import transfer  # noqa: PLC0415 - it loads pyarrow

    invocation: Invocation = context.obj

    def run() -> CopyResult:
        with output.progress("copying") as moved:
            progress = None
            if moved is not None:
                moved(None, "looking at both ends")
                progress = partial(_move, moved)
            return invocation.wait(
                lambda: transfer.copy(source, target, merge=merge, round_noise=round_noise, progress=progress)
            )

    try:
        result = run()
    except CopyRefusedError as error:
        _show_refused(invocation, error)
        raise typer.Exit(FAILED) from None
    invocation.show(_as_document(result), *_as_lines(result))


def _move(moved: output.Moved, at: CopyProgress) -> None:
    rows = f"{at.rows:,} of {at.of_rows:,} rows"
    moved(at.total_rows / at.of_total_rows if at.of_total_rows else None, f"{at.phase} {at.table}, {rows}")


def _show_refused(invocation: Invocation, error: CopyRefusedError) -> None:
    refused = [value._asdict() for value in error.refused]
    document = {
        "error": {"type": type(error).__name__, "message": output.sentence_of(error)},
        "refused": refused,
        "refused_count": error.count,
    }
    more = error.count - _SHOWN
    invocation.show(
        document,
        output.table_of(refused[:_SHOWN], _REFUSED),
        *([f"and {more:,} more"] if more > 0 else []),
    )
    output.complain(f"{error.count:,} values cannot be copied exactly, so nothing was copied")


def _as_document(result: CopyResult) -> dict[str, Any]:
    return {
        "source": result.source,
        "target": result.target,
        "revision": result.revision,
        "snapshot_at": result.snapshot_at,
        "rows": result.rows,
        "written": result.written,
        "resumed": result.resumed,
        "not_copied": result.not_copied,
        "seconds": round(result.seconds, 3),
        "tables": [
            {
                "table": table.table,
                **{
                    side: {"rows": digest.rows, "keys": digest.keys_text, "checksum": digest.content_text}
                    for side, digest in (("source", table.source), ("target", table.target))
                },
                **{name: getattr(table, name) for name in _COUNTS},
            }
            for table in result.tables
        ],
    }


def _as_lines(result: CopyResult) -> Iterator[Any]:
    sides = [row for table in result.tables for row in _sides(table)]
    yield output.table_of(sides, _SIDES)
    found = sum(table.found for table in result.tables)
    yield (
        f"\n{result.rows:,} rows of {result.source}, as it was at {result.snapshot_at.isoformat(sep=' ')}, are in"
        f" {result.target}: {result.written:,} written, {found:,} there before, in {result.seconds:.1f} s; both sides"
        " have the same checksums."
    )
    for table in result.tables:
        if table.rounded:
            largest = f"{table.largest_rounding:f}"
            yield f"{table.table}: {table.rounded:,} numbers were rounded, the farthest by {largest}"
        for count, what in (
            (table.replaced, "rows of the target were replaced"),
            (table.kept, "rows of the target were kept, which are final or were observed later"),
            (table.renumbered, "rows have a new id, since theirs was taken"),
        ):
            if count:
                yield f"{table.table}: {count:,} {what}"
    if result.not_copied:
        yield f"not copied, since they are none of ours: {', '.join(result.not_copied)}"


def _sides(table: TableCopy) -> Iterator[dict[str, Any]]:
    for name, side, digest in ((table.table, "source", table.source), ("", "target", table.target)):
        yield dict(zip(_SIDES, (name, side, digest.rows, digest.keys_text, digest.content_text), strict=True))
