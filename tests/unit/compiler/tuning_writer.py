"""Writes to a tuning cache and says what is committed, for tests that end it while it does."""

from __future__ import annotations

import sys
from pathlib import Path

from attir.compiler.tuning_cache import TuningCache
from attir.compiler.tuning_keys import Key


def key(writer: int, number: int) -> Key:
    return Key(f"program {number}", f"writer {writer}", device="a device")


def main(folder: str, writer: int, count: int) -> None:
    """Keep plans and measurements; the number of each is printed once it is committed."""
    cache = TuningCache(Path(folder))
    print("ready", flush=True)
    for number in range(count):
        one = key(writer, number)
        cache.keep_measurements(one, [{"schedule": {"block_m": m}, "seconds": float(m)} for m in (16, 32)])
        cache.keep_plan(one, {"schedule": {"block_m": 16}, "filling": "x" * (number * 37 % 3000)}, support=1)
        print(number, flush=True)
    if cache.problem:
        sys.exit(cache.problem)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
