"""What a tiled attention kernel needs: shared memory, registers, and so how many programs fit.

The formulas describe the kernels that attir emits, with plain pointers, and need no compiler. They
were fitted to about 200 kernels compiled offline with Triton 3.6 and 3.9 for sm_80, sm_90, sm_100
and gfx942. With 3.9, none of 176 kernels planned for those devices spills in a loop: they cover
head dimensions 16 to 256, f16 and f32, causal, windowed and padding masks, a bias and a softcap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .devices import Device
from .schedule import Schedule
from .stored_tiles import StoredTiles

FMA_PER_THREAD_LIMIT = 256
"""Multiply-adds a thread and dot without tensor cores; they are unrolled, and 512 of them often spill."""

FMA_KEY_ELEMENTS_LIMIT = 2048
"""Elements of a key tile without tensor cores, above 16 rows: threads hold whole rows of it."""

UNALIGNED_TILE_REGISTERS = 108.0
"""Registers a thread for tiles whose rows are loaded element by element, addresses counted in."""

WIDE_TENSOR_CORE_ROWS = 64
"""Rows below which sm_90 and later fall back to the tensor core instructions of sm_80."""

LEAST_WARP_ROWS = 16
"""Of a product's result that a warp has: more warps than there are rows for hold copies."""

QUERY_REGISTERS = 0.375
"""Of a register for an element of queries that stays in one: half of one, but a few are read again."""

UNPACKED_REGISTERS = 1.125
"""Of a register for a number that wide products read and that is made of a code: some stand beside their pair."""

SMALLEST_COPY = 4
"""Bytes of an element that can be copied to shared memory by itself, in the background."""

OUTPUT_BYTES = 4
"""Of an element of a result that is not yet rounded, or still to be merged with others."""

BULK_SHARED_MEMORY = 1024
"""Bytes that the barriers of bulk copies take, and the alignment of what they copy; between 8 and 1024."""

BARRIER_BYTES = 16
"""Of the barriers of bulk copies, beside a number for each row, where products are exact."""

CLEARLY_FITS, CLEARLY_SPILLS = 0.6, 1.7
"""Of the registers that tiles may ask for: beyond these parts no one need be asked."""

SPILL_LOG_ODDS = 0.0
"""Logarithm of the odds of spills from which on a kernel is refused: as likely as not."""

DRIVER_SHARED_MEMORY = 1024
"""Bytes that the driver takes from a multiprocessor's shared memory for each program."""


@dataclass(frozen=True)
class AttentionShape:
    """What tile sizes are chosen for: the widths of tiles, in elements, and what an element loads.

    `element_bytes` is the size of an element of q, k and v. `score_bytes` counts the bytes loaded
    for each score (a bias or a mask in memory), `column_bytes` those for each key alone.
    `score_work` says that a score or mask region computes on every score, `windowed` that the mask
    bounds keys from below too, which takes a third loop. `unaligned` rows have bytes that 16 does
    not divide: Triton then loads element by element, and holds an address for each. `value_piece` is
    the width of the last tile of v, where that is cut (0: `value_width`). The schedule says the rest:
    `bulk` copies bring keys and values, products are `swapped`, warps are `specialised`, and a step
    `branches` where a tile may hold nothing (`skips` says that one may, of which no list tells).
    Where keys or values are stored in few bits, `row_bytes` is what a key and a value take, with their scales; scales
    of `key_group` keys for each channel are applied once a tile, if that lies in one group.
    Kernels for `few_rows` split the keys, and store what is to be merged.
    On GPUs `keys` and `values` tell of tiles of codes, and products read queries of `query_bytes` an element.
    """

    key_width: int
    value_width: int
    element_bytes: int
    score_bytes: int = 0
    column_bytes: int = 0
    score_work: bool = False
    windowed: bool = False
    unaligned: bool = False
    value_piece: int = 0
    skips: bool = False
    branches: bool = False
    bulk: bool = False
    swapped: bool = False
    specialised: bool = False
    row_bytes: float = 0.0
    key_group: int = 0
    query_bytes: int = 0
    keys: StoredTiles | None = None
    values: StoredTiles | None = None
    few_rows: bool = False

    @property
    def stored(self) -> bool:
        """Whether keys or values are codes."""
        return self.row_bytes > 0

    @property
    def key_bytes(self) -> float:
        """The bytes of a key and its value in memory."""
        return self.row_bytes or (self.key_width + self.value_width) * self.element_bytes

    @property
    def tiles_of_codes(self) -> tuple[StoredTiles, ...]:
        """Those of keys and of values, as far as they are codes."""
        return tuple(tiles for tiles in (self.keys, self.values) if tiles is not None)

    def suits(self, keys: int) -> bool:
        """Whether tiles of so many keys have scales of their own only along one axis."""
        return all(tiles.suits(keys) for tiles in self.tiles_of_codes)

    @property
    def tensor_cores(self) -> bool:
        """Whether dots run on tensor cores: those of f32 are exact, so they do not."""
        return self.element_bytes <= 2


