"""Which calls of Triton kernels share one: by rows, by what descriptors demand, and by whether keys are split."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from numeric.closeness import assert_agrees

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.layouts import Layout
from attir.compiler.options import Options
from attir.compiler.triton_kernels import Choice, TritonKernels, is_regular, rows_for
from attir.compiler.triton_runtime import Interpreted, TritonRunner
from attir.ir.attributes import f16, f32
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.func import FuncOp
from benchmarks.mask_families import MaskCase


@pytest.mark.parametrize(
    ("queries", "group", "rows"),
    [
        (1, 1, 16),
        (1, 8, 16),
        (3, 8, 32),
        (16, 8, 128),
        (17, 8, 128),
        (128, 1, 128),
        (129, 1, 0),
        (1, 256, 128),
        (0, 1, 16),
    ],
)
def test_few_rows_have_kernels_of_their_own(queries: int, group: int, rows: int) -> None:
    assert rows_for(queries, group) == rows


def runner_of(case: Case) -> TritonRunner:
    return TritonRunner(TritonKernels(case.module(), "interpret"), Interpreted())


def calls(runner: TritonRunner) -> list[str]:
    return [variant.calls for variant in runner.kernels.variants]


def test_kernels_are_made_when_calls_ask_for_them_and_told_of() -> None:
    case = Case(f32, 16, group=2)
    runner = runner_of(case)
    heard: list[str] = []
    runner.kernels.watchers.append(lambda name, kernel: heard.append(f"{name} {kernel.plan['block_m']}"))
    for queries, keys in ((1, 300), (1, 320), (2, 300), (130, 10), (1, 10)):
        q, k, v, captures = case.tensors(Shape(1, 2, 1, queries, keys))
        assert_agrees(case, runner, q, k, v, captures)
    assert calls(runner) == [
        "decode, 16 rows: 1 query x group 2",
        "prefill, any rows: 130 queries x group 2",
        "decode, 16 rows: 1 query x group 2, keys not split",
    ]
    assert heard == ["rows-16 16", "any-rows 64", "rows-16-whole 16"]


@pytest.mark.parametrize("form", ["causal", "bias", "documents"])
@pytest.mark.parametrize("queries", [1, 5])
def test_split_keys_give_the_same_attention(form: str, queries: int) -> None:
    """Also rows whose keys all lie in one part, and sizes that leave the last part short."""
    case = Case(f32, 16, group=2, form=form)
    runner = runner_of(case)
    q, k, v, captures = case.tensors(Shape(1, 2, 1, queries, 333), seed=1)
    assert_agrees(case, runner, q, k, v, captures)
    (steps,) = runner.kernels.made.values()
    assert steps.split_count(1, 2, queries, 333) > 1 and "part_out" in steps.own


def test_results_may_lie_positions_first_and_without_their_log_sum_exp() -> None:
    case = Case(f32, 16)
    runner = runner_of(case).with_positions_first()
    q, k, v, captures = case.tensors(Shape(1, 1, 1, 3, 300))
    out, lse = runner(q, k, v, captures, False)
    assert out.transpose(1, 2).is_contiguous() and lse.numel() == 0
    torch.testing.assert_close(out, case.reference(q, k, v, captures)[0])
    without = runner_of(Case(f32, 16, lse=False))
    with pytest.raises(CompileError, match="without log-sum-exp"):
        without(q, k, v, captures, True)


REGULAR = Layout.contiguous((2, 4, 100, 64))


@pytest.mark.parametrize(
    ("layout", "regular"),
    [
        (REGULAR, True),
        (Layout((2, 4, 100, 64), (25600, 64, 256, 1)), True),
        (Layout((2, 4, 100, 64), (25600, 6400, 68, 1)), False),
        (Layout((2, 4, 100, 64), (0, 6400, 64, 1)), False),
        (Layout((1, 4, 100, 64), (0, 6400, 64, 1)), True),
        (Layout((2, 4, 100, 64), (25600, 6400, 1, 100)), False),
        (Layout.contiguous((2, 4, 0, 64)), False),
        (Layout.contiguous((2, 4, 100, 60)), False),
        (Layout((2, 4, 100, 64), (2**40, 6400, 64, 1)), False),
        (Layout((2**31, 1, 1, 64), (64, 64, 64, 1)), False),
    ],
)
def test_what_tensor_descriptors_demand(layout: Layout, regular: bool) -> None:
    assert is_regular(layout.regular, 2, aligned_address=True) == regular
    assert not is_regular(layout.regular, 2, aligned_address=False)


def test_only_kernels_with_descriptors_need_another_form_for_other_strides() -> None:
    pointers, bulk = (TritonKernels(Case(f16, 64).module(), target) for target in ("sm_80", "sm_90"))
    for kernels in (pointers, bulk):
        kernels.get(Choice(16, regular=False), 1)
    assert [v.calls for v in pointers.variants] == ["decode, 16 rows: 1 query x group 1"]
    assert [v.plan.get("descriptors", "") for v in bulk.variants] == ["host", ""]
    assert bulk.variants[1].calls.endswith(", any strides")


@pytest.mark.parametrize("name", ["out", "lse", "extremes", "part_out", "k"])
def test_captures_may_be_called_like_what_kernels_make(name: str) -> None:
    case = Case(f32, 16, form="bias")
    module = case.module()
    function = next(FuncOp(op) for op in module.walk() if FuncOp.match(op))
    function.body.block.arguments[3].name_hint = name
    runner = TritonRunner(TritonKernels(module, "interpret"), Interpreted())
    q, k, v, captures = case.tensors(Shape(1, 1, 1, 2, 300))
    assert_agrees(case, runner, q, k, v, captures)
    (steps,) = runner.kernels.made.values()
    assert [step.slots for step in steps.steps] == [(0, 1, 2, 3, 6, 7), (6, 7, 4, 5)]


def test_tables_come_first_and_lie_behind_the_results() -> None:
    kernels = TritonKernels(Case(f32, 16, form="documents").module(), "interpret")
    steps = kernels.get(Choice(), None)
    assert steps.steps[0].kernel.name == "attention_tables"
    assert steps.steps[0].slots[:2] == (0, 1) and steps.steps[0].slots[-1] == steps.inputs + 2


@pytest.mark.parametrize("lists", [0, 1])
@pytest.mark.parametrize("queries", [2, 140])
def test_tables_and_lists_are_written_before_they_are_read(queries: int, lists: int) -> None:
    case = MaskCase(f32, 16, form="causal documents", unit=32)
    kernels = TritonKernels(case.module(), "interpret", (("lists", lists),))
    runner = TritonRunner(kernels, Interpreted())
    q, k, v, captures = case.tensors(Shape(1, 1, 1, queries, 200))
    assert_agrees(case, runner, q, k, v, captures)
    names = [step.kernel.name.removeprefix("attention") for step in next(iter(kernels.made.values())).steps]
    assert names == ["_tables", *["_list"] * lists, "", *["_merge"] * (queries == 2)]


def test_whole_tiles_and_the_rest_of_them_are_merged() -> None:
    case = Case(f32, 16, form="causal")
    kernels = TritonKernels(case.module(), "interpret", (("specialised", 1),))
    runner = TritonRunner(kernels, Interpreted())
    q, k, v, captures = case.tensors(Shape(1, 2, 2, 150, 170))
    assert_agrees(case, runner, q, k, v, captures)
    (steps,) = kernels.made.values()
    assert [step.kernel.name for step in steps.steps] == ["attention", "attention_rest", "attention_merge"]


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "heads innermost": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "columns first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "one row for all": lambda x: x[:, :, :1].expand(-1, -1, x.shape[2], -1),
}


@pytest.mark.parametrize("made_by", ["host", "device"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("queries", [3, 150])
def test_descriptors_are_used_where_tensors_allow_them(made_by: str, layout: str, queries: int) -> None:
    case = Case(f32, 16, form="causal")
    runner = TritonRunner(TritonKernels(case.module(), "interpret", (("descriptors", made_by),)), Interpreted())
    q, k, v, captures = case.tensors(Shape(1, 2, 2, queries, 150))
    changed = LAYOUTS[layout](k)
    assert_agrees(case, runner, q, k, v, captures)
    assert_agrees(case, runner, q, changed, v, captures)
    assert_agrees(case, runner, q[:, :1], changed[:, :1], v[:, :1], captures)
    used = {choice.regular: steps.schedule.descriptors for choice, steps in runner.kernels.made.items()}
    assert used == {True: made_by} if layout == "heads innermost" else {True: made_by, False: ""}


def test_a_site_has_the_kernel_of_its_first_call() -> None:
    case = Case(f32, 16)
    site = compile_site(case.module(), Options(backend="interpret", cache=False), 1)
    assert site.plan["block_m"] == 16 and [v.calls for v in site.variants] == ["decode, 16 rows: 1 query x group 1"]
