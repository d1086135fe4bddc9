"""How times are taken on a CPU: rivals by turns in one process, with one thread or all; knows nothing of attention."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

Call = Callable[[], Any]
MOST_ROUNDS, FEWEST_ROUNDS = 15, 5


@dataclass(frozen=True)
class Settings:
    """What the command line chose: a part of each section or all of it, how many threads "all" are, seconds a row."""

    quick: bool = False
    threads: int = 1
    seconds: float = 1.0

    @property
    def thread_counts(self) -> tuple[int, ...]:
        return (1,) if self.threads == 1 else (1, self.threads)

    def as_record(self) -> dict[str, Any]:
        return {**asdict(self), "rounds": [FEWEST_ROUNDS, MOST_ROUNDS]}


@dataclass(frozen=True)
class Times:
    """Seconds of every round, by the names of the rivals."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, ours: str, theirs: str) -> float:
        """How many times as fast as `theirs` `ours` is."""
        return self.median(theirs) / self.median(ours)


def clock(threads: int) -> Callable[[], float]:
    """CPU time of this thread where it does all the work, so that a busy machine does not count; else the wall's."""
    return time.thread_time if threads == 1 else time.perf_counter


def interleaved(calls: Mapping[str, Call], threads: int, seconds: float) -> Times:
    """Time all calls round by round, each starting a round in turn, in `seconds` or the fewest rounds that count."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        now = clock(threads)
        once = 0.0
        for call in calls.values():
            call()
            once += _duration(call, time.perf_counter)
        rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(seconds / max(once, 1e-9))))
        times: dict[str, list[float]] = {name: [] for name in calls}
        names = list(calls)
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(_duration(calls[name], now))
        return Times(times)
    finally:
        torch.set_num_threads(before)


def repeated(call: Call, times: int) -> Call:
    """One call that does `times` of them, for calls too short for a clock."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def _duration(call: Call, now: Callable[[], float]) -> float:
    started = now()
    call()
    return now() - started
