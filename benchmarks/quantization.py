"""Attention in few bits on this CPU: what it loses, what it saves, and what the search of `quantize="auto"` takes.

    python benchmarks/quantization.py                     everything; a quarter of an hour
    python benchmarks/quantization.py --quick             a part of every group; some minutes
    python benchmarks/quantization.py --only decode       one group; may be given more than once
    python benchmarks/quantization.py --json FILE         also every raw time

Rivals take turns in one process, with one thread, and medians of CPU time are compared. Errors are relative L2 errors
against attention in float64. The exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import grouped  # noqa: E402  the benchmark runs from a checkout
from benchmarks.quantized import cache_rows, error_rows, search_rows, speed_rows  # noqa: E402

GROUPS: grouped.Groups = {
    "products": error_rows.products,
    "caches": error_rows.caches,
    "decode": speed_rows.decode,
    "prefill": speed_rows.prefill,
    "bytes": cache_rows.size,
    "search": search_rows.search,
    "widths": speed_rows.widths,
}


def main(argv: Sequence[str] | None = None) -> int:
    return grouped.main("quantization", __doc__, GROUPS, argv)


if __name__ == "__main__":
    sys.exit(main())
