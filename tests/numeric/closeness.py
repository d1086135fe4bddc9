"""Whether a kernel's results are as close to attention in float64 as its number types allow.

Bound: twice the error of attention computed plainly in the same dtype, plus one rounding of the
weights and one of the result, (sum of |weights| <= 1) times the largest |v| times the unit roundoff.
Problems drawn at random may add what another `order` of summation than PyTorch's differs by: sqrt(keys)
roundings of sums in f32, and one rounding of the scores that matter, about as large as their log-sum-exp.
"""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from attir.compiler.attention_cases import Captures, Case
from attir.compiler.kernels import compile_site
from attir.compiler.native_support import native_problem
from attir.compiler.options import Options
from attir.compiler.sites import Runner
from attir.ir.attributes import bf16, f16, f32

ROUNDOFF = {f16: 2.0**-11, bf16: 2.0**-8, f32: 2.0**-24}
FLOATS = (f32, f16, bf16)

NATIVE = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")


def runner_for(case: Case, backend: str, queries: int | None = None) -> Runner:
    """The kernels of a case; `queries` are those of the first call, if that is known."""
    return compile_site(case.module(), Options(backend=backend), queries).runner


def assert_close(
    case: Case, backend: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Captures
) -> None:
    assert_agrees(case, runner_for(case, backend, q.shape[2]), q, k, v, captures)


def assert_agrees(
    case: Case,
    run: Runner,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    captures: Captures,
    *,
    order: bool = False,
) -> None:
    out, lse = run(q, k, v, captures, case.lse)
    exact, exact_lse = case.reference(q.double(), k.double(), v.double(), captures)
    plain, plain_lse = case.reference(q, k, v, captures)
    sums = (sqrt(k.shape[2]) + 2.0 * _largest(exact_lse)) * ROUNDOFF[f32] if order else 0.0
    assert out.dtype == q.dtype and out.is_contiguous()
    assert_within(out, exact, 2.0 * error(plain, exact) + (2.0 * ROUNDOFF[case.dtype] + sums) * _largest(v))
    if not case.lse:
        assert lse.numel() == 0
        return
    # Scores are kept in float32 whatever the inputs; the reference of half inputs is rounded.
    assert_within(lse, exact_lse, 2.0 * error(plain_lse, exact_lse) + 8 * ROUNDOFF[f32] * (1.0 + _largest(exact_lse)))


def error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference where both are finite."""
    return _largest((actual.double() - exact)[exact.isfinite() & actual.isfinite()])


def _largest(x: torch.Tensor) -> float:
    finite = x[x.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def assert_within(actual: torch.Tensor, exact: torch.Tensor, bound: float) -> None:
    """Equal where that is not finite, and elsewhere not further apart than `bound`."""
    assert actual.shape == exact.shape
    for kind in (torch.isneginf, torch.isposinf, torch.isnan):
        assert torch.equal(kind(actual), kind(exact)), f"{kind.__name__} differs"
    assert error(actual, exact) <= bound, f"error {error(actual, exact):.2e}, bound {bound:.2e}"
