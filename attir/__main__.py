"""`python -m attir` is the command `attir`."""

from __future__ import annotations

import sys

from attir.compiler.cli import main

if __name__ == "__main__":
    sys.exit(main())
