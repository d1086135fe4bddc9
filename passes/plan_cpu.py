"""Chooses tile sizes for native kernels by an estimate from vector registers and caches.

The estimate's constants were set so that AVX-512 gets the tiles measured best on a Xeon at head
dimensions 64 and 128. On a Zen 5 its choices were then within 6 % of the best of eight tilings at
32, 80, 192 and 256, and the best for AVX2 code at 64 and 128.

Lanes are rows of queries. Of scores, `columns` keys by `vectors` vectors of rows are computed at
once, from the scalars of a key row and the transposed tile of q; the output in the same way from
the scalars of a value row and the transposed tile of weights. Both tiles should stay in L1 while
the keys and values stream past them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..cost_model.cpus import Cpu
from ..cost_model.resources import AttentionShape
from ..cost_model.schedule import Schedule

if TYPE_CHECKING:
    from .live_keys import LiveKeys, RowsTried

EDGE_KEYS = 16
"""Keys of a tile that is cut: few, so that little is computed in vain."""

MOST_VECTORS, MOST_KEYS = 4, 128
"""Vectors of rows beyond which a tile of queries wastes more at ragged ends and diagonals than it saves
in reading keys, and keys beyond which less scaling of the output is not felt."""

DECODE_ROWS = (1, 2, 4, 8)
"""Heights of tiles with fewer rows than lanes, whose lanes are keys."""

DECODE_KEYS = 256
"""Keys of such a tile, at most."""

SCRATCH_BYTES = 1 << 20
"""What the tiles of one program may take: each thread has a stack of its own for them."""

SHARE_OF_L1 = 0.75
"""The part of L1 that a tile may fill; the rest is for what streams past it."""

TYPICAL_QUERIES = 1024
"""The query length at which the waste in a last tile that is half empty is weighed."""

HIDDEN = 0.5
"""The part of the time of reads from beyond L1 that runs beside arithmetic."""

EXPONENTIAL_CYCLES, MOVE_CYCLES = 8.0, 1.5
"""Cycles of a core for one vector: of softmax, as its polynomial and sums take, and of a load with a
conversion or a product and a store."""

MOST_POINTERS = 8
"""Keys of which a register block holds a pointer each."""

CLOSE = 0.02
"""Estimates that differ by less, relatively, say nothing about which is faster."""

WORTH = 0.02
"""By how much, relatively, tiles must be faster under a mask to be taken in place of those without one."""

BOUND_CYCLES, OP_CYCLES = 4.0, 2.0
"""Cycles of a core for one vector of scores and its mask: comparing with bounds, and for each op of a region."""

LOOK_CYCLES = 60.0
"""Cycles to find out from a mask's first and last positions what a tile is."""

PROGRAM_CYCLES = 8.0
"""Cycles a program takes beside its tiles, for each vector of rows and column of q and of the output."""


@dataclass(frozen=True)
class Blocking:
    """A register block of `vectors` of rows by `columns`, in key tiles of `block_n`."""

    vectors: int
    columns: int
    block_n: int

    def block_m(self, cpu: Cpu) -> int:
        return self.vectors * cpu.lanes

    @property
    def reuse(self) -> float:
        """Multiply-adds for each operand that is loaded."""
        return self.vectors * self.columns / (self.vectors + self.columns)

    @property
    def registers(self) -> int:
        """Accumulators, one operand of vectors, and one scalar spread over the lanes."""
        return self.vectors * self.columns + self.vectors + 1


@dataclass(frozen=True)
class BlockingCycles:
    """Cycles of a core for one vector of rows and one key, by what they are spent on."""

    dots: float
    softmax: float
    rescaling: float
    streams: float
    waste: float

    @property
    def total(self) -> float:
        return self.dots + self.softmax + self.rescaling + self.streams + self.waste


@dataclass(frozen=True)
class MaskWork:
    """What is known of a mask: the keys it leaves to visit, and the ops of its region."""

    live: LiveKeys
    region_ops: int
    block_keys: int = 0
    """Keys in the blocks that a captured table tells of; 0 for no table."""

    def suits(self, keys: int) -> bool:
        """Whether tiles of so many keys lie inside the blocks of a table."""
        return self.block_keys % EDGE_KEYS != 0 or self.block_keys % keys == 0

    @property
    def cycles(self) -> float:
        """For one vector of scores; a region's are computed once more, to see whether any is kept."""
        return 2 * OP_CYCLES * self.region_ops if self.live.plan.kind != "bounds" else BOUND_CYCLES


