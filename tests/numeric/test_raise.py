"""Raising keeps what a program computes: each spelling before and after, in the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from capturing import captured
from numeric.spellings import SPELLINGS, Spelling, inputs_for

from attir.ir.dialects.attn import AttentionOp
from attir.ir.interpreter import interpret
from attir.ir.printer import print_operation
from attir.ir.verifier import verify
from attir.passes.canonicalize import Canonicalize
from attir.passes.dce import DeadCodeElimination
from attir.passes.manager import PassContext
from attir.passes.raise_attention import RaiseAttention


def as_numpy(tensor: torch.Tensor) -> Any:
    return tensor.numpy() if tensor.dtype in (torch.bool, torch.int64) else tensor.double().numpy()


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda s: s.function.__name__)
def test_raising_keeps_the_result(spelling: Spelling) -> None:
    inputs = inputs_for(spelling)
    call = captured(spelling.function, *inputs)
    module, arrays = call.module, [as_numpy(x) for x in call.arguments]
    before = interpret(module, "main", *arrays, precise=True)[0]

    ctx = PassContext()
    for step in (Canonicalize(), RaiseAttention(), DeadCodeElimination()):
        step.run(module, ctx)
    verify(module)

    (site,) = [op for op in module.walk() if op.name == "attn.attention"]
    attention = AttentionOp(site)
    text = print_operation(module)
    left = {op.name for op in module.walk()} & {"aten.softmax.int", "aten.scaled_dot_product_attention"}
    assert not left, text
    assert attention.mask.empty != spelling.mask, text
    assert attention.score.empty != spelling.score, text
    assert attention.group.value == spelling.group

    after = interpret(module, "main", *arrays, precise=True)[0]
    # The scale is held in f32, so float64 results differ by its rounding times the logits.
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)
    eager = spelling.function(*inputs).double().numpy()
    np.testing.assert_allclose(after, eager, rtol=0, atol=4e-6)
