"""Native kernels that go through lists of key tiles agree with attention in float64."""

from __future__ import annotations

import pytest
import torch
from numeric.closeness import FLOATS, NATIVE, assert_agrees

from attir.compiler.attention_cases import Shape
from attir.compiler.kernels import compile_site
from attir.compiler.layouts import Results
from attir.compiler.native_calls import Listed, Tabled
from attir.compiler.native_runtime import NativeRunner
from attir.compiler.options import Options
from attir.ir.attributes import FloatType, f32
from benchmarks.mask_families import MaskCase

pytestmark = NATIVE

LISTED = ("documents", "causal documents", "block table", "2-d neighbourhood")
SHAPES = (Shape(2, 4, 2, 150, 141), Shape(1, 2, 1, 47, 300), Shape(3, 2, 1, 130, 1))
"""Odd sizes; one key."""


def runner(case: MaskCase) -> NativeRunner:
    found = compile_site(case.module(), Options(backend="native")).runner
    assert isinstance(found, NativeRunner)
    return found


def lists_of(run: NativeRunner) -> Listed:
    """How the last call made lists."""
    plan = list(run._plans.values())[-1]  # pyright: ignore[reportPrivateUsage]
    found = plan._inner if isinstance(plan, Tabled) else plan  # pyright: ignore[reportPrivateUsage]
    assert isinstance(found, Listed)
    return found


@pytest.mark.parametrize("form", LISTED)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_lists_of_every_kind(form: str, dtype: FloatType) -> None:
    """Documents differ between batches, blocks between heads too; some rows have no key."""
    case = MaskCase(dtype, 40, form=form, group=2, unit=32)
    run = runner(case)
    for seed, shape in enumerate(SHAPES):
        q, k, v, captures = case.tensors(shape, seed)
        assert_agrees(case, run, q, k, v, captures)
    lists_of(run)


@pytest.mark.parametrize("queries", [1, 3, 12])
def test_tables_of_blocks_in_decoding(queries: int) -> None:
    """Few rows make no lists, but their tiles lie inside the blocks."""
    case = MaskCase(f32, 40, form="block table", group=2, unit=48)
    run = runner(case)
    assert_agrees(case, run, *case.tensors(Shape(1, 4, 2, queries, 500)))
    schedule = run.kernels.get(run.kernels.choice(queries), queries).schedule
    assert schedule.folded and schedule.block_n == 48 and not schedule.lists


def test_rows_and_whole_batches_without_any_key() -> None:
    case = MaskCase(f32, 24, form="block table", unit=16)
    q, k, v, (table,) = case.tensors(Shape(2, 2, 2, 100, 90))
    table[0, 1] = False
    table[1, :, 2] = False
    run = runner(case)
    assert_agrees(case, run, q, k, v, (table,))
    out, lse = run(q, k, v, (table,), True)
    assert not out[0, 1].any() and torch.isneginf(lse[0, 1]).all() and torch.isneginf(lse[1, :, 32:48]).all()


def test_heads_with_one_list_share_it() -> None:
    for form, heads in (("documents", 1), ("block table", 4)):
        case = MaskCase(f32, 24, form=form)
        q, k, v, captures = case.tensors(Shape(2, 4, 4, 80, 80))
        run = runner(case)
        run(q, k, v, captures, True)
        spans, _ = lists_of(run)._sizes[:2]  # pyright: ignore[reportPrivateUsage]
        assert spans[:2] == (2, heads)


def test_any_number_of_threads_gives_the_same() -> None:
    """With several, programs start with those that have most to do."""
    case = MaskCase(f32, 32, form="causal documents", group=2, unit=64)
    q, k, v, captures = case.tensors(Shape(2, 4, 2, 400, 400))
    run, before, found = runner(case), torch.get_num_threads(), list[Results]()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(run(q, k, v, captures, True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(out, found[0][0]) and torch.equal(lse, found[0][1]) for out, lse in found[1:])