def cpu_schedule(cpu: Cpu, shape: AttentionShape, rows: int = 0, mask: MaskWork | None = None) -> Schedule | str:
    """The schedule for `rows` pairs of a query and a head of its group, 0 for any number; else why there is none.

    `shape` has the exact head dimensions. With few rows the keys are split over programs.
    """
    height = folded_rows(cpu, rows)
    if height in DECODE_ROWS and height < cpu.lanes:
        return _narrow(cpu, shape, height, mask)
    vectors = height // cpu.lanes
    considered = list(candidates(cpu, vectors))
    fitting = [blocking for blocking in considered if scratch_bytes(blocking, cpu, shape) <= SCRATCH_BYTES]
    if not fitting:
        least = min(scratch_bytes(blocking, cpu, shape) for blocking in considered)
        return f"{least} bytes of scratch memory for the smallest tiles, of {SCRATCH_BYTES}"
    if mask is not None:
        fitting = [blocking for blocking in fitting if mask.suits(blocking.block_n)]
    fitting = [blocking for blocking in fitting if in_groups(shape, blocking.block_n)] or fitting
    best = _best(fitting, cpu, shape)
    listed = 0
    if mask is not None and not rows:
        best = _best_masked(fitting, best, cpu, shape, mask)
        # Once for all heads that share them; and no program of a long row comes last.
        listed = int(mask.live.plan.kind == "tiles")
    reason = f"{explain(best, cpu, shape)}; best of {len(fitting)} that fit, of {len(considered)}"
    folded = int(rows > 0)
    return replace(_schedule(cpu, best.block_m(cpu), best.block_n, best.columns, reason, folded), lists=listed)


def in_groups(shape: AttentionShape, keys: int) -> bool:
    """Whether tiles of so many keys lie in one group of those that share scales."""
    return shape.key_group == 0 or shape.key_group % keys == 0


