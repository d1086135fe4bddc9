"""How long it takes to plan a site, without a plan in the cache and with one; nothing is compiled.

Bars are for the time of the processor, as others use the machine too; that of the wall's clock stands beside it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from attir.compiler.host_cpu import host_target
from attir.compiler.native_kernels import rows_for as rows_on_cpu
from attir.compiler.site_plans import Calls, SitePlans
from attir.compiler.triton_kernels import rows_for as rows_on_gpu
from attir.compiler.tuning_problems import case_of, families, problems_of
from attir.cost_model.families import Family
from attir.cost_model.problem import Sizes
from attir.ir.core import Operation
from benchmarks.cpu.latency import child
from benchmarks.grouped import Row, Settings

T = TypeVar("T")

SITES, QUICK_SITES = 48, 8
COLD_BAR, WARM_BAR = 20.0, 2.0
"""Milliseconds a site, at the median."""

GPU = "sm_90"


def planning(settings: Settings) -> Iterator[Row]:
    """For this CPU and for a GPU that need not be there; then what a second process does that finds all plans."""
    count = QUICK_SITES if settings.quick else SITES
    for target in (host_target(), GPU):
        yield from _times(target, count)
    yield second_process()


def _rows_for(queries: int, group: int, target: str) -> int:
    return rows_on_gpu(queries, group) if target == GPU else rows_on_cpu(queries, group, target)


def _times(target: str, count: int) -> Iterator[Row]:
    cold, warm = dict[str, list[float]](), dict[str, list[float]]()
    for number, (family, sizes) in enumerate(islice(_sites(target), count + 1)):
        calls = Calls(sizes, _rows_for(sizes.queries, family.group, target), threads=1)
        module = case_of(family).module()
        took = _cold(module, target, calls), _warm(module, target, calls)
        if number:  # what is imported on first use is no part of it
            cold[family.name], warm[family.name] = took
    for what, times, bar in (("cold", cold, COLD_BAR), ("warm", warm, WARM_BAR)):
        ms = [1e3 * seconds for seconds, _ in times.values()]
        middle = statistics.median(ms)
        figures = {
            "median ms": middle, "90 % ms": sorted(ms)[int(0.9 * len(ms))], "worst ms": max(ms),
            "by the wall's clock ms": 1e3 * statistics.median(wall for _, wall in times.values()), "sites": len(ms),
        }  # fmt: skip
        yield Row(f"planning a site for {target}, {what}", figures, f"<= {bar:g} ms", middle <= bar, times=times)


def _sites(target: str) -> Iterator[tuple[Family, Sizes]]:
    """Families of all kinds; on GPUs, whose tensor cores do no exact f32, those of half types."""
    for number, family in enumerate(families()):
        if (found := problems_of(family)) and (target != GPU or family.dtype != "f32"):
            yield family, found[number % len(found)].sizes


def _cold(module: Operation, target: str, calls: Calls) -> list[float]:
    """Seconds to look for a plan in vain and to choose one; it is kept behind that."""
    plans = SitePlans(module.clone(), target)
    found, looking = _taken(lambda: plans.find(calls))
    chosen, choosing = _taken(lambda: plans.by_model(calls, None))
    if found.chosen is not None:
        raise SystemExit(f"a plan was kept already: {found.reason}")
    plans.keep(calls, chosen)
    return [x + y for x, y in zip(looking, choosing, strict=True)]


def _warm(module: Operation, target: str, calls: Calls) -> list[float]:
    """Seconds to find it, for a program that was not seen before."""
    plans = SitePlans(module.clone(), target)
    found, took = _taken(lambda: plans.find(calls))
    if found.chosen is None:
        raise SystemExit(f"a plan that was kept is not found: {found.reason}")
    return took


def _taken(call: Callable[[], T]) -> tuple[T, list[float]]:
    """The result, and seconds of the processor and of the wall's clock."""
    wall, own = time.perf_counter(), time.thread_time()
    result = call()
    return result, [time.thread_time() - own, time.perf_counter() - wall]


def second_process() -> Row:
    """What two processes measure and compile, one after the other, with one cache."""
    with tempfile.TemporaryDirectory(prefix="attir-") as folder:
        first, second = (child("counted", folder, module="benchmarks.planned.children") for _ in range(2))
    figures = {**{f"first {name}": n for name, n in first.items()}, **second}
    held = not any(second.values()) and all(first.values())
    return Row("a second process with a warm cache", figures, "measures 0, compiles 0", held)
