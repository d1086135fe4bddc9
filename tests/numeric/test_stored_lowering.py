"""Kernels over operands in few bits as tile programs in the reference interpreter, against what the storage means.

The reference is attention in float64 over the dequantised operands. All here is computed in float64 too, so that only a
wrong program differs from it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatType, bf16, f16, f32
from attir.ir.core import Operation
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.attn import AttentionOp
from attir.ir.interpreter import interpret
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.ir.storage import Storage
from attir.ir.verifier import verify
from attir.passes.analyze_mask import AnalyzeMask
from attir.passes.lower_attention import LowerAttention
from attir.passes.manager import PassContext

from .stored_cases import StoredCase, integers

GPU = Schedule(16, 32, 4, 1)
CPU = Schedule(16, 32, 1, 1, lanes=16, columns=4, edge_n=16)
FEW = replace(CPU, block_m=4, folded=1)
SCHEDULES = {"gpu": GPU, "cpu": CPU, "few rows": FEW}

BLOCKS = integers(8, tokens=64)
"""A scale for each 64 tokens, as in products of codes."""

KIVI = {
    "key": integers(4, signed=False, zero=True, tokens=64, channels=1),
    "value": integers(4, signed=False, zero=True, tokens=1, channels=32),
}
STORAGES: dict[str, dict[str, Storage]] = {
    "a scale for each token": {"key": BLOCKS, "value": integers(8)},
    "int8 products": {"query": BLOCKS, "key": BLOCKS},
    "int8 products, a scale for each row": {"query": integers(8), "key": integers(8)},
    "queries alone": {"query": integers(6)},
    "KIVI": KIVI,
    "groups that no tile fits": {"key": replace(KIVI["key"], tokens=24)},
    "a scale for all": {"key": integers(5, tokens=0, heads=False), "value": integers(5, tokens=0, heads=False)},
    "a scale for each channel": {
        "key": integers(7, tokens=0, channels=1), "value": integers(7, tokens=0, channels=1),
    },
    "values with a zero for all": {"value": integers(3, tokens=0, zero=True)},
    "values packed along tokens": {"key": integers(8), "value": integers(2, zero=True, axis="tokens", block=8)},
    "other floats": {"key": integers(16, kind="bf16", tokens=0), "value": integers(16, kind="f16", tokens=0)},
    "8-bit floats": {"key": integers(8, kind="f8E4M3FN"), "value": integers(8, kind="f8E5M2")},
}  # fmt: skip


def lowered(case: StoredCase, schedule: Schedule) -> Operation:
    module = case.module()
    verify(module)
    for op in module.walk():
        if (attention := AttentionOp.match(op)) is not None:
            attention.schedule = schedule.to_attr()
    for step in (AnalyzeMask(), LowerAttention()):
        step.run(module, PassContext())
    verify(module)
    return module


def check(case: StoredCase, schedule: Schedule) -> None:
    tensors = case.tensors()
    stored, exact = case.stored(tensors), case.exact(tensors)
    arguments = [t.double().numpy() if t.dtype.is_floating_point else t.numpy() for t in stored]
    (meant,) = interpret(case.module(), "attention", *arguments, precise=True)
    assert abs(torch.as_tensor(meant.copy()) - exact).max() < 1e-12
    out = torch.zeros_like(exact).numpy()
    interpret(lowered(case, schedule), "attention", *arguments, out, precise=True)
    assert abs(torch.as_tensor(out) - exact).max() < 1e-6 * case.magnitude


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("storages", STORAGES.values(), ids=STORAGES)
def test_every_way_to_store_operands(storages: dict[str, Storage], schedule: Schedule) -> None:
    check(StoredCase(m=9, n=70, heads=2, group=2, storages=storages), schedule)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("width", [64, 33])
def test_every_width_in_bits(bits: int, signed: bool, width: int) -> None:
    key = integers(bits, signed=signed, zero=True, tokens=32, channels=1, width=width)
    value = integers(bits, signed=signed, zero=True, tokens=1, channels=16, width=width)
    check(StoredCase(m=5, n=45, d=width, storages={"key": key, "value": value}), CPU)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_masks_cut_tiles_of_codes(schedule: Schedule) -> None:
    check(StoredCase(m=40, n=77, group=2, causal=True, storages=KIVI), schedule)
    check(StoredCase(m=40, n=77, group=2, causal=True, storages=STORAGES["int8 products"]), schedule)


def test_split_keys_and_one_query() -> None:
    case = StoredCase(m=1, n=200, group=4, storages=KIVI)
    tensors = case.tensors()
    arguments = [t.double().numpy() if t.dtype.is_floating_point else t.numpy() for t in case.stored(tensors)]
    module = lowered(case, replace(FEW, split=1))
    parts, exact = 3, case.exact(tensors)
    part_out = torch.zeros(parts, *exact.shape, dtype=torch.float64).numpy()
    part_lse = torch.zeros(parts, *exact.shape[:3], dtype=torch.float64).numpy()
    out = torch.zeros_like(exact).numpy()
    interpret(module, "attention", *arguments, part_out, part_lse, precise=True)
    interpret(module, "attention_merge", part_out, part_lse, out, precise=True)
    assert abs(torch.as_tensor(out) - exact).max() < 1e-6


def test_codes_of_both_factors_enter_one_product() -> None:
    text = print_operation(lowered(StoredCase(storages=STORAGES["int8 products"]), GPU))
    products = [line for line in text.splitlines() if '"tile.dot"' in line]
    assert any("xi8>" in line and "xi32>" in line for line in products)


def test_scales_of_channels_go_into_queries_once_a_tile_on_cpus_alone() -> None:
    named = {name: print_operation(lowered(StoredCase(storages=KIVI), s)) for name, s in SCHEDULES.items()}
    assert "%q_by_channel" in named["cpu"] and "%q_by_channel" not in named["gpu"]
    ragged = print_operation(lowered(StoredCase(storages=STORAGES["groups that no tile fits"]), CPU))
    assert "%q_by_channel" not in ragged


@pytest.mark.parametrize("dtype", [f16, bf16, f32])
def test_codes_are_read_half_a_row_at_a_time_in_a_type_that_costs_no_conversion(dtype: FloatType) -> None:
    """Those that are scaled as tiles are f32 then, which codes are at once; of f16 the way is as short."""
    case = StoredCase(dtype=dtype, storages=KIVI)
    kernel = lowered(case, GPU)
    loads = [op for op in kernel.walk() if op.name == "tile.load_codes"]
    assert {str(op.result.type) for op in loads} == {f"tensor<32x32x{f16 if dtype == f16 else f32}>"}


def test_the_text_of_a_site_reads_back() -> None:
    module = StoredCase(storages=KIVI).module()
    again = parse_module(print_operation(module))
    assert print_operation(again) == print_operation(module)


def test_specialised_warps_read_no_codes() -> None:
    wished = replace(GPU, specialised=1, descriptors="device", block_m=128, block_n=64, num_warps=4)
    with pytest.raises(CompileError, match="specialised warps copy q, k and v as they are, but some are codes"):
        lowered(StoredCase(storages=KIVI), wished)


def test_codes_that_no_region_reads_are_refused() -> None:
    module = StoredCase(storages={"key": BLOCKS}).module()
    attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
    attention.set_region("key", type(attention.key)())
    with pytest.raises(CompileError, match="region 'key' must read codes"):
        verify(module)


def test_keys_packed_along_tokens_are_refused() -> None:
    case = StoredCase(storages={"key": integers(4, zero=True, axis="tokens")})
    with pytest.raises(CompileError, match="only v may be packed along tokens"):
        verify(case.module())
