"""What a Markdown document of this project asks to be run, in the order in which it stands there.

A fenced block is run according to its language. A comment that begins with the word ``run`` is Python that readers do
not see: it prepares the block after it, or checks the one before it::

    <!-- run
    assert rows == [("AAPL", 504)]
    -->

A comment ``<!-- file PATH -->`` has the block after it written into that file of the copy, instead of being run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

PROJECT = Path(__file__).parents[2]
DOCUMENTS = [
    PROJECT / "README.md",
    PROJECT / "CHANGELOG.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]

HIDDEN = "hidden python"

_RUN = re.compile(r"<!-- run\n(.*?)\n-->", re.DOTALL)
_FILE = re.compile(r"<!-- file (\S+) -->")


class Block(NamedTuple):
    """A block of a document.

    Attributes:
        language: the fence's first word, '' if it has none; HIDDEN for a comment that is run.
        text: what is inside.
        line: the line of the document before the block's first one, from 1.
        file: where it is to be written; None if it is to be run.
    """

    language: str
    text: str
    line: int
    file: str | None = None


def blocks(document: Path) -> Iterator[Block]:
    """Yield a document's blocks; fences in lists and quotations are among them."""
    file: str | None = None
    for token in MarkdownIt("commonmark").parse(document.read_text()):
        line = token.map[0] + 1 if token.map else 0
        if token.type in ("fence", "code_block"):
            yield Block((token.info.split() or [""])[0], token.content, line, file)
            file = None
        elif token.type == "html_block":
            for comment in _RUN.finditer(token.content):
                before = token.content[: comment.start()].count("\n")
                yield Block(HIDDEN, f"{comment[1]}\n", line + before)
            if named := _FILE.search(token.content):
                file = named[1]
