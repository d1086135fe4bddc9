"""Mask analysis against brute force: no live key is missed, no full tile holds a dropped key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from attir.ir.attributes import Dim, Symbol, i1, i64
from attir.ir.builder import Builder
from attir.ir.core import Region, Value
from attir.ir.define import Op
from attir.ir.dialects.arith import AddIOp, AndIOp, CmpIOp, IndexCastOp, OrIOp, SelectOp, SubIOp, XOrIOp
from attir.ir.dialects.attn import YieldOp, region_block
from attir.ir.dialects.math import AbsIOp
from attir.passes.analyze_mask import analyze_mask
from attir.passes.key_ranges import IntegerMath, KeyRanges, key_ranges, whole_tiles
from attir.passes.mask_structure import MaskStructure

Predicate = Callable[[int, int], bool]

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "slt": lambda x, y: x < y,
    "sle": lambda x, y: x <= y,
    "sgt": lambda x, y: x > y,
    "sge": lambda x, y: x >= y,
}


@dataclass(frozen=True)
class Compared:
    """`row*m + column*n  predicate  constant`, or the same of the absolute value."""

    row: int
    column: int
    predicate: str
    constant: int
    absolute: bool = False
    swapped: bool = False

    def holds(self, m: int, n: int) -> bool:
        x = self.row * m + self.column * n
        return COMPARISONS[self.predicate](*self._ordered(abs(x) if self.absolute else x, self.constant))

    def _ordered(self, x: int, y: int) -> tuple[int, int]:
        return (y, x) if self.swapped else (x, y)

    def build(self, region: RegionBuilder) -> Value:
        x = region.affine(self.row, self.column)
        if self.absolute:
            x = region.builder.unary(AbsIOp, x)
        constant = region.builder.constant(self.constant, i64)
        lhs, rhs = (constant, x) if self.swapped else (x, constant)
        return region.compare(self.predicate, lhs, rhs)


@dataclass(frozen=True)
class Combined:
    """Two conditions joined by `and`, `or`, or chosen between by a third."""

    kind: str
    parts: tuple[Condition, ...]

    def holds(self, m: int, n: int) -> bool:
        first, *rest = (part.holds(m, n) for part in self.parts)
        if self.kind == "select":
            return rest[0] if first else rest[1]
        if self.kind == "not":
            return not first
        return (first and rest[0]) if self.kind == "and" else (first or rest[0])

    def build(self, region: RegionBuilder) -> Value:
        values = [part.build(region) for part in self.parts]
        if self.kind == "select":
            return region.builder.create(SelectOp, values, [i1]).out
        if self.kind == "not":
            return region.builder.binary(XOrIOp, values[0], region.builder.constant(True, i1))
        return region.builder.binary(AndIOp if self.kind == "and" else OrIOp, values[0], values[1])


Condition = Compared | Combined


@dataclass
class RegionBuilder:
    builder: Builder
    row: Value
    column: Value

    def affine(self, row: int, column: int) -> Value:
        total = self.builder.constant(0, i64)
        for factor, position in ((row, self.row), (column, self.column)):
            cast = self.builder.create(IndexCastOp, [position], [i64]).out
            kind: type[Op] = AddIOp if factor > 0 else SubIOp
            for _ in range(abs(factor)):
                total = self.builder.binary(kind, total, cast)
        return total

    def compare(self, predicate: str, lhs: Value, rhs: Value) -> Value:
        return self.builder.create(CmpIOp, [lhs, rhs], [i1], {"predicate": CmpIOp.predicate_attr(predicate)}).out


def mask_region(condition: Condition) -> Region:
    block = region_block("mask", [])
    region = RegionBuilder(Builder(block), block.arguments[2], block.arguments[3])
    region.builder.create(YieldOp, [condition.build(region)])
    return Region([block])


comparisons = st.builds(
    Compared,
    row=st.sampled_from([-1, 0, 0, 1]),
    column=st.sampled_from([-1, 1, 1, 0, 2]),
    predicate=st.sampled_from(sorted(COMPARISONS)),
    constant=st.integers(-7, 20),
    absolute=st.booleans(),
    swapped=st.booleans(),
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(Combined, st.sampled_from(["and", "and", "or"]), st.tuples(inner, inner)),
        st.builds(Combined, st.just("not"), st.tuples(inner)),
        st.builds(Combined, st.just("select"), st.tuples(inner, inner, inner)),
    ),
    max_leaves=5,
)
SIZES = (1, 2, 5, 8, 13)


def visited(ranges: KeyRanges[int], block_n: int, edge_n: int) -> tuple[set[int], set[int]]:
    """The keys of masked tiles below `end`, and those of full tiles."""

    def keys(start: int, stop: int, step: int) -> set[int]:
        return {n for tile in range(start, stop, step) for n in range(tile, tile + step)}

    left = keys(ranges.begin, min(ranges.full_begin, ranges.end), edge_n)
    masked = left | keys(ranges.full_end, ranges.end, edge_n)
    return {n for n in masked if n < ranges.end}, keys(ranges.full_begin, ranges.full_end, block_n)


@dataclass(frozen=True)
class Tiles:
    """Rows and keys of a tile, keys of a cut tile (0: the same), and which part of how many of the keys."""

    block_m: int
    block_n: int
    edge_n: int = 0
    part: int = 0
    parts: int = 0

    def keys(self, count: int) -> tuple[int | None, int]:
        """The part's first key and the one after its last."""
        if self.parts == 0:
            return None, count
        share = -(-count // self.parts)
        chunk = -(-share // self.block_n) * self.block_n
        return self.part * chunk, min((self.part + 1) * chunk, count)


def check_ranges(structure: MaskStructure, holds: Predicate, rows: int, keys: int, tiles: Tiles) -> None:
    edge_n = tiles.edge_n or tiles.block_n
    first, last = tiles.keys(keys)
    for row_begin in range(0, rows, tiles.block_m):
        row_end = min(row_begin + tiles.block_m, rows)
        ranges = key_ranges(structure, IntegerMath(), row_begin, row_end, last, tiles.block_n, tiles.edge_n, first)
        masked, full = visited(ranges, tiles.block_n, edge_n)
        assert ranges.begin % edge_n == ranges.full_begin % edge_n == ranges.full_end % edge_n == 0
        assert (ranges.full_end - ranges.full_begin) % tiles.block_n == 0
        assert 0 <= ranges.begin <= ranges.full_begin <= ranges.full_end
        assert not masked & full
        assert all((first or 0) <= n < last for n in masked | full)
        for m in range(row_begin, row_end):
            live = {n for n in range(first or 0, last) if holds(m, n)}
            assert live <= masked | full
            assert full <= live
            right = {n for n in masked if n >= ranges.full_end}
            assert all(n >= (structure.first or 0) for n in right) or structure.opaque
            assert structure.lower is None or structure.opaque or all(n >= m + structure.lower for n in right)


@settings(max_examples=200, deadline=None)
@given(conditions, st.sampled_from(SIZES), st.sampled_from(SIZES), st.sampled_from([1, 4]), st.sampled_from([1, 4]))
def test_ranges_hold_every_live_key(condition: Condition, rows: int, keys: int, block_m: int, block_n: int) -> None:
    check_ranges(analyze_mask(mask_region(condition)), condition.holds, rows, keys, Tiles(block_m, block_n))


@st.composite
def cut_tiles(draw: st.DrawFn) -> Tiles:
    edge_n, parts = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 4))
    block_m, edges = draw(st.sampled_from([1, 3, 4])), draw(st.integers(1, 4))
    return Tiles(block_m, edge_n * edges, edge_n, draw(st.integers(0, parts - 1)), parts)


