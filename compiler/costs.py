"""What the cost model says of each fused site, term by term, for `attir explain --costs`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from ..cost_model.counts import Counts, compulsory_bytes, counts_of, io_lower_bound
from ..cost_model.cpus import CPUS, rates_for
from ..cost_model.devices import DEVICES, MARKETED, Device, device_described
from ..cost_model.prediction import Estimate, Term
from ..cost_model.problem import Problem, Sizes, Visits
from ..cost_model.schedule import Schedule
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.dialects.attn import AttentionOp
from ..passes.problem import problem_of
from ..passes.ranking import has_times, sizes_of
from .kernels import Site
from .options import Options
from .sites import CompiledSite, SiteCompiler

SMALLEST = 1e-9
"""Seconds below which a term is not shown, unless it says how much there is of something."""

WIDEST = 18


@dataclass(frozen=True)
class SiteCosts:
    """One site: what a call asks for, its kernels, what they do, and how long that takes on `place`."""

    name: str
    place: str
    problem: Problem
    schedule: Schedule
    visits: Visits
    counts: Counts
    estimate: Estimate
    fast_bytes: float

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        s, estimate = self.schedule, self.estimate
        tiles = f"{s.block_m}x{s.block_n} tiles"
        yield f"{self.name}: {self.problem.sizes} on {self.place}, {tiles}: {_time(estimate.seconds)} a call"
        shown = [term for term in estimate.terms if term.seconds >= SMALLEST or (term.hidden and term.amount)]
        for term in sorted(shown, key=lambda term: (term.hidden, -term.seconds)):
            yield f"    {_term(term)}"
        yield f"    visits  {self._visited()}"
        yield f"    counts  {_amount(self.counts.flops)}FLOP, {_amount(self.counts.exponentials)}exp"
        for name, bytes_ in (("loads", self.counts.loaded), ("stores", self.counts.stored)):
            told = ", ".join(f"{tensor} {_amount(x)}B" for tensor, x in bytes_.items() if x)
            yield f"    {name:8s}{told}"
        bound = io_lower_bound(self.problem, self.fast_bytes)
        yield (
            f"    I/O     at least {_amount(bound)}B past {_amount(self.fast_bytes)}B of fast memory if all keys are "
            f"kept (N^2 d^2 / M), {_amount(compulsory_bytes(self.problem))}B of operands and result"
        )

    def _visited(self) -> str:
        visits = self.visits
        counted = "" if visits.exact else ", from some rows that were tried"
        return (
            f"{visits.programs * visits.splits} programs, {visits.full:.6g} full and {visits.cut:.6g} cut tiles, "
            f"{visits.looked:.6g} looked at{counted}"
        )


def _term(term: Term) -> str:
    """Its seconds; those of a term that runs beside others in brackets."""
    time = f"({_time(term.seconds)})" if term.hidden else _time(term.seconds)
    amount = f"{_amount(term.amount)}{term.unit}" if term.unit else ""
    return f"{term.name:{WIDEST}s}{time:>14s}    {amount}".rstrip()


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _amount(x: float) -> str:
    """Four digits and a prefix."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= size:
            return f"{x / size:.4g} {prefix}"
    return f"{x:.4g} "


def costs_of(module: Operation, schedule: Schedule, call: Sizes | None, device: str = "", name: str = "") -> SiteCosts:
    """The costs of an outlined attention with this schedule; CompileError for a target that has no speed.

    `device` is one that kernels for the schedule's target run on, such as "h200" for sm_90.
    """
    attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
    target = schedule.target
    check_place(target, device)
    from ..passes.visits import visits_of

    sizes = sizes_of(attention, call, target)
    problem = problem_of(attention, sizes, padded=not schedule.lanes, few_rows=schedule.few_rows)
    visits = visits_of(attention, schedule, sizes)
    place, estimate, fast = _estimated(problem, schedule, visits, device)
    counts = counts_of(problem, schedule, visits)
    return SiteCosts(name or "attention", place, problem, schedule, visits, counts, estimate, fast)


def _estimated(problem: Problem, schedule: Schedule, visits: Visits, name: str) -> tuple[str, Estimate, float]:
    """Where it runs in words, the terms, and the bytes of the memory beside the arithmetic."""
    target = schedule.target
    if target in CPUS:
        from ..cost_model.cpu_time import cpu_estimate

        return target, cpu_estimate(problem, schedule, visits, rates_for(target)), float(CPUS[target].l2_bytes)
    from ..cost_model.gpu_time import gpu_estimate

    device = _device(target, name)
    words = f"{device.marketing_name} ({device.name})"
    return words, gpu_estimate(problem, schedule, visits, device), float(device.shared_memory)


def _device(target: str, name: str) -> Device:
    """The device called `name`, which must run kernels for `target`; the one that stands for it if there is no name."""
    device = device_described(name or target)
    if device.name not in DEVICES:
        raise error(f"{device.marketing_name} is {device.name}, for which no kernels are made")
    if device.name != target:
        fitting = ", ".join(key for key, other in MARKETED.items() if other.name == target)
        raise error(f"{device.marketing_name} runs kernels for {device.name}, and these are for {target} ({fitting})")
    return device


def check_place(target: str, name: str) -> None:
    """CompileError unless costs can be told of kernels for `target` on the device called `name`, if any is."""
    if not has_times(target):
        raise error(f"costs are of a device, and '{target}' is none; name one with --target")
    if target not in CPUS:
        _device(target, name)
    elif name:
        raise error(f"kernels for '{target}' run on no device called '{name}'")


@dataclass(eq=False)
class CostRecorder:
    """A compiler of sites that remembers the costs of each one that `inner` compiles."""

    inner: SiteCompiler
    device: str = ""
    found: list[SiteCosts] = field(default_factory=list[SiteCosts])

    def __call__(self, module: Operation, options: Options, call: Sizes | int | None = None) -> CompiledSite:
        compiled = self.inner(module, options, call)
        if isinstance(compiled, Site):
            known = {f.name for f in fields(Schedule)}
            plan = compiled.kernel.lowered.plan
            schedule = Schedule(**{name: value for name, value in plan.items() if name in known})
            sizes = call if isinstance(call, Sizes) else None
            self.found.append(costs_of(module, schedule, sizes, self.device, f"site {len(self.found) + 1}"))
        return compiled
