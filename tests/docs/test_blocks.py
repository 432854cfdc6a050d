"""Every block of every document is run, or stands in the list of those that cannot be, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.docs.markdown import DOCUMENTS, PROJECT, blocks
from tests.docs.runner import BlockError, Runner

# By document and first line. What is said to run them elsewhere really does.
NOT_RUN: Final[dict[tuple[str, str], str]] = {
    ("README.md", "python3 -m pip install -e . && traderrr-data quickstart"): (
        "installs the project; quickstart has its tests, and the nox session `package` runs it from the wheel"
    ),
    ("README.md", "python3 -m pip install nox && INSTALL_SERVERS=1 nox"): "runs all tests, this one included",
    (
        "CONTRIBUTING.md",
        "python3 -m pip install -e '.[fastapi,flask,pandas,polars]' --group test --group lint --group typing",
    ): "installs the project; every nox session installs the same requirements",
    ("CONTRIBUTING.md", "pytest --database sqlite"): "runs all tests, this one included",
    ("CONTRIBUTING.md", "nox"): "runs all tests, this one included",
    ("CONTRIBUTING.md", "settings.py     the only reader of the environment"): (
        "is a picture of folders; test_contributing.py compares it with them"
    ),
    (
        "performance.md",
        "nox -s benchmark -- --rows 100000 --markdown docs/performance.md --json timings.json",
    ): "takes hours, and writes into the document; tests/contract/test_benchmarks.py runs its command on a few rows",
    (
        "performance.md",
        "python -m benchmarks --database postgresql --workload W2 --workload W3 --rows 1000000 --repeat 5",
    ): "takes long; tests/contract/test_benchmarks.py runs it on a few rows",
    ("copying.md", "traderrr-data copy sqlite:///data/market_data.db postgresql://user:password@host/name"): (
        "needs two servers; tests/contract/test_copy.py copies between every two databases"
    ),
    ("schema.md", "erDiagram"): "is a diagram; test_schema.py compares it with the models",
}


def is_listed(document: Path, text: str) -> bool:
    """Tell whether a block is one of those that are not run."""
    return (document.name, text.partition("\n")[0]) in NOT_RUN


async def run_document(document: Path, directory: Path) -> None:
    """Run a document's blocks, except those that are listed."""
    async with Runner(document, directory) as runner:
        for block in blocks(document):
            if not is_listed(document, block.text):
                await runner.run(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
async def test_every_block_of_the_document_runs(document: Path, tmp_path: Path) -> None:
    await run_document(document, tmp_path)


def test_every_block_in_the_list_is_still_in_its_document() -> None:
    present = {(path.name, block.text.partition("\n")[0]) for path in DOCUMENTS for block in blocks(path)}
    assert set(NOT_RUN) <= present


@pytest.mark.parametrize(
    ("markdown", "complaint"),
    [
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```python\nprint(6 * 7)\n```\n\n```text\n43\n```", "the output was\n42"),
        ("```text\nabc\n```", "not the output of a block"),
        ("```bash\nfalse | true\n```", "ended with 1"),
        ("```ini\nDB_POOLSIZE=3\n```", "no setting is called DB_POOLSIZE"),
        ("```ini\nDB_PORT=no\n```", "DB_PORT"),
        ("```fortran\nSTOP\n```", "nothing runs blocks of fortran"),
        ("- a list\n\n  ```\n  code\n  ```", "nothing runs blocks of no language"),
        ("<!-- run\nassert False, 'hidden'\n-->", "hidden"),
        ("<!-- run\nimport pathlib; pathlib.Path('data').mkdir()\n-->\n```sql\nSELECT * FROM absent;\n```", "no such"),
    ],
)
async def test_a_block_that_does_not_do_what_is_said_fails(markdown: str, complaint: str, tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(markdown)
    directory = tmp_path / "copy"
    directory.mkdir()
    with pytest.raises(BlockError, match=complaint):
        await run_document(document, directory)
