"""The simulator of neighbourhoods against brute force over the mask itself, and its laws."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attir.compiler.mask_grids import neighborhood
from attir.cost_model.neighborhood import Axis, BoxCount, count_boxes

Array = np.ndarray[Any, np.dtype[Any]]
MOST_TOKENS = 700


@st.composite
def axis_of(draw: st.DrawFn, longest: int) -> Axis:
    length = draw(st.integers(1, longest))
    dilation = draw(st.integers(1, min(3, length)))
    window = draw(st.integers(1, length // dilation))
    return Axis(length, window, draw(st.integers(1, window)), dilation, draw(st.booleans()))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Axis], list[int], list[int]]:
    rank = draw(st.integers(1, 3))
    axes = [draw(axis_of((60, 15, 9)[rank - 1])) for _ in range(rank)]
    sides = st.lists(st.integers(1, 5), min_size=rank, max_size=rank)
    assume(prod(a.length for a in axes) <= MOST_TOKENS)
    return axes, draw(sides), draw(sides)


def mask_of(axes: list[Axis]) -> Array:
    mask = neighborhood(
        [a.length for a in axes], [a.window for a in axes], [a.stride for a in axes], [a.dilation for a in axes],
        [a.causal for a in axes],
    )  # fmt: skip
    tokens = prod(a.length for a in axes)
    return mask.dense(tokens, tokens).numpy()


def boxes_of(axes: list[Axis], sides: list[int]) -> Array:
    """The number of the box that each token lies in."""
    rest, found = np.arange(prod(a.length for a in axes)), np.zeros(1, np.int64)
    names: list[Array] = []
    for axis, side in zip(reversed(axes), reversed(sides), strict=True):
        cell = rest % axis.length
        names += [cell % axis.dilation, cell // axis.dilation // side]
        rest = rest // axis.length
    for name in names:
        found = found * (int(name.max()) + 1) + name
    return np.unique(found, return_inverse=True)[1]


def brute_force(axes: list[Axis], query_tile: list[int], key_tile: list[int]) -> BoxCount:
    mask = mask_of(axes)
    rows, columns = boxes_of(axes, query_tile), boxes_of(axes, key_tile)
    pairs = rows[:, None] * (columns.max() + 1) + columns
    total = int((rows.max() + 1) * (columns.max() + 1))
    kept, all_ = np.bincount(pairs[mask], minlength=total), np.bincount(pairs.ravel(), minlength=total)
    return BoxCount(int((kept > 0).sum()), int((kept == all_).sum()), total, int(mask.sum()), mask.size)


@settings(max_examples=120, deadline=None)
@given(problems())
def test_counts_are_those_of_the_mask(problem: tuple[list[Axis], list[int], list[int]]) -> None:
    axes, query_tile, key_tile = problem
    assert count_boxes(axes, query_tile, key_tile) == brute_force(axes, query_tile, key_tile)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 9))
def test_windows_and_strides_of_whole_tiles_leave_none_partial(tile: int, stride: int, wider: int, longer: int) -> None:
    """Perfectly block-sparse (GNA): a window begins half its size before the middle of a stride, so both are even."""
    window = 2 * tile * (stride + wider)
    axis = Axis(window + tile * longer, window, 2 * tile * stride)
    found = count_boxes([axis, axis], (tile, tile), (tile, tile))
    assert found.partial == 0
    assert found.achievable == pytest.approx(found.ideal)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_blocks_of_whole_tiles_leave_none_partial(tile: int, tiles: int, blocks: int) -> None:
    axis = Axis(tile * tiles * blocks, tile * tiles, tile * tiles)
    assert count_boxes([axis], (tile,), (tile,)).partial == 0


def test_the_numbers_of_a_known_case() -> None:
    """64 x 64 with windows of 16 x 16, in boxes of 8 x 8: three boxes an axis inside, and the ideal is 16."""
    axis = Axis(64, 16)
    found = count_boxes([axis, axis], (8, 8), (8, 8))
    assert found.ideal == 16.0
    assert found.live == (2 * 2 + 6 * 3) ** 2
    assert found.achievable == 64**2 / found.live


@pytest.mark.parametrize("numbers", [(4, 5, 1, 1), (4, 2, 3, 1), (4, 2, 1, 3), (4, 0, 1, 1)])
def test_axes_that_cannot_be(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="an axis needs"):
        Axis(*numbers)


def test_sides_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 axes need as many positive sides"):
        count_boxes([Axis(4, 2), Axis(4, 2)], (2,), (2, 2))
