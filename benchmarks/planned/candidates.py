"""Problems, and the candidates of one as kernels of this CPU that can be called."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

import torch

from attir.compiler.attention_cases import Case
from attir.compiler.autotune import difference_in_words
from attir.compiler.collected_kernels import CpuPlace, Tensors, TimedKernel
from attir.compiler.host_cpu import host_target
from attir.compiler.layouts import Results
from attir.compiler.site_plans import Calls, SitePlans, Wishes, same
from attir.compiler.tuning_problems import Scale, TuningProblem, case_of, families, problems_of, shape_of, tensors_of
from attir.cost_model.cpus import rates_for, set_rates
from attir.cost_model.families import held_out
from attir.cost_model.problem import Sizes
from attir.cost_model.schedule import Schedule
from attir.ir.core import Operation
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.passes.problem import problem_of
from attir.passes.ranking import Ranking, ranked

LARGEST = Scale(0.6)
"""What takes about 10 ms on one core at most, so that all candidates can be measured."""

KernelCall = Callable[[], Results]


class WrongCandidateError(SystemExit):
    """A candidate is not what was asked for, or computes something else; ends the benchmark."""


@dataclass(frozen=True)
class Posed:
    """One call of one attention; `inputs` makes its tensors."""

    name: str
    case: Case
    sizes: Sizes
    inputs: Callable[[], Tensors] = field(compare=False)

    @staticmethod
    def of(name: str, case: Case, sizes: Sizes) -> Posed:
        """On random tensors."""
        return Posed(name, case, sizes, lambda: case.tensors(shape_of(sizes)))

    @property
    def rows(self) -> int:
        """For how many rows kernels of the call are made."""
        return CpuPlace().rows(self.sizes.queries, self.case.group)

    def module(self) -> Operation:
        return self.case.module()

    def ranking(self, wishes: Wishes = (), *, told: bool = False) -> Ranking:
        """All candidates for kernels of this CPU that follow the wishes, best first.

        What captured tensors hold is not known, unless the model is `told`.
        """
        threads = torch.get_num_threads()
        plans = SitePlans(self.module(), host_target(), kept=False)
        calls = Calls(self.sizes, self.rows, wishes=wishes, threads=threads)
        if not told:
            return plans.ranking(calls)
        attention, captures = plans.attention, [capture.numpy() for capture in self.inputs()[3]]
        values = attention.mask.block.arguments[-len(captures) :]
        problem = problem_of(attention, self.sizes, padded=False, few_rows=bool(self.rows))
        known = dict(zip(values, captures, strict=True))
        return ranked(attention, plans.schedules(calls), host_target(), problem, known, threads)


def held_out_problems(count: int) -> list[Posed]:
    """The first `count` of families that no model is trained on, each of another family; short and long ones in turn.

    They are the same ones always.
    """
    return list(islice(_held_out(), count))


def _held_out() -> Iterator[Posed]:
    number = 0
    for family in families():
        found: list[TuningProblem] = problems_of(family, LARGEST) if held_out(family) else []
        if found:
            sizes = found[number % len(found)].sizes
            number += 1
            yield Posed(
                f"{family.name}, {sizes}",
                case_of(family),
                sizes,
                lambda family=family, sizes=sizes: tensors_of(family, sizes),
            )


@contextmanager
def with_threads(count: int) -> Generator[None]:
    """Run and predict for so many threads."""
    rates, before = rates_for(host_target()), torch.get_num_threads()
    set_rates(rates.name, replace(rates, threads=count))
    torch.set_num_threads(count)
    try:
        yield
    finally:
        set_rates(rates.name, rates)
        torch.set_num_threads(before)


@contextmanager
def compilers() -> Generator[Executor]:
    """Processes that compile into the cache, as many as there are processors; they rest while times are taken."""
    # A fork would copy the threads that compile and run here.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def kernel_calls(posed: Posed, schedules: Sequence[Schedule], pool: Executor | None = None) -> list[KernelCall]:
    """A call of each candidate on the same tensors; WrongCandidateError where two give different results."""
    text, count = print_operation(posed.module()), len(schedules)
    if pool is not None:
        list(pool.map(_compile, [text] * count, [posed.rows] * count, schedules, chunksize=2))
    # Read from the same text, so that what was compiled is found: kernels tell of lines in it.
    module, tensors = parse_module(text), posed.inputs()
    calls = [_called(_kernel(module, posed.rows, schedule), tensors) for schedule in schedules]
    expected = calls[0]()
    for schedule, call in zip(schedules, calls, strict=True):
        if problem := difference_in_words(expected, call()):
            raise WrongCandidateError(f"{posed.name}: {schedule}: {problem}")
    return calls


def _compile(text: str, rows: int, schedule: Schedule) -> None:
    _kernel(parse_module(text), rows, schedule)


def _kernel(module: Operation, rows: int, schedule: Schedule) -> TimedKernel:
    kernel = CpuPlace().kernel(module, rows, schedule)
    if same(kernel.schedule) != same(schedule):
        raise WrongCandidateError(f"asked for {schedule}, but got {kernel.schedule}")
    return kernel


def _called(kernel: TimedKernel, tensors: Tensors) -> KernelCall:
    q, k, v, captures = tensors
    return lambda: kernel.runner(q, k, v, captures, False)
