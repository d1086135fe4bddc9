"""What one thread holds of the tiles of a step, by the layouts that Triton gives the operands of products.

Where warps cannot divide rows or columns any further they hold copies of each other's, which counts of elements over
threads do not show. No compiler is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from .devices import Device
from .resources import WIDE_TENSOR_CORE_ROWS, AttentionShape, TileConfig, wide_products

LANES = 32
"""Threads of a warp, of the devices whose layouts are known."""

LEAST_ROWS, LEAST_COLUMNS = 16, 8
"""Of a result of one tensor core instruction of a warp."""

GROUP_WARPS = 4
"""Warps that take part in one wide product."""

OPERANDS_A_REGISTER = 2
"""Elements of 2 bytes that products read; 8-bit ones are made such first, unless products are wide."""

BY_COLUMNS, BY_ROWS, BY_PIECES, BY_GROUPS = 0, 1, 2, 3
"""How warps divide results: columns, rows, both (without tensor cores), or rows among groups of four warps."""


@dataclass(frozen=True)
class Held:
    """Registers a thread, if all operands of a product are loaded at once; `copies` of each score lie among threads."""

    result: float
    scores: float
    queries: float
    keys: float
    weights: float
    values: float
    divided: int
    copies: float

    @property
    def numbers(self) -> tuple[float, ...]:
        """The parts, and what is alive at once in the first product, between both, and in the second one."""
        kept = self.result + self.scores
        first, second = kept + self.queries + self.keys, self.result + self.weights + self.values
        return (
            self.result, self.scores, self.queries, self.keys, self.weights, self.values, self.divided, self.copies,
            kept + self.weights, kept + self.weights + self.queries, first, second, max(first, second),
            kept + max(self.queries, self.scores),
        )  # fmt: skip


HELD = (
    "held result", "held scores", "held queries", "held keys", "held weights", "held values", "divided by", "copies",
    "held between products", "held with queries", "held in the first product", "held in the second product",
    "held at most", "held at least",
)  # fmt: skip
"""Names of `Held.numbers`."""


def held_by_threads(config: TileConfig, shape: AttentionShape, device: Device) -> Held:
    """What threads of one kernel hold in a step."""
    if not shape.tensor_cores:
        return _without_tensor_cores(config, shape)
    if wide_products(config, shape, device):
        return _in_groups(config, shape)
    return _in_warps(config, shape)


def _in_groups(config: TileConfig, shape: AttentionShape) -> Held:
    """Wide products read queries, keys and values from shared memory."""
    groups = max(1, config.warps // GROUP_WARPS)
    rows = max(WIDE_TENSOR_CORE_ROWS, config.block_m / groups)
    scores = rows * config.block_n / (GROUP_WARPS * LANES)
    result = rows * shape.value_width / (GROUP_WARPS * LANES)
    return Held(result, scores, 0, 0, scores / OPERANDS_A_REGISTER, 0, BY_GROUPS, rows * groups / config.block_m)


def _in_warps(config: TileConfig, shape: AttentionShape) -> Held:
    """Warps divide the rows of both products, or the columns where the last piece of the result is wider than high."""
    rows, scores, values, divided = config.block_m, config.block_n, shape.value_width, BY_COLUMNS
    if config.block_m >= (shape.value_piece or shape.value_width):
        rows, divided = max(LEAST_ROWS, config.block_m // config.warps), BY_ROWS
    else:
        scores, values = (max(LEAST_COLUMNS, columns // config.warps) for columns in (scores, values))
    operands = LANES * OPERANDS_A_REGISTER
    return Held(
        rows * values / LANES, rows * scores / LANES, rows * shape.key_width / operands,
        scores * shape.key_width / operands, rows * config.block_n / operands, config.block_n * values / operands,
        divided, rows * scores * config.warps / (config.block_m * config.block_n),
    )  # fmt: skip


def _without_tensor_cores(config: TileConfig, shape: AttentionShape) -> Held:
    """Threads hold whole rows of the first operand and whole columns of the second one."""
    rows, columns = _block_of_a_thread(config.block_m, config.block_n, config.warps)
    piece = shape.value_piece or shape.value_width
    height, width = _block_of_a_thread(config.block_m, piece, config.warps)
    widths = max(1.0, shape.value_width / piece) * width
    copies = rows * columns * config.warps * LANES / (config.block_m * config.block_n)
    return Held(
        height * widths, rows * columns, rows * shape.key_width, columns * shape.key_width, height * config.block_n,
        widths * config.block_n, BY_PIECES, copies,
    )  # fmt: skip


def _block_of_a_thread(rows: int, columns: int, warps: int) -> tuple[int, int]:
    """Rows and columns of a result that a thread has: squares, the threads along columns first."""
    threads = warps * LANES
    each = rows * columns // threads
    size = 4 if each >= 16 else 2 if each >= 4 else 1
    across = min(threads, max(1, columns // size))
    lanes = min(across, LANES)
    warps_across = min(max(1, across // lanes), warps)
    down = LANES // lanes * (warps // warps_across)
    return max(size, rows // down), max(size, columns // (lanes * warps_across))
