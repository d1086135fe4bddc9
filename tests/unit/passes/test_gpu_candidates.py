"""The candidates for GPUs: all fit, all differ, wishes hold, and what cannot fit is refused as ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attir.compiler.attention_cases import Case
from attir.compiler.lowering import lower
from attir.cost_model.devices import DEVICES, Device
from attir.cost_model.problem import Sizes
from attir.cost_model.resources import TileConfig, as_scheduled, refusal
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import bf16, f16, f32
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.attn import AttentionOp
from attir.passes.attention_shape import attention_shape
from attir.passes.plan_gpu import GpuPlanner, gpu_candidates
from attir.passes.ranking import rank

CASES = (Case(f16, 64), Case(bf16, 128, form="causal"), Case(f32, 32, form="bias"), Case(f16, 80, form="documents"))


def attention_of(case: Case) -> AttentionOp:
    return next(AttentionOp(op) for op in case.module().walk() if AttentionOp.match(op))


def found(case: Case, device: Device, rows: int = 0, **wishes: int | str) -> list[Schedule]:
    attention = attention_of(case)
    shape = attention_shape(attention, few_rows=bool(rows))
    return gpu_candidates(attention, shape, device, rows, tuple(wishes.items()))


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda d: d.name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_fit_and_no_two_are_equal(case: Case, device: Device, rows: int) -> None:
    schedules = found(case, device, rows)
    shape = attention_shape(attention_of(case), few_rows=bool(rows))
    assert len({replace(s, reason="") for s in schedules}) == len(schedules) >= 4
    for s in schedules:
        config = TileConfig(s.block_m, s.block_n, s.num_warps, s.num_stages)
        assert refusal(config, as_scheduled(shape, s), device) is None
        assert s.target == device.name and s.folded == (rows > 0)


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda d: d.name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_tiles_chosen_without_sizes_are_among_them(case: Case, device: Device) -> None:
    attention = attention_of(case)
    chosen = GpuPlanner(attention, attention_shape(attention), device).schedule()
    assert replace(chosen, reason="") in {replace(s, reason="") for s in found(case, device)}


def test_options_vary_unless_they_are_wished_for() -> None:
    hopper, listed = DEVICES["sm_90"], Case(f16, 64, form="documents")
    assert {s.descriptors for s in found(Case(f16, 64), hopper)} == {"device", ""}
    assert {s.descriptors for s in found(Case(f16, 64), hopper, descriptors="host")} == {"host"}
    assert {s.lists for s in found(listed, hopper)} == {0, 1}
    assert {s.lists for s in found(listed, hopper, lists=0)} == {0}
    assert {s.split for s in found(Case(f16, 64, group=4), hopper, 4)} == {1}
    assert {(s.block_m, s.block_n) for s in found(Case(f16, 64), hopper, block_m=64, block_n=32)} == {(64, 32)}


def test_equal_questions_get_equal_answers() -> None:
    assert found(CASES[1], DEVICES["sm_80"]) == found(CASES[1], DEVICES["sm_80"])


def test_what_fits_nowhere_is_refused_with_numbers() -> None:
    with pytest.raises(CompileError, match="no tile sizes fit sm_80: head dimensions 4096 and 4096 of 4 bytes need"):
        found(Case(f32, 4096), DEVICES["sm_80"])
    with pytest.raises(CompileError, match="a kernel for a GPU has no option 'columns'"):
        found(Case(f16, 64), DEVICES["sm_80"], columns=4)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_each_option_makes_a_kernel(target: str) -> None:
    for case, rows in ((Case(f16, 32, form="documents"), 0), (Case(f16, 32, group=2), 2)):
        options = {(s.descriptors, s.lists, s.split): s for s in found(case, DEVICES[target], rows)}
        for s in options.values():
            wishes = tuple((name, getattr(s, name)) for name in ("descriptors", "lists", "split", "block_n"))
            lowered = lower(case.module(), target, rows, wishes)
            assert ("merge" in lowered.roles) == bool(s.split) and ("list" in lowered.roles) == bool(s.lists)


@pytest.mark.parametrize("target", ["avx512", "sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("sizes", ["0x1x1x3x3", "1x1x1x0x5", "1x1x1x1x0"])
def test_calls_on_nothing_are_planned(target: str, sizes: str) -> None:
    module = Case(f16, 72, 24, form="dropped").module()
    attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
    assert rank(attention, target, sizes=Sizes.parse(sizes)).best.prediction.seconds >= 0
