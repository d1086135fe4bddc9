"""make-persistent: a fixed number of programs that stay, each taking one tile of the grid after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..ir.attributes import IntegerAttr, StringAttr, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.arith import MinSIOp
from ..ir.dialects.scf import ForOp
from ..ir.dialects.scf import YieldOp as LoopYieldOp
from ..ir.dialects.tile import KernelOp, ProgramIdOp
from ..ir.dialects.tile import YieldOp as GridYieldOp
from .manager import Pass, PassContext

ABOUT = "tiles of the grid, shared among programs that stay"


@dataclass(frozen=True)
class MakePersistent(Pass):
    """Run a kernel with the property `persistent` = P in at most P programs, and drop the property.

    Before: one program for each of `total` tiles. After: min(total, P) programs, of which program p does
    the tiles p, p + P, ... below `total`. All are done once: where there are fewer tiles than P, each
    program has one. Tiles start in the order of their numbers, so that what was first stays first.
    """

    name: ClassVar[str] = "make-persistent"

    def run(self, module: Operation, ctx: PassContext) -> None:
        for operation in list(module.walk()):
            kernel = KernelOp.match(operation)
            if kernel is not None and kernel.persistent is not None:
                _make_persistent(kernel, kernel.persistent.value)
                kernel.persistent = None
                ctx.statistics["kernels made persistent"] += 1


def _make_persistent(kernel: KernelOp, programs: int) -> None:
    grid, body, location = kernel.grid.block, kernel.body.block, kernel.operation.location
    counts = GridYieldOp(grid.terminator)
    if len(counts.values) != 1:
        op_error(kernel.operation, f"must have one axis of programs to be persistent, but has {len(counts.values)}")
    inside = body.ops[:-1]
    places = [place for op in inside for inner in op.walk() if (place := ProgramIdOp.match(inner)) is not None]
    outside = Builder(body, body.terminator, location)
    total = _counted(grid, outside)
    first = outside.create(ProgramIdOp, [], [index], {"axis": IntegerAttr(0)}, name="program").out
    loop = Block.with_arguments([index], ["pid"])
    for op in inside:
        loop.append(op.detach())
    Builder(loop, location=location).create(LoopYieldOp)
    for place in places:
        if place.axis.value != 0:
            op_error(place.operation, f"axis must be 0 in a persistent kernel, but is {place.axis.value}")
        place.operation.replace_by(loop.arguments[0])
    bounds = [first, total, outside.index(programs)]
    op = outside.create(ForOp, bounds, regions=[Region([loop])]).operation
    op.attributes["about"] = StringAttr(ABOUT)
    counting = Builder(grid, grid.terminator, location)
    resident = counting.binary(MinSIOp, counts.values[0], counting.index(programs), "resident")
    counts.operation.set_operands([resident])


def _counted(grid: Block, builder: Builder) -> Value:
    """The number of tiles inside the body, computed as the grid does from the same arguments."""
    mapping = dict(zip(grid.arguments, builder.block.arguments, strict=True))
    for op in grid.ops[:-1]:
        builder.insert(op.clone(mapping))
    total = GridYieldOp(grid.terminator).values[0]
    return mapping[total]
