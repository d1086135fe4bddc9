"""Generated kernels on CPU tensors, native ones and Triton's in its interpreter, against attention in float64.

The bound is that of `closeness`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from numeric.closeness import FLOATS, NATIVE, assert_close, error, runner_for

from attir.codegen.triton import OffsetBound
from attir.compiler import layouts
from attir.compiler.attention_cases import FORMS, Case, Shape
from attir.compiler.triton_runtime import check_offsets
from attir.ir.attributes import FloatType, f16, f32
from attir.ir.diagnostics import CompileError


@pytest.fixture(params=["interpret", pytest.param("native", marks=NATIVE)])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("width", [1, 16, 64, 72, 80, 96, 192, 256])
def test_head_dimensions_whether_or_not_powers_of_two(backend: str, width: int) -> None:
    case = Case(f16, width, form="causal")
    assert_close(case, backend, *case.tensors(Shape(queries=70, keys=70)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_every_dtype(backend: str, form: str, dtype: FloatType) -> None:
    case = Case(dtype, 32, form=form)
    assert_close(case, backend, *case.tensors(Shape(batch=2, queries=66, keys=75), seed=3))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 100), (17, 64), (64, 17), (100, 100), (100, 17)])
@pytest.mark.parametrize("form", ["none", "causal", "window"])
def test_lengths_that_tiles_do_not_divide(backend: str, queries: int, keys: int, form: str) -> None:
    case = Case(f32, 16, form=form)
    assert_close(case, backend, *case.tensors(Shape(heads=1, key_heads=1, queries=queries, keys=keys)))


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (6, 1), (3, 3)])
def test_grouped_heads(backend: str, heads: int, key_heads: int) -> None:
    case = Case(f16, 16, group=heads // key_heads, form="alibi")
    assert_close(case, backend, *case.tensors(Shape(heads=heads, key_heads=key_heads, queries=20, keys=33)))


@pytest.mark.parametrize(("width", "value_width"), [(64, 16), (24, 80), (192, 128)])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_values_wider_or_narrower_than_keys(backend: str, width: int, value_width: int, dtype: FloatType) -> None:
    case = Case(dtype, width, value_width, form="causal")
    assert_close(case, backend, *case.tensors(Shape(heads=1, key_heads=1, queries=40, keys=40)))


Layout = Callable[[torch.Tensor], torch.Tensor]
LAYOUTS: dict[str, Layout] = {
    "heads innermost": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "columns first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second row": lambda x: torch.stack([x, torch.full_like(x, 7.0)], 3).flatten(2, 3)[:, :, ::2],
    "one head for all": lambda x: x[:, :1].expand(-1, x.shape[1], -1, -1),
    "one row for all": lambda x: x[:, :, :1].expand(-1, -1, x.shape[2], -1),
    "part of a fused projection": lambda x: torch.cat([x, x, x], 3)[..., x.shape[3] : 2 * x.shape[3]],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_inputs_are_read_in_place(backend: str, layout: str) -> None:
    case = Case(f32, 24, form="causal")
    q, k, v, captures = case.tensors(Shape(queries=50, keys=50))
    q, k, v = (LAYOUTS[layout](x) for x in (q, k, v))
    assert_close(case, backend, q, k, v, captures)


def test_strided_captures_are_read_in_place(backend: str) -> None:
    case = Case(f32, 16, form="bias")
    q, k, v, (bias,) = case.tensors(Shape(queries=40, keys=50))
    transposed = bias.transpose(2, 3).contiguous().transpose(2, 3)
    assert_close(case, backend, q, k, v, (transposed,))
    assert_close(case, backend, q, k, v, (bias[:, :, :1].expand(-1, -1, 40, -1),))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_logits_neither_overflow_nor_lose_the_row(backend: str, dtype: FloatType) -> None:
    case = Case(dtype, 64, form="causal")
    assert_close(case, backend, *case.tensors(Shape(queries=70, keys=70), magnitude=20.0))


def test_a_bias_of_minus_infinity_over_a_whole_row_gives_zero(backend: str) -> None:
    case = Case(f32, 16, form="bias")
    q, k, v, (bias,) = case.tensors(Shape(queries=20, keys=70))
    bias[:, :, 3] = float("-inf")
    bias[:, :, 4, :64] = float("-inf")
    assert_close(case, backend, q, k, v, (bias,))


@pytest.mark.parametrize("where", ["q", "k"])
def test_nan_reaches_exactly_the_rows_it_reaches_in_pytorch(backend: str, where: str) -> None:
    case = Case(f32, 16, form="causal")
    q, k, v, captures = case.tensors(Shape(queries=70, keys=70))
    {"q": q, "k": k}[where][0, 1, 5] = float("nan")
    out, lse = runner_for(case, backend)(q, k, v, captures, True)
    exact, exact_lse = case.reference(q.double(), k.double(), v.double(), captures)
    assert exact.isnan().any()
    assert torch.equal(out.isnan(), exact.isnan()) and torch.equal(lse.isnan(), exact_lse.isnan())


@pytest.mark.parametrize("queries", [0, 5])
@pytest.mark.parametrize("keys", [0, 5])
@pytest.mark.parametrize("batch", [0, 2])
def test_empty_tensors(backend: str, queries: int, keys: int, batch: int) -> None:
    case = Case(f32, 16)
    q, k, v, captures = case.tensors(Shape(batch=batch, queries=queries, keys=keys))
    out, lse = runner_for(case, backend)(q, k, v, captures, True)
    assert out.shape == (batch, 2, queries, 16) and lse.shape == (batch, 2, queries)
    if keys == 0:
        assert not out.any() and lse.isneginf().all()


def test_one_kernel_serves_all_sizes(backend: str) -> None:
    case = Case(f32, 16, form="causal")
    run = runner_for(case, backend)
    for shape in (Shape(1, 1, 1, 5, 9), Shape(2, 3, 3, 65, 65)):
        q, k, v, captures = case.tensors(shape)
        out, _ = run(q, k, v, captures, False)
        assert error(out, case.reference(q.double(), k.double(), v.double(), captures)[0]) < 1e-5


Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
MISREAD: list[tuple[Change, str]] = [
    (lambda q, k, v: (q.half(), k, v), "q must be torch.float32, but is torch.float16"),
    (lambda q, k, v: (q, k[..., :8], v), r"k must have shape \(any, any, any, 16\)"),
    (lambda q, k, v: (q[:, :1], k, v), "q must have 1 heads for each of k's"),
    (lambda q, k, v: (q, k, v[:, :, :3]), "k and v must agree"),
    (lambda q, k, v: (q, torch.cat([k, k]), v), "k and v must agree|one batch size"),
    (lambda q, k, v: (q, k, v[0]), r"v must have shape"),
]


@pytest.mark.parametrize(("change", "message"), MISREAD)
def test_tensors_the_kernel_would_misread_are_refused(backend: str, change: Change, message: str) -> None:
    case = Case(f32, 16)
    q, k, v, _ = case.tensors(Shape(queries=5, keys=5))
    q, k, v = change(q, k, v)
    with pytest.raises(CompileError, match=message):
        runner_for(case, backend)(q, k, v, [], True)


def test_strides_too_large_for_offsets_inside_a_tile_are_refused() -> None:
    rows = OffsetBound(0, ((2, 64), (3, 16)))
    far = torch.empty(1, device="meta").as_strided((1, 1, 100, 16), (0, 0, 2**26, 1))
    with pytest.raises(CompileError, match="32-bit offsets"):
        check_offsets(rows, layouts.Layout.of(far))
    check_offsets(rows, layouts.Layout.of(far[:, :, :20]))
