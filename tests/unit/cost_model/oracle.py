"""A made-up machine: its times follow a roofline, and what no roofline knows, and noise. For tests of learning."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np

from attir.cost_model.features import features_of
from attir.cost_model.prediction import Estimate, Term
from attir.cost_model.problem import Problem, Sizes, Visits
from attir.cost_model.resources import AttentionShape
from attir.cost_model.schedule import Schedule
from attir.cost_model.training.samples import Samples, numbered

FLOPS, BANDWIDTH, EXPONENTIALS, L1 = 6e10, 1e10, 2e9, 32 << 10
NOISE = 0.02
"""The deviation of log(time) from one measurement to the next."""

CANDIDATES = [
    Schedule(m, n, 1, 1, target="avx512", lanes=16, columns=c, edge_n=16)
    for m in (16, 32, 48, 64) for n in (32, 64, 128) for c in (2, 4, 8)
]  # fmt: skip


def problems(count: int, seed: int = 0) -> Iterator[tuple[str, Problem]]:
    """Problems with the names of their families, a few sizes each."""
    draw = random.Random(seed)
    for number in range(count // 4):
        width, bytes_ = draw.choice((32, 48, 64, 80, 96, 128, 160, 192)), draw.choice((2, 4))
        ops = draw.choice(({}, {"math.tanh": 1}, {"arith.addf": 1, "arith.mulf": 1}))
        for _ in range(4):
            keys = draw.choice((128, 200, 512, 777, 1024, 2048))
            sizes = Sizes(1, heads := draw.choice((1, 4, 16)), heads, keys, keys)
            element = "f32" if bytes_ == 4 else "f16"
            yield f"family {number}", Problem(sizes, AttentionShape(width, width, bytes_), element, score_ops=ops)


def visits_of(problem: Problem, schedule: Schedule) -> Visits:
    sizes = problem.sizes
    programs = sizes.batch * sizes.heads * -(-sizes.queries // schedule.block_m)
    tiles = -(-sizes.keys // schedule.block_n)
    return Visits(programs, float(programs * tiles), 0.0, heaviest=float(tiles * schedule.block_n))


def roofline(problem: Problem, schedule: Schedule, visits: Visits) -> Estimate:
    """What is known of the machine."""
    scores, shape = visits.full * schedule.block_m * schedule.block_n, problem.shape
    dots = 2 * scores * (shape.key_width + shape.value_width) / FLOPS
    memory = visits.full * schedule.block_n * 2 * shape.key_width * shape.element_bytes / BANDWIDTH
    return Estimate((Term("scores", dots), Term("softmax", scores / EXPONENTIALS), Term("memory", memory)))


def seconds(problem: Problem, schedule: Schedule, visits: Visits, estimate: Estimate) -> float:
    """What is true: tiles beyond L1, short register blocks, conversions and regions cost more than is known."""
    width = problem.shape.key_width
    held = 4 * width * (schedule.block_m + schedule.block_n)
    beyond = 0.25 / (1 + math.exp(-2 * math.log2(held / L1)))
    latency = 0.3 / schedule.columns * (64 / schedule.block_m) ** 0.5
    converted = 0.2 * (problem.element == "f16") * 32 / schedule.block_m
    regions = 0.5 * problem.score_ops.get("math.tanh", 0) + 0.1 * problem.score_ops.get("arith.mulf", 0)
    started = visits.programs * 3e-6
    return estimate.seconds * (1.1 + beyond + latency + converted + regions) + started


def samples(count: int, seed: int = 0) -> Samples:
    """A dozen candidates of each problem, measured once."""
    draw = random.Random(seed)
    rows, times, analytical = list[tuple[float, ...]](), list[float](), list[float]()
    keys, families = list[int](), list[str]()
    for number, (family, problem) in enumerate(problems(count, seed)):
        for schedule in draw.sample(CANDIDATES, 12):
            visits = visits_of(problem, schedule)
            estimate = roofline(problem, schedule, visits)
            time = seconds(problem, schedule, visits, estimate) * math.exp(draw.gauss(0, NOISE))
            rows.append(features_of(problem, schedule, visits, estimate))
            keys.append(number)
            families.append(family)
            times.append(time)
            analytical.append(estimate.seconds)
    found, known = np.asarray(times), np.asarray(analytical)
    answers = np.log(found / known)[:, None]
    return Samples(np.asarray(rows, np.float64), answers, numbered(keys), tuple(families), found, known)
