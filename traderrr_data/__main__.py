"""``python -m traderrr_data``: the command ``traderrr-data``."""

import sys

from traderrr_data.cli import main

if __name__ == "__main__":
    sys.exit(main())
