"""Turns score and mask regions, written for one element, into arithmetic on tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir.attributes import Attribute, FloatAttr, UnitAttr, element_type, index
from ..ir.core import Operation, Region, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.arith import ConstantOp, MulFOp
from ..ir.dialects.attn import YieldOp
from ..ir.dialects.math import TanhOp
from ..ir.dialects.tensor import ExtractOp
from ..ir.dialects.tile import GatherOp
from .tile_builder import COLUMNS, ROWS, Tile, TileBuilder, union

ELEMENTWISE = ("arith", "math")


@dataclass(frozen=True)
class TileRegion:
    """A region inside a kernel, with what is the same for every key tile already computed.

    `captures` are the kernel's arguments for the captured tensors; `known` holds the tiles of
    everything that does not depend on keys or scores, `rest` the other ops.
    """

    region: Region
    captures: Mapping[Value, Value]
    known: Mapping[Value, Tile]
    rest: Sequence[Operation]

    def inline(self, tiles: TileBuilder, varying: Mapping[Value, Tile], valid: Mapping[int, Tile]) -> Tile:
        """The region's value; `valid` says along each axis where positions exist."""
        known = {**self.known, **varying}
        for op in self.rest:
            known[op.result] = emit_op(op, tiles, known, self.captures, valid)
        return known[YieldOp(self.region.block.terminator).value]


def hoist(
    region: Region,
    tiles: TileBuilder,
    positions: Mapping[Value, Tile],
    captures: Mapping[Value, Value],
    valid: Mapping[int, Tile],
) -> TileRegion:
    """Emit what depends on nothing but `positions`, those that no loop changes."""
    known, rest = dict(positions), list[Operation]()
    for op in region.block.ops[:-1]:
        if all(v in known or v in captures for v in op.operands):
            known[op.result] = emit_op(op, tiles, known, captures, valid)
        else:
            rest.append(op)
    return TileRegion(region, captures, known, rest)


def emit_op(
    op: Operation,
    tiles: TileBuilder,
    known: Mapping[Value, Tile],
    captures: Mapping[Value, Value],
    valid: Mapping[int, Tile],
) -> Tile:
    """Emit one op of a region, marked as coming from the user's line that it comes from."""
    around, tiles.builder.location = tiles.builder.location, op.location
    try:
        return _emit_here(op, tiles, known, captures, valid)
    finally:
        tiles.builder.location = around


def _emit_here(
    op: Operation,
    tiles: TileBuilder,
    known: Mapping[Value, Tile],
    captures: Mapping[Value, Value],
    valid: Mapping[int, Tile],
) -> Tile:
    if (extract := ExtractOp.match(op)) is not None:
        indices = [known[i] for i in extract.indices]
        return _gather(tiles, captures[extract.source], indices, valid, op.result.name_hint)
    if op.dialect not in ELEMENTWISE or len(op.results) != 1 or op.regions:
        op_error(op, f"cannot be computed on tiles; regions may use {' and '.join(ELEMENTWISE)}, and tensor.extract")
    label = op.result.name_hint
    result = tiles.elementwise(op.name, [known[v] for v in op.operands], op.result.type, op.properties, label)
    if caps(op) and (tanh := TanhOp.producing(result.value)) is not None:
        tanh.absolute = UnitAttr()
    return result


CAPPED = 128.0
"""Up to this factor, 2^-23 of absolute error in a hyperbolic tangent is less than rounding does to such scores."""


def caps(op: Operation) -> bool:
    """Whether an op is the tangent of a soft cap: all that reads it multiplies it by a constant of at most `CAPPED`."""
    if TanhOp.match(op) is None:
        return False
    factors = [MulFOp.match(user) for user in op.result.users]
    return bool(factors) and all(factor is not None and _small(factor) for factor in factors)


def _small(factor: MulFOp) -> bool:
    constants = (ConstantOp.producing(v) for v in (factor.lhs, factor.rhs))
    return any(c is not None and isinstance(c.value, FloatAttr) and abs(c.value.value) <= CAPPED for c in constants)


def _gather(
    tiles: TileBuilder, source: Value, indices: Sequence[Tile], valid: Mapping[int, Tile], label: str | None
) -> Tile:
    axes = union(indices)
    operands = [source, *(tile.value if not tile.axes else tiles.spread(tile, axes) for tile in indices)]
    conditions = [valid[axis] for axis in axes if axis in valid]
    properties: dict[str, Attribute] = {}
    if conditions:
        operands.append(tiles.spread(tiles.conjunction(conditions), axes))
        properties["masked"] = UnitAttr()
    type_ = tiles.type_along(axes, element_type(source.type))
    return Tile(tiles.builder.create(GatherOp, operands, [type_], properties, name=label).out, axes)


@dataclass(frozen=True)
class RegionPositions:
    """The block arguments of a score or mask region, by what they are."""

    score: Value | None
    b: Value
    h: Value
    m: Value
    n: Value

    @staticmethod
    def of(region: Region) -> RegionPositions:
        first, *others = region.block.arguments
        if first.type == index:
            return RegionPositions(None, first, *others[:3])
        return RegionPositions(first, *others[:4])


def element_loads(region: Region) -> list[tuple[Value, tuple[int, ...]]]:
    """Each captured tensor a region reads an element of, and the axes along which the element varies."""
    if region.empty:
        return []
    positions = RegionPositions.of(region)
    axes: dict[Value, tuple[int, ...]] = {positions.m: (ROWS,), positions.n: (COLUMNS,)}
    if positions.score is not None:
        axes[positions.score] = (ROWS, COLUMNS)
    loads: list[tuple[Value, tuple[int, ...]]] = []
    for op in region.block.ops[:-1]:
        axes[op.result] = tuple(sorted({axis for v in op.operands for axis in axes.get(v, ())}))
        if (extract := ExtractOp.match(op)) is not None:
            loads.append((extract.source, axes[op.result]))
    return loads
