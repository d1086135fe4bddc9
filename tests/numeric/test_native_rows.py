"""Native kernels for few queries: every height of tile, heads folded into rows, keys split into parts and merged."""

from __future__ import annotations

import pytest
import torch
from numeric.closeness import FLOATS, NATIVE, assert_agrees, assert_close, runner_for

from attir.compiler import attention_cases
from attir.compiler.attention_cases import FORMS, Case, Element, Form, Shape
from attir.ir.attributes import FloatType, bf16, f16, f32
from attir.ir.core import Value
from attir.ir.dialects import arith

pytestmark = NATIVE

BEFORE = 480
"""Keys before the first query, as in a decoder that has read so many tokens."""
WINDOW = 300


def causal_after(before: int) -> Form:
    """Query m is token `before` + m."""

    def mask(e: Element) -> Value:
        return e.compare("sle", e.n, e.binary(arith.AddIOp, e.m, before))

    return Form(mask, keep=lambda m, n, _: n <= m + before)


def window_after(before: int, width: int) -> Form:
    """Query m is token `before` + m and sees itself and the `width` - 1 keys before it."""

    def mask(e: Element) -> Value:
        position = e.binary(arith.AddIOp, e.m, before)
        first = e.binary(arith.SubIOp, position, width)
        return e.binary(arith.AndIOp, e.compare("sle", e.n, position), e.compare("sgt", e.n, first))

    return Form(mask, keep=lambda m, n, _: (n <= m + before) & (n > m + before - width))


@pytest.fixture(autouse=True)
def decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of a decoder beside the other forms."""
    more = {"causal after": causal_after(BEFORE), "window after": window_after(BEFORE, WINDOW)}
    monkeypatch.setattr(attention_cases, "FORMS", {**FORMS, **more})


def agree(case: Case, queries: list[int], keys: list[int], batch: int = 1, key_heads: int = 1) -> None:
    """One site serves all these lengths."""
    run = runner_for(case, "native", queries[0])
    heads = key_heads * case.group
    for seed, (m, n) in enumerate((m, n) for m in queries for n in keys):
        shape = Shape(batch, heads, key_heads, m, n)
        assert_agrees(case, run, *case.tensors(shape, seed))


GROUPS = {1: f32, 2: f16, 3: bf16, 4: f32, 7: f16, 8: f32, 16: bf16, 32: f16}


@pytest.mark.parametrize("group", GROUPS)
def test_any_number_of_rows_of_a_group(group: int) -> None:
    case = Case(GROUPS[group], 20, 12, group, "causal after")
    queries = [1, 2, 3, 4, 7, 8, 9, 16, 31, 33] if group in (1, 3, 8) else [1, 3, 9, 33]
    agree(case, queries, [17, 513], key_heads=2)


LENGTHS = [1, 15, 16, 17, 511, 512, 513, 1030, 5000]


@pytest.mark.parametrize(
    ("queries", "group", "dtype"), [(1, 1, f32), (1, 1, f16), (1, 4, bf16), (1, 4, f32), (3, 2, f16), (2, 7, bf16)]
)
def test_any_number_of_keys(queries: int, group: int, dtype: FloatType) -> None:
    agree(Case(dtype, 16, group=group), [queries], LENGTHS, batch=2)


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("causal after", f16), ("window after", f32), ("alibi", bf16), ("softcap", f32), ("bias", f16),
        ("documents", f32), ("dropped", bf16),
    ],
)  # fmt: skip
def test_masks_and_scores(form: str, dtype: FloatType) -> None:
    """A decode step, several queries in a narrow tile, and rows that fill vectors, over one part and over several."""
    agree(Case(dtype, 24, group=4, form=form), [1, 2, 9], [481, 1600], batch=2)


@pytest.mark.parametrize(
    ("width", "value_width", "dtype"),
    [
        (1, 1, f16), (7, 7, f32), (16, 16, bf16), (40, 17, f16), (64, 128, f32), (72, 72, f16), (80, 80, bf16),
        (96, 1, f32), (128, 128, f16), (192, 128, bf16), (256, 256, f32),
    ],
)  # fmt: skip
def test_head_dimensions(width: int, value_width: int, dtype: FloatType) -> None:
    agree(Case(dtype, width, value_width, 3), [1, 7], [70])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_without_log_sum_exp(dtype: FloatType) -> None:
    """Keys that make one part, whose log-sum-exp nobody reads, and several; many rows, for which it takes more room."""
    agree(Case(dtype, 16, group=2, lse=False), [1, 4], [9, 600, 5000], batch=2, key_heads=3)
    agree(Case(dtype, 16, lse=False), [8], [9], batch=40, key_heads=16)


def test_rows_without_keys_in_some_parts_or_in_all() -> None:
    case = Case(f32, 16, group=2, form="bias")
    q, k, v, (bias,) = case.tensors(Shape(1, 2, 1, 2, 2000))
    bias[0, 0, 0] = float("-inf")
    bias[0, 0, 1, :1500] = float("-inf")
    bias[0, 1, 0, 600:] = float("-inf")
    bias[0, 1, 1, 700:1400] = float("-inf")
    assert_close(case, "native", q, k, v, (bias,))


@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("place", [0, 700, 1999])
def test_nan_in_one_part_reaches_the_rows_that_see_it(where: str, place: int) -> None:
    case = Case(f32, 16, group=2)
    q, k, v, captures = case.tensors(Shape(1, 4, 2, 2, 2000))
    tensor = {"q": q, "k": k, "v": v}[where]
    tensor[0, 1, min(place, tensor.shape[2] - 1), 3] = float("nan")
    assert_close(case, "native", q, k, v, captures)


def test_the_merge_weighs_parts_of_very_different_size() -> None:
    """Scores near 80 in one part, near -80 in another, in any order."""
    case = Case(f32, 16, group=2)
    q, k, v, captures = case.tensors(Shape(1, 2, 1, 1, 2000))
    q = torch.ones_like(q)
    for high in (slice(0, 600), slice(700, 1300), slice(1400, 2000)):
        shifted = k - 20.0
        shifted[:, :, high] += 40.0
        assert_close(case, "native", q, shifted, v, captures)
