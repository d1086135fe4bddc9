"""From recorded times and compilations to what models are trained from: features, answers, and the words of kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from statistics import median

import numpy as np

from ..cost_model.cpu_time import cpu_estimate
from ..cost_model.cpus import CPUS, DEFAULT_RATES
from ..cost_model.dataset import CaseFields, CompileRecord, TimeRecord
from ..cost_model.devices import device_named
from ..cost_model.features import CALL_FEATURES, KERNEL_FEATURES, features_of, kernel_features_of
from ..cost_model.gpu_time import gpu_estimate
from ..cost_model.prediction import Estimate
from ..cost_model.problem import Problem, Sizes, Visits
from ..cost_model.schedule import Schedule
from ..cost_model.tokens import words_of
from ..cost_model.training.samples import Samples, numbered
from ..ir.core import Operation
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tile import KernelOp
from ..passes.analyze_mask import AnalyzeMask
from ..passes.manager import PassContext
from ..passes.pipeline import PassPipeline
from ..passes.problem import problem_of
from ..passes.visits import MaskVisits
from .attention_cases import Case
from .compile_sample import Configuration, lowered
from .pipelines import LOWER
from .tuning_problems import case_of

MOST_RATIO = 200.0
"""Times further from their estimates than this are of something else than the kernel."""

TextOf = Callable[[], tuple[str, ...]]


@dataclass(frozen=True)
class Collected:
    """Samples of one target, and for each a function that makes the words of its kernel, with those of its call."""

    target: str
    samples: Samples
    texts: tuple[TextOf, ...]
    noise: float = 0.0

    def words(self) -> list[tuple[str, ...]]:
        """All texts; takes some milliseconds for each kernel."""
        return [text() for text in self.texts]


# --- times


def time_samples(records: Sequence[TimeRecord], target: str) -> Collected:
    """The candidates of all problems; records of the same problem and schedule are all kept."""
    found = [x for problem in _by_problem(records) for x in _of_problem(problem, target)]
    kept = [x for x in found if abs(x.answer) < math.log(MOST_RATIO)]
    samples = Samples(
        np.asarray([x.row for x in kept], np.float64),
        np.asarray([(x.answer,) for x in kept], np.float64),
        numbered([x.problem for x in kept]),
        tuple(x.family for x in kept),
        np.asarray([x.seconds for x in kept], np.float64),
        np.asarray([x.analytical for x in kept], np.float64),
    )
    # A ratio of medians over some rounds varies by less than one round does.
    noise = median([r.spread / math.sqrt(max(1, r.rounds)) for r in records]) if records else 0.0
    return Collected(target, samples, tuple(x.text for x in kept), noise)


@dataclass(frozen=True)
class _Timed:
    row: tuple[float, ...]
    answer: float
    problem: object
    family: str
    seconds: float
    analytical: float
    text: TextOf


def _by_problem(records: Sequence[TimeRecord]) -> Iterator[list[TimeRecord]]:
    groups: dict[object, list[TimeRecord]] = {}
    for record in records:
        groups.setdefault((record.family, record.case, record.sizes, record.rows), []).append(record)
    yield from groups.values()


def _of_problem(records: Sequence[TimeRecord], target: str) -> Iterator[_Timed]:
    """The candidates of one problem. Where the machine was slower or faster just then divides out of their ratios."""
    first = records[0]
    attention = analysed(case_of(first.case))
    problem = problem_of(attention, first.sizes, padded=target not in CPUS)
    visits = MaskVisits(attention, first.sizes)
    reference = median(record.reference for record in records)
    for record in records:
        visited = visits.at(record.schedule)
        estimate = estimated(problem, record.schedule, visited, target, record.threads)
        seconds, row = record.ratio * reference, features_of(problem, record.schedule, visited, estimate)
        text = _TimeText(record, target, row, estimate.seconds)
        key = record.family, record.case, record.sizes, record.rows
        answer = math.log(seconds / estimate.seconds)
        yield _Timed(row, answer, key, record.family, seconds, estimate.seconds, text)


def estimated(problem: Problem, schedule: Schedule, visits: Visits, target: str, threads: int) -> Estimate:
    """As the planner estimates a call on so many threads, of a CPU that nobody calibrated."""
    if target in CPUS:
        return cpu_estimate(problem, schedule, visits, replace(DEFAULT_RATES[target], threads=threads))
    return gpu_estimate(problem, schedule, visits, device_named(target))


@dataclass(frozen=True)
class _TimeText:
    """The words of a kernel and of its call: sizes, what it visits, and the analytical time.

    Values of words are read as logarithms; what of the features is one already is told as a power of two.
    """

    record: TimeRecord
    target: str
    row: tuple[float, ...]
    analytical: float

    def __call__(self) -> tuple[str, ...]:
        sizes, r = self.record.sizes, self.record
        told = {
            "heads": sizes.batch * sizes.heads, "group": sizes.group, "queries": sizes.queries, "keys": sizes.keys,
            "rows": r.rows, "nanoseconds": 1e9 * self.analytical,
        }  # fmt: skip
        call = zip(CALL_FEATURES, self.row[len(KERNEL_FEATURES) :], strict=False)
        told |= {name.replace(" ", "_"): 2.0**value for name, value in call}
        ahead = tuple(f"{name}={value:.5g}" for name, value in told.items())
        return (f"target={self.target}", *ahead, *kernel_words(r.case, r.schedule))


# --- what compilers made


def compile_samples(records: Sequence[CompileRecord]) -> Collected:
    """Answers: registers, whether loops spill, log of the length of the longest loop; nan where nothing was made."""
    kept = [r for r in records if r.registers > 0]
    problems = [_kernel_problem(Configuration.of(r).case, r.rows > 0) for r in kept]
    rows = [kernel_features_of(p, replace(r.schedule, target=r.target)) for p, r in zip(problems, kept, strict=True)]
    answers = [
        (r.registers, float(r.loop_spills > 0), math.log(max(r.loops)) if r.loops else math.nan) for r in kept
    ]  # fmt: skip
    zeros = np.zeros(len(kept))
    samples = Samples(
        np.asarray(rows, np.float64), np.asarray(answers, np.float64), np.arange(len(kept)),
        tuple(r.family for r in kept), zeros, zeros,
    )  # fmt: skip
    return Collected("", samples, tuple(_CompileText(r) for r in kept))


@cache
def _kernel_problem(case: Case, few_rows: bool) -> Problem:
    return problem_of(analysed(case), Sizes(), padded=True, few_rows=few_rows)


@dataclass(frozen=True)
class _CompileText:
    """The words of a kernel that was compiled."""

    record: CompileRecord

    def __call__(self) -> tuple[str, ...]:
        kernel, _ = lowered(Configuration.of(self.record))
        return (f"target={self.record.target}", *words_of(kernel))


# --- kernels


@lru_cache(maxsize=64)
def _analysed(case: Case) -> Operation:
    module = case.module()
    PassPipeline((AnalyzeMask(),)).run(module, PassContext())
    return module


def analysed(case: Case) -> AttentionOp:
    """The attention of a case, as it is when a schedule is chosen for it."""
    return next(AttentionOp(op) for op in _analysed(case).walk() if AttentionOp.match(op))


@lru_cache(maxsize=4096)
def kernel_words(case: CaseFields, schedule: Schedule) -> tuple[str, ...]:
    """The words of the main kernel of a problem whose times were measured."""
    module = _analysed(case_of(case)).clone()
    next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op)).schedule = schedule.to_attr()
    PassPipeline(LOWER).run(module, PassContext())
    return words_of(next(op for op in module.walk() if KernelOp.match(op)))
