"""Every mask of attir.masks against its definition in loops, for drawn parameters, as numbers, tensors and regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from property import mask_definitions as defined
from property.mask_definitions import Array

from attir import masks
from attir.compiler.mask_region import POSITIONS, mask_region
from attir.compiler.mask_survey import EMPTY, FULL, survey
from attir.ir.interpreter import Interpreter
from attir.masks import Mask

HEADS = 4


@dataclass(frozen=True)
class Case:
    """A mask and what it should keep: (queries, keys), or with an axis for heads in front."""

    mask: Mask
    expected: Array

    @property
    def sizes(self) -> tuple[int, int]:
        return self.expected.shape[-2:]

    @property
    def heads(self) -> int:
        return self.expected.shape[0] if self.expected.ndim == 3 else 1


sizes = st.integers(1, 40)
Draw = st.DrawFn


@st.composite
def neighborhoods(draw: Draw, ordered: bool = True) -> Case:
    axes = draw(st.integers(1, 3))
    shape = [draw(st.integers(1, (60, 9, 5)[axes - 1])) for _ in range(axes)]
    dilation = [draw(st.integers(1, max(1, length // 2))) for length in shape]
    window = [draw(st.integers(1, length // d)) for length, d in zip(shape, dilation, strict=True)]
    stride = [draw(st.integers(1, w)) for w in window]
    causal = [ordered and draw(st.booleans()) for _ in shape]
    mask = masks.neighborhood(shape, window, stride, dilation, causal)
    return Case(mask, defined.neighborhood(shape, window, stride, dilation, causal))


@st.composite
def trees(draw: Draw) -> Case:
    count, prefix = draw(st.integers(1, 15)), draw(st.integers(0, 9))
    order = draw(st.permutations(range(count)))
    parents = [-1] * count
    for place, node in enumerate(order[1:], start=1):
        parents[node] = draw(st.sampled_from([-1, *order[:place]]))
    return Case(masks.tree(parents, prefix), defined.tree(parents, prefix))


@st.composite
def shards(draw: Draw) -> Case:
    block, local, size = draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(sizes)
    stride = draw(st.integers(1, HEADS))
    mask = masks.strided_shards(HEADS, block, local, stride)
    return Case(mask, defined.shards(HEADS, block, local, stride, size))


@st.composite
def groups(draw: Draw) -> Case:
    size, wraps = 2 * draw(st.integers(1, 5)), draw(st.booleans())
    if wraps:
        length = size * draw(st.integers(1, 5))
        return Case(masks.shifted_groups(size, HEADS, length), defined.rolled_groups(size, HEADS, length))
    length = draw(sizes)
    return Case(masks.shifted_groups(size, HEADS), defined.cut_groups(size, HEADS, length))


@st.composite
def lines(draw: Draw) -> Case:
    queries, keys = draw(sizes), draw(sizes)
    numbers = st.lists(st.integers(0, 50), max_size=12)
    verticals, slashes = draw(numbers), draw(st.one_of(numbers, st.just(list(range(0, 90, 2)))))
    verticals = verticals if slashes or verticals else [3]
    return Case(masks.vertical_slash(verticals, slashes), defined.lines(verticals, slashes, queries, keys))


@st.composite
def along(draw: Draw) -> Case:
    """The masks that are one comparison or two."""
    m, n, a, b = draw(sizes), draw(sizes), draw(st.integers(1, 12)), draw(st.integers(1, 6))
    offset = draw(st.integers(-5, 9))
    table: dict[str, Callable[[], tuple[Mask, Array]]] = {
        "causal": lambda: (masks.causal(offset), defined.matrix(m, n, lambda q, k: k <= q + offset)),
        "window": lambda: (masks.window(a, b), defined.window(m, n, a, b)),
        "even": lambda: (masks.window(a), defined.window(m, n, a, a)),
        "dilated": lambda: (masks.dilated(a, b), defined.dilated(m, n, a, b)),
        "prefix": lambda: (masks.prefix(a), defined.matrix(m, n, lambda q, k: k < a)),
        "sinks": lambda: (
            masks.sink_window(b, a),
            defined.matrix(m, n, lambda q, k: k <= q and (k < b or k > q - a)),
        ),
        "global": lambda: (
            masks.global_window(b, a),
            defined.window(m, n, a, a) | defined.matrix(m, n, lambda q, k: min(q, k) < b),
        ),
        "blocks": lambda: (
            masks.block_diagonal(a),
            defined.from_sets(m, n, lambda q: set(range(q - q % a, q - q % a + a))),
        ),
    }
    return Case(*table[draw(st.sampled_from(sorted(table)))]())


@st.composite
def documents(draw: Draw) -> Case:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    m, n = (draw(st.integers(1, sum(lengths))) for _ in range(2))
    if draw(st.booleans()):
        return Case(masks.document(lengths=lengths), defined.documents(lengths, m, n))
    names = torch.tensor(draw(st.permutations(range(len(lengths))))) - 2
    ids = names.repeat_interleave(torch.tensor(lengths))
    return Case(masks.document(ids), defined.documents(lengths, m, n))


every = st.one_of(neighborhoods(), trees(), shards(), groups(), lines(), along(), documents())


def dense(case: Case) -> Array:
    return case.mask.dense(*case.sizes, heads=case.heads).numpy()


@settings(max_examples=300, deadline=None)
@given(every)
def test_a_mask_keeps_what_its_definition_says(case: Case) -> None:
    np.testing.assert_array_equal(dense(case), case.expected)


@settings(max_examples=60, deadline=None)
@given(every, st.data())
def test_numbers_and_tensors_agree(case: Case, data: st.DataObject) -> None:
    h, m, n = (data.draw(st.integers(0, size - 1)) for size in (case.heads, *case.sizes))
    kept = case.mask(0, h, m, n)
    assert isinstance(kept, bool)
    assert kept == case.expected[(h, m, n)[3 - case.expected.ndim :]]


@settings(max_examples=100, deadline=None)
@given(every, st.data())
def test_the_region_computes_the_same(case: Case, data: st.DataObject) -> None:
    h = data.draw(st.integers(0, case.heads - 1))
    region, tensors = mask_region(case.mask)
    m, n = case.sizes
    positions: list[Any] = [np.asarray(0), np.asarray(h), np.arange(m)[:, None], np.arange(n)]
    (kept,) = Interpreter().run_region(region, [*positions, *(t.numpy() for t in tensors)])
    assert len(region.block.arguments) == POSITIONS + len(tensors)
    np.testing.assert_array_equal(np.broadcast_to(kept, (m, n)), case.expected.reshape(-1, m, n)[h])


@settings(max_examples=150, deadline=None)
@given(every, st.integers(1, 9), st.integers(1, 9), st.data())
def test_tile_classes_hold_for_every_score(case: Case, block_m: int, block_n: int, data: st.DataObject) -> None:
    """No tile with a kept score counts as empty, no tile with a dropped one as full, and all scores are counted."""
    h = data.draw(st.integers(0, case.heads - 1))
    found = survey(case.mask, *case.sizes, (block_m, block_n), h, case.heads)
    expected = case.expected.reshape(-1, *case.sizes)[h]
    np.testing.assert_array_equal(found.kept_rows, expected.sum(1))
    for (i, j), kind in np.ndenumerate(found.classes):
        tile = expected[i * block_m : (i + 1) * block_m, j * block_n : (j + 1) * block_n]
        assert found.kept[i, j] == tile.sum() and found.areas[i, j] == tile.size
        assert not (kind == EMPTY and tile.any())
        assert not (kind == FULL and not tile.all())


@settings(max_examples=150, deadline=None)
@given(neighborhoods(ordered=False))
def test_each_query_of_a_neighborhood_sees_a_whole_window(case: Case) -> None:
    window: Sequence[int] = case.mask.arguments[1]
    assert (dense(case).sum(1) == prod(window)).all()


@settings(max_examples=60, deadline=None)
@given(shards())
def test_all_heads_together_see_everything_before(case: Case) -> None:
    size = case.sizes[0]
    np.testing.assert_array_equal(dense(case).any(0), np.tri(size, dtype=bool))


@settings(max_examples=80, deadline=None)
@given(along(), along(), st.sampled_from(["and", "or", "both"]))
def test_combinations_are_boolean_algebra(x: Case, y: Case, kind: str) -> None:
    sizes = 23, 31
    a, b = (case.mask.dense(*sizes) for case in (x, y))
    mask, expected = {
        "and": (x.mask & ~y.mask, a & ~b),
        "or": (~x.mask | y.mask, ~a | b),
        "both": (~(x.mask & y.mask) | (y.mask & x.mask), torch.ones(sizes, dtype=torch.bool)),
    }[kind]
    assert torch.equal(mask.dense(*sizes), expected)
    assert torch.equal((~~mask).dense(*sizes), expected)
