"""Keep what the workers tell: ``python -m tests.soak.recorder FILE``. They are killed, this process is not.

All of them write into the one pipe that it reads. A line is shorter than PIPE_BUF: it comes whole or not at all, also
from a worker that dies a moment later.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path


def main() -> None:
    """Write down every line, until nobody is left who could write one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the workers first
    with Path(sys.argv[1]).open("ab", buffering=0) as file:
        for line in sys.stdin.buffer:
            file.write(line)


if __name__ == "__main__":
    main()