@settings(max_examples=200, deadline=None)
@given(conditions, st.sampled_from(SIZES), st.sampled_from((*SIZES, 29)), cut_tiles(), st.booleans())
def test_ranges_with_short_tiles_at_the_edges(
    condition: Condition, rows: int, keys: int, tiles: Tiles, split: bool
) -> None:
    """And over a part of the keys: each part visits its own and no others."""
    structure = analyze_mask(mask_region(condition))
    check_ranges(structure, condition.holds, rows, keys, tiles if split else replace(tiles, parts=0, part=0))


@given(conditions, st.integers(0, 12), st.integers(1, 6), st.integers(0, 30), st.integers(1, 6))
def test_cut_tiles_of_full_size_change_nothing(
    condition: Condition, row: int, rows: int, keys: int, block_n: int
) -> None:
    structure = analyze_mask(mask_region(condition))
    plain, cut = (key_ranges(structure, IntegerMath(), row, row + rows, keys, block_n, edge) for edge in (0, block_n))
    assert plain == cut


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_whole_tiles_end_within(begin: int, length: int, block_n: int) -> None:
    end = whole_tiles(IntegerMath(), begin, begin + length, block_n)
    assert (end - begin) % block_n == 0
    assert begin <= end <= begin + length < end + block_n


@settings(max_examples=200, deadline=None)
@given(conditions)
def test_bounds_are_exact_unless_opaque(condition: Condition) -> None:
    structure = analyze_mask(mask_region(condition))
    for m in range(12):
        for n in range(24):
            allowed, kept = structure.keeps(m, n), condition.holds(m, n)
            assert allowed >= kept, "a kept key lies outside the bounds"
            assert structure.opaque or allowed == kept


@settings(max_examples=200, deadline=None)
@given(conditions, st.integers(1, 12), st.integers(1, 12))
def test_a_proved_row_has_a_key(condition: Condition, rows: int, keys: int) -> None:
    structure = analyze_mask(mask_region(condition))
    lengths: list[tuple[Dim, Dim]] = [
        (rows, keys),
        (rows, Symbol("n")),
        (Symbol("m"), keys),
        (Symbol("m"), Symbol("n")),
    ]
    if rows == keys:
        lengths.append((Symbol("n"), Symbol("n")))
    complete = all(any(condition.holds(m, n) for n in range(keys)) for m in range(rows))
    for query_length, key_length in lengths:
        assert complete or not structure.every_row_has_key(query_length, key_length)


@given(conditions)
def test_the_hint_reads_back(condition: Condition) -> None:
    structure = analyze_mask(mask_region(condition))
    assert MaskStructure.from_attr(structure.to_attr()) == structure
