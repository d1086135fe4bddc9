"""How things are timed: contenders take turns, round by round, each on another copy of its inputs.

Nothing here needs a GPU: what one call takes, the time of day, and how work is captured are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

ROUNDS = 15
WARM_UP = 3
CACHE_BYTES = 160 * 2**20
"""Copies of the inputs are at least so large together that no cache still holds the first when its turn comes again."""

MOST_COPIES = 16
Call = Callable[[], Any]


@dataclass(frozen=True)
class Bench:
    """A device and its clock.

    `milliseconds` is what one call takes there. `now` is in seconds. `capture` turns a call into one
    that costs no Python, or gives it back as it is. `compiled` is `torch.compile`, `finish` waits.
    """

    device: str
    milliseconds: Callable[[Call], float]
    now: Callable[[], float]
    capture: Callable[[Call], Call]
    compiled: Callable[[Any], Any]
    finish: Call


@dataclass(frozen=True)
class Budget:
    """The time a run may take: until `end`, by the clock `now`, both in seconds."""

    now: Callable[[], float]
    end: float

    @staticmethod
    def of(seconds: float, now: Callable[[], float] = time.perf_counter) -> Budget:
        return Budget(now, now() + seconds)

    @property
    def left(self) -> float:
        return self.end - self.now()


def cuda_bench() -> Bench:
    """The current GPU, timed by its own events."""
    # The device is busy with this while Python starts what is timed, so that no gap is timed; no cache holds more.
    busy = torch.empty(2**29, dtype=torch.int8, device="cuda")

    def milliseconds(call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        busy.zero_()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))

    return Bench("cuda", milliseconds, time.perf_counter, _captured, cast("Any", torch).compile, torch.cuda.synchronize)


def _captured(call: Call) -> Call:
    """A CUDA graph of a call; the call itself where it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            call()
    except Exception:  # whatever a rival does that a graph cannot hold
        torch.cuda.synchronize()
        return call
    return graph.replay


def copies_for(size: int) -> int:
    """How many copies of inputs of `size` bytes are needed to find none of it in a cache."""
    return max(2, min(MOST_COPIES, 1 + -(-CACHE_BYTES // max(1, size))))


def take_turns(
    bench: Bench, contenders: Mapping[str, Sequence[Call]], seconds: float, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Milliseconds of each contender, which has one call for each copy of its inputs.

    All are warm before the first round. Rounds end early, but not before the third, after `seconds`.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for calls in contenders.values():
        for number in range(WARM_UP):
            calls[number % len(calls)]()
    bench.finish()
    started = bench.now()
    for number in range(rounds):
        if number >= WARM_UP and bench.now() - started > seconds:
            break
        for name, calls in contenders.items():
            times[name].append(bench.milliseconds(calls[number % len(calls)]))
    return times
