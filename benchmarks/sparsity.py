"""Sparse attention on this CPU: what masks, lists and selection save, each figure with its bar.

    python benchmarks/sparsity.py                     everything; half an hour
    python benchmarks/sparsity.py --quick             a part of every group; some minutes
    python benchmarks/sparsity.py --only static       one group; may be given more than once
    python benchmarks/sparsity.py --json FILE         also every raw time

Rivals take turns in one process, with one thread, and medians of CPU time are compared. Ideal is what
attention without a mask takes, times the part of the scores that lies in tiles with a kept one; the
part that is kept itself stands beside it. The exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  the benchmark runs from a checkout

from benchmarks.cpu.machine import description  # noqa: E402
from benchmarks.sparse import emitted_rows, neighbourhood_rows, select_rows, static_rows  # noqa: E402
from benchmarks.sparse.rows import Row, Settings  # noqa: E402

GROUPS: Mapping[str, Callable[[Settings], Iterable[Row]]] = {
    "static": static_rows.static,
    "flex": static_rows.against_flex,
    "lists": static_rows.given_lists,
    "neighbourhood": neighbourhood_rows.neighbourhood_rows,
    "choosing": select_rows.cost,
    "decode": select_rows.decode,
    "recall": select_rows.recall,
    "emitted": emitted_rows.emitted,
}


def measure(names: Sequence[str], settings: Settings) -> dict[str, list[Row]]:
    """The rows of each group, printed as soon as they are there."""
    found: dict[str, list[Row]] = {}
    for name in names:
        started = time.perf_counter()
        print(f"### {name}", flush=True)
        found[name] = []
        for row in GROUPS[name](settings):
            found[name].append(row)
            print(row, flush=True)
        print(f"{name} took {time.perf_counter() - started:.0f} s\n", flush=True)
    return found


def as_record(found: Mapping[str, Sequence[Row]], settings: Settings) -> dict[str, Any]:
    """Everything, as a JSON object."""
    rows = {name: [row.as_record() for row in group] for name, group in found.items()}
    return {"benchmark": "sparsity", "machine": description(), "quick": settings.quick, "groups": rows}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a part of every group")
    parser.add_argument("--only", action="append", choices=list(GROUPS), metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--seconds", type=float, help="to spend on a row; by default 1, with --quick 0.5")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[], metavar="N", help="queries and keys, for all rows"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw time there")
    arguments = parser.parse_args(argv)
    seconds = arguments.seconds if arguments.seconds is not None else (0.5 if arguments.quick else 1.0)
    settings = Settings(arguments.quick, seconds, tuple(arguments.lengths))
    machine = description()
    print(f"{machine['cpu']}, 1 thread, target {machine['target']}, {machine['versions']}\n", flush=True)
    before = os.environ.get("ATTIR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="attir-") as cache, torch.no_grad():
        os.environ["ATTIR_CACHE_DIR"] = cache
        try:
            found = measure(arguments.only or list(GROUPS), settings)
        finally:
            if before is None:
                os.environ.pop("ATTIR_CACHE_DIR", None)
            else:
                os.environ["ATTIR_CACHE_DIR"] = before
    held = [row.held for group in found.values() for row in group if row.held is not None]
    print(f"{sum(held)} of {len(held)} bars are held")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(as_record(found, settings), indent=1) + "\n", encoding="utf-8")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
