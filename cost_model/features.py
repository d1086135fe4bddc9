"""What learned models are told of one candidate: numbers of its kernel, and of a call of it.

Sizes and counts enter as logarithms, so that a doubling is the same step everywhere.
"""

from __future__ import annotations

import math
from dataclasses import replace

from .devices import DEVICES
from .prediction import Estimate
from .problem import Problem, Visits
from .resources import (
    AttentionShape,
    TileConfig,
    fma_per_thread,
    register_demand,
    registers,
    shared_memory,
    wide_products,
)
from .schedule import Schedule
from .thread_layouts import HELD, held_by_threads

KERNEL_FEATURES = (
    "element bytes", "is f16", "is bf16", "log key width", "log value width", "key width past a power of two",
    "score bytes", "column bytes", "loads", "score ops", "score transcendentals", "mask ops", "row ops", "windowed",
    "skips", "unaligned", "has lse", "changes output", "stored", "mask bounds", "mask pieces", "mask tiles",
    "mask opaque",
    "log block_m", "log block_n", "log edge", "log columns", "log warps", "stages", "split", "folded", "lists",
    "host descriptors", "device descriptors", "swap", "persistent", "specialised", "by column",
    "log scores of a tile", "scores a thread", "outputs a thread", "log bytes of a query tile",
    "log bytes of a key tile", "log reuse", "wide products", "register demand", "shared memory",
    "log register demand", "registers", "multiply-adds a thread", "key elements a thread", "bulk",
    *(f"log {name}" for name in HELD),
)  # fmt: skip
"""Of the kernel alone, whatever the sizes of a call. "register demand" and "registers" are in hundreds, "shared
memory" in units of 64 KiB, multiply-adds and elements are logarithms, and so is what a thread holds, plus 1; all of
GPUs alone."""

CALL_FEATURES = (
    "log batch heads", "log group", "log queries", "log keys", "rows past the end", "keys past the end",
    "log programs", "log splits", "log tiles a program", "cut share", "cut tiles", "looked", "tested", "heaviest",
    "in vain", "log seconds", "log seconds a score",
)  # fmt: skip
"""Of one call: sizes, what its programs visit, and the analytical time."""

TERMS = (
    "scores", "values", "exponentials", "softmax", "rescaling", "conversions", "regions", "mask", "looks", "rows",
    "l2", "l3", "memory", "loads", "issue", "launch", "python", "lists", "tables", "merge", "tail", "ragged ends",
)  # fmt: skip
"""Terms of analytical models whose shares are told, of those that an estimate has. What is due to several threads is
no part of it, since times are learned on one."""

FEATURES = (*KERNEL_FEATURES, *CALL_FEATURES, *(f"share of {name}" for name in TERMS))

TRANSCENDENTALS = frozenset({"math.exp", "math.exp2", "math.log", "math.log2", "math.tanh", "math.sqrt", "math.erf"})

_TERM_PLACES = {name: place for place, name in enumerate(TERMS)}


def log2(x: float) -> float:
    """The logarithm; 0 of what is not there, as values without a width."""
    return math.log2(x) if x > 0 else 0.0


def features_of(problem: Problem, schedule: Schedule, visits: Visits, estimate: Estimate) -> tuple[float, ...]:
    """The numbers called `FEATURES`, of one candidate for one call."""
    seconds, shares = _work(estimate)
    return (
        *kernel_features_of(problem, schedule),
        *_call_features(problem, schedule, visits, seconds),
        *shares,
    )


