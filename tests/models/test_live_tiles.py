"""Reports count the tiles that a kernel computes: no live one is missed, none is called full that is not."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import re

import pytest
import torch
from models.gym import FAMILIES, Family
from numeric.closeness import NATIVE
from torch import Tensor

import attir

pytestmark = NATIVE
MASKS = tuple(f for f in FAMILIES if f.mask_mod is not None)
COUNTED = re.compile(r"(\d+) of (\d+) live, (\d+) full \((\d+)x(\d+)\) in this call")
LOOSE = {"log_sparse", "natten_morton", "natten_tiled", "dilated", "tree", "block_diffusion", "batchify"}
"""Masks of tables, of remainders, or of conditions that exclude each other, of which tiles are kept that turn out
empty: of the last two only where tiles are as low as these short calls get."""


def tile_counts(kept: Tensor, block_m: int, block_n: int) -> tuple[int, int, int]:
    """How many tiles of (batch, head, m, n) have a kept key, keep all, and are."""
    live = full = total = 0
    for matrix in kept.flatten(0, 1):
        for rows in matrix.split(block_m, 0):
            for tile in rows.split(block_n, 1):
                live, full, total = live + bool(tile.any()), full + bool(tile.all()), total + 1
    return live, full, total


@pytest.mark.parametrize("family", MASKS, ids=lambda f: f.name)
def test_live_tiles_are_counted(family: Family) -> None:
    torch._dynamo.reset()
    inputs = family.inputs()
    compiled = attir.compile(family.raw, strict=True, dynamic=False)
    with torch.no_grad():
        compiled(*inputs)
        (site,) = attir.explain(compiled, inputs).sites
    found = COUNTED.fullmatch(site.tiles)
    assert found is not None, site.tiles
    live, total, full, block_m, block_n = map(int, found.groups())
    kept = family.kept()
    expected_live, expected_full, expected_total = tile_counts(kept, block_m, block_n)
    repeats = total // expected_total if expected_total <= total else 1
    shares = expected_total // total if expected_total > total else 1
    assert total * shares == expected_total * repeats
    assert live * shares >= expected_live * repeats and full * shares <= expected_full * repeats
    if family.name not in LOOSE:
        assert live * shares == expected_live * repeats


def test_inputs_are_for_what_was_compiled() -> None:
    with pytest.raises(attir.CompileError, match="cannot explain"):
        attir.explain(test_live_tiles_are_counted, ())
