"""Warp-specialised kernels: what their warps compute together, in whatever order they get to it, against float64.

They run on a stand-in for Gluon (see `gluon_machine`); the bound is that of `closeness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from numeric.closeness import assert_agrees
from numeric.gluon_machine import Gluon
from numeric.test_kernels import LAYOUTS

from attir.codegen.gluon import GluonKernel
from attir.compiler.attention_cases import FORMS, Case, Element, Form, Shape
from attir.compiler.gluon import WISHES, gluon_kernel
from attir.compiler.lowering import lower
from attir.compiler.sites import Runner
from attir.ir.attributes import FloatType, bf16, f16
from attir.ir.core import Value
from attir.ir.dialects.arith import SubIOp


@cache
def written(case: Case) -> GluonKernel:
    kernel = gluon_kernel(lower(case.module(), "sm_90", wishes=WISHES))
    assert isinstance(kernel, GluonKernel), kernel
    return kernel


def runner(case: Case, source: str, gluon: Gluon) -> Runner:
    """Runs a module for `case`; results start as nan, so that what is not stored shows."""
    launch = gluon.load(source)["launch"]

    def run(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert not captures and want_lse == case.lse
        out = torch.full((*q.shape[:3], v.shape[3]), float("nan"), dtype=q.dtype)
        lse = torch.full(q.shape[:3] if want_lse else (0,), float("nan"))
        launch(q, k, v, out, *([lse] if want_lse else []))
        return out, lse

    return run


def assert_right(case: Case, shape: Shape, seed: int = 0, magnitude: float = 1.0) -> None:
    tensors = case.tensors(shape, seed=seed, magnitude=magnitude)
    assert_agrees(case, runner(case, written(case).source, Gluon(seed)), *tensors, order=True)


def one_head(queries: int, keys: int) -> Shape:
    return Shape(heads=1, key_heads=1, queries=queries, keys=keys)


@pytest.mark.parametrize("form", ["none", "causal"])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_lengths_that_tiles_do_not_divide(dtype: FloatType, width: int, form: str) -> None:
    assert_right(Case(dtype, width, form=form), one_head(300, 300))


@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 1000), (256, 256), (129, 128), (100, 700), (700, 100), (384, 130)]
)
@pytest.mark.parametrize("form", ["none", "causal"])
def test_more_keys_than_queries_and_fewer(queries: int, keys: int, form: str) -> None:
    assert_right(Case(f16, 64, form=form), one_head(queries, keys))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [64, 128])
def test_slots_are_used_again_and_again_in_any_order_of_events(width: int, seed: int) -> None:
    """Eight tiles of keys go through rings of two and three slots."""
    assert_right(Case(f16, width, form="causal"), one_head(150, 1000), seed)
    assert_right(Case(f16, width), one_head(150, 1000), seed)


@pytest.mark.parametrize("shift", [5, 200])
def test_rows_without_any_key_are_zero(monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    """With 200 all rows of the first program are such, and it copies nothing."""

    def mask(e: Element) -> Value:
        return e.compare("sle", e.n, e.binary(SubIOp, e.m, shift))

    monkeypatch.setitem(FORMS, f"late by {shift}", Form(mask, keep=lambda m, n, _: n <= m - shift))
    assert_right(Case(f16, 64, form=f"late by {shift}"), one_head(400, 400))


def test_large_scores() -> None:
    assert_right(Case(f16, 64, form="causal"), one_head(300, 300), magnitude=30.0)


def test_heads_that_share_keys_and_results_without_log_sum_exp() -> None:
    shape = Shape(batch=2, heads=4, key_heads=2, queries=140, keys=200)
    assert_right(Case(bf16, 64, group=2, form="causal", lse=False), shape)


@pytest.mark.parametrize("layout", ["heads innermost", "every second row", "part of a fused projection"])
def test_strided_inputs_are_read_in_place(layout: str) -> None:
    """What lies between the rows, or before the next head, is never read as a key."""
    case = Case(f16, 64)
    q, k, v, captures = case.tensors(Shape(batch=2, heads=3, key_heads=3, queries=70, keys=90))
    q, k, v = (LAYOUTS[layout](x) for x in (q, k, v))
    assert_agrees(case, runner(case, written(case).source, Gluon()), q, k, v, captures, order=True)


def test_groups_of_warps_take_turns_from_the_second_tile_on() -> None:
    """One issues both products of a tile, then the other; neither is a tile ahead."""
    case, gluon = Case(f16, 128), Gluon(3)
    runner(case, written(case).source, gluon)(*case.tensors(one_head(128, 1000)), True)
    issued = gluon.issued
    for group in (0, 1):
        # The first product with keys and the last with values are in nobody's way.
        issued.remove((group, True))
        issued.reverse()
        issued.remove((group, False))
        issued.reverse()
    assert issued == [(0, True), (0, False), (1, True), (1, False)] * 7


FAULTS = {
    "a slot is free when one group is done": ("init(k_free.index(i), count=2)", "init(k_free.index(i), count=1)"),
    "slots of values stay taken": ("    mbarrier.arrive(v_free.index(before), count=1)\n", ""),
    "slots of keys are free too early": (
        "    scores = warpgroup_mma_wait(1, deps=[scores])\n    mbarrier.arrive(k_free.index(stage), count=1)\n",
        "    mbarrier.arrive(k_free.index(stage), count=1)\n    scores = warpgroup_mma_wait(1, deps=[scores])\n",
    ),
    "scores are used before they are there": (
        "warpgroup_mma_wait(1, deps=[scores])",
        "warpgroup_mma_wait(2, deps=[scores])",
    ),
    "values are read before they are there": ("((i - 1) // STAGES) & 1", "(((i - 1) // STAGES) & 1) ^ 1"),
    "the copying warp waits for slots that are free": ("((i // STAGES) & 1) ^ 1", "(i // STAGES) & 1"),
    "the copying warp does not wait": ("    mbarrier.wait(free.index(stage), ((i // STAGES) & 1) ^ 1)\n", ""),
    "nobody has the first turn": ("(i + which) & 1", "(i + 1) & 1"),
    "half the queries twice": ("start_m + which * HALF, 0]", "start_m, 0]"),
    "the values of another tile": ("weigh(p, acc, v_ring, before)", "weigh(p, acc, v_ring, stage)"),
    "the mask is forgotten": ('tl.where(mask, scores, float("-inf"))', "scores"),
    "the output is not scaled": ("acc = acc * tl.convert_layout(alpha, OUTPUT_ROWS)[:, None]", "acc = acc"),
    "too few bytes are expected": ("expect(full.index(stage), KEY_BYTES)", "expect(full.index(stage), KEY_BYTES - 2)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(fault: str) -> None:
    """What is checked here can fail: each of these kernels is wrong in one place, which some order of events shows."""
    case = Case(f16, 64, form="causal")
    source, (right, wrong) = written(case).source, FAULTS[fault]
    assert right in source
    tensors = case.tensors(one_head(700, 700))
    with pytest.raises(AssertionError):
        for seed in range(10):
            assert_agrees(case, runner(case, source.replace(right, wrong), Gluon(100 * seed)), *tensors, order=True)