def kernel_features_of(problem: Problem, schedule: Schedule) -> tuple[float, ...]:
    """The numbers called `KERNEL_FEATURES`, which do not depend on the sizes of a call."""
    shape, s = problem.shape, schedule
    width, value_width, bytes_ = shape.key_width, shape.value_width, shape.element_bytes
    score_ops, mask = problem.score_ops, problem.mask
    work = sum(score_ops.values())
    hard = sum(n for name, n in score_ops.items() if name in TRANSCENDENTALS) if work else 0
    stored = shape.stored or bool(shape.tiles_of_codes)
    threads = 32.0 * s.num_warps
    return (
        bytes_, problem.element == "f16", problem.element == "bf16", log2(width), log2(value_width),
        log2(width) % 1.0,
        shape.score_bytes, shape.column_bytes, len(problem.loads), work, hard, sum(problem.mask_ops.values()),
        sum(problem.row_ops.values()), shape.windowed, shape.skips,
        shape.unaligned, problem.has_lse, problem.changes_output, stored,
        mask == "bounds", mask == "pieces", mask == "tiles", mask == "opaque",
        log2(s.block_m), log2(s.block_n), log2(s.edge), log2(s.columns or 1), log2(s.num_warps), s.num_stages,
        s.split, s.folded, s.lists,
        s.descriptors == "host", s.descriptors == "device", s.swap, s.persistent > 0, s.specialised, s.by_column,
        log2(s.block_m * s.block_n), s.block_m * s.block_n / threads / 64, s.block_m * value_width / threads / 64,
        log2(s.block_m * width * bytes_), log2(s.block_n * (width + value_width) * bytes_),
        log2(1.0 / (1.0 / s.block_m + 1.0 / s.block_n)), *_gpu_needs(shape, s),
    )  # fmt: skip


def _gpu_needs(shape: AttentionShape, schedule: Schedule) -> tuple[float, ...]:
    """Whether products are wide, and what a program and its threads need as formulas have it; 0 for CPUs."""
    device = None if schedule.lanes else DEVICES.get(schedule.target)
    if device is None:
        return (0.0,) * (8 + len(HELD))
    config = TileConfig(schedule.block_m, schedule.block_n, schedule.num_warps, schedule.num_stages)
    shape = replace(
        shape,
        branches=shape.skips and not schedule.lists,
        bulk=bool(schedule.descriptors),
        swapped=bool(schedule.swap),
        specialised=bool(schedule.specialised),
    )
    demand, memory = register_demand(config, shape, device), shared_memory(config, shape, device)
    threads = device.warp_size * config.warps
    return (
        wide_products(config, shape, device), demand / 100, memory / (64 << 10), log2(demand),
        registers(config, shape, device) / 100, log2(fma_per_thread(config, shape, device)),
        log2(config.block_n * max(shape.key_width, shape.value_width) / threads), shape.bulk,
        *(log2(1.0 + x) for x in held_by_threads(config, shape, device).numbers),
    )  # fmt: skip


def _call_features(problem: Problem, schedule: Schedule, visits: Visits, seconds: float) -> tuple[float, ...]:
    sizes, s = problem.sizes, schedule
    group = max(1, sizes.group)
    # Folded rows are pairs of a query and a head of its group.
    rows, keys = max(1, sizes.queries * (group if s.folded else 1)), max(1, sizes.keys)
    programs = max(1, visits.programs)
    full, cut = visits.full * s.block_n, visits.cut * s.edge
    visited = max(1.0, full + cut)
    average, scores = visited / programs, visited * s.block_m
    pairs = visits.full_pairs + visits.cut_pairs
    return (
        log2(max(1, sizes.batch * sizes.heads)), log2(group), log2(max(1, sizes.queries)), log2(keys),
        log2(1.0 + (-rows % s.block_m) / rows), log2(1.0 + (-keys % s.block_n) / keys),
        log2(programs), log2(max(1, visits.splits)), log2(1.0 + (visits.full + visits.cut) / programs), cut / visited,
        log2(1.0 + visits.cut / programs), log2(1.0 + visits.looked / programs),
        log2(1.0 + visits.tested / programs), log2(max(visits.heaviest, average) / average),
        log2(scores / pairs) if 0.0 < pairs < scores else 0.0, log2(seconds), log2(seconds / scores),
    )  # fmt: skip


def _work(estimate: Estimate) -> tuple[float, list[float]]:
    """Seconds of the terms on one thread, and what part of them each takes; a hidden one twice all of them at most."""
    shares = [0.0] * len(TERMS)
    seconds, threads = 1e-12, 1.0
    for term in estimate.terms:
        if (place := _TERM_PLACES.get(term.name)) is not None:
            shares[place] += term.seconds
            seconds += 0.0 if term.hidden else term.seconds
        elif term.name == "threads":
            threads = max(1.0, term.amount)
    return seconds * threads, [min(2.0, x / seconds) for x in shares]
