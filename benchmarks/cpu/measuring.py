"""How times are taken on a CPU: rivals by turns in one process, with one thread or all; knows nothing of attention."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], Any]
MOST_ROUNDS, FEWEST_ROUNDS = 15, 5
DISTURBING = 0.1


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
    """Seconds of every round, by the names of the rivals.

    `others` is how many processors other processes kept busy meanwhile, where the wall's time counts.
    """

    seconds: Mapping[str, list[float]]
    others: float = 0.0

    @property
    def note(self) -> str:
        """A warning where other processes were in the way."""
        return f"others kept {self.others:.1f} processors busy" if self.others >= DISTURBING else ""

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, ours: str, theirs: str) -> float:
        """How many times as fast as `theirs` `ours` is."""
        return self.median(theirs) / self.median(ours)


def clock(threads: int) -> Callable[[], float]:
    """CPU time of this thread where it does all the work, so that a busy machine does not count; else the wall's."""
    return time.thread_time if threads == 1 else time.perf_counter


def interleaved(calls: Mapping[str, Call], threads: int, seconds: float, fewest: int = FEWEST_ROUNDS) -> Times:
    """Time all calls round by round, each starting a round in turn, in about `seconds` but `fewest` rounds at least."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        now = clock(threads)
        once = 0.0
        for call in calls.values():
            call()
            once += _duration(call, time.perf_counter)
        rounds = min(MOST_ROUNDS, max(fewest, int(seconds / max(once, 1e-9))))
        times: dict[str, list[float]] = {name: [] for name in calls}
        names = list(calls)
        began, others = time.perf_counter(), _seconds_of_others()
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(_duration(calls[name], now))
        others = _seconds_of_others() - others
        return Times(times, others / (time.perf_counter() - began) if threads > 1 else 0.0)
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


def _seconds_of_others() -> float:
    """Processor time of all processes but this since some moment; 0 where the system does not tell; see proc(5)."""
    try:
        _, user, nice, system, *_ = Path("/proc/stat").read_text().split(maxsplit=4)
    except OSError:
        return 0.0
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK") - time.process_time()
