"""Tile predicates, loop pieces, counts and row proofs of random masks against brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property.mask_trees import LENGTH, Captured, Tree, mask_of, region_of, trees

from attir.ir.attributes import Dim, Symbol
from attir.ir.core import Region
from attir.passes.count_tiles import CapturedMath, count_tiles
from attir.passes.key_pieces import Piece, aligned, key_pieces
from attir.passes.mask_forms import MaskForms
from attir.passes.mask_plan import MaskPlan
from attir.passes.position_forms import B, H, M, N
from attir.passes.row_has_key import every_row_has_key
from attir.passes.tile_predicates import TileEvaluator

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Case:
    """A mask of a size, cut into tiles."""

    tree: Tree
    seed: int
    queries: int
    keys: int
    block_m: int
    block_n: int
    b: int

    def rows(self) -> tuple[Array, Array]:
        return _tiles(self.queries, self.block_m)

    def columns(self) -> tuple[Array, Array]:
        return _tiles(self.keys, self.block_n)

    def math(self, region: Region, h: int = 1) -> CapturedMath:
        captures = Captured.drawn(self.seed).of(region)
        return CapturedMath(captures, {B: self.b, H: h}, {M: self.queries, N: self.keys})

    def mask(self, region: Region, h: int = 1) -> Array:
        return mask_of(region, self.queries, self.keys, Captured.drawn(self.seed).arrays, self.b, h)


def _tiles(count: int, block: int) -> tuple[Array, Array]:
    first = np.arange(0, count, block)
    return first, np.minimum(first + block, count) - 1


cases = st.builds(
    Case,
    trees,
    seed=st.integers(0, 99),
    queries=st.integers(1, LENGTH),
    keys=st.integers(1, LENGTH),
    block_m=st.sampled_from([1, 3, 4, 8]),
    block_n=st.sampled_from([1, 4, 5, 8]),
    b=st.integers(0, 1),
)


def check_predicate(case: Case, heads: tuple[int, int]) -> None:
    """Never drops a live tile, never calls a tile full that is not, for rows of one or several heads."""
    region = region_of(case.tree)
    (m0, m1), (n0, n1) = case.rows(), case.columns()
    positions = {B: (case.b, case.b), M: (m0[:, None], m1[:, None]), N: (n0, n1)}
    head = (heads[0], heads[0]) if heads[0] == heads[1] else heads
    math, forms = case.math(region, heads[0]), MaskForms.of(region)
    found = TileEvaluator(math, {**positions, H: head}).truth(forms.condition)
    shape = len(m0), len(n0)
    may, must = np.broadcast_to(found.may, shape), np.broadcast_to(found.must, shape)
    masks = np.stack([case.mask(region, h) for h in range(heads[0], heads[1] + 1)])
    for i, j in np.ndindex(shape):
        tile = masks[:, m0[i] : m1[i] + 1, n0[j] : n1[j] + 1]
        assert may[i, j] or not tile.any()
        assert tile.all() or not must[i, j]


def bounds(piece: Piece[Any], rows: int, i: int) -> list[int]:
    every = (piece.begin, piece.full_begin, piece.full_end, piece.end)
    return [int(np.broadcast_to(x, (rows,))[i]) for x in every]


def check_pieces(case: Case) -> None:
    """Pieces are disjoint, ascending, hold every live key, and their full ranges nothing else."""
    region = region_of(case.tree)
    mask, rows = case.mask(region), case.rows()
    math = case.math(region)
    tiles = TileEvaluator(math, {B: (case.b, case.b), H: (1, 1), M: rows})
    pieces = key_pieces(MaskForms.of(region).condition, tiles, case.keys)
    assert len(pieces) <= 3
    for found, step in ((pieces, 1), (aligned(math, pieces, case.block_n), case.block_n)):
        for i, (first, last) in enumerate(zip(*rows, strict=True)):
            part, reached = mask[first : last + 1], 0
            covered = np.zeros(case.keys + case.block_n, np.bool_)
            for piece in found:
                begin, full_begin, full_end, end = bounds(piece, len(rows[0]), i)
                assert reached <= begin <= full_begin <= full_end <= end
                assert begin == end or end <= case.keys + step - 1
                assert all(x % step == 0 for x in (begin, full_begin, full_end, end))
                assert full_begin == full_end or full_end <= case.keys
                assert part[:, full_begin:full_end].all()
                covered[begin:end], reached = True, end
            assert not (part.any(axis=0) & ~covered[: case.keys]).any()


def check_counts(case: Case) -> None:
    """Counts by the predicate, by splitting and by pieces enclose what there is."""
    region = region_of(case.tree)
    mask = case.mask(region, h=0)
    (m0, m1), (n0, n1) = case.rows(), case.columns()
    parts = [mask[a : b + 1, c : d + 1] for a, b in zip(m0, m1, strict=True) for c, d in zip(n0, n1, strict=True)]
    live, full = sum(bool(p.any()) for p in parts), sum(bool(p.all()) for p in parts)
    sizes = case.queries, case.keys, case.block_m, case.block_n
    for captures in (Captured.drawn(case.seed).of(region), None):
        for split, at_once in ((False, 1000), (True, 1000), (False, 0)):
            found = count_tiles(region, *sizes, captures, case.b, split=split, at_once=at_once)
            assert found.full <= full <= live <= found.live <= found.total == len(parts)
            assert found.partial == found.live - found.full


def check_row_proof(case: Case) -> None:
    region = region_of(case.tree)
    queries, keys = case.queries, case.keys
    sizes: list[tuple[Dim, Dim]] = [(queries, keys), (queries, Symbol("n")), (Symbol("m"), keys), (Symbol("m"), None)]
    sizes += [(Symbol("n"), Symbol("n"))] if queries == keys else []
    if any(every_row_has_key(region, *size) for size in sizes):
        assert case.mask(region).any(axis=1).all()


CHECKS: dict[str, Callable[[Case], None]] = {
    "predicate": lambda case: check_predicate(case, (1, 1)),
    "predicate of several heads": lambda case: check_predicate(case, (1, 3)),
    "pieces": check_pieces,
    "counts": check_counts,
    "row proof": check_row_proof,
}


@pytest.mark.parametrize("check", list(CHECKS))
def test_random_masks(check: str) -> None:
    settings(max_examples=250, deadline=None)(given(cases)(CHECKS[check]))()


@pytest.mark.slow
@pytest.mark.parametrize("check", list(CHECKS))
def test_thousands_of_random_masks(check: str) -> None:
    settings(max_examples=5000, deadline=None)(given(cases)(CHECKS[check]))()


square = st.builds(Case, trees, st.integers(0, 99), st.just(13), st.just(13), st.just(4), st.just(4), st.just(0))


@settings(max_examples=200, deadline=None)
@given(square)
def test_rows_of_square_masks_that_are_proved_have_a_key(case: Case) -> None:
    check_row_proof(case)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_a_plan_is_made_of_every_mask(tree: Tree) -> None:
    """And what it calls opaque has no tile that differs from another."""
    region = region_of(tree)
    plan = MaskPlan.of(region)
    if plan.kind == "opaque":
        case = Case(tree, 1, 16, 16, 4, 4, 0)
        (m0, m1), (n0, n1) = case.rows(), case.columns()
        positions = {B: (0, 0), H: (1, 1), M: (m0[:, None], m1[:, None]), N: (n0, n1)}
        found = plan.truth(case.math(region), positions)
        assert np.all(found.may)
        assert not np.any(found.must)
