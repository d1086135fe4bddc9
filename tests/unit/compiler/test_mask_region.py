"""A mask of attir.masks as region code in the program of a site, run by the reference interpreter."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from unit.compiler.attention_ops import arguments, attention, module_ops

from attir import CompileError, masks
from attir.compiler.mask_algebra import Mask
from attir.compiler.mask_region import mask_region, restrict
from attir.compiler.sites import outline
from attir.ir.attributes import FloatAttr, TensorType, f32
from attir.ir.core import Operation
from attir.ir.dialects.attn import AttentionOp
from attir.ir.dialects.func import FuncOp
from attir.ir.interpreter import interpret
from attir.ir.printer import print_operation
from attir.ir.verifier import verify
from attir.passes.mask_plan import MaskPlan

BATCH, HEADS, SIZE, WIDTH = 2, 4, 24, 8
IDS = torch.arange(SIZE) // 7
ROWS = TensorType((BATCH, HEADS, SIZE, WIDTH), f32)
SLOPES = TensorType((HEADS,), f32)
MASKS = (
    masks.window(5),
    masks.document(IDS) | masks.prefix(2),
    masks.document(torch.stack([IDS, IDS.flip(0)])) & masks.causal(),
    masks.strided_shards(HEADS, 4) & ~masks.document(IDS),
    masks.neighborhood((4, 6), (2, 3), (1, 2)),
    masks.tree([-1, *range(SIZE - 1)]),
    masks.vertical_slash([0, 7], range(0, 80, 2)),
    masks.causal() & ~masks.window(4),
)


def site(score: bool = False, mask: bool = False) -> Operation:
    """A site, with slopes as a capture of the score, and with a mask n <= m."""
    captures = (SLOPES,) if score else ()
    return outline(attention(arguments(ROWS, ROWS, ROWS, *captures), score, mask).operation, "site")


def drawn() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(BATCH, HEADS, SIZE, WIDTH, generator=draw) for _ in range(3)]


def expected(mask: Mask, own: bool, slopes: torch.Tensor | None) -> torch.Tensor:
    q, k, v = drawn()
    kept = mask.dense(SIZE, SIZE, batch=BATCH, heads=HEADS)
    m = torch.arange(SIZE)
    scores = 0.125 * q @ k.mT
    if slopes is not None:
        scores = scores - slopes.view(-1, 1, 1) * (m[:, None] - m)
    kept = kept & (m <= m[:, None]) if own else kept
    return scores.masked_fill(~kept, -math.inf).softmax(-1).nan_to_num(0.0) @ v


@pytest.mark.parametrize("own", [False, True], ids=["bare", "masked"])
@pytest.mark.parametrize("score", [False, True], ids=["", "score"])
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_a_site_under_a_mask(mask: Mask, score: bool, own: bool) -> None:
    """Also in rows that keep no key: zeros, as PyTorch gives them for a bool mask."""
    before = site(score, own)
    text = print_operation(before)
    module, bound = restrict(before, mask)
    verify(module)
    assert print_operation(before) == text
    slopes = torch.tensor([0.5, 0.25, 0.1, 0.0]) if score else None
    given = [*drawn(), *([] if slopes is None else [slopes]), *bound]
    out, *_ = interpret(module, "site", *(t.numpy() for t in given))
    np.testing.assert_allclose(out, expected(mask, own, slopes).numpy(), atol=2e-6, rtol=0)


def test_tensors_become_the_last_arguments() -> None:
    other = IDS.flip(0)
    module, bound = restrict(site(score=True), masks.document(IDS) & ~masks.document(other) | masks.document(IDS))
    assert bound == (IDS, other)
    (function,) = module_ops(module, "func.func")
    inputs = list(map(str, FuncOp(function).function_type.inputs))
    assert inputs[3:] == [
        "tensor<?xf32, #attir.sym<c0_0>>",
        "tensor<?xi64, #attir.sym<c1_0>>",
        "tensor<?xi64, #attir.sym<c2_0>>",
    ]


def test_a_mask_twice_is_the_mask_once() -> None:
    once, _ = restrict(site(), masks.causal())
    twice, _ = restrict(once, masks.causal())
    assert print_operation(twice) == print_operation(once)


def test_empty_rows_of_the_site_give_zeros_under_a_mask() -> None:
    """A site that averages in its own empty rows would average over keys that the mask drops."""
    module = site(mask=True)
    (operation,) = module_ops(module, "attn.attention")
    AttentionOp(operation).empty_score = FloatAttr(-1e9, f32)
    (restricted,) = module_ops(restrict(module, masks.window(3))[0], "attn.attention")
    assert AttentionOp(restricted).empty_score is None


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (masks.causal() & masks.window(9), "bounds"),
        (masks.sink_window(2, 9), "pieces"),
        (masks.block_diagonal(9), "pieces"),
        (masks.shifted_groups(8, 4, 64), "pieces"),
        (masks.neighborhood(50, 7, 3), "pieces"),
        (masks.neighborhood((9, 9), (3, 3)), "tiles"),
        (masks.strided_shards(4), "tiles"),
        (masks.document(IDS), "tiles"),
    ],
    ids=str,
)
def test_kernels_know_the_structure(mask: Mask, kind: str) -> None:
    region, _ = mask_region(mask)
    assert MaskPlan.of(region).kind == kind


def test_what_is_not_understood_is_refused() -> None:
    odd = Mask(lambda at: torch.special.bessel_j0(at[2].float()) > 0, text="odd()")
    with pytest.raises(CompileError, match=r"is not understood in the mask odd\(\)"):
        restrict(site(), odd)


def test_there_must_be_one_attention() -> None:
    module = site()
    module.regions[0].block.append(module.regions[0].block.ops[0].clone())
    with pytest.raises(CompileError, match="a mask restricts one attention in one function, but there are 2"):
        restrict(module, masks.causal())
