"""Native kernels on numbers at the edges: large, infinite, denormal, not a number, and scales of any kind.

Prefill (one kernel for any rows) and decoding (keys as lanes) compute in different ways, so both are tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own abbreviation
from numeric.closeness import FLOATS, NATIVE, assert_close, error, runner_for

import attir
from attir.compiler.attention_cases import DTYPES, Captures, Case, Shape
from attir.ir.attributes import FloatType, bf16, f16, f32

pytestmark = NATIVE

QUERIES = pytest.mark.parametrize("queries", [70, 2], ids=["prefill", "decode"])
INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Scaled(Case):
    """A case whose scale is not that of the head dimension."""

    factor: float = 1.0

    @property
    def scale(self) -> float:
        return self.factor


def sizes(queries: int, keys: int = 75) -> Shape:
    return Shape(1, 2, 2, queries, keys)


@QUERIES
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_logits(dtype: FloatType, queries: int) -> None:
    """Scores of hundreds and of ten thousands: one key takes all the weight, and nothing overflows."""
    for form in ("none", "alibi"):
        case = Case(dtype, 16, form=form)
        for magnitude in (20.0, 100.0):
            q, k, v, captures = case.tensors(sizes(queries), magnitude=magnitude)
            assert_close(case, "native", q, k, v / magnitude, captures)


@QUERIES
@pytest.mark.parametrize("value", [-INF, -3.0e38, torch.finfo(torch.float32).min, -65504.0, -1e38, 1e37])
def test_a_bias_far_from_all_scores(value: float, queries: int) -> None:
    """On single scores, on a key for all rows, on whole rows; the largest floats overflow nowhere."""
    case = Case(f32, 16, form="bias")
    q, k, v, (bias,) = case.tensors(sizes(queries))
    bias = bias.masked_fill(bias.isinf(), 0.0)
    bias[0, 0, 0, 7] = bias[0, 1, :, 5] = bias[0, 1, 1, :] = value
    assert_close(case, "native", q, k, v, (bias,))
    assert_close(case, "native", q, k, v, (torch.full_like(bias, value),))


@QUERIES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_as_transformers_builds_them(dtype: torch.dtype, queries: int) -> None:
    """0 where a key is seen and the smallest float elsewhere: a row that sees no key averages over all of them."""

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(q @ k.transpose(2, 3) * 0.25 + mask, dim=-1, dtype=torch.float32).to(q.dtype)
        return weights @ v

    compiled = attir.compile(attention, strict=True)
    q, k, v = (torch.randn(2, 2, n, 16).to(dtype) for n in (queries, 75, 75))
    keep = torch.rand(2, 1, queries, 75) > 0.4
    keep[0, 0, 1] = False
    mask = torch.where(keep, 0.0, torch.finfo(dtype).min).to(dtype)
    with torch.no_grad():
        for found in (compiled(q, k, v, mask), attir.compile(F.scaled_dot_product_attention)(q, k, v, mask)):
            expected = v[0].double().mean(1)
            assert (found[0, :, 1].double() - expected).abs().max() <= 2 * torch.finfo(dtype).eps
            exact = attention(q.double(), k.double(), v.double(), mask.double()).double()
            assert error(found, exact) <= 2 * error(attention(q, k, v, mask), exact) + torch.finfo(dtype).eps


@QUERIES
def test_infinite_scores_give_nan_to_their_rows_alone(queries: int) -> None:
    case = Case(f32, 16, form="bias")
    q, k, v, (bias,) = case.tensors(sizes(queries))
    bias[0, 0, 1, 40] = bias[0, 1, 0, 0] = INF
    out, lse = runner_for(case, "native", queries)(q, k, v, (bias,), True)
    exact, exact_lse = case.reference(q, k, v, (bias,))
    rows = exact_lse.isposinf()
    assert rows.sum() == 2 and torch.equal(out.isnan(), exact.isnan()) and torch.equal(out.isnan().all(-1), rows)
    assert torch.equal(lse.isfinite(), exact_lse.isfinite())


def same_nan(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Captures) -> None:
    found = runner_for(case, "native", q.shape[2])(q, k, v, captures, True)
    exact = case.reference(q.float(), k.float(), v.float(), captures)
    assert not exact[0].isnan().all()
    assert torch.equal(found[0].isnan(), exact[0].isnan())
    assert torch.equal(found[1].isfinite(), exact[1].isfinite())


@QUERIES
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_nan_and_infinity_reach_what_they_reach_in_pytorch(value: float, dtype: FloatType, queries: int) -> None:
    """In q its row, in k the rows that see the key, in v a column of the rows that see it."""
    for form in ("none", "softcap"):
        for where in range(3):
            case = Case(dtype, 16, form=form)
            *inputs, captures = case.tensors(sizes(queries), seed=5)
            q, k, v = (x.clone() for x in inputs)
            (q, k, v)[where][0, 1, 1, 2] = value
            if where == 2 and not math.isnan(value):
                out, _ = runner_for(case, "native", queries)(q, k, v, captures, False)
                assert torch.equal(out.isinf().nonzero(), case.reference(q, k, v, captures)[0].isinf().nonzero())
            elif form == "none" or math.isnan(value):
                same_nan(case, q, k, v, captures)


@QUERIES
@pytest.mark.parametrize("where", range(2))
def test_nan_is_not_seen_by_rows_whose_mask_hides_it(where: int, queries: int) -> None:
    case = Case(f16, 16, form="causal")
    *inputs, captures = case.tensors(sizes(queries), seed=5)
    q, k, v = (x.clone() for x in inputs)
    (q, k)[where][0, 1, 1, 2] = NAN
    same_nan(case, q, k, v, captures)


@QUERIES
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_denormal_numbers_are_not_lost(dtype: FloatType, queries: int) -> None:
    """Values that have no leading one; queries that a scale brings back among ordinary numbers."""
    tiny, case = torch.finfo(DTYPES[dtype]).tiny, Case(dtype, 16)
    q, k, v, captures = case.tensors(sizes(queries))
    for factor in (2.0**-3, 2.0**-6):
        small = (v.double() * tiny * factor).to(v.dtype)
        assert small.abs().max() > 0
        found, _ = runner_for(case, "native", queries)(q, k, small, captures, False)
        exact, _ = case.reference(q.double(), k.double(), small.double(), captures)
        # Each term of the sums rounds to a multiple of the smallest number.
        assert error(found, exact) <= math.sqrt(k.shape[2]) * tiny * torch.finfo(DTYPES[dtype]).eps
        assert_close(case, "native", (q.double() * tiny * factor).to(q.dtype), k, v, captures)
    raised = Scaled(dtype, 16, factor=0.25 / tiny)
    assert_close(raised, "native", (q.double() * tiny * 0.25).to(q.dtype), k, v, captures)
    assert_close(raised, "native", q, (k.double() * tiny * 0.25).to(k.dtype), v, captures)


SCALES = [0.0, -1.0, -0.25, 1e-44, 1e-38, 1e-20, 2.0**-20, 2.0**20, 1e20, 1e30, -1e30]


@QUERIES
@pytest.mark.parametrize("scale", SCALES)
def test_scales_of_any_size_and_sign(scale: float, queries: int) -> None:
    case = Scaled(f32, 16, factor=scale)
    assert_close(case, "native", *case.tensors(sizes(queries)))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("scale", [0.0, -0.25, 1e-38, 3.0])
def test_scales_with_half_types(scale: float, dtype: FloatType) -> None:
    case = Scaled(dtype, 16, factor=scale)
    for queries in (70, 2):
        assert_close(case, "native", *case.tensors(sizes(queries)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_values_as_large_as_the_type_has(dtype: FloatType) -> None:
    """Halves as large as they get; floats as large as a sum over the keys leaves room for."""
    case = Case(dtype, 16)
    q, k, v, captures = case.tensors(sizes(70))
    largest = torch.finfo(DTYPES[dtype]).max / (1 if dtype == f16 else 128)
    assert_close(case, "native", q, k, torch.full_like(v, largest), captures)
    assert_close(case, "native", q, k, v.sign() * largest, captures)
