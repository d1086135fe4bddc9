"""`quantize=` on functions: as attention in float64 over what codes stand for, on every backend that runs here."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from numeric.closeness import ROUNDOFF
from torch.nn.functional import scaled_dot_product_attention

import attir
from attir import masks
from attir.compiler.bases import bases
from attir.compiler.native_support import native_problem
from attir.compiler.storage_math import dequantize, quantize
from attir.ir.attributes import bf16, f16, f32
from attir.passes.quantize import for_width
from attir.quantization import Scheme, Storage, channel_mask, key_basis, pair_scales, scheme, value_basis
from attir.sparsity import select
from benchmarks.structured_inputs import outlier_channels

pytestmark = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")

NAMES = ("int8", "fp8", "kv8", "kv_fp8", *(f"kv{bits}" for bits in range(1, 8)))
DTYPES = {torch.float32: f32, torch.float16: f16, torch.bfloat16: bf16}
LENGTH, WIDTH = 150, 32


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def problem(
    queries: int = LENGTH, keys: int = LENGTH, dtype: torch.dtype = torch.float32, width: int = WIDTH
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q with four heads, k and v with two."""
    draw = torch.Generator().manual_seed(0)
    sizes = (2, 4, queries, width), (2, 2, keys, width), (2, 2, keys, width)
    q, k, v = (torch.randn(size, generator=draw).to(dtype) for size in sizes)
    return q, k, v


def compiled_anew(function: Callable[..., Any], how: str | Scheme, **options: Any) -> Callable[..., Any]:
    torch._dynamo.reset()
    given: dict[str, Any] = {"backend": "native", **options}
    return attir.compile(function, strict=True, quantize=how, **given)


