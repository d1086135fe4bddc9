"""How long a native kernel takes on a CPU, term by term: a sum over what its programs do, in cycles of one core.

Tiles of whole vectors of rows are wide: of scores, `columns` keys by some vectors of rows are computed at once, from
the scalars of a key row and the transposed tile of q, and the output in the same way from value rows and weights.
Tiles of fewer rows than lanes are narrow: vectors run along the head dimension, and are added up at the end.

The constants were fitted, as few as there are things that happen, to some 5500 measurements on a Zen 5 of kernels
whose schedules were forced, over f32, f16 and bf16, head dimensions 32 to 256 and 64 to 32768 keys: those of
`cost_model/data` of families that are not held out, and as many again of register blocks that are not good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from .cpus import CpuRates
from .prediction import Estimate, Term
from .problem import Problem, Visits
from .resources import AttentionShape
from .schedule import Schedule

TOGETHER = 3.75
"""Limits of one step add up as a norm of this order: the largest rules, but those near it are felt."""

FMA_SHARE, LATENCY_SHARE = 0.99, 0.75
"""The part of the peak of multiply-adds that a step comes to where nothing else limits it; and of their latency, since
the first steps of a block run beside the last ones of the block before it."""

SCALAR_LOAD = 0.63
"""Of a load of a vector, what one of a scalar takes."""

MOST_POINTERS = 8
"""Keys of which a register block holds a pointer each; others are loaded again and again."""

BLOCK = 5.0
"""Cycles in which a register block of a product starts and ends, beside its steps."""

SOFTMAX_F32, SOFTMAX_HALF = 0.54, 0.57
"""Times what a vector of exponentials takes: of scores in f32, and of those of half types, that are rounded."""

ACCUMULATOR = 0.7
"""Cycles to load, scale and store one vector of the output, once for each tile of keys."""

WIDE_TILE, NARROW_TILE = 35.0, 72.0
"""Cycles for the maxima and sums of the rows of a tile of keys; narrow tiles fold them across lanes."""

WIDEN, WIDEN_IN_REGISTERS = 1.57, 0.35
"""Times what converting one vector takes, where it is stored, and the part of a load where it stays in registers."""

ADD_UP = 5.4
"""Cycles of a tree that adds up the vectors of one step of a narrow tile."""

EXPOSED_WIDE, EXPOSED_NARROW, EXPOSED_OPERAND = 1.0, 0.64, 0.22
"""The part of the time of reading that is not hidden: of keys and values for many rows, for few, which are fetched
ahead, and of the transposed tile of q or the weights where they lie in L2."""

FILLS_L1, FILLS_L2, FILLS_L3 = 0.4, 0.6, 0.45
"""The part of a cache from which on what is read again no longer lies there."""

ROW_VECTOR, NARROW_VECTOR = 8.3, 13.6
"""Cycles a program takes to transpose, widen and scale one vector of q, or to finish and store one of the output."""

BOUND = 3.2
"""Cycles to compare one vector of scores with bounds."""

OPERATION = 0.3
"""Cycles of an operation of a region on one vector, if `OPERATIONS` has no other number."""

OPERATIONS: Mapping[str, float] = {
    "arith.divf": 8.0, "arith.remf": 16.0, "arith.divsi": 40.0, "arith.remsi": 40.0, "arith.floordivsi": 40.0,
    "math.exp": 8.0, "math.exp2": 7.0, "math.tanh": 13.0, "math.sqrt": 10.0, "math.rsqrt": 12.0, "math.absf": 0.5,
    "math.fma": 0.6, "arith.index_cast": 0.0, "tensor.extract": 0.0,
}  # fmt: skip
"""Cycles of others; what is loaded counts by what it varies with."""

FUNCTION = 15.0
"""Cycles of a function of `math` that is not among them."""

GATHERED, GATHERED_ALONE, SPREAD = 14.0, 60.0, 0.5
"""Cycles for a vector of elements that vary with rows and keys: read with neighbours in a row of memory, and one by
one; and of those that vary with one of them."""

RUN = 4
"""Neighbouring columns that are read at once."""

LOOK = 50.0
"""Cycles to find out from a mask's first and last positions what a tile is."""

LISTED_LOOK, LIST_STEP = 40.0, 4.0
"""Cycles to find that out in the kernel that writes lists, and to take one tile from a list."""

