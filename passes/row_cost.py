"""Estimates whether what surrounds an attention is cheaper inside of its kernel: seconds before against seconds after.

Outside, each operator is started, reads its operands and writes its result. Inside, elements are
loaded one by one and computed again for each tile of queries that reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cost_model.cpus import CPUS
from ..cost_model.devices import DEVICES
from ..ir.attributes import Dim, FloatType, IntegerType, TensorType
from ..ir.core import Block, Operation, Value
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tensor import ExtractOp

TYPICAL_LENGTH = 1024
"""The length taken where it is not known; heads and batches are then 1."""

ROWS_OF_A_TILE = 64
"""Rows of queries in a tile, roughly: each tile computes the keys and values it reads anew."""


@dataclass(frozen=True)
class Rates:
    """Seconds to start an operator, to load and use an element inside of a kernel; bytes a second outside."""

    start: float
    element: float
    bandwidth: float


CPU_RATES = Rates(start=4e-6, element=2.5e-10, bandwidth=4e10)
"""One core, tensors in caches: measured on a Zen 5 with rotary embeddings of 16 to 1024 rows."""

GPU_START = 2.5e-6
"""What the smallest kernel takes on a GPU that has others waiting: no judgement of how fast Python starts them."""


def rates(target: str) -> Rates | None:
    """What things cost on a device; None where nothing is to be gained, as in an interpreter."""
    if target in CPUS:
        return CPU_RATES
    device = DEVICES.get(target)
    if device is None:
        return None
    from_l2 = device.l2_bytes * device.clock * device.multiprocessors
    return Rates(GPU_START, 4.0 / from_l2, device.bandwidth)


@dataclass(frozen=True)
class RowCost:
    """What a region costs outside and inside of a kernel, in seconds, and from what that follows."""

    operators: int
    loads: int
    tiles: int
    before: float
    after: float

    @property
    def pays(self) -> bool:
        return self.after < self.before

    def __str__(self) -> str:
        again = f" for each of {self.tiles} tiles of queries" if self.tiles > 1 else ""
        return (
            f"{self.operators} operator{'s' * (self.operators > 1)} take {_microseconds(self.before)}, "
            f"{self.loads} load{'s' * (self.loads > 1)} an element{again} {_microseconds(self.after)}"
        )


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} us"


def row_cost(
    attention: AttentionOp, region: str, rows: TensorType, fused: Sequence[Operation], block: Block, target: str,
    rest: str,
) -> RowCost | None:  # fmt: skip
    """The cost of a region over tensors of `rows`; None where `target` has no rates."""
    known = rates(target)
    if known is None:
        return None
    loads = sum(ExtractOp.match(op) is not None for top in block.ops for op in top.walk())
    tiles = _tiles(attention) if region in ("key", "value") else 1
    operators = 1 if rest == "inductor" else len(fused)
    moved = 2 * _bytes(rows) if rest == "inductor" else sum(map(_traffic, fused))
    before = operators * known.start + moved / known.bandwidth
    return RowCost(len(fused), loads, tiles, before, tiles * _count(rows) * max(1, loads) * known.element)


def _tiles(attention: AttentionOp) -> int:
    """How often the rows of one key head are computed: once for each tile of queries of the heads that read it."""
    queries = attention.shapes[0].shape[2]
    rows = (queries if isinstance(queries, int) else TYPICAL_LENGTH) * attention.group.value
    return -(-rows // ROWS_OF_A_TILE)


def _traffic(op: Operation) -> int:
    """The bytes that an operator reads and writes."""
    return sum(_bytes(value.type) for value in _tensors(op) if isinstance(value.type, TensorType))


def _tensors(op: Operation) -> list[Value]:
    return [*op.operands, *op.results]


def _count(type_: TensorType) -> int:
    total = 1
    for axis, size in enumerate(type_.shape):
        total *= _size(size, axis, type_.rank)
    return total


def _size(size: Dim, axis: int, rank: int) -> int:
    """A size, or what is taken for it: lengths are the axes before the last."""
    if isinstance(size, int):
        return size
    return TYPICAL_LENGTH if 0 < axis < rank - 1 else 1


def _bytes(type_: TensorType) -> int:
    element = type_.element
    width = element.width if isinstance(element, FloatType | IntegerType) else 64
    return _count(type_) * max(1, width // 8)