def folded_rows(cpu: Cpu, rows: int) -> int:
    """The height of a tile for `rows` folded rows: 0 for none, below a vector one of `DECODE_ROWS`."""
    if rows <= 0:
        return 0
    for height in DECODE_ROWS:
        if rows <= height:
            return height
    return min(MOST_VECTORS, -(-rows // cpu.lanes)) * cpu.lanes


def candidates(cpu: Cpu, vectors: int = 0) -> Iterator[Blocking]:
    """Every register block that fits the registers, with every size of key tile; for `vectors` of rows only."""
    heights = range(1, MOST_VECTORS + 1) if vectors == 0 else (vectors,)
    for height in heights:
        for columns in (1, 2, 4, 8, 16):
            for block_n in range(EDGE_KEYS, MOST_KEYS + 1, EDGE_KEYS):
                blocking = Blocking(height, columns, block_n)
                if blocking.registers <= cpu.vector_registers:
                    yield blocking


def scratch_bytes(blocking: Blocking, cpu: Cpu, shape: AttentionShape) -> int:
    """The tiles of q, scores and output in f32, and of keys and values where they must be widened to it."""
    rows, width = blocking.block_m(cpu), shape.key_width + shape.value_width
    staged = blocking.block_n * width if shape.element_bytes < 4 or shape.stored else 0
    scaled = rows * shape.key_width if shape.key_group else 0
    return 4 * (rows * (width + blocking.block_n) + staged + scaled)


def blocking_cycles(blocking: Blocking, cpu: Cpu, shape: AttentionShape) -> BlockingCycles:
    """The estimate by which blockings are ranked, of one vector of rows and one key.

    A step of a dot starts vectors * columns multiply-adds, each on an accumulator of its own, and
    loads vectors of rows and a scalar for each column. Where the rows' tile is too large for L1, those
    vectors come from L2. Keys and values come from beyond L2, once for all rows of a tile.
    """
    vectors, columns, block_n = blocking.vectors, blocking.columns, blocking.block_n
    width, rows = shape.key_width + shape.value_width, blocking.block_m(cpu)
    block = vectors * columns
    # Each key is a pointer of its own, and so many fit the general registers; others are loaded again and again.
    loads = vectors + columns + max(0, columns - MOST_POINTERS)
    step = max(block / cpu.fma_units, cpu.fma_latency, loads / cpu.load_ports)
    from_l2 = vectors * cpu.lanes * 4 / cpu.l2_bandwidth * (1 - HIDDEN)
    room = SHARE_OF_L1 * cpu.l1_bytes
    q_step = step + from_l2 * (4 * rows * shape.key_width > room)
    # Beside the weights stands a cache line of each value row, from which several steps take their scalars.
    p_step = step + from_l2 * (block_n * (4 * rows + 64) > room)
    dots = (q_step * shape.key_width + p_step * shape.value_width) / block
    streams = shape.key_bytes / cpu.far_bandwidth * (1 - HIDDEN) / vectors
    if shape.element_bytes < 4 or shape.stored:
        streams += MOVE_CYCLES * width / rows
    # Scales of channels go into q, once a tile.
    rescaling = MOVE_CYCLES * (shape.value_width + (shape.key_width if shape.key_group else 0)) / block_n
    waste = (dots + EXPONENTIAL_CYCLES) * 0.5 * rows / TYPICAL_QUERIES
    return BlockingCycles(dots, EXPONENTIAL_CYCLES, rescaling, streams, waste)


def explain(blocking: Blocking, cpu: Cpu, shape: AttentionShape) -> str:
    """The estimate behind a choice, in words."""
    cycles = blocking_cycles(blocking, cpu, shape)
    rows = blocking.block_m(cpu)
    return (
        f"{rows}x{blocking.block_n} tiles in register blocks of {blocking.vectors} vectors by {blocking.columns}, "
        f"{cycles.total:.0f} cycles a key and vector (dots {cycles.dots:.0f}, softmax {cycles.softmax:.0f}, "
        f"rescaling {cycles.rescaling:.1f}, reading keys {cycles.streams:.1f}, ragged ends {cycles.waste:.1f}), "
        f"{4 * rows * shape.key_width} bytes of q and {4 * rows * blocking.block_n} of scores, "
        f"{scratch_bytes(blocking, cpu, shape)} of scratch memory"
    )


def _best(fitting: list[Blocking], cpu: Cpu, shape: AttentionShape) -> Blocking:
    """The fastest by the estimate without a mask."""
    return _among_equals({blocking: blocking_cycles(blocking, cpu, shape).total for blocking in fitting})


def _among_equals(cycles: Mapping[Blocking, float]) -> Blocking:
    """The fastest; among those as good as equal, by how rarely they read keys, then operands."""
    limit = min(cycles.values()) * (1 + CLOSE)
    close = [blocking for blocking in cycles if cycles[blocking] <= limit]
    return max(close, key=lambda blocking: (blocking.vectors, blocking.reuse, -cycles[blocking]))


def masked_cycles(blocking: Blocking, cpu: Cpu, shape: AttentionShape, mask: MaskWork, tried: RowsTried) -> float:
    """The estimate under a mask for one row: full and cut tiles, looking at tiles, what the program does beside."""
    cycles, visits = blocking_cycles(blocking, cpu, shape), tried.visits(blocking.block_n)
    each = cycles.dots + cycles.softmax + cycles.streams
    cut = each + MOVE_CYCLES * shape.value_width / EDGE_KEYS + mask.cycles
    keys = visits.full * (each + cycles.rescaling) + visits.cut * cut
    beside = PROGRAM_CYCLES * (shape.key_width + shape.value_width)
    return (keys + beside) / cpu.lanes + visits.looked * LOOK_CYCLES / blocking.block_m(cpu)


def _best_masked(fitting: list[Blocking], usual: Blocking, cpu: Cpu, shape: AttentionShape, mask: MaskWork) -> Blocking:
    """The fastest under a mask, if it is worth leaving the `usual` one for it."""
    tried = {height: mask.live.at_height(height) for height in {blocking.block_m(cpu) for blocking in fitting}}

    cycles = {b: masked_cycles(b, cpu, shape, mask, tried[b.block_m(cpu)]) for b in fitting}
    best = _among_equals(cycles)
    return best if cycles[best] < (1 - WORTH) * cycles[usual] else usual


def _narrow(cpu: Cpu, shape: AttentionShape, rows: int, mask: MaskWork | None) -> Schedule | str:
    """Fewer rows than lanes: bound by reading keys and values once, which lie along the lanes."""
    width = shape.key_width + shape.value_width
    keys = cpu.l2_bytes // 2 // (4 * width) // EDGE_KEYS * EDGE_KEYS
    block_n = max(EDGE_KEYS, min(DECODE_KEYS, keys))
    sizes = range(block_n, 0, -EDGE_KEYS)
    sizes = [n for n in sizes if in_groups(shape, n)] or list(sizes)
    # Blocks of a table count for more than groups: where both cannot be kept, keys are scaled one by one.
    block_n = sizes[0] if mask is None else next((n for n in sizes if mask.suits(n)), EDGE_KEYS)
    staged = block_n * width if shape.element_bytes < 4 or shape.stored else 0
    scratch = 4 * (rows * (width + block_n) + staged)
    if scratch > SCRATCH_BYTES:
        return f"{scratch} bytes of scratch memory for the smallest tiles, of {SCRATCH_BYTES}"
    columns = cpu.lanes // rows
    reason = (
        f"{rows} folded rows by {block_n} keys, {columns} keys a vector: {block_n * shape.key_bytes:.0f} bytes "
        f"of keys and values stay in L2, {scratch} of scratch memory"
    )
    return _schedule(cpu, rows, block_n, columns, reason, folded=1)


def _schedule(cpu: Cpu, block_m: int, block_n: int, columns: int, reason: str, folded: int) -> Schedule:
    """Folded rows are few programs, so their keys are split."""
    return Schedule(
        block_m, block_n, num_warps=1, num_stages=1, target=cpu.name, reason=reason,
        lanes=cpu.lanes, columns=columns, edge_n=EDGE_KEYS, folded=folded, split=folded,
    )  # fmt: skip