def meant(
    function: Callable[..., torch.Tensor], how: Scheme, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """Attention in float64 over the numbers that a scheme keeps, which are quantised as kernels' operands are."""
    matrices = bases(how, k.shape[3], v.shape[3])
    if how.smooth:
        k = (k.float() - k.float().mean(2, keepdim=True)).to(k.dtype)
    parts = {"query": q, "key": k, "value": v}
    for name, x in parts.items():
        matrix = matrices.get(f"{name}_basis")
        if matrix is not None:
            group = x.shape[1] // matrix.shape[1] if matrix.shape[1] > 1 else 1
            x = (x.float() @ matrix.float().repeat_interleave(group, 1)).to(x.dtype)
        parts[name] = x.double()
        if (template := getattr(how, name)) is not None:
            storage = for_width(template, x.shape[3])
            codes, *scales = quantize(x, storage)
            parts[name] = dequantize(codes, storage, *scales, tokens=x.shape[2], dtype=torch.float64)
    # Scores are scaled by the width that the model has.
    correction = (parts["query"].shape[3] / q.shape[3]) ** 0.5
    out = function(parts["query"] * correction, parts["key"], parts["value"])
    if (matrix := matrices.get("value_basis")) is not None:
        out = out @ matrix.transpose(2, 3).repeat_interleave(
            q.shape[1] // matrix.shape[1] if matrix.shape[1] > 1 else 1, 1
        )
    return out


def relative(x: torch.Tensor, exact: torch.Tensor) -> float:
    return float(((x - exact).square().sum() / exact.square().sum()).sqrt())


def assert_as_meant(
    function: Callable[..., torch.Tensor], how: str | Scheme, inputs: tuple[torch.Tensor, ...], **options: Any
) -> None:
    """Results are off by at most 1.2 times what the scheme is off by in float64, beside what exact kernels may lose."""
    q, k, v = inputs
    out = compiled_anew(function, how, **options)(q, k, v)
    assert out.shape == (*q.shape[:3], v.shape[3]) and out.dtype == q.dtype
    exact = function(q.double(), k.double(), v.double())
    wanted = meant(function, scheme(how), q, k, v)
    plain = relative(function(q, k, v), exact) + 2 * ROUNDOFF[DTYPES[q.dtype]]
    assert relative(out, exact) <= 1.2 * relative(wanted, exact) + 2 * plain


@pytest.mark.parametrize("name", NAMES)
def test_every_scheme(name: str) -> None:
    assert_as_meant(attention, name, problem())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["int8", "fp8", "kv8", "kv4"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    assert_as_meant(attention, name, problem(dtype=dtype))


@pytest.mark.parametrize("name", ["int8", "kv8", "kv4", "kv2", "kv_fp8"])
def test_numbers_are_those_behind_the_codes(name: str) -> None:
    """In float32 kernels are as close to the scheme in float64 as to exact attention where nothing is quantised."""
    inputs = problem()
    out = compiled_anew(attention, name)(*inputs)
    assert relative(out, meant(attention, scheme(name), *inputs)) < 2e-5


@pytest.mark.parametrize("name", ["int8", "fp8", "kv4", "kv3"])
def test_in_tritons_interpreter(name: str) -> None:
    assert_as_meant(attention, name, problem(40, 70), backend="interpret")


@pytest.mark.parametrize("name", ["int8", "fp8", "kv8", "kv4", "kv3", "kv1"])
def test_a_step_of_decoding(name: str) -> None:
    assert_as_meant(partial(attention, causal=False), name, problem(1, 333))


@pytest.mark.parametrize("width", [64, 80, 96])
@pytest.mark.parametrize("name", ["int8", "kv5"])
def test_widths(name: str, width: int) -> None:
    assert_as_meant(attention, scheme(name, rotate="hadamard"), problem(70, 70, width=width))


def parts_kept() -> list[Scheme]:
    q, k, v = problem()
    return [
        scheme("kv8", key_rank=24, value_rank=20, tensors={
            "key_basis": key_basis([(q, k)], 24), "value_basis": value_basis([v], 20),
        }),
        scheme("kv4", channels=28, tensors={"key_basis": channel_mask([(q, k)], 28)}),
        scheme("int8", rotate="hadamard", rotate_values=True, tensors={"pair_scales": pair_scales(k)}),
        Scheme("along tokens", key=Storage(), value=Storage(bits=4, zero=True, axis="tokens", tokens=1)),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(4))
def test_what_is_done_to_rows(number: int) -> None:
    assert_as_meant(attention, parts_kept()[number], problem())


def test_other_lengths_use_the_same_scheme() -> None:
    compiled = compiled_anew(attention, "kv4", dynamic=True)
    for length in (70, 64, 129):
        q, k, v = problem(length, length)
        wanted = meant(attention, scheme("kv4"), q, k, v)
        assert relative(compiled(q, k, v), wanted) < 2e-5


@pytest.mark.parametrize("width", [64, 128])
def test_smoothing_keeps_products_within_one_percent(width: int) -> None:
    q, k, v = outlier_channels(length=512, width=width, heads=4, key_heads=2)
    exact = attention(q.double(), k.double(), v.double())
    errors = [
        relative(compiled_anew(attention, scheme("int8", smooth=smooth))(q, k, v), exact) for smooth in (True, False)
    ]
    assert errors[0] <= 0.01 < errors[1]


def softcapped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """With as many key heads as query heads."""
    scores = 5 * torch.tanh((q @ k.transpose(2, 3)) * q.shape[3] ** -0.5 / 5)
    return scores.softmax(-1) @ v


def test_what_smoothing_takes_from_scores_is_given_back() -> None:
    """Where scores do not only enter a softmax."""
    q, k, v = outlier_channels(length=256, width=64, heads=2)
    exact = softcapped(q.double(), k.double(), v.double())
    compiled = compiled_anew(softcapped, "int8")
    assert relative(compiled(q, k, v), exact) <= 0.01
    assert "what rows of scores lose with the mean of keys is added to them again" in str(attir.explain(compiled))


def test_a_mask_and_chosen_blocks_go_with_it() -> None:
    q, k, v = problem()
    window = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().triu(-31)

    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=window, enable_gqa=True)

    out = compiled_anew(attention, "kv8", sparsity=masks.window(32))(q, k, v)
    assert relative(out, meant(masked, scheme("kv8"), q, k, v)) < 2e-5
    out = compiled_anew(attention, "kv8", sparsity=select("quest", keep=1.0))(q, k, v)
    assert relative(out, meant(attention, scheme("kv8"), q, k, v)) < 2e-5


def test_the_report_names_the_scheme() -> None:
    compiled = compiled_anew(attention, "kv8")
    compiled(*problem())
    report = attir.explain(compiled)
    assert "quantize  kv8: k and v int8, a scale for each token x all channels" in str(report)
    assert report.sites[0].quantize == [str(scheme("kv8"))]


def test_without_it_nothing_is_lossy() -> None:
    inputs = problem()
    torch._dynamo.reset()
    compiled = attir.compile(attention, strict=True)
    assert relative(compiled(*inputs), attention(inputs[0].double(), inputs[1].double(), inputs[2].double())) < 1e-6
    assert attir.explain(compiled).sites[0].quantize == []


def test_a_rank_above_the_width_is_refused() -> None:
    how = scheme("kv8", key_rank=WIDTH + 1, tensors={"key_basis": torch.randn(1, WIDTH, WIDTH + 1)})
    with pytest.raises(attir.CompileError) as caught:
        compiled_anew(attention, how)(*problem())
    assert f"'key_basis' must be (key heads or 1, {WIDTH}, at most {WIDTH})" in str(caught.value)


def test_bases_of_other_heads_are_refused() -> None:
    how = scheme("kv8", value_rank=4, tensors={"value_basis": torch.eye(WIDTH, 4).repeat(3, 1, 1)})
    with pytest.raises(attir.CompileError) as caught:
        compiled_anew(attention, how)(*problem())
    assert "matrices of 3 key heads do not fit 2 heads in groups of 1" in str(caught.value)


@pytest.mark.parametrize("name", ["int8", "kv8", "kv4"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_nan_where_its_group_is_read(name: str, number: float) -> None:
    """Of a causal attention, rows far in front of the group do not read it."""
    q, k, v = problem()
    v[:, :, 140, 3] = number
    compiled = compiled_anew(attention, name)
    clean, out = compiled(*problem()), compiled(q, k, v)
    torch.testing.assert_close(out[:, :, :64], clean[:, :, :64], rtol=0, atol=0)
    assert not bool(out[:, :, 140:, 3].isfinite().any())
    if name == "int8":
        return  # the mean of keys is that of all
    q, k, v = problem()
    k[:, :, 140, 3] = number
    out = compiled(q, k, v)
    torch.testing.assert_close(out[:, :, :64], clean[:, :, :64], rtol=0, atol=0)
    assert bool(out[:, :, 140:].isnan().all())


@pytest.mark.parametrize("name", ["int8", "fp8", "kv8", "kv4", "kv3", "kv1"])
def test_constant_channels_and_tokens(name: str) -> None:
    q, k, v = problem()
    k[..., 3], v[..., 4] = 0.0, 7.0
    k[:, :, 10], v[:, :, 11] = 2.0, -3.0
    assert_as_meant(attention, name, (q, k, v))


@pytest.mark.parametrize("name", ["int8", "kv8", "kv4"])
def test_all_keys_equal(name: str) -> None:
    q, k, v = problem()
    k, v = torch.ones_like(k), torch.full_like(v, -3.0)
    assert relative(compiled_anew(attention, name)(q, k, v), attention(q, k, v).double()) < 1e-5


@pytest.mark.parametrize("name", ["int8", "fp8", "kv8", "kv4"])
def test_nothing_to_attend_to(name: str) -> None:
    compiled = compiled_anew(partial(attention, causal=False), name)
    assert compiled(*problem(0, 20)).shape == (2, 4, 0, WIDTH)
    out = compiled_anew(partial(attention, causal=False), name)(*problem(5, 0))
    assert torch.equal(out, torch.zeros(2, 4, 5, WIDTH))
