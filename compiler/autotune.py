"""Measures candidates of one attention on the tensors of a call, and takes the fastest that agrees with the first.

Knows nothing of languages and devices: who asks says how a kernel is made of a schedule, and how it is called.
"""

from __future__ import annotations

import atexit
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch

from ..cost_model.online import expected_gains, worth_measuring
from ..cost_model.schedule import Schedule
from ..ir.diagnostics import CompileError, error
from ..passes.ranking import Candidate, difference
from .layouts import Results
from .measuring import Timing, measured
from .tuning import Tuning

K = TypeVar("K")

MAKING = 0.6
"""The part of the budget that compiling may take; kernels that are compiled but not measured are of no use."""

FINALISTS = 3
"""Candidates that are measured for as long as there is time; of more, the slower half leaves after each turn."""

WORTH = 0.01
"""The part of its time by which another must beat the model's first choice: less is noise."""

NOTICED = 0.0025
"""The part of a call's time that knowing better must be expected to save: measuring ends below."""

SURE = 3.0
"""Standard errors by which two must differ for their order to be clear."""

CALLS = 1e5
"""Calls for which a site is expected to be of use: another round must save more in them than it takes."""

ROUNDING: Mapping[torch.dtype, float] = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""How far two kernels differ by rounding, relative to the largest number of a result: two units in the last place."""

ROUNDING_F32 = 2e-5
"""The same of float32, whose sums are taken in another order, with exponentials of their own."""

ATTEMPTS = 3
"""Comparisons after which tensors that somebody changes meanwhile are given up."""

BAR = 24
"""Characters of the progress bar."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The process ends while something is measured in the background."""


class Measure(Protocol):
    """Times calls that take turns; see `measuring.measured`."""

    def __call__(
        self,
        calls: Mapping[str, Callable[[], object]],
        *,
        reference: str | None,
        seconds: float,
        device: str,
        enough: Callable[[Mapping[str, Timing], float], bool],
    ) -> Mapping[str, Timing]: ...


@dataclass(frozen=True)
class Trial(Generic[K]):
    """How a kernel is made of a schedule, CompileError where it cannot be, and how it is called on a call's tensors.

    `name` tells people what is tuned.
    """

    make: Callable[[Schedule], K]
    call: Callable[[K], Callable[[], Results]]
    device: str = "cpu"
    name: str = "attention"


@dataclass(frozen=True)
class Measured:
    """One candidate that was measured."""

    candidate: Candidate
    timing: Timing


@dataclass(frozen=True)
class Tuned:
    """What was found: those measured, the fastest first; `dropped` says of candidates why they were left out.

    `reference` is the candidate beside which all were measured, `wanted` how many should have been measured, of
    `considered` candidates.
    """

    order: tuple[Measured, ...]
    reference: Candidate
    dropped: tuple[tuple[Schedule, str], ...]
    wanted: int
    considered: int

    @property
    def best(self) -> Measured:
        return self.order[0]

    @property
    def source(self) -> str:
        """Where the decision comes from, in words."""
        return f"measured {len(self.order)} of {self.considered}"

    @property
    def note(self) -> str:
        """What was left out, and why; empty where nothing was."""
        first = self.reference.schedule
        told = [f"dropped {difference(s, first) or 'the first'}: {why}" for s, why in self.dropped]
        if (late := self.wanted - len(self.order) - len(self.dropped)) > 0:
            told.append(f"no time was left for {late} more")
        return "; ".join(told)

    def rows(self, sizes: str, rows: int) -> list[dict[str, object]]:
        """The measurements as a file of data has them."""
        reference = next(m.timing.seconds for m in self.order if m.candidate is self.reference)
        plain = Schedule(0, 0, 0, 0)
        return [
            {
                "sizes": sizes,
                "rows": rows,
                "schedule": {
                    name: value
                    for name, value in vars(m.candidate.schedule).items()
                    if name != "reason" and value != getattr(plain, name)
                },
                "seconds": m.timing.seconds,
                "reference": reference,
                "ratio": m.timing.ratio,
                "spread": m.timing.spread,
                "rounds": m.timing.rounds,
            }
            for m in self.order
        ]


