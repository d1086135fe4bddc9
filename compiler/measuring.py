"""How long calls take, side by side on a machine that others use too; knows nothing of what is called.

Calls take turns, round by round, each slice of a call right beside one of the reference, so that what slows the
machine for a while slows both. Rounds whose reference was disturbed do not count, and of the others the medians.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from ..ir.diagnostics import error

Call = Callable[[], object]

SLICE = 1e-3
"""Seconds that one slice takes at least: shorter calls are repeated in it, as clocks and interrupts are felt below."""

FEWEST_ROUNDS, MOST_ROUNDS, MOST_REPEATS = 3, 31, 1000

TELLING_ROUNDS = 5
"""Rounds from which on their spread says something."""

DISTURBED = 1.3
"""Times its own lower quartile beyond which the reference was disturbed, and what was measured beside it too."""

CLEARED_BYTES = 1 << 29
"""What is written before a slice on a GPU: more than its caches hold, and long enough to hide starting the call."""


@dataclass(frozen=True)
class Timing:
    """What was measured of one call.

    `seconds` are of one call while the machine was undisturbed; `ratio` is the median of its times over those of the
    reference beside it, 1 where there is none. `spread` is the standard deviation of log(ratio) of one round, from
    its median deviation; `rounds` are those that count.
    """

    seconds: float
    ratio: float = 1.0
    spread: float = 0.0
    rounds: int = 1

    @property
    def error(self) -> float:
        """The standard error of log(ratio): that of a median is a quarter more than that of a mean."""
        return 1.25 * self.spread / math.sqrt(self.rounds)


class Clock(Protocol):
    """Takes the time of calls; `single` where a slice cannot hold more than one."""

    @property
    def single(self) -> bool: ...

    def seconds(self, call: Call, times: int) -> float:
        """Of `times` calls together."""
        ...

    def now(self) -> float:
        """The wall's clock, for the budget."""
        ...


@dataclass(frozen=True)
class ProcessorClock:
    """Processor time of this thread where it does all the work, so that a busy machine counts less; else the wall's."""

    threads: int
    single: bool = False

    def seconds(self, call: Call, times: int) -> float:
        clock = time.thread_time if self.threads == 1 else time.perf_counter
        started = clock()
        for _ in range(times):
            call()
        return clock() - started

    def now(self) -> float:
        return time.perf_counter()


class CudaClock:
    """Events around one call on a GPU whose caches hold none of its tensors."""

    single = True

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise error("times of a GPU need one, but PyTorch finds no CUDA device")
        self._cuda = torch.cuda
        self._cleared = torch.empty(CLEARED_BYTES, dtype=torch.int8, device="cuda")

    def seconds(self, call: Call, times: int) -> float:
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        self._cleared.zero_()
        start.record()
        for _ in range(times):
            call()
        end.record()
        self._cuda.synchronize()
        return 1e-3 * float(start.elapsed_time(end))

    def now(self) -> float:
        return time.perf_counter()


def measured(
    calls: Mapping[str, Call],
    *,
    reference: str | None,
    seconds: float,
    threads: int | None = None,
    device: str = "cpu",
    clock: Clock | None = None,
    enough: Callable[[Mapping[str, Timing], float], bool] | None = None,
) -> Mapping[str, Timing]:
    """The times of `calls` by their names, in about `seconds` of all together, but three rounds at least.

    From the fifth round on it ends where the times so far, and what another round takes, are `enough`.

    `reference` names the call that the others are compared with. `threads` are for PyTorch and native kernels while
    they run, None for as many as there are now. On `device` "cuda" times are those of the GPU.
    """
    if reference is not None and reference not in calls:
        raise error(f"the reference '{reference}' is none of the calls: {', '.join(calls)}")
    if not calls:
        return {}
    with _threads(threads) as count:
        rounds = _Rounds(calls, reference, clock or (CudaClock() if device == "cuda" else ProcessorClock(count)))
        rounds.run(seconds, enough)
    return rounds.timings()


