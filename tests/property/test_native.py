"""Native kernels agree with attention in float64 on whatever sizes, layouts and numbers hypothesis finds."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from numeric.closeness import NATIVE, assert_agrees, runner_for
from numeric.test_native_strides import LAYOUTS

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.sites import Runner
from attir.ir.attributes import bf16, f16, f32
from benchmarks.mask_families import MaskCase

pytestmark = NATIVE

CASES = (
    Case(f32, 16, 24, form="causal"),
    Case(f16, 24, 7, 3, "window"),
    Case(bf16, 40, None, 2, "alibi"),
    Case(f32, 5, None, 4, "bias", lse=False),
    Case(f16, 64, None, 1, "documents"),
    Case(f32, 8, 17, 6, "dropped"),
    MaskCase(f32, 24, None, 2, "block table"),
    MaskCase(bf16, 16, None, 1, "2-d neighbourhood", unit=36),
)
"""Few, so that examples share kernels: a dozen at most for each, by rows and strides."""


@cache
def kernels(case: Case) -> Runner:
    return runner_for(case, "native")


LENGTHS = st.one_of(st.integers(1, 20), st.integers(1, 150), st.sampled_from([16, 32, 48, 64, 128, 600]))
QUERIES = st.one_of(st.integers(1, 9), st.integers(1, 150))
USUAL = ("heads innermost", "at an offset", "framed")
UNUSUAL = tuple(name for name in LAYOUTS if name not in (*USUAL, "overlapping rows", "one column for all"))
layouts = st.one_of(st.none(), st.sampled_from(USUAL), st.sampled_from(UNUSUAL))


@settings(deadline=None, max_examples=60)
@given(
    case=st.sampled_from(CASES),
    batch=st.integers(1, 3),
    key_heads=st.integers(1, 3),
    queries=QUERIES,
    keys=LENGTHS,
    seed=st.integers(0, 1000),
    magnitude=st.sampled_from([0.0, 0.01, 1.0, 1.0, 8.0]),
    changes=st.tuples(layouts, layouts, layouts),
)
def test_any_call_agrees_with_attention(
    case: Case,
    batch: int,
    key_heads: int,
    queries: int,
    keys: int,
    seed: int,
    magnitude: float,
    changes: tuple[str | None, str | None, str | None],
) -> None:
    shape = Shape(batch, key_heads * case.group, key_heads, queries, keys)
    *inputs, captures = case.tensors(shape, seed, magnitude)
    q, k, v = (LAYOUTS[change](x) if change else x for x, change in zip(inputs, changes, strict=True))
    assert_agrees(case, kernels(case), q, k, v, captures, order=True)