def tune(
    candidates: Sequence[Candidate],
    trial: Trial[K],
    tuning: Tuning,
    *,
    measure: Measure = measured,
    now: Callable[[], float] = time.monotonic,
    stop: threading.Event | None = None,
) -> Tuned:
    """Make, compare and measure the first of `candidates`, best first, as far as `tuning` asks and its time lasts.

    Raises CompileError where none can be made or called.
    """
    wanted = list(candidates[: tuning.count])
    with Progress(trial.name, len(wanted), tuning.shown) as progress:
        session = _Session(trial, now() + tuning.seconds, measure, now, stop or threading.Event(), progress)
        making = now() + MAKING * tuning.seconds
        for number, candidate in enumerate(wanted):
            if number > 1 and now() >= making:
                break
            session.add(candidate)
        order = session.order()
    return Tuned(order, session.made[0], tuple(session.dropped), len(wanted), len(candidates))


@dataclass
class _Session(Generic[K]):
    """What was made of candidates so far; the first is what the others are compared with and measured beside."""

    trial: Trial[K]
    deadline: float
    measure: Measure
    now: Callable[[], float]
    stop: threading.Event
    progress: Progress
    made: list[Candidate] = field(default_factory=list[Candidate])
    calls: list[Callable[[], Results]] = field(default_factory=list[Callable[[], Results]])
    dropped: list[tuple[Schedule, str]] = field(default_factory=list[tuple[Schedule, str]])

    def add(self, candidate: Candidate) -> None:
        """Make a candidate; one that cannot be made, or gives another result, is dropped with the reason."""
        self.progress.show("compiled", len(self.made))
        self._check()
        try:
            call = self.trial.call(self.trial.make(candidate.schedule))
            problem = differs(self.calls[0], call) if self.calls else _runs(call)
        except (CompileError, RuntimeError, MemoryError) as failed:
            self.dropped.append((candidate.schedule, in_words(failed)))
            return
        if problem:
            self.dropped.append((candidate.schedule, problem))
            return
        self.made.append(candidate)
        self.calls.append(call)

    def order(self) -> tuple[Measured, ...]:
        """The candidates that were made, the fastest first; the slower half is measured no more after each turn."""
        if not self.made:
            raise error(f"no candidate can be measured: {self.dropped[0][1]}" if self.dropped else "no candidate fits")
        alive, timings = list(range(len(self.made))), dict[int, Timing]()
        turns = 1 + max(0, math.ceil(math.log2(len(alive) / FINALISTS)))
        for turn in range(turns):
            self.progress.show("ruled out", len(self.made) - len(alive))
            # The last turn gets half of what is left when it begins, and so on backwards.
            seconds = max(0.0, self.deadline - self.now()) / (turns - turn)
            left = max(FINALISTS, math.ceil(len(alive) / 2)) if turn + 1 < turns else 1
            timings |= self._measured(alive, seconds, left)
            alive.sort(key=lambda i: (timings[i].ratio, i))
            if turn + 1 < turns:
                alive = alive[:left]
        order = [*alive, *sorted(timings.keys() - set(alive), key=lambda i: (timings[i].ratio, i))]
        if 0 in timings and timings[order[0]].ratio > (1 - WORTH) * timings[0].ratio:
            order = [0, *(i for i in order if i)]
        return tuple(Measured(self.made[i], timings[i]) for i in order)

    def _measured(self, alive: Sequence[int], seconds: float, left: int) -> dict[int, Timing]:
        """Times of some, beside those of the first, until it is clear which are the `left` fastest."""

        def enough(timings: Mapping[str, Timing], cost: float) -> bool:
            return settled([timings[str(i)] for i in alive], left, cost)

        names = {str(i): i for i in sorted({0, *alive})}
        calls = {name: self._stoppable(self.calls[i]) for name, i in names.items()}
        found = self.measure(calls, reference="0", seconds=seconds, device=self.trial.device, enough=enough)
        return {names[name]: timing for name, timing in found.items()}

    def _stoppable(self, call: Callable[[], Results]) -> Callable[[], object]:
        def run() -> object:
            self._check()
            return call()

        return run

    def _check(self) -> None:
        if self.stop.is_set():
            raise Stopped


def settled(timings: Sequence[Timing], left: int, cost: float) -> bool:
    """Whether it is clear which are the `left` fastest; of one, whether to know better would save too little.

    `cost` is what one more round takes, in seconds.
    """
    order = sorted(timings, key=lambda t: t.ratio)
    inside, outside = order[:left], order[left:]
    if not outside:
        return True
    if left > 1:
        return all(_distinct(inside[-1], other) for other in outside)
    seconds, errors = [t.seconds for t in order], [t.error for t in order]
    noticed = max(expected_gains(seconds, errors)) > NOTICED * seconds[0]
    return not noticed or worth_measuring(seconds, errors, cost, CALLS) is None


