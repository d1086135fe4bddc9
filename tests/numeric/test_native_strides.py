"""Native kernels read tensors where they lie: any strides, any offset, overlapping rows; on either kind of CPU.

Everything between the elements of a tensor is nan, so that a number read from there shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from numeric.closeness import FLOATS, NATIVE, assert_agrees, assert_close, runner_for

from attir.compiler import native_runtime
from attir.compiler.attention_cases import FORMS, Case, Shape
from attir.ir.attributes import FloatType, bf16, f16, f32

pytestmark = NATIVE

NAN = float("nan")
Layout = Callable[[torch.Tensor], torch.Tensor]


def at_offset(x: torch.Tensor) -> torch.Tensor:
    """Three elements into its storage: aligned to nothing but elements."""
    storage = torch.full((x.numel() + 3,), NAN, dtype=x.dtype)
    return storage[3:].view(x.shape).copy_(x)


def framed(x: torch.Tensor) -> torch.Tensor:
    """Rows and columns of nan around each head."""
    frame = torch.full((*x.shape[:2], x.shape[2] + 5, x.shape[3] + 3), NAN, dtype=x.dtype)
    inner = frame[:, :, 2 : 2 + x.shape[2], 1 : 1 + x.shape[3]]
    return inner.copy_(x)


def spaced(axis: int) -> Layout:
    """Every second element along `axis`."""
    return lambda x: (
        torch.stack([x, torch.full_like(x, NAN)], axis + 1).flatten(axis, axis + 1).unfold(axis, 1, 2).squeeze(-1)
    )


def overlapping(x: torch.Tensor) -> torch.Tensor:
    """Row n + 1 is row n moved by one element, in all heads."""
    return x.flatten().as_strided(x.shape, (0, 0, 1, 1))


LAYOUTS: Mapping[str, Layout] = {
    "heads innermost": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "batch innermost": lambda x: x.movedim(0, 2).contiguous().movedim(2, 0),
    "columns first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second row": spaced(2),
    "every second column": spaced(3),
    "without the first column": lambda x: torch.cat([torch.full_like(x[..., :1], NAN), x], 3)[..., 1:],
    "at an offset": at_offset,
    "framed": framed,
    "overlapping rows": overlapping,
    "one head for all": lambda x: x[:, :1].expand(x.shape),
    "one batch for all": lambda x: x[:1].expand(x.shape),
    "one row for all": lambda x: x[:, :, :1].expand(x.shape),
    "one column for all": lambda x: x[..., :1].expand(x.shape),
}


def test_layouts_hold_what_they_should() -> None:
    x = torch.randn(2, 3, 5, 7)
    for name in ("heads innermost", "every second row", "every second column", "framed", "at an offset"):
        assert torch.equal(LAYOUTS[name](x), x)
    assert LAYOUTS["every second column"](x).stride()[3] == 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "queries"), [(f32, 50), (f16, 50), (f32, 2), (bf16, 6)], ids=str)
def test_any_layout_of_any_input(layout: str, dtype: FloatType, queries: int) -> None:
    """Each of q, k and v alone, then all."""
    case = Case(dtype, 20, 12, group=2, form="causal")
    run, change = runner_for(case, "native", queries), LAYOUTS[layout]
    q, k, v, captures = case.tensors(Shape(2, 4, 2, queries, 53))
    for inputs in ((change(q), k, v), (q, change(k), v), (q, k, change(v)), (change(q), change(k), change(v))):
        assert_agrees(case, run, *inputs, captures)


@pytest.mark.parametrize("queries", [40, 3])
def test_one_column_has_no_neighbour(queries: int) -> None:
    """A head dimension of 1 may have any stride."""
    case = Case(f32, 1, 20)
    q, k, v, captures = case.tensors(Shape(queries=queries, keys=50))
    q, k = (torch.cat([x, torch.full_like(x, NAN)], 3)[..., :1] for x in (q, k))
    assert_close(case, "native", q, k, v, captures)


@pytest.mark.parametrize("queries", [40, 3])
@pytest.mark.parametrize("form", ["bias", "alibi", "documents", "dropped"])
def test_any_layout_of_captures(form: str, queries: int) -> None:
    case = Case(f32, 16, form=form)
    run = runner_for(case, "native", queries)
    q, k, v, captures = case.tensors(Shape(2, 2, 2, queries, 50))
    changes: list[Layout] = [
        lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
        lambda x: torch.stack([x, torch.zeros_like(x)], -1).flatten(-2)[..., ::2],
        lambda x: x[:1].expand(x.shape),
        lambda x: x[..., :1].expand(x.shape),
        lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
    ]
    for change in changes:
        assert_agrees(case, run, q, k, v, tuple(change(c) for c in captures))


# --- CPUs without 512-bit vectors


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels as a CPU with vectors of 256 bits gets them."""
    monkeypatch.setattr(native_runtime, "host_target", lambda: "avx2")


NARROW = [
    (f32, 64, None, 1, "causal"), (f16, 128, None, 4, "none"), (bf16, 80, 40, 2, "window"), (f32, 7, 256, 3, "alibi"),
    (f16, 16, None, 8, "bias"), (f32, 32, None, 1, "documents"), (bf16, 24, 1, 2, "softcap"),
    (f32, 40, None, 2, "dropped"),
]  # fmt: skip


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize(("dtype", "width", "value_width", "group", "form"), NARROW)
def test_narrow_vectors(dtype: FloatType, width: int, value_width: int | None, group: int, form: str) -> None:
    case = Case(dtype, width, value_width, group, form)
    run = runner_for(case, "native", 70)
    for queries, keys in ((70, 75), (1, 1), (1, 700), (2, 33), (9, 130)):
        assert_agrees(case, run, *case.tensors(Shape(2, 2 * group, 2, queries, keys)))


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_narrow_vectors_of_strided_tensors(dtype: FloatType) -> None:
    case = Case(dtype, 20, 12, form="causal")
    run = runner_for(case, "native", 50)
    for queries in (50, 3):
        inputs = case.tensors(Shape(2, 2, 2, queries, 53))
        for layout in ("framed", "every second column"):
            q, k, v = (LAYOUTS[layout](x) for x in inputs[:3])
            assert_agrees(case, run, q, k, v, inputs[3])


def test_forms_are_tried_on_both_kinds_of_cpu() -> None:
    assert {form for *_, form in NARROW} == FORMS.keys() - {"table"}
