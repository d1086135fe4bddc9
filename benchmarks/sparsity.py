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

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import grouped  # noqa: E402  the benchmark runs from a checkout
from benchmarks.sparse import emitted_rows, neighbourhood_rows, select_rows, static_rows  # noqa: E402

GROUPS: grouped.Groups = {
    "static": static_rows.static,
    "flex": static_rows.against_flex,
    "lists": static_rows.given_lists,
    "neighbourhood": neighbourhood_rows.neighbourhood_rows,
    "choosing": select_rows.cost,
    "decode": select_rows.decode,
    "recall": select_rows.recall,
    "emitted": emitted_rows.emitted,
}


def main(argv: Sequence[str] | None = None) -> int:
    return grouped.main("sparsity", __doc__, GROUPS, argv)


if __name__ == "__main__":
    sys.exit(main())