def _distinct(fast: Timing, slow: Timing) -> bool:
    """Whether one is faster beyond doubt, or both are as good as equal beyond it."""
    gap, doubt = math.log(slow.ratio / fast.ratio), math.hypot(fast.error, slow.error)
    return gap > SURE * doubt or gap + doubt < WORTH


def in_words(problem: Exception) -> str:
    """What went wrong, in a line."""
    if isinstance(problem, CompileError):
        return problem.diagnostics[0].message
    return f"{type(problem).__name__}: {problem}"


def _runs(call: Callable[[], Results]) -> str:
    call()
    return ""


# --- whether two kernels agree


def differs(first: Callable[[], Results], other: Callable[[], Results]) -> str:
    """How the results of two calls differ beyond rounding, in words; empty where they do not.

    The first is called before and after: where its results change, so did the tensors, and nothing is known.
    """
    for _ in range(ATTEMPTS):
        before, found, after = ([t.clone() for t in call()] for call in (first, other, first))
        if all(map(_identical, before, after)):
            return difference_in_words(before, found)
    return "the tensors of the call kept changing, so that results could not be compared"


def _identical(x: torch.Tensor, y: torch.Tensor) -> bool:
    return bool(((x == y) | (x.isnan() & y.isnan())).all())


def difference_in_words(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> str:
    """How out and lse of two kernels differ beyond rounding; empty where they do not."""
    for name, x, y, least in zip(("out", "lse"), expected, found, (0.0, 1.0), strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"{name} is {y.dtype} {tuple(y.shape)}, but {x.dtype} {tuple(x.shape)} of the first"
        bound = ROUNDING.get(x.dtype, ROUNDING_F32)
        x, y = x.float(), y.float()
        same = (x == y) | (x.isnan() & y.isnan())
        if not bool((x.isfinite() & y.isfinite())[~same].all()):
            return f"{name} has inf or nan where that of the first has something else"
        finite = x[x.isfinite()].abs()
        allowed = bound * max(least, finite.max().item() if finite.numel() else 0.0)
        largest = (x - y)[~same].abs().max().item() if bool((~same).any()) else 0.0
        if largest > allowed:
            return f"{name} differs by {largest:.1e} from that of the first, where rounding explains {allowed:.1e}"
    return ""


# --- progress


class Progress:
    """One line on stderr that says how far tuning is, where somebody reads it; gone when it ends."""

    def __init__(self, name: str, count: int, shown: bool | None) -> None:
        self.name, self.count = name, max(1, count)
        self.shown = sys.stderr.isatty() if shown is None else shown
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            self._write("")

    def show(self, what: str, done: int) -> None:
        """Say that `done` of all are `what`."""
        if self.shown:
            filled = BAR * min(done, self.count) // self.count
            bar = f"[{'#' * filled}{'.' * (BAR - filled)}]"
            self._write(f"tuning {self.name} {bar} {done} of {self.count} {what}")

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more
            sys.stderr.write(f"\r{line:<{self._width}}" + ("" if line else "\r"))
            sys.stderr.flush()
        self._width = len(line)


# --- in the background


class Worker:
    """One thread that does what it is given, piece by piece, until the process ends; begins with the first piece.

    Each piece gets an event and ends soon when it is set. A process that forks leaves its pieces behind.
    """

    def __init__(self) -> None:
        self._reset()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._pieces: queue.SimpleQueue[Callable[[threading.Event], None]] = queue.SimpleQueue()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, piece: Callable[[threading.Event], None]) -> None:
        """Do `piece` when those before it are done."""
        with self._lock:
            self._pieces.put(piece)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="attir-autotune", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Let what was given so far be done; False where that took longer."""
        done = threading.Event()
        self.add(lambda _: done.set())
        return done.wait(seconds)

    def close(self, seconds: float = 10.0) -> None:
        """Stop at the next occasion. Python must not end while the thread is inside native code that comes back."""
        self._stop.set()
        if self._thread is not None:
            self._pieces.put(lambda _: None)
            self._thread.join(seconds)

    def _run(self) -> None:
        pieces, stop = self._pieces, self._stop
        while not stop.is_set():
            with suppress(Stopped):
                pieces.get()(stop)


WORKER = Worker()
"""What measures in the background of this process."""