@dataclass(frozen=True)
class TileConfig:
    """Rows of queries and of keys in a tile, warps of a program, stages of the load pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def as_scheduled(shape: AttentionShape, schedule: Schedule) -> AttentionShape:
    """The shape with what a schedule says besides tile sizes."""
    return replace(
        shape,
        branches=shape.skips and not schedule.lists,
        bulk=bool(schedule.descriptors),
        swapped=bool(schedule.swap),
        specialised=bool(schedule.specialised),
    )


LEAST_WIDTH, LEAST_WIDTH_8_BITS = 16, 32
"""The fewest elements that a dot sums over."""


def padded_width(width: int, least: int = LEAST_WIDTH) -> int:
    """The width of a tile that holds `width` elements: a power of two of at least `least`, as dots need."""
    return max(least, 1 << (width - 1).bit_length())


def width_pieces(width: int, least: int = LEAST_WIDTH) -> tuple[int, ...]:
    """Widths of the tiles that hold `width` elements: a power of two, and one more for what remains beyond it.

    80 elements take tiles of 64 and 16, for which dots do a third less than for one of 128; a remainder
    that would need a tile as wide as the first one joins it.
    """
    first = padded_width(width, least)
    if first == least or first - width < least:
        return (first,)
    half = first // 2
    rest = padded_width(width - half, least)
    return (half, rest) if rest < half else (first,)


def shared_memory(config: TileConfig, shape: AttentionShape, device: Device) -> int:
    """Bytes that Triton gives one program: the query tile, and all that one step of the loop needs at once.

    Within 1 KiB of 330 kernels compiled for sm_80 and sm_90 with Triton 3.9, decode kernels included;
    an upper bound on other devices. What regions load waits in one tile less than there are stages.
    """
    queries = config.block_m * shape.key_width * (shape.query_bytes or _product_bytes(config, shape, device))
    # What is too small for a copy in the background is loaded where it is needed.
    column = shape.column_bytes if shape.column_bytes >= SMALLEST_COPY else 0
    loaded = config.block_n * (config.block_m * shape.score_bytes + column)
    keys, values = _tile_bytes(config, shape)
    if shape.tiles_of_codes:
        return _bytes_of_codes(config, shape, device, queries) + (config.stages - 1) * loaded
    if device.warp_size == 64:
        return queries + config.stages * (keys + values + loaded)
    exchanged = 0 if shape.tensor_cores else config.block_m * OUTPUT_BYTES + BARRIER_BYTES
    bulk = max(BULK_SHARED_MEMORY, exchanged) if shape.bulk else 0
    if shape.branches:
        return _bytes_of_a_branch(config, shape, device) + bulk
    weights = _weight_bytes(config, shape, device)
    buffers = _buffers(config, shape, device)
    loop = buffers * (keys + values) if buffers else _bytes_of_a_step(config, shape, device, weights)
    if buffers:
        # Exact dots cannot read transposed keys where bulk copies leave them: these are copied once more.
        loop += max(keys, weights) if shape.bulk and not shape.tensor_cores else weights
    if not shape.tensor_cores and not shape.bulk:
        # A number for each row and each of two warps, as warps that share rows exchange it.
        loop += 2 * config.block_m * OUTPUT_BYTES
    if shape.column_bytes and not column and config.stages > 1:
        # It changes hands within a step.
        loop += BARRIER_BYTES if shape.bulk else config.block_n * shape.column_bytes
    if shape.specialised:
        # Warps that only load share nothing with the others, which here includes the room to store the result.
        loop += config.block_m * shape.value_width * OUTPUT_BYTES
    # Results of 8-bit products, and those of many rows that are yet to be merged, are wider than queries, in whose
    # place others are brought in order.
    element = OUTPUT_BYTES if shape.few_rows else 2
    copied = wide_products(config, shape, device) or config.warps * LEAST_WARP_ROWS > config.block_m
    many = config.block_m >= WIDE_TENSOR_CORE_ROWS and shape.tensor_cores and copied
    ordered = shape.element_bytes == 1 or (shape.few_rows and many)
    result = config.block_m * shape.value_width * element if ordered else 0
    return max(queries + loop + (config.stages - 1) * loaded + bulk, result)


def _tile_bytes(config: TileConfig, shape: AttentionShape) -> tuple[int, int]:
    """The bytes of a tile of keys and of one of values, as they are loaded."""
    keys, values = (config.block_n * width * shape.element_bytes for width in (shape.key_width, shape.value_width))
    return (
        keys if shape.keys is None else shape.keys.loaded_bytes(config.block_n),
        values if shape.values is None else shape.values.loaded_bytes(config.block_n),
    )


def _bytes_of_codes(config: TileConfig, shape: AttentionShape, device: Device, queries: int) -> int:
    """An upper bound where keys or values are codes: their numbers may pass through shared memory one at a time.

    Where queries stay in registers, numbers take their place, of which nothing is known before compilation.
    """
    keys, values = _tile_bytes(config, shape)
    numbers = max(tiles.numbers_bytes(config.block_n, shape.element_bytes) for tiles in shape.tiles_of_codes)
    weights = config.block_m * config.block_n * shape.element_bytes
    if wide_products(config, shape, device):
        weights = 0
    return queries + config.stages * (keys + values) + max(numbers, weights) + (BULK_SHARED_MEMORY if shape.bulk else 0)


def wide_products(config: TileConfig, shape: AttentionShape, device: Device) -> bool:
    """Whether products take the instruction of sm_90 and later that reads its operands from shared memory."""
    rows = config.block_n if shape.swapped else config.block_m
    return shape.tensor_cores and not device.operands_in_registers and rows >= WIDE_TENSOR_CORE_ROWS


def _product_bytes(config: TileConfig, shape: AttentionShape, device: Device) -> int:
    """The bytes of an element as products read it: only wide ones take 8-bit floats as they are."""
    return shape.element_bytes if wide_products(config, shape, device) else max(2, shape.element_bytes)


def _buffers(config: TileConfig, shape: AttentionShape, device: Device) -> int:
    """Tiles of keys, and of values, that are in shared memory at once; 0 where they come and go within a step.

    Where registers hold the operands, the tile in use has left its buffer. Elements of 2 bytes at odd
    places, one after the other, are too small for copies in the background.
    """
    alone = shape.unaligned and not shape.bulk and shape.element_bytes < SMALLEST_COPY
    if config.stages == 1 or alone:
        return 0
    return config.stages if wide_products(config, shape, device) else config.stages - 1


def _weight_bytes(config: TileConfig, shape: AttentionShape, device: Device) -> int:
    """Bytes of the weights where they reach the second product through shared memory.

    Wide products take them from registers. So do those of sm_80 whose warps divide the rows of both
    products; Triton has them divide columns where the result, or its last piece, is wider than high.
    """
    bytes_ = config.block_m * config.block_n * _product_bytes(config, shape, device)
    if shape.swapped or not shape.tensor_cores:
        return bytes_
    wide = wide_products(config, shape, device)
    return bytes_ if not wide and config.block_m < (shape.value_piece or shape.value_width) else 0


def _bytes_of_a_step(config: TileConfig, shape: AttentionShape, device: Device, weights: int) -> int:
    """Bytes for keys, values and weights where nothing is loaded before the step that needs it."""
    keys, values = (config.block_n * width * shape.element_bytes for width in (shape.key_width, shape.value_width))
    scores = config.block_m * config.block_n * shape.score_bytes
    if wide_products(config, shape, device):
        return weights + (keys + max(values, scores) if shape.bulk else max(keys, values, scores))
    if not shape.bulk:
        return max(keys, values + weights, scores)
    if not shape.tensor_cores:
        return values + max(keys, weights)
    return max(keys, values + max(weights, scores))


def _bytes_of_a_branch(config: TileConfig, shape: AttentionShape, device: Device) -> int:
    """Bytes of a step inside a branch: nothing is loaded ahead across it, and queries may be brought in anew."""
    width = config.block_n * shape.element_bytes
    keys, values, weights = width * shape.key_width, width * shape.value_width, width * config.block_m
    queries = config.block_m * shape.key_width * shape.element_bytes
    if wide_products(config, shape, device):
        return queries + (keys + values if shape.bulk else max(keys, values))
    if shape.bulk:
        return max(keys, values + max(queries, weights))
    return queries + max(keys, values + weights)


def register_demand(config: TileConfig, shape: AttentionShape, device: Device) -> float:
    """32-bit registers a thread for the accumulator, the scores and the weights in half precision.

    On top of them, for each score: one where tensor cores read all operands from registers, half
    of one for 4 bytes that a region loads, a quarter for a region's own values or a window's bounds.
    Queries that stay in registers take `QUERY_REGISTERS` of one for each element.
    """
    scores = 1.5 + 0.125 * shape.score_bytes + 0.25 * (shape.score_work or shape.windowed)
    if device.operands_in_registers and shape.tensor_cores:
        scores += 1.0
    demand = config.block_m * (max(shape.key_width, shape.value_width) + scores * config.block_n)
    # Numbers that are made of codes live in registers until products read them.
    unpacked = [config.block_n * tiles.width for tiles in shape.tiles_of_codes if tiles.unpacked]
    wide = wide_products(config, shape, device)
    demand += UNPACKED_REGISTERS * max(unpacked, default=0) if wide else sum(unpacked)
    if _keeps_queries(config, shape, device):
        demand += config.block_m * shape.key_width * QUERY_REGISTERS
    return demand / (config.warps * device.warp_size)


def _keeps_queries(config: TileConfig, shape: AttentionShape, device: Device) -> bool:
    """Whether registers hold the queries of all steps, as where warps divide rows and nothing else holds operands."""
    in_registers = device.operands_in_registers and shape.tensor_cores and device.warp_size == 32
    return in_registers and not shape.swapped and _weight_bytes(config, shape, device) == 0


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
    memory = shared_memory(config, shape, device)
    if memory > device.shared_memory:
        return 0
    by_registers = device.registers / (registers(config, shape, device) * config.warps * device.warp_size)
    by_memory = device.shared_memory_total / (memory + DRIVER_SHARED_MEMORY)
    return max(1, int(min(by_registers, by_memory, device.max_warps / config.warps)))


def refusal(config: TileConfig, shape: AttentionShape, device: Device, *, learned: bool = True) -> str | None:
    """Why a kernel with these tiles would not run well on `device`; None where it would.

    Near the limit of registers what was `learned` of compiled kernels decides, else the formula alone.
    """
    memory = shared_memory(config, shape, device)
    if memory > device.shared_memory:
        return f"{memory} bytes of shared memory, of {device.shared_memory}"
    if shape.specialised:
        return None  # the warps that compute are twice those of the schedule
    share, words = register_share(config, shape, device)
    # Of kernels that skip tiles few were compiled: what was learned may only refuse more of them.
    if learned and CLEARLY_FITS < share < (1 if shape.skips else CLEARLY_SPILLS):
        # It asks the formulas of this module.
        from .feasibility import log_odds_of_spills

        if (odds := log_odds_of_spills(config, shape, device)) is not None:
            return None if odds < SPILL_LOG_ODDS else f"{words}, and kernels like it spill"
    return words if share > 1 else None


def register_share(config: TileConfig, shape: AttentionShape, device: Device) -> tuple[float, str]:
    """What tiles need of a thread's registers as a part of the limit, above which they usually spill; and in words."""
    demand, limit = register_demand(config, shape, device), device.tile_registers
    width = max(shape.key_width, shape.value_width)
    if shape.bulk:
        limit = device.bulk_tile_registers
    elif shape.unaligned and shape.tensor_cores:
        demand += config.block_n * width / (config.warps * device.warp_size)
        limit = min(limit, UNALIGNED_TILE_REGISTERS)
    shares = [(demand / limit, f"{demand:.0f} registers a thread for tiles, of {limit:.0f}")]
    if not shape.tensor_cores:
        work = fma_per_thread(config, shape, device)
        shares.append((work / FMA_PER_THREAD_LIMIT, f"{work:.0f} multiply-adds a thread, of {FMA_PER_THREAD_LIMIT}"))
        elements, most = config.block_n * width, max(16 * width, FMA_KEY_ELEMENTS_LIMIT)
        shares.append((elements / most, f"{elements} elements in a key tile, of {FMA_KEY_ELEMENTS_LIMIT}"))
    return max(shares, key=lambda share: share[0])
