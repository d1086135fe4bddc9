"""Kernels whose tiles are stored transposed, and kernels of few programs that stay, against attention in float64.

In the reference interpreter with the bound of `test_lowering`, in Triton's with that of `closeness`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from numeric.closeness import FLOATS, assert_agrees
from numeric.test_lowering import MASKS, SCORES, SHAPES, Array, Case, causal, check, found_before
from numeric.test_native_lowering import FOLDED
from numeric.test_rows import BY_NAME
from numeric.test_rows import assert_close as assert_rows_close
from numeric.test_sinks_and_weights import CASES as CHANGED

from attir.compiler import lowering
from attir.compiler.attention_cases import FORMS, Shape
from attir.compiler.attention_cases import Case as Problem
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatType, IntegerAttr, UnitAttr, bf16, f16, f32
from attir.ir.core import Operation
from attir.ir.dialects.tile import KernelOp
from attir.ir.interpreter import interpret
from attir.ir.printer import print_operation
from attir.ir.verifier import verify
from attir.passes.analyze_mask import AnalyzeMask
from attir.passes.canonicalize import Canonicalize
from attir.passes.lower_attention import LowerAttention
from attir.passes.make_persistent import MakePersistent
from attir.passes.manager import Pass, PassContext
from attir.passes.swap_operands import SwapOperands


@dataclass(frozen=True)
class Ask(Pass):
    """Ask for kernels to be changed, as a schedule would."""

    name: ClassVar[str] = "ask"
    swapped: bool = False
    persistent: int = 0
    heard: list[str] = field(default_factory=list[str], compare=False)

    def run(self, module: Operation, ctx: PassContext) -> None:
        for kernel in (k for op in module.walk() if (k := KernelOp.match(op)) is not None):
            self.heard.append(kernel.sym_name.value)
            kernel.swapped = UnitAttr() if self.swapped else None
            kernel.persistent = IntegerAttr(self.persistent) if self.persistent else None


ASKS = {
    "swapped": Ask(swapped=True),
    "persistent": Ask(persistent=3),
    "swapped and persistent": Ask(swapped=True, persistent=2),
}
SWAPPED, BOTH = ASKS["swapped"], ASKS["swapped and persistent"]
each_ask = pytest.mark.parametrize("ask", [pytest.param(ask, id=name) for name, ask in ASKS.items()])


# --- in the reference interpreter


def changed(module: Operation, ask: Ask) -> Operation:
    """Lowered, and changed as asked; doing so twice does nothing."""
    context = PassContext()
    for step in (AnalyzeMask(), LowerAttention(), ask, SwapOperands(), MakePersistent()):
        step.run(module, context)
        verify(module)
    text = print_operation(module)
    assert "swapped" not in text and "persistent" not in text
    for step in (SwapOperands(), MakePersistent()):
        step.run(module, context)
    assert print_operation(module) == text
    Canonicalize().run(module, context)
    return module


def check_changed(case: Case, ask: Ask) -> None:
    def run(case: Case, module: Operation, inputs: list[Array]) -> list[Array]:
        outputs, lowered = case.outputs(), changed(module, ask)
        interpret(lowered, "attention", *inputs, *found_before(lowered, inputs), *outputs)
        return outputs

    check(case, run)


@each_ask
@pytest.mark.parametrize("name", [*MASKS, *SCORES, *SHAPES])
def test_the_kernel_still_is_attention(name: str, ask: Ask) -> None:
    check_changed({**MASKS, **SCORES, **SHAPES}[name], ask)


@pytest.mark.parametrize("name", CHANGED)
def test_sinks_and_weights(name: str) -> None:
    check_changed(CHANGED[name], BOTH)


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("name", ["window", "causal, rows without keys", "alibi", "large logits"])
def test_low_precision(name: str, dtype: FloatType) -> None:
    check_changed(replace({**MASKS, **SCORES, **SHAPES}[name], dtype=dtype), BOTH)


@pytest.mark.parametrize(("d", "e"), [(16, 64), (80, 1), (1, 72), (96, 96)])
def test_head_dimensions(d: int, e: int) -> None:
    check_changed(Case(20, 37, d=d, e=e, dtype=f16, scale=d**-0.5, mask=causal(17), block_n=32), BOTH)


@pytest.mark.parametrize("programs", [1, 2, 5, 6, 7, 1000])
def test_any_number_of_programs_does_six_tiles(programs: int) -> None:
    check_changed(Case(37, 20, key_heads=2, mask=causal()), Ask(persistent=programs))


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("name", FOLDED)
def test_decoding_with_heads_of_a_group_as_rows_and_split_keys(name: str, split: int) -> None:
    """Three parts of the keys, where they are split; the kernel that merges them is changed as well."""
    case = replace(FOLDED[name], schedule=Schedule(16, 16, 4, 1, folded=1, split=split))

    def run(case: Case, module: Operation, inputs: list[Array]) -> list[Array]:
        outputs, lowered = case.outputs(), changed(module, BOTH)
        shape = (3, *outputs[0].shape)
        parts = [np.full(s, np.nan, np.float32) for s in (shape, shape[:-1])]
        found = found_before(lowered, inputs)
        interpret(lowered, "attention", *inputs, *found, *(parts if split else outputs))
        if split:
            interpret(lowered, "attention_merge", *parts, *outputs)
        return outputs

    check(case, run)


# --- in Triton's interpreter


Asking = Callable[[Ask], None]


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    """Have every kernel that is built changed as asked, and see to it that one was."""
    used = list[Ask]()

    def use(ask: Ask) -> None:
        used.append(replace(ask, heard=[]))
        first, *rest = lowering.LOWER
        monkeypatch.setattr(lowering, "LOWER", (first, used[-1], *rest))

    yield use
    assert all(ask.heard for ask in used)


def assert_close(
    problem: Problem, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: tuple[torch.Tensor, ...]
) -> None:
    """With kernels made for this alone."""
    site = compile_site(problem.module(), Options(backend="interpret", cache=False), q.shape[2])
    assert_agrees(problem, site.runner, q, k, v, captures)


@each_ask
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_triton(form: str, ask: Ask, asking: Asking) -> None:
    asking(ask)
    case = Problem(f16, 32, form=form)
    assert_close(case, *case.tensors(Shape(batch=2, queries=66, keys=75), seed=3))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("form", ["causal", "alibi"])
def test_every_dtype_in_triton(form: str, dtype: FloatType, asking: Asking) -> None:
    asking(BOTH)
    case = Problem(dtype, 24, 80, form=form)
    assert_close(case, *case.tensors(Shape(queries=17, keys=100)))


@pytest.mark.parametrize("width", [1, 72, 80, 192])
def test_padded_head_dimensions_in_triton(width: int, asking: Asking) -> None:
    asking(BOTH)
    case = Problem(f16, width, form="causal")
    assert_close(case, *case.tensors(Shape(queries=70, keys=70)))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 100), (64, 17), (100, 100), (100, 17)])
@pytest.mark.parametrize("form", ["none", "causal", "window"])
def test_lengths_that_tiles_do_not_divide_in_triton(queries: int, keys: int, form: str, asking: Asking) -> None:
    asking(BOTH)
    case = Problem(f32, 16, form=form)
    assert_close(case, *case.tensors(Shape(heads=1, key_heads=1, queries=queries, keys=keys)))


@each_ask
def test_grouped_heads_and_no_log_sum_exp_in_triton(ask: Ask, asking: Asking) -> None:
    asking(ask)
    case = Problem(f16, 16, group=3, form="alibi", lse=False)
    assert_close(case, *case.tensors(Shape(heads=6, key_heads=2, queries=20, keys=33)))


@each_ask
@pytest.mark.parametrize("queries", [1, 5])
def test_decoding_over_split_keys_in_triton(queries: int, ask: Ask, asking: Asking) -> None:
    asking(ask)
    case = Problem(f16, 32, group=4, form="alibi")
    assert_close(case, *case.tensors(Shape(heads=4, key_heads=1, queries=queries, keys=1100), seed=2))


@each_ask
def test_rows_masked_out_by_a_bias_in_triton(ask: Ask, asking: Asking) -> None:
    asking(ask)
    case = Problem(f32, 16, form="bias")
    q, k, v, (bias,) = case.tensors(Shape(queries=20, keys=70))
    bias[:, :, 3] = float("-inf")
    bias[:, :, 4, :64] = float("-inf")
    assert_close(case, q, k, v, (bias,))


@pytest.mark.parametrize("name", ["rope_half", "rms_norm_then_rope", "everything"])
def test_row_regions_in_triton(name: str, asking: Asking) -> None:
    asking(BOTH)
    assert_rows_close(BY_NAME[name].function, BY_NAME[name].inputs(33, 16, seed=1), "interpret", cache=False)