MERGED_ROW, MERGED_VECTOR = 48.0, 16.0
"""Cycles to merge the parts of one row: once, and for each vector of each part."""

KERNEL = 1.27e-6
"""Seconds of Python for each kernel beside the main one."""

SMALL = 200_000
"""Floating-point operations below which a call runs on one thread."""

LEVELS = ("l1", "l2", "l3", "memory")


def cpu_estimate(problem: Problem, schedule: Schedule, visits: Visits, rates: CpuRates) -> Estimate:
    """What one call takes on up to `rates.threads` cores."""
    lanes = schedule.lanes
    tile = _tile_costs(problem.shape, schedule.block_m, schedule.columns, lanes, rates, problem.element)
    full, cut = visits.full * schedule.block_n, visits.cut * schedule.edge
    keys, tiles = full + cut, visits.full + visits.cut
    vectors = schedule.block_m / lanes
    programs = visits.programs * visits.splits
    score, mask = _score_region(problem, schedule.columns), _mask_region(problem, schedule.columns)
    tested = visits.tested * schedule.edge * vectors * mask
    big_p = tile.p_step_l2 * max(visits.full, 0.0) * schedule.block_n * _beyond(
        schedule.block_n * (4 * schedule.block_m + 64), rates.levels[0].bytes, FILLS_L1
    )  # fmt: skip
    cycles = {
        "scores": keys * tile.q_key,
        "values": keys * tile.p_key + tiles * tile.p_tile + big_p,
        "softmax": keys * tile.softmax + tiles * tile.each,
        "rescaling": tiles * tile.rescaling,
        "conversions": keys * tile.conversions,
        "regions": keys * vectors * score,
        "mask": cut * vectors * mask + tested,
        "looks": _looking(schedule, visits),
        "rows": programs * (tile.program + rates.program * rates.clock),
    }
    terms = [Term(name, c / rates.clock, c, "cycles") for name, c in cycles.items() if c]
    terms += _reads(problem, keys, tile.wide, rates)
    terms = _on_threads(problem, schedule, visits, rates, terms)
    terms += _beside(problem, schedule, visits, rates)
    return Estimate((*terms, _ragged(schedule, visits, tile, rates)))


def score_cycles(shape: AttentionShape, schedule: Schedule, rates: CpuRates, element: str) -> float:
    """Cycles of one row and one key in full tiles, keys and values in L3; without regions and masks."""
    tile = _tile_costs(shape, schedule.block_m, schedule.columns, schedule.lanes, rates, element)
    key = tile.q_key + tile.p_key + tile.softmax + tile.conversions
    key += (tile.p_tile + tile.each + tile.rescaling) / schedule.block_n
    key += EXPOSED_WIDE * shape.key_bytes / rates.levels[2].read * rates.clock
    return key / schedule.block_m


@dataclass(frozen=True)
class TileCosts:
    """Cycles of a tile of rows: for one key of it, for one tile of keys, and for the program."""

    wide: bool
    q_key: float
    p_key: float
    p_tile: float
    p_step_l2: float
    softmax: float
    each: float
    rescaling: float
    conversions: float
    program: float


