"""How good the planner's choices are on problems that no model was trained on: all candidates are measured.

Each candidate is measured in two sessions that know nothing of each other. Their mean is taken as the truth; how far
the best of one session is from the best of the other says what regret measuring itself has, which no model can beat.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from attir.compiler.autotune import Trial, tune
from attir.compiler.host_cpu import host_target
from attir.compiler.measuring import measured
from attir.compiler.tuning import Tuning
from attir.cost_model.training.scores import spearman
from attir.passes.ranking import Candidate, Ranking, difference
from benchmarks.grouped import Row, Settings

from .candidates import KernelCall, Posed, compilers, held_out_problems, kernel_calls, with_threads
from .figures import fastest, geometric_mean, regret, relative_errors

COUNT, QUICK_COUNT = 44, 6
"""Problems, and those of a part."""

MOST = 32
"""Candidates of a problem that are measured, where there are more."""

WHOLE = 8
"""Of every so many problems one has all its candidates measured."""

FEWEST, PROBLEMS = 24, 40
"""What the bars are for: candidates of a problem, and problems."""

ANALYTICAL_BAR, LEARNED_BAR, MEASURED_BAR = (1.10, 1.5), (1.04, 1.2), 1.01
"""Regret: geometric mean and worst."""

CORRELATION_BAR, ERROR_BAR = 0.85, 0.15
TRIED = 3
"""How many of the best by prediction are measured before one is taken."""


@dataclass(frozen=True)
class Truth:
    """Seconds of candidates as predicted and as measured, in equal order; `chosen` are places of the first by the
    analytical model, the first by the learned one, and the one that measuring the best `TRIED` found."""

    posed: Posed
    candidates: tuple[Candidate, ...]
    sessions: tuple[tuple[float, ...], tuple[float, ...]]
    chosen: tuple[int, int, int]
    of: int
    learned: bool

    @property
    def seconds(self) -> list[float]:
        """The mean of both sessions."""
        return [math.sqrt(one * other) for one, other in zip(*self.sessions, strict=True)]

    @property
    def predicted(self) -> list[float]:
        return [c.prediction.seconds for c in self.candidates]

    @property
    def analytical(self) -> list[float]:
        return [c.prediction.analytical for c in self.candidates]

    def regrets(self) -> tuple[float, ...]:
        """Of the three choices."""
        return tuple(regret(self.seconds, place) for place in self.chosen)

    @property
    def noise(self) -> float:
        """The regret of each session's best in the other session."""
        one, other = self.sessions
        return math.sqrt(regret(one, fastest(other)) * regret(other, fastest(one)))


def regrets(settings: Settings) -> Iterator[Row]:
    """A row for each problem, then those with bars."""
    truths: list[Truth] = []
    with with_threads(1), compilers() as pool:
        for number, posed in enumerate(held_out_problems(QUICK_COUNT if settings.quick else COUNT)):
            truths.append(truth_of(posed, settings.seconds, pool, whole=not settings.quick and number % WHOLE == 0))
            yield problem_row(truths[-1])
    yield from summary(truths)


def truth_of(posed: Posed, seconds: float, pool: Executor | None = None, *, whole: bool = False) -> Truth:
    """Measure the candidates of a problem, best first, all of them if `whole`; `seconds` a session."""
    ranking = posed.ranking()
    candidates = ranking.candidates if whole else sample(ranking, MOST)
    calls = kernel_calls(posed, [c.schedule for c in candidates], pool)
    one, other = (session(calls, seconds) for _ in range(2))
    first = fastest([c.prediction.analytical for c in candidates])
    chosen = first, 0, tried(candidates, calls, seconds)
    return Truth(posed, tuple(candidates), (one, other), chosen, len(ranking.candidates), not ranking.note)


def sample(ranking: Ranking, most: int) -> Sequence[Candidate]:
    """The candidates that may be chosen, and others by the digest of their fields, which knows of no model."""
    everyone = ranking.candidates
    if len(everyone) <= most:
        return everyone
    by_analysis = sorted(everyone, key=lambda c: c.prediction.analytical)

    def digest(candidate: Candidate) -> bytes:
        return hashlib.sha256(str(replace(candidate.schedule, reason="")).encode()).digest()

    always = {id(c) for c in (*everyone[:TRIED], by_analysis[0])}
    others = sorted((c for c in everyone if id(c) not in always), key=digest)
    taken = always | {id(c) for c in others[: most - len(always)]}
    return [c for c in everyone if id(c) in taken]


