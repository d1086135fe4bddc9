"""Scalar IR emitted for tiles of random masks computes what the analysis computes with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property.mask_trees import LENGTH, Array, Captured, Tree, mask_of, region_of, trees

from attir.ir.attributes import FunctionType, StringAttr, index
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.dialects.tensor import ExtractOp
from attir.ir.interpreter import interpret
from attir.ir.verifier import verify
from attir.passes.count_tiles import CapturedMath
from attir.passes.key_pieces import aligned
from attir.passes.mask_plan import MaskPlan
from attir.passes.position_forms import Atom, B, H, M, N
from attir.passes.tile_math import ScalarMath

TILE = ("m0", "m1", "n0", "n1", "keys")


@dataclass(frozen=True)
class Tile:
    first_row: int
    rows: int
    first_key: int
    columns: int
    keys: int
    block_n: int

    @property
    def arguments(self) -> tuple[int, ...]:
        last_key = min(self.first_key + self.columns, LENGTH) - 1
        last_row = min(self.first_row + self.rows, LENGTH) - 1
        return self.first_row, last_row, self.first_key, last_key, self.keys


tiles = st.builds(
    Tile,
    first_row=st.integers(0, LENGTH - 1),
    rows=st.integers(1, 9),
    first_key=st.integers(0, LENGTH - 1),
    columns=st.integers(1, 9),
    keys=st.integers(1, LENGTH),
    block_n=st.sampled_from([1, 4]),
)


@dataclass
class Emission:
    """A function of `TILE` and of the captured tensors around what is emitted for a tile."""

    region: Region
    tile: Tile
    math: CapturedMath

    def __post_init__(self) -> None:
        captures = self.region.block.arguments[4:]
        self.types = [index] * len(TILE) + [c.type for c in captures]
        self.block = Block.with_arguments(self.types, [*TILE, *(c.name_hint for c in captures)])
        self.tensors = dict(zip(captures, self.block.arguments[len(TILE) :], strict=True))
        self.builder = Builder(self.block)
        self.scalars = ScalarMath(self.builder, self.element, self.table)

    def element(self, atom: Atom, indices: Sequence[Value]) -> Value | None:
        assert atom.load is not None
        tensor = self.tensors[atom.load.source]
        return self.builder.create(ExtractOp, [tensor, *indices], [atom.load.out.type]).out

    def table(self, atom: Atom, position: int, first: Value, last: Value) -> tuple[Value, Value] | None:
        assert atom.load is not None
        m0, m1, n0, n1, _ = self.tile.arguments
        found = self.math.extremes(atom, position, *((m0, m1) if position == M else (n0, n1)))
        if found is None:
            return None
        low, high = (self.builder.constant(int(x), atom.load.out.type) for x in found)
        return low, high

    def run(self, results: Sequence[Value]) -> list[int]:
        """The results for the tile, as the interpreter computes them."""
        self.builder.create(ReturnOp, results)
        signature = FunctionType(tuple(self.types), tuple(v.type for v in results))
        properties = {"sym_name": StringAttr("f"), "function_type": signature}
        module = Block()
        module.append(FuncOp.create([], [], properties, [Region([self.block])]).operation)
        program = Operation.create("builtin.module", regions=[Region([module])])
        verify(program)
        captures = [self.math.captures[v] for v in self.region.block.arguments[4:]]
        return [int(x) for x in interpret(program, "f", *self.tile.arguments, *captures)]


def check(tree: Tree, seed: int, tile: Tile) -> None:
    """What is emitted is true of the mask, and says no less than what is computed with numbers."""
    region, drawn = region_of(tree), Captured.drawn(seed)
    plan, math = MaskPlan.of(region), CapturedMath(drawn.of(region), {B: 0, H: 1}, {M: LENGTH, N: LENGTH})
    emission = Emission(region, tile, math)
    m0, m1, n0, n1, keys = emission.block.arguments[: len(TILE)]
    scalars = emission.scalars
    rows: dict[int, tuple[Value | int, Value | int]] = {B: (0, 0), H: (1, 1), M: (m0, m1)}
    emitted = plan.truth(scalars, {**rows, N: (n0, n1)})
    pieces = aligned(scalars, plan.pieces(scalars, rows, keys), tile.block_n)
    bounds = [scalars.value(x) for p in pieces for x in (p.begin, p.full_begin, p.full_end, p.end)]
    may, must, *found = emission.run([scalars.condition(emitted.may), scalars.condition(emitted.must), *bounds])

    first_row, last_row, first_key, last_key, count = tile.arguments
    mask = mask_of(region, LENGTH, LENGTH, drawn.arrays, 0, 1)[first_row : last_row + 1]
    inside = mask[:, first_key : last_key + 1]
    assert may or not inside.any()
    assert inside.all() or not must
    # Arrays, so that no two bounds are taken for one because their numbers happen to be equal.
    first_m, last_m, first_n, last_n = (np.full(1, x) for x in tile.arguments[:4])
    wanted = plan.truth(math, {B: (0, 0), H: (1, 1), M: (first_m, last_m), N: (first_n, last_n)})
    assert may <= np.all(wanted.may)
    assert must >= np.all(wanted.must)
    check_bounds(found, mask[:, :count], tile.block_n)


def check_bounds(bounds: Sequence[int], mask: Array, step: int) -> None:
    """The pieces hold every live key once, and their full ranges none that a row drops."""
    visited = np.zeros(mask.shape[1] + step, np.bool_)
    reached = 0
    for i in range(0, len(bounds), 4):
        begin, full_begin, full_end, end = bounds[i : i + 4]
        assert reached <= begin <= full_begin <= full_end <= end
        assert mask[:, full_begin:full_end].all()
        assert all(x % step == 0 for x in (begin, full_begin, full_end, end))
        visited[begin:end], reached = True, end
    assert not (mask.any(axis=0) & ~visited[: mask.shape[1]]).any()


random_masks = given(trees, st.integers(0, 99), tiles)


def test_emitted_scalars() -> None:
    settings(max_examples=150, deadline=None)(random_masks(check))()


@pytest.mark.slow
def test_thousands_of_emitted_scalars() -> None:
    settings(max_examples=1500, deadline=None)(random_masks(check))()
