"""What Triton and ptxas make of the generated kernels, against the bars they must hold; needs no GPU.

    python benchmarks/emitted_kernels.py                   every bar
    python benchmarks/emitted_kernels.py --quick           those that take less than a minute
    python benchmarks/emitted_kernels.py --json FILE       also as JSON

All figures are read from machine code for sm_90, sm_80 and gfx942 by the installed Triton.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A checkout need not be installed: `typings` holds the package as links to its rooms.
sys.path[:0] = [str(ROOT / "typings"), str(ROOT)]

from benchmarks.emitted.bars import rows  # noqa: E402  the benchmark runs from a checkout
from benchmarks.emitted.table import HEADER, Row  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table as Markdown; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the part that takes less than a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    found: list[Row] = []
    print(HEADER, flush=True)
    for row in rows(quick=arguments.quick):
        found.append(row)
        print(row, flush=True)
    held, triton = sum(row.holds for row in found), importlib.metadata.version("triton")
    print(f"\n{held} of {len(found)} bars hold (triton {triton}, {time.perf_counter() - started:.0f} s)")
    if arguments.json:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        record = {"date": date, "triton": triton, "rows": [asdict(row) for row in found]}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if held == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
