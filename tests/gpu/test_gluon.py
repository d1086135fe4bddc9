"""Warp-specialised Gluon kernels on a real Hopper GPU: numbers against float64, and no hang.

Until these passed on a device, nothing but `backend_options={"gluon": True}` may choose such a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from numeric.closeness import assert_agrees

from attir.codegen.gluon import GluonKernel
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.gluon import WISHES, gluon_kernel, load_gluon
from attir.compiler.lowering import lower
from attir.compiler.sites import Runner
from attir.ir.attributes import FloatType, bf16, f16

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HOPPER, reason="needs a CUDA device of sm_90")]


def runner(case: Case) -> Runner:
    kernel = gluon_kernel(lower(case.module(), "sm_90", wishes=WISHES))
    assert isinstance(kernel, GluonKernel), kernel
    launch = load_gluon(kernel)

    def run(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert not captures
        out = torch.full((*q.shape[:3], v.shape[3]), float("nan"), dtype=q.dtype, device=q.device)
        lse = torch.full(q.shape[:3] if want_lse else (0,), float("nan"), device=q.device)
        launch(q, k, v, out, *([lse] if want_lse else []))
        torch.cuda.synchronize()
        return out, lse

    return run


@pytest.mark.parametrize(
    "shape",
    [
        Shape(heads=1, key_heads=1, queries=1, keys=1),
        Shape(batch=2, heads=3, key_heads=3, queries=300, keys=300),
        Shape(batch=1, heads=4, key_heads=4, queries=700, keys=130),
        Shape(batch=2, heads=16, key_heads=16, queries=2048, keys=2048),
        Shape(batch=1, heads=2, key_heads=2, queries=200, keys=5000),
    ],
    ids=lambda s: f"{s.batch}x{s.heads}x{s.queries}x{s.keys}",
)
@pytest.mark.parametrize("form", ["none", "causal"])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_numbers(dtype: FloatType, width: int, form: str, shape: Shape) -> None:
    case = Case(dtype, width, form=form)
    assert_agrees(case, runner(case), *case.tensors(shape, device="cuda"), order=True)


def test_heads_that_share_keys_and_no_log_sum_exp() -> None:
    case = Case(bf16, 128, group=4, form="causal", lse=False)
    shape = Shape(batch=2, heads=8, key_heads=2, queries=500, keys=500)
    assert_agrees(case, runner(case), *case.tensors(shape, device="cuda"), order=True)


def test_inputs_whose_heads_are_innermost() -> None:
    case = Case(f16, 64, form="causal")
    q, k, v, captures = case.tensors(Shape(batch=2, heads=4, key_heads=4, queries=400, keys=400), device="cuda")
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    assert_agrees(case, runner(case), q, k, v, captures, order=True)


def test_the_same_call_gives_the_same_bits_a_thousand_times() -> None:
    """Races between the warps would show sooner or later."""
    case = Case(f16, 128, form="causal")
    q, k, v, captures = case.tensors(Shape(heads=8, key_heads=8, queries=1100, keys=1100), device="cuda")
    run = runner(case)
    first, _ = run(q, k, v, captures, True)
    for _ in range(1000):
        assert torch.equal(run(q, k, v, captures, True)[0], first)