@contextmanager
def _threads(count: int | None) -> Generator[int]:
    """So many threads for what runs inside, as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None and count != before:
            torch.set_num_threads(count)
        yield count or before
    finally:
        if count is not None and count != before:
            torch.set_num_threads(before)


@dataclass
class _Rounds:
    """The times taken so far: of each call its own beside the reference's, both of one call."""

    calls: Mapping[str, Call]
    reference: str | None
    clock: Clock
    repeats: dict[str, int] = field(default_factory=dict[str, int])
    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])

    def run(self, seconds: float, enough: Callable[[Mapping[str, Timing], float], bool] | None = None) -> None:
        began = self.clock.now()
        for name, call in self.calls.items():
            # The first call makes what later ones keep.
            self.clock.seconds(call, 1)
            once = self.clock.seconds(call, 1)
            wanted = math.ceil(SLICE / max(once, 1e-9))
            self.repeats[name] = 1 if self.clock.single else min(MOST_REPEATS, max(1, wanted))
            self.pairs[name] = []
        names = [name for name in self.calls if name != self.reference]
        for number in range(MOST_ROUNDS):
            started = self.clock.now()
            first = number % max(1, len(names))
            self._round(names[first:] + names[:first])
            ended = self.clock.now()
            if number + 1 >= FEWEST_ROUNDS and ended - began + (ended - started) > seconds:
                break
            if enough is not None and number + 1 >= TELLING_ROUNDS and enough(self.timings(), ended - started):
                break

    def _round(self, names: Sequence[str]) -> None:
        """Every call once, the reference between every two, so that each has one right beside it."""
        for place in range(0, max(1, len(names)), 2):
            times = {name: self._slice(name) for name in names[place : place + 1]}
            beside = 1.0
            if self.reference is not None:
                beside = self._slice(self.reference)
                self.pairs[self.reference].append((beside, beside))
            times |= {name: self._slice(name) for name in names[place + 1 : place + 2]}
            for name, taken in times.items():
                self.pairs[name].append((taken, beside))

    def _slice(self, name: str) -> float:
        """Seconds of one call."""
        times = self.repeats[name]
        return max(self.clock.seconds(self.calls[name], times) / times, 1e-9)

    def timings(self) -> dict[str, Timing]:
        if self.reference is None:
            return {name: _alone([own for own, _ in pairs]) for name, pairs in self.pairs.items()}
        base = _alone([own for own, _ in self.pairs[self.reference]])
        limit = DISTURBED * _lower_quartile([own for own, _ in self.pairs[self.reference]])
        found = {n: _beside(pairs, limit, base.seconds) for n, pairs in self.pairs.items() if n != self.reference}
        return {self.reference: base, **found}


def _alone(times: Sequence[float]) -> Timing:
    """From times without a reference: those that are disturbed themselves do not count."""
    limit = DISTURBED * _lower_quartile(times)
    kept = [taken for taken in times if taken <= limit]
    return Timing(statistics.median(kept), 1.0, _spread(kept), len(kept))


def _beside(pairs: Sequence[tuple[float, float]], limit: float, reference: float) -> Timing:
    """From times beside those of the reference, whose undisturbed seconds are `reference`."""
    kept = [(own, beside) for own, beside in pairs if beside <= limit]
    # Where the machine was hardly ever quiet, the rounds count that were quietest.
    kept = kept if len(kept) >= FEWEST_ROUNDS else sorted(pairs, key=lambda pair: pair[1])[:FEWEST_ROUNDS]
    ratios = [own / beside for own, beside in kept]
    ratio = statistics.median(ratios)
    return Timing(ratio * reference, ratio, _spread(ratios), len(ratios))


def _lower_quartile(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 4]


def _spread(values: Sequence[float]) -> float:
    """The standard deviation of the logarithms, by their median deviation, as outliers do not change it."""
    logs = [math.log(value) for value in values]
    middle = statistics.median(logs)
    return 1.4826 * statistics.median(abs(value - middle) for value in logs)