def session(calls: Sequence[KernelCall], seconds: float) -> tuple[float, ...]:
    """Seconds of each call, all beside one of them."""
    named = {str(place): call for place, call in enumerate(calls)}
    # A call of its own, so that none of those compared is measured in another way.
    times = measured({"reference": calls[len(calls) // 2], **named}, reference="reference", seconds=seconds, threads=1)
    return tuple(times[name].seconds for name in named)


def tried(candidates: Sequence[Candidate], calls: Sequence[KernelCall], seconds: float) -> int:
    """The place of the one that autotune="top3" takes, by a measurement of its own."""
    made = {c.schedule: call for c, call in zip(candidates, calls, strict=True)}
    trial = Trial(made.__getitem__, lambda call: call, name="a candidate")
    tuned = tune(candidates, trial, Tuning(TRIED, seconds=seconds, shown=False))
    return candidates.index(tuned.best.candidate)


def problem_row(truth: Truth) -> Row:
    """The figures of one problem; its raw times by what differs from the first choice."""
    analytical, learned, measured_best = truth.regrets()
    first = truth.candidates[truth.chosen[1]].schedule
    best = truth.candidates[fastest(truth.seconds)].schedule
    figures = {
        "candidates": f"{len(truth.candidates)} of {truth.of}", "ms": 1e3 * min(truth.seconds),
        "analytical": analytical, "learned": learned, "3 measured": measured_best, "measured again": truth.noise,
        "Spearman": correlation(truth.predicted, truth.seconds),
        "error": statistics.median(relative_errors(truth.seconds, truth.predicted)),
    }  # fmt: skip
    times = {
        difference(c.schedule, first) or "first": [one, other, c.prediction.seconds, c.prediction.analytical]
        for c, one, other in zip(truth.candidates, *truth.sessions, strict=True)
    }
    note = "" if best == first else f"the best differs by {difference(best, first)}"
    return Row(truth.posed.name, figures, note=note, times=times)


def correlation(predicted: Sequence[float], seconds: Sequence[float]) -> float:
    """Of ranks (Spearman)."""
    return spearman(np.asarray(predicted), np.asarray(seconds))


def summary(truths: Sequence[Truth]) -> Iterator[Row]:
    """The rows with bars."""
    learned = all(truth.learned for truth in truths)
    none = "" if learned else f"nothing was learned for {host_target()}: this is the analytical model alone"
    fewest = min(len(truth.candidates) for truth in truths)
    enough = f"{len(truths)} problems of >= {fewest} candidates"
    if len(truths) < PROBLEMS or fewest < FEWEST:
        enough += f", fewer than the {PROBLEMS} of {FEWEST} that the bars are for"
    by_choice = list(zip(*(truth.regrets() for truth in truths), strict=True))
    bars = (("analytical", ANALYTICAL_BAR, True), ("analytical + learned", LEARNED_BAR, learned))
    for values, (name, (mean_bar, worst_bar), there) in zip(by_choice, bars, strict=False):
        mean, worst = geometric_mean(values), max(values)
        held = there and mean <= mean_bar and worst <= worst_bar
        bar = f"<= {mean_bar:g} and <= {worst_bar:g}"
        figures = {"geometric mean": mean, "worst": worst, "choices within 2 %": _share(v <= 1.02 for v in values)}
        note = enough if there or not none else f"{enough}; {none}"
        yield Row(f"regret of the first choice, {name}", figures, bar, held, note)
    mean = geometric_mean(by_choice[2])
    figures = {"geometric mean": mean, "worst": max(by_choice[2])}
    yield Row(f"regret with {TRIED} measurements", figures, f"<= {MEASURED_BAR}", mean <= MEASURED_BAR, none)
    again = [truth.noise for truth in truths]
    figures = {"geometric mean": geometric_mean(again), "worst": max(again)}
    yield Row("regret of measuring everything again", figures, note="the noise that all figures above have")
    yield from _prediction_rows(truths, none)


def _prediction_rows(truths: Sequence[Truth], note: str) -> Iterator[Row]:
    correlations = [correlation(t.predicted, t.seconds) for t in truths]
    plain = [correlation(t.analytical, t.seconds) for t in truths]
    middle = statistics.median(correlations)
    figures = {"median": middle, "worst": min(correlations), "analytical median": statistics.median(plain),
               "measured again": statistics.median(correlation(*t.sessions) for t in truths)}  # fmt: skip
    bar = f">= {CORRELATION_BAR}"
    yield Row("rank correlation within a problem (Spearman)", figures, bar, middle >= CORRELATION_BAR, note)
    errors = [e for t in truths for e in relative_errors(t.seconds, t.predicted)]
    plain = [e for t in truths for e in relative_errors(t.seconds, t.analytical)]
    first = [relative_errors([t.seconds[t.chosen[1]]], [t.predicted[t.chosen[1]]])[0] for t in truths]
    figures = {"median": statistics.median(errors), "90 %": sorted(errors)[int(0.9 * len(errors))],
               "of first choices": statistics.median(first), "analytical": statistics.median(plain)}  # fmt: skip
    bar, held = f"<= {ERROR_BAR:.0%}", figures["median"] <= ERROR_BAR
    yield Row("error of predicted time, held-out families", figures, bar, held, note)


def _share(found: Iterator[bool]) -> float:
    every = list(found)
    return sum(every) / len(every)
