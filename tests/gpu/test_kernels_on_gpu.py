"""Generated kernels on a real GPU: every form against float64, and whole calls through attir.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attir
from attir.compiler.attention_cases import Case, Shape
from benchmarks.gpu.run import check, problems

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("case", "shape"), problems(large=True), ids=str)
def test_kernels_agree_with_float64(case: Case, shape: Shape) -> None:
    found = check(case, shape, "cuda")
    assert found.holds, f"{found.case}: error {found.error:.2e}, bound {found.bound:.2e}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_compiled_function_agrees(dtype: torch.dtype) -> None:
    """The whole way on CUDA tensors, with a length that changes between calls."""

    def attention(q: Any, k: Any, v: Any) -> Any:
        m, n = torch.arange(q.shape[2], device=q.device)[:, None], torch.arange(k.shape[2], device=q.device)
        return torch.softmax(torch.where(n <= m, q @ k.transpose(-1, -2) * 0.125, float("-inf")), -1) @ v

    compiled = attir.compile(attention, strict=True)
    for length in (100, 257, 1000):
        q, k, v = (torch.randn(2, 4, length, 64, device="cuda", dtype=dtype) for _ in range(3))
        with torch.no_grad():
            exact = attention(q.double(), k.double(), v.double())
            ours, eager = compiled(q, k, v).double(), attention(q, k, v).double()
        bound = 2 * (eager - exact).abs().max().item() + 1e-3 * v.abs().max().item()
        assert (ours - exact).abs().max().item() <= bound
    assert all(site.status == "fused" for site in attir.explain(compiled).sites)
