"""Which grids the positions of a mask are coordinates of, in every way people write that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attir.compiler.mask_algebra import Mask
from attir.compiler.mask_constructors import causal, document, window
from attir.compiler.mask_grids import neighborhood
from attir.compiler.mask_region import mask_region
from attir.passes.grid_masks import Grid, grids_of, parts_of
from attir.passes.token_regions import positions_of

Rule = Callable[[Any, Any], Any]


def grids(mask: Mask) -> list[Grid]:
    region, _ = mask_region(mask)
    return list(grids_of(parts_of(region, positions_of(region.block, "mask"))))


def of_rule(rule: Rule) -> Mask:
    """A mask by hand."""

    def kept(at: tuple[Any, Any, Any, Any]) -> Any:
        return rule(at[2], at[3])

    return Mask(kept, (), "a mask")


def near(x: Any, y: Any) -> Any:
    return (x - y).abs() <= 2


def clamped(x: Any, y: Any, size: int) -> Any:
    return (x.clamp(2, size - 3) - y).abs() <= 2


ROWS_OF_9: dict[str, Rule] = {
    "quotient and remainder": lambda m, n: near(m // 9, n // 9) & near(m % 9, n % 9),
    "clamped at borders": lambda m, n: clamped(m // 9, n // 9, 7) & clamped(m % 9, n % 9, 9),
    "remainder by subtraction": lambda m, n: near(m // 9, n // 9) & near(m - m // 9 * 9, n - n // 9 * 9),
    "functions of torch": lambda m, n: (
        near(torch.div(m, 9, rounding_mode="floor"), torch.div(n, 9, rounding_mode="trunc"))
        & near(torch.remainder(m, 9), n.remainder(9))
    ),
    "a row is later": lambda m, n: (n // 9 <= m // 9) & near(m % 9, n % 9),
}


@pytest.mark.parametrize("name", ROWS_OF_9)
def test_rows_of_nine(name: str) -> None:
    assert grids(of_rule(ROWS_OF_9[name])) == [Grid((9,), (1, 1))]


OTHERS: dict[str, tuple[Mask, Grid]] = {
    "bits": (of_rule(lambda m, n: near(m >> 3, n >> 3) & near(m & 7, n & 7)), Grid((8,), (1, 1))),
    "volume": (
        of_rule(lambda m, n: near(m // 63, n // 63) & near(m // 9 % 7, n // 9 % 7) & near(m % 9, n % 9)),
        Grid((7, 9), (1, 1, 1)),
    ),
    "volume, remainder first": (
        of_rule(lambda m, n: near(m // 63, n // 63) & near(m % 63 // 9, n % 63 // 9) & near(m % 9, n % 9)),
        Grid((7, 9), (1, 1, 1)),
    ),
    "dilated line": (of_rule(lambda m, n: (m % 3 == n % 3) & near(m // 3, n // 3)), Grid((3,), (1, 1))),
    "dilation that divides": (neighborhood((8, 12), 3, dilation=(1, 4)), Grid((3, 4), (1, 1, 1))),
    "dilation that does not": (neighborhood((7, 9), 3, dilation=(1, 2)), Grid((9,), (1, 2))),
    "outer dilation": (neighborhood((8, 9), 3, dilation=(2, 1)), Grid((2, 9), (1, 1, 1))),
    "sizes that do not divide": (of_rule(lambda m, n: (m % 9 == n % 9) & (m % 4 == n % 4)), Grid((9,), (1, 1))),
    "tiles in tiles": (
        of_rule(lambda m, n: near(m // 12, n // 12) & near(m // 4 % 3, n // 4 % 3)), Grid((3, 4), (1, 1, 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_grids(name: str) -> None:
    mask, grid = OTHERS[name]
    assert grids(mask)[0] == grid


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 8)])
def test_neighborhoods_without_more(shape: tuple[int, ...]) -> None:
    assert grids(neighborhood(shape, 3)) == [Grid(shape[1:], (1,) * len(shape))]


def test_a_stride_is_no_axis_of_a_second_grid() -> None:
    assert grids(neighborhood((8, 8), 4, stride=(1, 2))) == [Grid((4, 2), (1, 1, 1)), Grid((8,), (1, 1))]


NOTHING: dict[str, Mask] = {
    "causal": causal(),
    "window": window(4, 4),
    "documents": document(torch.tensor([0, 0, 1, 1, 2])),
    "line": neighborhood(20, 5),
    "sum of both": of_rule(lambda m, n: (m + n) // 9 == 3),
}


@pytest.mark.parametrize("name", NOTHING)
def test_masks_without_a_grid(name: str) -> None:
    assert grids(NOTHING[name]) == []