@lru_cache(maxsize=4096)
def _tile_costs(
    shape: AttentionShape, block_m: int, columns: int, lanes: int, rates: CpuRates, element: str
) -> TileCosts:
    if block_m >= lanes:
        return _wide_costs(shape, block_m // lanes, columns, lanes, rates, element)
    return _narrow_costs(shape, block_m, lanes, rates, element)


def _wide_costs(
    shape: AttentionShape, vectors: int, columns: int, lanes: int, rates: CpuRates, element: str
) -> TileCosts:
    """A step of a dot starts vectors * columns multiply-adds, each on an accumulator of its own.

    It loads the vectors of rows and a scalar for each column; where the tile of q is too large for L1, from L2.
    """
    depth, width = shape.key_width, shape.value_width
    from_l2 = EXPOSED_OPERAND * vectors * 4 * lanes / rates.levels[1].read * rates.clock
    q_step = wide_step(vectors, columns, rates, max(0, columns - MOST_POINTERS))
    q_step += from_l2 * _beyond(4 * lanes * vectors * depth, rates.levels[0].bytes, FILLS_L1)
    blocks, rest = divmod(width, columns)
    p_steps = blocks * wide_step(vectors, columns, rates) + (wide_step(vectors, rest, rates) if rest else 0.0)
    rows_scaled = depth if shape.key_group else 0
    return TileCosts(
        True,
        (q_step * depth + BLOCK) / columns,
        p_steps,
        BLOCK * (blocks + bool(rest)),
        from_l2 * (blocks + bool(rest)),
        vectors * _softmax(lanes, rates, element),
        WIDE_TILE,
        ACCUMULATOR * vectors * (width + rows_scaled),
        WIDEN * _widening(shape, lanes, rates, element) * (depth + width) / lanes,
        ROW_VECTOR * vectors * (depth + width),
    )


def wide_step(vectors: int, columns: int, rates: CpuRates, reloads: int = 0) -> float:
    """Cycles of one step of the sum of a register block."""
    loads = vectors + SCALAR_LOAD * (columns + reloads)
    return _together(vectors * columns / (FMA_SHARE * rates.fma), LATENCY_SHARE * rates.latency, loads / rates.loads)


def _narrow_costs(shape: AttentionShape, rows: int, lanes: int, rates: CpuRates, element: str) -> TileCosts:
    """Of q k, a step takes `lanes` / rows keys, all sums of a vector at once; of p v one key, some vectors wide."""
    q_vectors, p_vectors = (-(-width // lanes) for width in (shape.key_width, shape.value_width))
    keys, most = lanes // rows, max(1, REGISTERS_FOR_SUMS // rows)
    widen = WIDEN_IN_REGISTERS * (_widening(shape, lanes, rates, element) > 0)
    fma, latency = FMA_SHARE * rates.fma, LATENCY_SHARE * rates.latency
    q_step = _together(lanes / fma, (keys + rows) / rates.loads + widen * keys)
    p_key = 0.0
    for start in range(0, p_vectors, most):
        here = min(most, p_vectors - start)
        p_key += _together(rows * here / fma, latency, (here + rows) / rates.loads + widen * here)
    return TileCosts(
        False,
        (q_step * q_vectors + ADD_UP) / keys,
        p_key,
        0.0,
        0.0,
        _softmax(lanes, rates, element) * rows / lanes,
        NARROW_TILE,
        ACCUMULATOR * rows * p_vectors,
        0.0,
        NARROW_VECTOR * rows * (q_vectors + p_vectors),
    )


REGISTERS_FOR_SUMS = 16
"""Vector registers that the sums of a narrow tile may take."""


def _together(*limits: float) -> float:
    return sum(x**TOGETHER for x in limits) ** (1 / TOGETHER)


def _beyond(size: float, cache: float, share: float) -> float:
    """How much of what is read again lies beyond a cache: none up to a share of it, all from its size on."""
    return min(1.0, max(0.0, (size / cache - share) / (1 - share)))


def _softmax(lanes: int, rates: CpuRates, element: str) -> float:
    """Cycles of a vector of scores."""
    return (SOFTMAX_F32 if element == "f32" else SOFTMAX_HALF) * lanes * rates.clock / rates.exponentials


def _widening(shape: AttentionShape, lanes: int, rates: CpuRates, element: str) -> float:
    """Cycles to convert one vector of keys or values to f32; 0 for f32."""
    if shape.element_bytes >= 4 and not shape.stored:
        return 0.0
    rate = rates.widened_f16 if element == "f16" else rates.widened_bf16
    return lanes * rates.clock / rate


def _score_region(problem: Problem, columns: int) -> float:
    """Cycles of the score region on one vector."""
    return _region(problem, problem.score_ops, ("score", "weight"), columns)


def _mask_region(problem: Problem, columns: int) -> float:
    """Cycles to apply the mask to one vector of scores."""
    if problem.mask in ("none", "bounds"):
        return BOUND if problem.mask == "bounds" else 0.0
    return BOUND + _region(problem, problem.mask_ops, ("mask",), columns)


def _region(problem: Problem, ops: Mapping[str, int], names: tuple[str, ...], columns: int) -> float:
    """Cycles of the operations of regions on one vector, and of what they load."""
    if not ops:
        return 0.0
    found = sum(count * _operation(name) for name, count in ops.items())
    for load in problem.loads:
        if load.region in names:
            both = "m" in load.positions and "n" in load.positions
            found += (GATHERED if columns % RUN == 0 else GATHERED_ALONE) if both else SPREAD
    return found


def _operation(name: str) -> float:
    known = OPERATIONS.get(name)
    if known is not None:
        return known
    return FUNCTION if name.startswith("math.") else OPERATION


def _looking(schedule: Schedule, visits: Visits) -> float:
    """Cycles to find out what tiles are, in the main kernel."""
    if schedule.lists:
        return LIST_STEP * (visits.full + visits.cut)
    return LOOK * visits.looked


def _reads(problem: Problem, keys: float, wide: bool, rates: CpuRates) -> list[Term]:
    """Keys and values that do not lie in L1: the first time from where all of them fit, then where one head's do."""
    sizes, shape = problem.sizes, problem.shape
    row = shape.key_bytes
    head = sizes.keys * row
    everything = sizes.batch * sizes.key_heads * head
    total = keys * row
    first = min(total, everything)
    exposed, found = EXPOSED_WIDE if wide else EXPOSED_NARROW, [0.0] * len(LEVELS)
    for size, amount in ((everything, first), (head, total - first)):
        for place, share in enumerate(_shares(size, rates)):
            found[place] += share * amount
    return [
        Term(LEVELS[place], exposed * amount / rates.levels[place].read, amount, "bytes")
        for place, amount in enumerate(found)
        if amount and place
    ]


@lru_cache(maxsize=256)
def _shares(size: float, rates: CpuRates) -> tuple[float, float, float, float]:
    """The parts of what is `size` bytes large that lie in L1, L2, L3 and memory when they are read again."""
    beyond_l2 = _beyond(size, rates.levels[1].bytes, FILLS_L2)
    beyond_l3 = _beyond(size, rates.levels[2].bytes, FILLS_L3)
    return 0.0, 1.0 - beyond_l2, beyond_l2 - beyond_l3, beyond_l3


def _on_threads(problem: Problem, schedule: Schedule, visits: Visits, rates: CpuRates, terms: list[Term]) -> list[Term]:
    """The terms of programs, shared by the threads, and what the heaviest program keeps the others waiting."""
    sizes, shape = problem.sizes, problem.shape
    pairs = sizes.batch * sizes.heads * sizes.queries * sizes.keys
    programs = visits.programs * visits.splits
    threads = 1 if 2 * pairs * (shape.key_width + shape.value_width) < SMALL else min(rates.threads, programs)
    if threads <= 1:
        return terms
    total = sum(term.seconds for term in terms)
    keys = visits.full * schedule.block_n + visits.cut * schedule.edge
    even = total / threads
    # One after the other is taken; in the end the last ones run alone, half of one on average.
    heaviest = total * visits.heaviest / keys if keys else 0.0
    waiting = max(heaviest - even, 0.0) + 0.5 * heaviest * (threads - 1) / threads * (programs % threads != 0)
    shared = [Term(t.name, t.seconds / threads, t.amount, t.unit) for t in terms]
    return [*shared, Term("imbalance", waiting), Term("threads", rates.thread, threads, "threads")]


def _beside(problem: Problem, schedule: Schedule, visits: Visits, rates: CpuRates) -> list[Term]:
    """What happens before and after the main kernel."""
    sizes, shape = problem.sizes, problem.shape
    found = [Term("launch", rates.call, 1, "calls")]
    if schedule.lists:
        cycles = LISTED_LOOK * visits.looked
        found.append(Term("lists", KERNEL + cycles / rates.clock, visits.looked, "tiles"))
    if schedule.split and not (visits.splits == 1 and problem.element == "f32"):
        rows = sizes.batch * sizes.heads * sizes.queries
        vectors = visits.splits * -(-shape.value_width // schedule.lanes)
        cycles = rows * (MERGED_ROW + MERGED_VECTOR * vectors)
        found.append(Term("merge", KERNEL + cycles / rates.clock, rows * visits.splits, "rows"))
    return found


def _ragged(schedule: Schedule, visits: Visits, tile: TileCosts, rates: CpuRates) -> Term:
    """The part of the dots that is for rows and keys that do not exist; part of the other terms."""
    computed = schedule.block_m * (visits.full * schedule.block_n + visits.cut * schedule.edge)
    wasted = max(0.0, computed - visits.full_pairs - visits.cut_pairs)
    seconds = wasted / schedule.block_m * (tile.q_key + tile.p_key) / rates.clock
    return Term("ragged ends", seconds, wasted, "scores", hidden=True)
