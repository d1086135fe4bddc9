"""swap-operands: store every matrix tile of a kernel transposed, so that keys become the rows of its products.

Tensor cores want at least 64 rows and take as few as 8 columns. In decode the queries are few and the
keys many: k qᵀ fills the rows that q kᵀ would leave empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..ir.attributes import DenseArrayAttr, IntegerAttr, SplatAttr, TensorType
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.arith import ConstantOp
from ..ir.dialects.scf import ForOp, IfOp
from ..ir.dialects.scf import YieldOp as BranchYieldOp
from ..ir.dialects.tile import (
    AnyOp,
    AtomicAddOp,
    BroadcastOp,
    DotOp,
    GatherOp,
    GroupRowsOp,
    KernelOp,
    LoadOp,
    ReduceOp,
    SliceOp,
    StoreOp,
    TransposeOp,
)
from .manager import Pass, PassContext
from .tile_regions import ELEMENTWISE

MATRIX = 2


@dataclass(frozen=True)
class SwapOperands(Pass):
    """Store the matrix tiles of kernels with the property `swapped` transposed, and drop the property.

    dot(a, b, acc) → dot(bᵀ, aᵀ, accᵀ); axes of reduce and broadcast change places; whatever works element by
    element, gathers included, changes its type. Memory stays as it is: a load is followed by a transpose, a
    store preceded by one. Where a program transposes what it loads, the two transposes cancel.
    """

    name: ClassVar[str] = "swap-operands"

    def run(self, module: Operation, ctx: PassContext) -> None:
        for operation in list(module.walk()):
            kernel = KernelOp.match(operation)
            if kernel is not None and kernel.swapped is not None:
                _swap(kernel)
                kernel.swapped = None
                ctx.statistics["kernels swapped"] += 1


def _swap(kernel: KernelOp) -> None:
    body = kernel.body.block
    ops = [op for top in body.ops for op in top.walk()]
    in_memory = {*body.arguments, *(op.result for op in ops if op.name in _VIEWS)}
    matrices = [v for v in _values(body) if v not in in_memory and _is_matrix(v)]
    known = set(matrices)
    for op in ops:
        if known.isdisjoint((*op.operands, *op.results)):
            continue
        if op.name not in _RULES and op.dialect not in ELEMENTWISE:
            op_error(op, "works on a matrix tile in a way that cannot be swapped")
    for value in matrices:
        value.type = _transposed(value.type)
    for op in ops:
        rule = _RULES.get(op.name)
        if rule is not None and not known.isdisjoint((*op.operands, *op.results)):
            rule(op)


def _values(block: Block) -> Iterator[Value]:
    """The arguments of a block and the results of its operations, with all that is nested in them."""
    yield from block.arguments
    for op in block.ops:
        yield from op.results
        for region in op.regions:
            for inner in region.blocks:
                yield from _values(inner)


def _is_matrix(value: Value) -> bool:
    """Whether a tile is a matrix; tiles of higher rank are refused."""
    if not isinstance(value.type, TensorType):
        return False
    if value.type.rank > MATRIX and isinstance(value.owner, Operation):
        op_error(value.owner, f"gives a tile of rank {value.type.rank}, of which no transpose is known")
    return value.type.rank == MATRIX


def _transposed(type_: object) -> TensorType:
    assert isinstance(type_, TensorType)
    return type_.with_shape(*reversed(type_.shape))


def _unchanged(op: Operation) -> None:
    """Nothing but types changes."""


def _constant(op: Operation) -> None:
    """A splat says its own type."""
    view = ConstantOp(op)
    assert isinstance(view.value, SplatAttr) and isinstance(view.out.type, TensorType)
    view.value = SplatAttr(view.value.value, view.out.type)


def _dot(op: Operation) -> None:
    """(a b + acc)ᵀ = bᵀ aᵀ + accᵀ"""
    a, b, acc = op.operands
    op.set_operands([b, a, acc])


def _reduce(op: Operation) -> None:
    view = ReduceOp(op)
    view.axis = _other_axis(view.axis)


def _other_axis(axis: IntegerAttr) -> IntegerAttr:
    return IntegerAttr(1 - axis.value, axis.type)


def _broadcast(op: Operation) -> None:
    view = BroadcastOp(op)
    view.axes = DenseArrayAttr(tuple(sorted(1 - axis for axis in view.axes.values)))


def _load(op: Operation) -> None:
    """The tile as it lies in memory, then its transpose."""
    view = LoadOp(op)
    loaded = view.out
    users = list(loaded.uses)
    changed = Operation.create(TransposeOp.op_name, [loaded], [loaded.type], location=op.location)
    loaded.type = _transposed(loaded.type)
    assert op.parent is not None
    op.parent.insert(op.parent.ops.index(op) + 1, changed)
    if loaded.name_hint is not None:
        changed.result.name_hint = f"{loaded.name_hint.removesuffix('_tile')}_t"
    for user, position in users:
        user.set_operand(position, changed.result)


def _store(op: Operation) -> None:
    """The transpose of the tile, as it lies in memory."""
    tile = op.operands[0]
    op.set_operand(0, Builder.before(op).create(TransposeOp, [tile], [_transposed(tile.type)]).out)


_VIEWS = frozenset({SliceOp.op_name, GroupRowsOp.op_name})
"""Ops whose result is memory."""

_RULES: Mapping[str, Callable[[Operation], None]] = {
    ConstantOp.op_name: _constant,
    DotOp.op_name: _dot,
    ReduceOp.op_name: _reduce,
    BroadcastOp.op_name: _broadcast,
    TransposeOp.op_name: _unchanged,
    AnyOp.op_name: _unchanged,
    GatherOp.op_name: _unchanged,
    LoadOp.op_name: _load,
    StoreOp.op_name: _store,
    AtomicAddOp.op_name: _store,
    ForOp.op_name: _unchanged,
    IfOp.op_name: _unchanged,
    BranchYieldOp.op_name: _unchanged,
}
