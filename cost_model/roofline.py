"""How many cycles one key tile costs on a device, from tile sizes alone. Ranks tiles, no more.

Dots and softmax of one program follow each other, so their times add: on sm_90 this serial sum comes
within 2 % of what FlashAttention-3 measures. Reading keys and values from L2 runs beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .devices import Device
from .resources import WIDE_TENSOR_CORE_ROWS, AttentionShape, TileConfig, occupancy

TENSOR_CORE_ROWS = 16
"""Rows that one warp's tensor core instruction takes; fewer rows a warp repeat work."""

NARROW_DOT_PENALTY = 1.6
"""How much slower those are there."""

OVERLAP_GAIN = 0.1
"""The part of the time saved by a second resident program, whose dots hide softmax. A judgement."""

LOOP_OVERHEAD, LOOP_OVERHEAD_BULK = 100, 50
"""Instructions of a step that no score needs: addresses, waits, the loop itself."""

MEMORY_LATENCY, STEP_LATENCY = 4000, 1000
"""Cycles from a load to its data while device memory is busy, for which bytes must be under way, and those from
the dots of a step to its end where one program has nothing else to do. Judgements."""

WANTED_KEYS_IN_FLIGHT = 192
"""Rows of keys that should be on their way to hide the latency of loads; 3 stages at most."""

MISSING_STAGE_COST, NO_PIPELINE_COST = 0.03, 0.25
"""The part of the time lost for each stage too few, and where loads wait for each tile."""


@dataclass(frozen=True)
class TileCycles:
    """Cycles of one multiprocessor for one key tile of one program, by what they are spent on."""

    dots: float
    exponentials: float
    issue: float
    l2: float

    @property
    def total(self) -> float:
        return max(self.dots + max(self.exponentials, self.issue), self.l2)


def tile_cycles(config: TileConfig, shape: AttentionShape, device: Device) -> TileCycles:
    """The work of one key tile over the rates of one multiprocessor."""
    scores = config.block_m * config.block_n
    flops = 2.0 * scores * _half_precision_width(shape)
    rate = device.tensor_flops if shape.tensor_cores else device.vector_flops
    row_bytes = bytes_of_key(shape)
    return TileCycles(
        dots=flops / rate * dot_penalty(config, shape, device),
        exponentials=scores / device.exponentials,
        issue=loop_instructions(config, shape, device) * config.warps / device.issue,
        l2=(config.block_n * row_bytes + scores * shape.score_bytes) / device.l2_bytes,
    )


def _half_precision_width(shape: AttentionShape) -> float:
    """The elements that products of a score sum over; products of bytes are twice as fast."""
    faster = [tiles for tiles in shape.tiles_of_codes if not tiles.unpacked]
    return shape.key_width + shape.value_width - sum(tiles.width for tiles in faster) / 2


def bytes_of_key(shape: AttentionShape) -> int:
    """What a key and its value take where they are loaded, with what regions load for them."""
    stored = ((shape.key_width, shape.keys), (shape.value_width, shape.values))
    bytes_ = [width * shape.element_bytes if x is None else x.row_bytes + x.scale_bytes for width, x in stored]
    return sum(bytes_) + shape.column_bytes


def dot_penalty(config: TileConfig, shape: AttentionShape, device: Device) -> float:
    """How many times the work of its dots a program does, because a tile is too low for its warps."""
    if not shape.tensor_cores:
        return 1.0
    repeated = max(1.0, TENSOR_CORE_ROWS * config.warps / config.block_m)
    narrow = device.has_tma and config.block_m < WIDE_TENSOR_CORE_ROWS
    return repeated * (NARROW_DOT_PENALTY if narrow else 1.0)


def cycles_per_key(config: TileConfig, shape: AttentionShape, device: Device) -> float:
    """Cycles of one multiprocessor for each key where few queries read long caches; lower is better.

    Loads run beside the arithmetic, as fast as what is under way hides their latency. One program is
    taken to be resident, since few heads leave no more.
    """
    key_bytes = bytes_of_key(shape)
    under_way = max(0.5, config.stages - 1) * config.block_n * key_bytes
    share = device.bandwidth / device.multiprocessors / device.clock
    rate = min(share, under_way / MEMORY_LATENCY)
    cycles = tile_cycles(config, shape, device)
    busy = max(cycles.dots + max(cycles.exponentials, cycles.issue) + STEP_LATENCY, cycles.l2)
    return max(key_bytes / rate, busy / config.block_n)


def loop_instructions(config: TileConfig, shape: AttentionShape, device: Device) -> float:
    """Instructions of one warp for one unmasked key tile, dots aside.

    Fitted to sm_90 pointer kernels: within 5 % of the loops of 7 compiled tile sizes.
    """
    threads = config.warps * device.warp_size
    scores = config.block_m * config.block_n / threads
    outputs = config.block_m * shape.value_width / threads
    region = 2.0 * shape.score_work + 0.5 * shape.score_bytes
    unpacking = sum(tiles.instructions(config.block_n * tiles.width / threads) for tiles in shape.tiles_of_codes)
    overhead = LOOP_OVERHEAD_BULK if shape.bulk else LOOP_OVERHEAD
    return overhead + (5.2 + region) * scores + 1.6 * outputs + unpacking


def cycles_per_score(config: TileConfig, shape: AttentionShape, device: Device) -> float:
    """Cycles of one multiprocessor for each score, by which tile sizes are ranked; lower is better."""
    time = tile_cycles(config, shape, device).total
    if occupancy(config, shape, device) >= 2:
        time *= 1 - OVERLAP_GAIN
    wanted = wanted_stages(config, shape, device)
    time *= 1 + MISSING_STAGE_COST * max(0, wanted - config.stages)
    if config.stages == 1 and wanted > 1:
        time *= 1 + NO_PIPELINE_COST
    return time / (config.block_m * config.block_n)


def wanted_stages(config: TileConfig, shape: AttentionShape, device: Device) -> int:
    """Stages that hide the latency of loads: 2 or 3, and 1 on AMD, where more only repeat code.

    Dots without tensor cores take so long that 2 are enough; with 3 some of them spill.
    """
    if device.warp_size == 64:
        return 1
    return min(3 if shape.tensor_cores else 2, -(-WANTED_KEYS_IN_FLIGHT // config.block_n))
