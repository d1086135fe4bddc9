"""What a tiled attention kernel needs: shared memory, registers, and so how many programs fit.

The formulas describe the kernels that attir emits, with plain pointers, and need no compiler. They
were fitted to about 200 kernels compiled offline with Triton 3.6 and 3.9 for sm_80, sm_90, sm_100
and gfx942. With 3.9, none of 176 kernels planned for those devices spills in a loop: they cover
head dimensions 16 to 256, f16 and f32, causal, windowed and padding masks, a bias and a softcap.
"""

from __future__ import annotations

from dataclasses import dataclass

from .devices import Device

FMA_PER_THREAD_LIMIT = 256
"""Multiply-adds a thread and dot without tensor cores; they are unrolled, and 512 of them often spill."""

FMA_KEY_ELEMENTS_LIMIT = 2048
"""Elements of a key tile without tensor cores, above 16 rows: threads hold whole rows of it."""

UNALIGNED_TILE_REGISTERS = 108.0
"""Registers a thread for tiles whose rows are loaded element by element, addresses counted in."""

SHARED_MEMORY_SLACK = 2048
"""Bytes beyond the formula in pipelined kernels: barriers, layout conversions; at most 1056 were seen."""

SPECIALISED_SHARED_MEMORY = 33 * 1024
"""Bytes that warp specialisation adds."""

DRIVER_SHARED_MEMORY = 1024
"""Bytes that the driver takes from a multiprocessor's shared memory for each program."""


@dataclass(frozen=True)
class AttentionShape:
    """What tile sizes are chosen for: the widths of tiles, in elements, and what an element loads.

    `element_bytes` is the size of an element of q, k and v. `score_bytes` counts the bytes loaded
    for each score (a bias or a mask in memory), `column_bytes` those for each key alone.
    `score_work` says that a score or mask region computes on every score, `windowed` that the mask
    bounds keys from below too, which takes a third loop. `unaligned` rows have a width that 16 does
    not divide: Triton then loads element by element, and holds an address for each.
    """

    key_width: int
    value_width: int
    element_bytes: int
    score_bytes: int = 0
    column_bytes: int = 0
    score_work: bool = False
    windowed: bool = False
    unaligned: bool = False
    bulk: bool = False

    @property
    def tensor_cores(self) -> bool:
        """Whether dots run on tensor cores: those of f32 are exact, so they do not."""
        return self.element_bytes == 2


@dataclass(frozen=True)
class TileConfig:
    """Rows of queries and of keys in a tile, warps of a program, stages of the load pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def padded_width(width: int) -> int:
    """The width of a tile that holds `width` elements: a power of two of at least 16, as dots need."""
    return max(16, 1 << (width - 1).bit_length())


def width_pieces(width: int) -> tuple[int, ...]:
    """Widths of the tiles that hold `width` elements: a power of two, and one more for what remains beyond it.

    80 elements take tiles of 64 and 16, for which dots do a third less than for one of 128; a remainder
    that would need a tile as wide as the first one joins it.
    """
    first = padded_width(width)
    if first == 16 or first - width < 16:
        return (first,)
    half = first // 2
    rest = padded_width(width - half)
    return (half, rest) if rest < half else (first,)


def shared_memory(config: TileConfig, shape: AttentionShape) -> int:
    """Bytes for the query tile and for as many key, value and bias tiles as there are stages.

    Exact on sm_90 for f16, an upper bound elsewhere but for tiles of a few KiB; without the slack.
    """
    queries = config.block_m * shape.key_width * shape.element_bytes
    keys = config.block_n * ((shape.key_width + shape.value_width) * shape.element_bytes + shape.column_bytes)
    scores = config.block_m * config.block_n * shape.score_bytes
    return queries + config.stages * (keys + scores)


def register_demand(config: TileConfig, shape: AttentionShape, device: Device) -> float:
    """32-bit registers a thread for the accumulator, the scores and the weights in half precision.

    On top of them, for each score: one where tensor cores read all operands from registers, half
    of one for 4 bytes that a region loads, a quarter for a region's own values or a window's bounds.
    """
    scores = 1.5 + 0.125 * shape.score_bytes + 0.25 * (shape.score_work or shape.windowed)
    if device.operands_in_registers and shape.tensor_cores:
        scores += 1.0
    demand = config.block_m * (max(shape.key_width, shape.value_width) + scores * config.block_n)
    return demand / (config.warps * device.warp_size)


def fma_per_thread(config: TileConfig, shape: AttentionShape, device: Device) -> float:
    """Multiply-adds of the larger dot for each thread, where no tensor core does them."""
    width = max(shape.key_width, shape.value_width)
    return config.block_m * config.block_n * width / (config.warps * device.warp_size)


def registers(config: TileConfig, shape: AttentionShape, device: Device) -> float:
    """Registers a thread after compilation, roughly; dots without tensor cores are taken to use all."""
    if not shape.tensor_cores:
        return device.max_registers
    return min(device.max_registers, 1.5 * register_demand(config, shape, device) + 16)


def occupancy(config: TileConfig, shape: AttentionShape, device: Device) -> int:
    """How many programs fit on a multiprocessor at once; 0 where not even one does."""
    memory = shared_memory(config, shape)
    if memory > device.shared_memory:
        return 0
    by_registers = device.registers / (registers(config, shape, device) * config.warps * device.warp_size)
    by_memory = device.shared_memory_total / (memory + DRIVER_SHARED_MEMORY)
    return max(1, int(min(by_registers, by_memory, device.max_warps / config.warps)))


def refusal(config: TileConfig, shape: AttentionShape, device: Device, specialised: int | bool = False) -> str | None:
    """Why a kernel with these tiles would not run well on `device`; None where it would."""
    memory = shared_memory(config, shape) + (SHARED_MEMORY_SLACK if config.stages > 1 else 0)
    memory += SPECIALISED_SHARED_MEMORY if specialised else 0
    if memory > device.shared_memory:
        return f"{memory} bytes of shared memory, of {device.shared_memory}"
    if specialised:
        return None  # the warps that compute are twice those of the schedule
    demand, limit = register_demand(config, shape, device), device.tile_registers
    if shape.bulk:
        limit = device.bulk_tile_registers
    elif shape.unaligned and shape.tensor_cores:
        width = max(shape.key_width, shape.value_width)
        demand += config.block_n * width / (config.warps * device.warp_size)
        limit = min(limit, UNALIGNED_TILE_REGISTERS)
    if demand > limit:
        return f"{demand:.0f} registers a thread for tiles, of {limit:.0f}"
    if shape.tensor_cores:
        return None
    work = fma_per_thread(config, shape, device)
    if work > FMA_PER_THREAD_LIMIT:
        return f"{work:.0f} multiply-adds a thread, of {FMA_PER_THREAD_LIMIT}"
    width = max(shape.key_width, shape.value_width)
    if config.block_n > max(16, FMA_KEY_ELEMENTS_LIMIT // width):
        return f"{config.block_n * width} elements in a key tile, of {FMA_KEY_ELEMENTS_LIMIT}"
    return None
