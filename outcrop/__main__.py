"""`python -m outcrop` is `outcrop`."""

import sys

from outcrop.cli import main

if __name__ == "__main__":
    sys.exit(main())
