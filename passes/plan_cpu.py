"""Lists the schedules of native kernels that are worth a thought; which is the best is for the cost model to say.

Lanes are rows of queries. Of scores, `columns` keys by some vectors of rows are computed at once, from the scalars of
a key row and the transposed tile of q; the output in the same way from the scalars of a value row and the transposed
tile of weights. Tiles of fewer rows than lanes have vectors that run along the head dimension instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..cost_model.cpus import Cpu
from ..cost_model.resources import AttentionShape
from ..cost_model.schedule import Schedule

EDGE_KEYS = 16
"""Keys of a tile that is cut: few, so that little is computed in vain."""

MOST_VECTORS, MOST_KEYS = 4, 128
"""Vectors of rows beyond which a tile of queries wastes more at ragged ends and diagonals than it saves
in reading keys, and keys up to which every multiple of `EDGE_KEYS` is tried."""

KEY_TILES = (*range(EDGE_KEYS, MOST_KEYS + 1, EDGE_KEYS), 192, 256)
"""Keys of the tiles that are tried."""

COLUMNS = (1, 2, 4, 8, 16)
"""Columns of a product that are computed at once: divisors of the shortest tile of keys."""

DECODE_ROWS = (1, 2, 4, 8)
"""Heights of tiles with fewer rows than lanes."""

DECODE_KEY_TILES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Keys of such tiles that are tried."""

SCRATCH_BYTES = 1 << 20
"""What the tiles of one program may take: each thread has a stack of its own for them."""

BUSY = 0.5
"""The part of the latency of multiply-adds that register blocks must fill with others."""


@dataclass(frozen=True)
class MaskWork:
    """What candidates depend on of a mask: the kind of its plan, such as "tiles", and tables that it reads."""

    kind: str
    block_keys: int = 0
    """Keys in the blocks that a captured table tells of; 0 for no table."""

    def suits(self, keys: int) -> bool:
        """Whether tiles of so many keys lie inside the blocks of a table."""
        return self.block_keys % EDGE_KEYS != 0 or self.block_keys % keys == 0


def cpu_candidates(
    cpu: Cpu, shape: AttentionShape, rows: int = 0, mask: MaskWork | None = None
) -> list[Schedule] | str:
    """Every schedule worth a thought for `rows` pairs of a query and a head of its group, 0 for any number.

    A string says why there is none. Tiles that do not lie inside the blocks of a table of the mask are left out, and
    those that do not lie in a group of keys with scales, if others do.
    """
    found = _few_rows(cpu, rows) if rows > 0 else _any_rows(cpu)
    needs = {schedule: scratch_of(schedule, shape) for schedule in found}
    fitting = [schedule for schedule in found if needs[schedule] <= SCRATCH_BYTES]
    if not fitting:
        return f"{min(needs.values())} bytes of scratch memory for the smallest tiles, of {SCRATCH_BYTES}"
    if mask is not None:
        # Blocks of a table count for more than groups: where both cannot be kept, keys are scaled one by one.
        fitting = [schedule for schedule in fitting if mask.suits(schedule.block_n)]
    fitting = [schedule for schedule in fitting if in_groups(shape, schedule.block_n)] or fitting
    if mask is not None and not rows and mask.kind == "tiles":
        fitting += [replace(schedule, lists=1) for schedule in fitting]
    return fitting


@lru_cache(maxsize=8)
def _any_rows(cpu: Cpu) -> tuple[Schedule, ...]:
    """Tiles of whole vectors of rows of one head."""
    heights = range(1, MOST_VECTORS + 1)
    return tuple(s for vectors in heights for s in _wide(cpu, vectors, KEY_TILES, COLUMNS, folded=0))


@lru_cache(maxsize=128)
def _few_rows(cpu: Cpu, rows: int) -> tuple[Schedule, ...]:
    """Tiles of the rows of a group: narrow ones that waste no more than half, or read keys no more than four times.

    Wide ones where they are at least a quarter full, and no higher than needed.
    """
    found: list[Schedule] = []
    for height in DECODE_ROWS:
        if height < cpu.lanes and height <= 2 * rows <= 8 * height:
            for block_n in DECODE_KEY_TILES:
                found += _split(_schedule(cpu, height, block_n, cpu.lanes // height, folded=1))
    if 4 * rows >= cpu.lanes:
        for vectors in range(1, min(MOST_VECTORS, -(-rows // cpu.lanes)) + 1):
            for schedule in _wide(cpu, vectors, KEY_TILES, COLUMNS, folded=1):
                found += _split(schedule)
    return tuple(found)


def _split(schedule: Schedule) -> tuple[Schedule, Schedule]:
    """With the keys of a row in several programs, and in one."""
    return replace(schedule, split=1), schedule


def _wide(cpu: Cpu, vectors: int, sizes: Sequence[int], columns: Sequence[int], folded: int) -> Iterator[Schedule]:
    """Tiles of so many vectors of rows, whose register blocks fit, and keep the units busy."""
    for count in columns:
        block = vectors * count
        if registers(vectors, count) <= cpu.vector_registers and block >= BUSY * cpu.fma_units * cpu.fma_latency:
            for block_n in sizes:
                yield _schedule(cpu, vectors * cpu.lanes, block_n, count, folded)


def _schedule(cpu: Cpu, block_m: int, block_n: int, columns: int, folded: int) -> Schedule:
    return Schedule(
        block_m, block_n, num_warps=1, num_stages=1, target=cpu.name,
        lanes=cpu.lanes, columns=columns, edge_n=EDGE_KEYS, folded=folded,
    )  # fmt: skip


def registers(vectors: int, columns: int) -> int:
    """Vector registers of a block: accumulators, one operand of vectors, and one scalar spread over the lanes."""
    return vectors * columns + vectors + 1


def scratch_of(schedule: Schedule, shape: AttentionShape) -> int:
    """Bytes of the tiles of q, scores and output in f32, and of keys and values where they must be widened to it."""
    rows, width = schedule.block_m, shape.key_width + shape.value_width
    staged = schedule.block_n * width if shape.element_bytes < 4 or shape.stored else 0
    scaled = rows * shape.key_width if shape.key_group else 0
    return 4 * (rows * (width + schedule.block_n) + staged + scaled)


def in_groups(shape: AttentionShape, keys: int) -> bool:
    """Whether tiles of so many keys lie in one group of those that share scales."""
    return shape.key_group == 0 or shape.key_group % keys == 0
