"""The masks people write, as region code the way raising writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attir.ir.attributes import Symbol, TensorType, i1, i64
from attir.ir.builder import Builder
from attir.ir.core import Block, Region, Value
from attir.ir.dialects.arith import AndIOp, OrIOp
from attir.ir.dialects.attn import YieldOp, region_block
from attir.ir.dialects.tensor import ExtractOp
from attir.passes.region_math import RegionMath, Scalar

CAPTURES = {"lengths": (("B",), i64), "documents": (("B", "S"), i64), "table": (("T", "T"), i1)}
TABLE_BLOCK = 32


class Masks(RegionMath):
    """Region code for a mask of query m and key n of batch b."""

    def __init__(self, block: Block) -> None:
        super().__init__(Builder(block))
        self.b, _, self.m, self.n, *captures = block.arguments
        self.captures = dict(zip(CAPTURES, captures, strict=True))

    def both(self, *conditions: Value) -> Value:
        first, *rest = conditions
        for condition in rest:
            first = self.logical(AndIOp, first, condition)
        return first

    def either(self, x: Value, y: Value) -> Value:
        return self.logical(OrIOp, x, y)

    def near(self, x: Scalar, y: Scalar, distance: int) -> Value:
        return self.compare("le", self.absolute(self.sub(x, y)), distance)

    def load(self, name: str, *indices: Scalar) -> Value:
        source = self.captures[name]
        assert isinstance(source.type, TensorType)
        return self.builder.create(ExtractOp, [source, *map(self.as_index, indices)], [source.type.element]).out

    def same(self, x: Scalar, y: Scalar) -> Value:
        return self.compare("eq", x, y)

    # --- families

    def causal(self) -> Value:
        return self.compare("le", self.n, self.m)

    def causal_at_the_end(self) -> Value:
        """The last query sees the last key: 64 keys come before the queries."""
        return self.compare("le", self.n, self.add(self.m, 64))

    def window(self) -> Value:
        return self.both(self.causal(), self.compare("lt", self.sub(self.m, self.n), 100))

    def window_on_both_sides(self) -> Value:
        return self.near(self.m, self.n, 48)

    def dilated(self) -> Value:
        return self.both(self.window(), self.same(self.remainder(self.sub(self.m, self.n), 2), 0))

    def prefix(self) -> Value:
        return self.either(self.causal(), self.compare("lt", self.n, 100))

    def prefix_lengths(self) -> Value:
        return self.either(self.causal(), self.compare("lt", self.n, self.load("lengths", self.b)))

    def padding_lengths(self) -> Value:
        return self.compare("lt", self.n, self.load("lengths", self.b))

    def chunked(self) -> Value:
        return self.both(self.causal(), self.blocks(100))

    def blocks(self, size: int = 64) -> Value:
        return self.same(self.floor_divide(self.m, size), self.floor_divide(self.n, size))

    def block_diffusion(self) -> Value:
        return self.compare("le", self.floor_divide(self.n, 32), self.floor_divide(self.m, 32))

    def sink_and_window(self) -> Value:
        return self.both(self.causal(), self.either(self.compare("lt", self.n, 4), self.window()))

    def global_and_sliding(self) -> Value:
        first = self.either(self.compare("lt", self.n, 40), self.compare("lt", self.m, 40))
        return self.either(first, self.near(self.m, self.n, 100))

    def neighbourhood_2d(self, width: int = 32) -> Value:
        (y, x), (v, u) = ((self.floor_divide(p, width), self.remainder(p, width)) for p in (self.m, self.n))
        return self.both(self.near(y, v, 3), self.near(x, u, 3))

    def neighbourhood_2d_of_odd_width(self) -> Value:
        return self.neighbourhood_2d(24)

    def neighbourhood_3d(self) -> Value:
        def place(p: Scalar) -> tuple[Scalar, Scalar, Scalar]:
            return self.floor_divide(p, 64), self.remainder(self.floor_divide(p, 8), 8), self.remainder(p, 8)

        return self.both(*(self.near(x, y, 1) for x, y in zip(place(self.m), place(self.n), strict=True)))

    def documents(self) -> Value:
        x, y = (self.load("documents", self.b, p) for p in (self.m, self.n))
        return self.both(self.causal(), self.same(x, y))

    def table_of_blocks(self) -> Value:
        return self.load("table", *(self.floor_divide(p, TABLE_BLOCK) for p in (self.m, self.n)))


Family = Callable[[Masks], Value]
CLOSED: Mapping[str, Family] = {
    "causal": Masks.causal,
    "causal at the end": Masks.causal_at_the_end,
    "window": Masks.window,
    "window on both sides": Masks.window_on_both_sides,
    "dilated": Masks.dilated,
    "prefix": Masks.prefix,
    "prefix lengths": Masks.prefix_lengths,
    "padding lengths": Masks.padding_lengths,
    "chunked": Masks.chunked,
    "blocks": Masks.blocks,
    "block diffusion": Masks.block_diffusion,
    "sink and window": Masks.sink_and_window,
    "global and sliding": Masks.global_and_sliding,
    "2-D neighbourhood": Masks.neighbourhood_2d,
    "2-D neighbourhood, odd width": Masks.neighbourhood_2d_of_odd_width,
    "3-D neighbourhood": Masks.neighbourhood_3d,
}
LOADED: Mapping[str, Family] = {"documents": Masks.documents, "table of blocks": Masks.table_of_blocks}
FAMILIES = {**CLOSED, **LOADED}


def family(name: str) -> Region:
    """The mask region of a family; it takes all of `CAPTURES`."""
    types = [TensorType(tuple(Symbol(s) for s in shape), element) for shape, element in CAPTURES.values()]
    block = region_block("mask", Block.with_arguments(types, list(CAPTURES)).arguments)
    masks = Masks(block)
    masks.builder.create(YieldOp, [FAMILIES[name](masks)])
    return Region([block])
