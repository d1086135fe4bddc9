"""Every plan fits its device, for every head dimension; what cannot fit is refused in words."""

from __future__ import annotations

import pytest

from attir.cost_model.cpus import CPUS
from attir.cost_model.devices import DEVICES, TARGETS, Device
from attir.cost_model.resources import (
    AttentionShape,
    TileConfig,
    occupancy,
    padded_width,
    refusal,
    register_demand,
    shared_memory,
)
from attir.cost_model.roofline import cycles_per_score, tile_cycles
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import FloatAttr, FloatType, Symbol, TensorType, bf16, f16, f32, f64, i1
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.arith import AddFOp, CmpIOp, FloorDivSIOp
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.tensor import ExtractOp
from attir.passes.attention_shape import attention_shape
from attir.passes.manager import PassContext
from attir.passes.plan import PlanAttention
from attir.passes.plan_gpu import as_scheduled, live_tiles
from benchmarks.mask_families import MaskCase


def module(d: int | Symbol, e: int | Symbol, dtype: FloatType = f16, *, bias: bool = False) -> Operation:
    """One attention, with an f32 bias of a number for each score if asked for."""
    b, h, m, n = (Symbol(x) for x in "BHMN")
    types = [TensorType((b, h, m, d), dtype), TensorType((b, h, n, d), dtype), TensorType((b, h, n, e), dtype)]
    block = Block.with_arguments([*types, TensorType((1, h, m, n), f32)], ["q", "k", "v", "bias"])
    score = Region([biased(block)]) if bias else Region([])
    operands = block.arguments if bias else block.arguments[:3]
    results = [types[0].with_shape(b, h, m, e), TensorType((b, h, m), f32)]
    attention = AttentionOp.create(operands, results, {"scale": FloatAttr(0.125)}, [score, Region([])])
    block.append(attention.operation)
    return ModuleOp.create(regions=[Region([block])]).operation


def biased(outer: Block) -> Block:
    block = region_block("score", outer.arguments[3:])
    builder = Builder(block)
    s, _, h, m, n, bias = block.arguments
    loaded = builder.create(ExtractOp, [bias, builder.index(0), h, m, n], [f32]).out
    builder.create(YieldOp, [builder.binary(AddFOp, s, loaded)])
    return block


def attention_in(root: Operation) -> AttentionOp:
    return next(op for x in root.walk() if (op := AttentionOp.match(x)))


