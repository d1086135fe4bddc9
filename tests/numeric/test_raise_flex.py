"""Raising flex_attention keeps what the interpreter says it computes, with every kind of block list."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from capturing import captured
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from attir.ir.interpreter import interpret
from attir.ir.printer import print_operation
from attir.ir.verifier import verify
from attir.passes.canonicalize import Canonicalize
from attir.passes.dce import DeadCodeElimination
from attir.passes.manager import PassContext
from attir.passes.raise_flex import RaiseFlexAttention

slopes = torch.tensor([0.5, 0.25])


def biased(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
    return s + slopes[h] * (n - m)


def late(b: Any, h: Any, m: Any, n: Any) -> Any:
    return m - n >= 2


def random_lists(seed: int) -> BlockMask:
    """Lists of blocks of 3 queries and 4 keys that follow no mask."""
    draw = torch.Generator().manual_seed(seed)

    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        counts = torch.randint(0, 3, (2, 1, 3), generator=draw, dtype=torch.int32)
        return counts, torch.rand(2, 1, 3, 3, generator=draw).argsort(-1).to(torch.int32)

    full = drawn() if seed % 2 else (None, None)
    return BlockMask.from_kv_blocks(*drawn(), *full, BLOCK_SIZE=(3, 4), mask_mod=late, seq_lengths=(7, 9))


def made_inside(q: Any, k: Any, v: Any) -> Any:
    blocks = create_block_mask(late, 2, None, 7, 9, "cpu", BLOCK_SIZE=(3, 4))
    return flex_attention(q, k, v, biased, blocks)


@pytest.mark.parametrize("case", ["plain", "inside", 0, 1, 2, 3])
def test_raising_keeps_the_result(case: int | str) -> None:
    q, k, v = (torch.randn(2, 2, n, 4, generator=torch.Generator().manual_seed(n)) for n in (7, 9, 9))
    if isinstance(case, int):
        blocks = random_lists(case)
        call = captured(lambda q, k, v: flex_attention(q, k, v, biased, blocks), q, k, v)
    else:
        call = captured(
            made_inside if case == "inside" else lambda q, k, v: flex_attention(q, k, v, biased), q, k, v
        )  # fmt: skip
    module, arrays = call.module, [x.numpy() for x in call.arguments]
    before = interpret(module, "main", *arrays, precise=True)[0]
    for step in (Canonicalize(), RaiseFlexAttention(), DeadCodeElimination()):
        step.run(module, PassContext())
    verify(module)
    text = print_operation(module)
    assert "aten.flex_attention" not in text and ("%blocks" in text) == isinstance(case, int)
    after = interpret(module, "main", *arrays, precise=True)[0]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
