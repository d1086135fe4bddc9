"""Which blocks a mask leaves anything in, against the mask itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from property.mask_trees import CAPTURES, LENGTH, Captured, Tree, mask_of, region_of, trees
from unit.compiler.select_ops import Selecting, attention_of, blockwise, live_of

from attir.compiler.attention_cases import FORMS, Case, Shape
from attir.compiler.block_scores import split_axis
from attir.compiler.live_blocks import LiveBlocks, Sizes

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [Shape(2, 4, 4, 64, 64), Shape(2, 4, 4, 100, 131), Shape(2, 4, 4, 1, 77)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_live_blocks_are_those_in_which_anything_is_kept(form: str, shape: Shape) -> None:
    case = Selecting(form=form)
    captures = case.tensors(shape)[2]
    kept, live = case.kept(shape, captures), live_of(form, shape, 32, 16, captures)
    wanted = blockwise(kept, 32, 16)
    assert torch.equal(live.table.expand(wanted.shape), wanted)
    assert torch.equal(live.of_key_heads(2).expand(2, 2, -1, -1), split_axis(wanted, 1, (2, 2)).any(dim=2))
    rows = torch.arange(0, shape.queries, 3)
    assert torch.equal(live.rows(rows).expand(2, 4, -1, -1), kept[:, :, rows])
    ends = (wanted.any(dim=1).any(dim=0) * torch.arange(1, wanted.shape[3] + 1)).amax(dim=1)
    assert live.reach == tuple(int(x) for x in ends)


@settings(deadline=None, max_examples=60)
@given(trees, st.integers(0, 99), st.integers(1, LENGTH), st.integers(1, LENGTH), st.sampled_from([(16, 16), (5, 8)]))
def test_random_masks(tree: Tree, seed: int, queries: int, keys: int, blocks: tuple[int, int]) -> None:
    """On the CPU what is live is live in the mask, but for masks that cannot be read; none is missed."""
    region, arrays = region_of(tree), Captured.drawn(seed).arrays
    sizes, captures = Sizes(2, 2, queries, keys, *blocks), [torch.tensor(x) for x in arrays]
    found = LiveBlocks(region)
    live = found.find(sizes, captures, CPU)
    kept = torch.stack([
        torch.stack([torch.tensor(mask_of(region, queries, keys, arrays, b, h)) for h in range(2)])
        for b in range(2)
    ])  # fmt: skip
    wanted = blockwise(kept, *blocks)
    assert not bool((wanted & ~live.table.expand(wanted.shape)).any())
    readable = torch.equal(live.rows(torch.arange(queries)).expand(kept.shape), kept)
    assert not readable or torch.equal(live.table.expand(wanted.shape), wanted)
    assert len(arrays) == len(CAPTURES)


def test_sizes_alone_are_looked_at_once() -> None:
    blocks = LiveBlocks(attention_of(Case(form="causal")).mask)
    sizes = Sizes(1, 2, 64, 64, 16, 16)
    assert blocks.find(sizes, (), CPU) is blocks.find(sizes, (), CPU)
    case, shape = Case(form="documents"), Shape(1, 2, 2, 64, 64)
    documents = LiveBlocks(attention_of(case).mask)
    first, second = (case.tensors(shape, seed)[3] for seed in (0, 1))
    ordered = (torch.arange(64, dtype=torch.int32) // 16)[None]
    assert not torch.equal(documents.find(sizes, (ordered,), CPU).table, documents.find(sizes, first, CPU).table)
    assert documents.find(sizes, first, CPU) is not documents.find(sizes, second, CPU)