def plan(root: Operation, target: str) -> Schedule:
    PlanAttention(target).run(root, PassContext())
    return Schedule.of(attention_in(root))


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda d: d.name)
@pytest.mark.parametrize("dtype", [f16, bf16, f32], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_every_head_dimension_has_a_plan_that_fits(device: Device, dtype: FloatType, bias: bool) -> None:
    for d in (1, 16, 17, 32, 64, 72, 80, 96, 128, 192, 256):
        for e in (1, 64, d, 256):
            root = module(d, e, dtype, bias=bias)
            schedule = plan(root, device.name)
            config = TileConfig(schedule.block_m, schedule.block_n, schedule.num_warps, schedule.num_stages)
            shape = attention_shape(attention_in(root))
            assert min(config.block_m, config.block_n) >= 16
            assert shared_memory(config, shape, device) <= device.shared_memory
            fits = [refusal(config, as_scheduled(shape, schedule), device, learned=x) is None for x in (True, False)]
            assert any(fits)
            assert occupancy(config, shape, device) >= 1


def test_every_width_is_padded_to_a_power_of_two() -> None:
    assert [padded_width(d) for d in (1, 16, 17, 64, 72, 128, 192, 256)] == [16, 16, 32, 64, 128, 128, 256, 256]


@pytest.mark.parametrize(("d", "most"), [(64, (128, 128)), (128, (128, 128)), (256, (128, 64))])
def test_tiles_on_hopper_are_among_the_good_ones(d: int, most: tuple[int, int]) -> None:
    schedule = plan(module(d, d), "sm_90")
    assert 64 <= schedule.block_m <= most[0]
    assert 32 <= schedule.block_n <= most[1]
    assert schedule.num_warps * 16 == max(64, schedule.block_m) or schedule.num_warps == 4


def test_exact_dots_take_smaller_tiles() -> None:
    half, full = (plan(module(64, 64, dtype), "sm_80") for dtype in (f16, f32))
    assert full.block_m * full.block_n < half.block_m * half.block_n
    assert full.precision == "ieee"


def test_a_bias_costs_shared_memory_and_registers() -> None:
    config = TileConfig(128, 64, 8, 2)
    plain, bias = (attention_shape(attention_in(module(64, 64, bias=b))) for b in (False, True))
    device = DEVICES["sm_90"]
    # One tile of scores fewer than stages: registers hold the one that is in use.
    assert shared_memory(config, bias, device) - shared_memory(config, plain, device) == 128 * 64 * 4
    assert register_demand(config, bias, device) > register_demand(config, plain, device)
    assert cycles_per_score(config, bias, device) > cycles_per_score(config, plain, device)


def test_the_interpreter_takes_large_tiles() -> None:
    schedule = plan(module(256, 256, f32), "interpret")
    assert (schedule.block_m, schedule.block_n, schedule.num_stages) == (64, 64, 1)


def test_the_choice_is_explained() -> None:
    schedule = plan(module(128, 128), "sm_90")
    assert schedule.target == "sm_90"
    assert f"{schedule.block_m}x{schedule.block_n} tiles" in schedule.reason
    assert "bytes of shared memory" in schedule.reason


@pytest.mark.parametrize(
    ("config", "d", "bytes_"),
    [
        (TileConfig(128, 128, 8, 2), 128, 163_840),
        (TileConfig(64, 64, 4, 3), 128, 114_688),
        (TileConfig(128, 64, 8, 2), 256, 196_608),
        (TileConfig(128, 128, 8, 2), 64, 81_920),
    ],
)
def test_shared_memory_is_what_triton_allocated(config: TileConfig, d: int, bytes_: int) -> None:
    """Sizes read from kernels compiled for sm_90."""
    assert shared_memory(config, AttentionShape(d, d, 2), DEVICES["sm_90"]) == bytes_


def test_what_overflows_is_refused_with_numbers() -> None:
    reason = refusal(TileConfig(128, 256, 8, 2), AttentionShape(128, 128, 2), DEVICES["sm_90"])
    assert reason == "294912 bytes of shared memory, of 232448"


def test_the_serial_estimate_matches_the_facts() -> None:
    """128x128 tiles on sm_90: dots and exponentials take equal time at width 64, half at 128."""
    config, device = TileConfig(128, 128, 8, 2), DEVICES["sm_90"]
    narrow, wide = (tile_cycles(config, AttentionShape(d, d, 2), device) for d in (64, 128))
    assert narrow.dots == narrow.exponentials == 1024
    assert wide.dots == 2048
    assert device.tensor_peak == pytest.approx(989.5e12, rel=0.01)


def test_devices_are_named_by_their_target() -> None:
    assert (*DEVICES, *CPUS, "interpret") == TARGETS
    assert all(name == device.name for name, device in (*DEVICES.items(), *CPUS.items()))


@pytest.mark.parametrize(
    ("root", "target", "message"),
    [
        (module(64, 64), "sm_70", f"target must be one of {', '.join(TARGETS)}, but is 'sm_70'"),
        (module(64, 64, f64), "sm_90", "kernels take f16, bf16, f32, f8E4M3FN, f8E5M2, but q, k and v are f64"),
        (module(Symbol("d"), 64), "sm_90", "the head dimension must be a positive constant, but k is"),
        (module(8192, 64), "gfx942", "no tile sizes fit gfx942: head dimensions 8192 and 64 of 2 bytes need"),
    ],
)
def test_refusals(root: Operation, target: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        PlanAttention(target).run(root, PassContext())


def test_a_kernel_needs_a_schedule() -> None:
    with pytest.raises(CompileError, match="has no schedule; the pass 'plan' writes one"):
        Schedule.of(attention_in(module(64, 64)))


def test_a_schedule_by_hand_is_checked() -> None:
    attention = attention_in(module(64, 64))
    attention.schedule = Schedule(48, 64, 4, 2).to_attr()
    with pytest.raises(CompileError, match="schedule 'block_m' must be a power of two of at least 16, but is 48"):
        Schedule.of(attention)


def chunked(queries: int | Symbol, keys: int | Symbol) -> AttentionOp:
    """Attention inside of blocks of 32 positions."""
    b, h = Symbol("B"), Symbol("H")
    types = [TensorType((b, h, length, 64), f16) for length in (queries, keys, keys)]
    mask = region_block("mask", [])
    builder, (_, _, m, n) = Builder(mask), mask.arguments
    blocks = [builder.binary(FloorDivSIOp, x, builder.index(32)) for x in (m, n)]
    same = builder.create(CmpIOp, blocks, [i1], {"predicate": CmpIOp.predicate_attr("eq")}).out
    builder.create(YieldOp, [same])
    block = Block.with_arguments(types)
    results = [types[0], TensorType((b, h, queries), f32)]
    return AttentionOp.create(
        block.arguments, results, {"scale": FloatAttr(0.125)}, [Region([]), Region([mask])]
    )  # fmt: skip


def test_live_tiles_of_known_sizes_are_counted() -> None:
    """Tiles of 32 keep 8 of 64, tiles of 64 keep 4 of 16: half of what these compute is dropped."""
    live = live_tiles(chunked(256, 256))
    assert live(TileConfig(32, 32, 4, 1)) == 8 / 64
    assert live(TileConfig(64, 64, 4, 1)) == 4 / 16


def test_live_tiles_of_unknown_sizes_are_all() -> None:
    assert live_tiles(chunked(Symbol("M"), 256))(TileConfig(32, 32, 4, 1)) == 1.0
    assert live_tiles(attention_in(module(64, 64)))(TileConfig(32, 32, 4, 1)) == 1.0


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_tiles_lie_inside_the_blocks_of_a_table(target: str) -> None:
    """Unless those are so small that tensor cores would have too little to do."""
    for unit, least in ((64, 64), (128, 64), (16, 64)):
        root = MaskCase(f16, 64, form="block table", unit=unit).module()
        plan(root, target)
        schedule = Schedule.of(attention_in(root))
        assert schedule.lists == 1 and schedule.block_m >= least
        assert unit < 64 or unit % schedule.block_m == unit % schedule.block_n == 0
