"""Rewrites regions of attention for tokens in another order: positions become loads of what the order captures.

    n // 64, n % 64  →  y[n], x[n]        n elsewhere  →  order[n]

Both are 1-D tensors, of which kernels know the extremes over tiles, so that a tile of tokens that form a box is
tested as that box. The rows of q, k and v are in the new order themselves, so n stays where a region reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir.attributes import TensorType, Type, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.dialects import arith
from ..ir.dialects.attn import REGIONS
from ..ir.dialects.attn_tokens import TOKENS_AXIS
from ..ir.dialects.tensor import ExtractOp
from .grid_masks import Digit, Grid, Part, parts_of
from .position_forms import M, N
from .region_math import RegionMath

POSITIONS: Mapping[str, int] = {"m": M, "n": N}


@dataclass(frozen=True)
class Captured:
    """What a token order captures for one of the positions, as arguments of a region."""

    order: Value
    coordinates: Sequence[Value]
    places: Mapping[int, Value]
    residues: Mapping[int, Value]

    @staticmethod
    def of(arrays: Sequence[Value], grid: Grid) -> Captured:
        """From the results of `attn.token_order`, or arguments for them."""
        order, axes = arrays[0], len(grid.dilation)
        dilated = [axis for axis, d in enumerate(grid.dilation) if d > 1]
        pairs = list(zip(dilated, range(1 + axes, len(arrays), 2), strict=True))
        places, residues = {a: arrays[i] for a, i in pairs}, {a: arrays[i + 1] for a, i in pairs}
        return Captured(order, arrays[1 : 1 + axes], places, residues)


def cannot_move(region: Region, name: str) -> str:
    """Why the tokens of a region of that name cannot be put into another order; empty where they can."""
    form = REGIONS[name]
    if not form.source:
        return ""
    block = region.block
    arguments = dict(zip(form.names, block.arguments, strict=False))
    position = arguments["m" if "m" in arguments else "n"]
    for user in arguments[form.source].users:
        extract = ExtractOp.match(user)
        if extract is not None and extract.indices[TOKENS_AXIS] is not position:
            return f"the region '{name}' reads rows of {form.source} beside its own"
    return ""


def positions_of(block: Block, name: str) -> dict[Value, int]:
    """Which arguments of a region are m and n."""
    found = zip(REGIONS[name].names, block.arguments, strict=False)
    return {value: POSITIONS[x] for x, value in found if x in POSITIONS}


def capture_order(
    region: Region, name: str, grid: Grid, types: Mapping[int, Sequence[Type]], shared: bool
) -> list[Value]:
    """Give a region arguments of `types`, by position, for what an order of `grid` captures, and use them.

    With `shared` one order serves both positions. Returns the new arguments.
    """
    block = region.block
    arrays: dict[int, list[Value]] = {}
    for position, side in types.items():
        if shared and arrays:
            arrays[position] = next(iter(arrays.values()))
        else:
            arrays[position] = [block.add_argument(type_) for type_ in side]
    sides = {position: Captured.of(values, grid) for position, values in arrays.items()}
    _Rewriter(block, name, grid, sides).rewrite()
    return [value for values in list(arrays.values())[: 1 if shared else None] for value in values]


class _Rewriter:
    def __init__(self, block: Block, name: str, grid: Grid, sides: Mapping[int, Captured]) -> None:
        self.block, self.name, self.grid, self.sides = block, name, grid, sides
        self.positions = positions_of(block, name)
        self.math = RegionMath(Builder(block, block.ops[0]))
        self.loads: dict[tuple[Value, int], Value] = {}
        self.own: set[Operation] = set()

    def rewrite(self) -> None:
        assert self.block.parent is not None
        parts = parts_of(self.block.parent, self.positions)
        for value, part in parts.items():
            found = self._part(part)
            if found is not None:
                value.replace_all_uses_with(self.math.as_type(found, value.type))
        for argument, position in self.positions.items():
            for user, slot in list(argument.uses):
                if user not in self.own and not self._reads_own_row(user, slot):
                    user.set_operand(slot, self._load(self.sides[position].order, position))

    def _reads_own_row(self, user: Operation, slot: int) -> bool:
        source = REGIONS[self.name].source
        extract = ExtractOp.match(user)
        if not source or extract is None or slot != 1 + TOKENS_AXIS:
            return False
        return extract.source is self.block.arguments[REGIONS[self.name].names.index(source)]

    def _load(self, array: Value, position: int) -> Value:
        """The element of a captured array at a position, as an index."""
        if (array, position) not in self.loads:
            assert isinstance(array.type, TensorType)
            argument = next(value for value, p in self.positions.items() if p == position)
            element: Type = array.type.element
            load = self.math.builder.create(ExtractOp, [array, argument], [element])
            self.own.add(load.operation)
            self.loads[array, position] = self.math.as_type(load.out, index)
        return self.loads[array, position]

    def _part(self, part: Part) -> Value | None:
        """A part by coordinates; None where it is none of theirs."""
        side, axis = self.sides[part.position], self.grid.axis_of(part.digit)
        if part.dilation > 1:
            if axis is None or self.grid.dilation[axis] != part.dilation:
                return None
            return self._load((side.residues if part.residue else side.places)[axis], part.position)
        if part.digit == Digit(1, 0):
            return None
        if axis is not None:
            return self._load(side.coordinates[axis], part.position)
        return self._sum(part, side)

    def _sum(self, part: Part, side: Captured) -> Value | None:
        """A digit that begins or ends inside an axis, or spans several."""
        digit, total = part.digit, None
        bounds = (None, *self.grid.steps)
        for axis, step in enumerate(self.grid.steps):
            above = bounds[axis]
            if (digit.end is not None and step >= digit.end) or (above is not None and above <= digit.step):
                continue
            cut = digit.end if digit.end is not None and (above is None or digit.end < above) else None
            if (cut or 0) % step or max(step, digit.step) % min(step, digit.step):
                return None
            x = self._load(side.coordinates[axis], part.position)
            if cut is not None:
                x = self._by(arith.RemSIOp, x, cut // step)
            if digit.step > step:
                x = self._by(arith.DivSIOp, x, digit.step // step)
            elif step > digit.step:
                x = self._by(arith.MulIOp, x, step // digit.step)
            total = x if total is None else self.math.builder.binary(arith.AddIOp, total, x)
        return total

    def _by(self, kind: type[arith.DivSIOp | arith.RemSIOp | arith.MulIOp], x: Value, factor: int) -> Value:
        return self.math.builder.binary(kind, x, self.math.builder.index(factor))
