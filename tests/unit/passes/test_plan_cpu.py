"""Plans for CPUs: register blocks that fit, tiles that stay in the caches, heights for few rows."""

from __future__ import annotations

import pytest
from unit.passes.test_plan import attention_in, module, plan

from attir.cost_model.cpus import CPUS, Cpu
from attir.cost_model.devices import device_named
from attir.cost_model.resources import AttentionShape
from attir.ir.attributes import DictAttr, FloatType, IntegerAttr, bf16, f16, f32
from attir.ir.diagnostics import CompileError
from attir.passes.manager import PassContext
from attir.passes.plan import PlanAttention
from attir.passes.plan_cpu import SCRATCH_BYTES, Blocking, blocking_cycles, folded_rows, scratch_bytes
from attir.passes.schedule import CPU_FIELDS, Schedule

AVX512, AVX2 = CPUS["avx512"], CPUS["avx2"]
WIDTHS = (1, 16, 24, 64, 72, 80, 96, 128, 192, 256)


def planned(cpu: Cpu, d: int, e: int, dtype: FloatType, rows: int = 0) -> Schedule:
    root = module(d, e, dtype)
    PlanAttention(cpu.name, rows).run(root, PassContext())
    return Schedule.of(attention_in(root))


@pytest.mark.parametrize("cpu", CPUS.values(), ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [f16, bf16, f32], ids=str)
def test_every_head_dimension_has_a_plan_that_fits(cpu: Cpu, dtype: FloatType) -> None:
    for d in WIDTHS:
        for e in (1, 64, d, 256):
            schedule = planned(cpu, d, e, dtype)
            vectors = schedule.block_m // cpu.lanes
            blocking = Blocking(vectors, schedule.columns, schedule.block_n)
            assert schedule.block_m == vectors * cpu.lanes
            assert blocking.registers <= cpu.vector_registers
            assert scratch_bytes(blocking, cpu, AttentionShape(d, e, dtype.width // 8)) <= SCRATCH_BYTES
            assert schedule.block_n % schedule.edge_n == schedule.edge_n % schedule.columns == 0
            assert (schedule.lanes, schedule.folded, schedule.split) == (cpu.lanes, 0, 0)


@pytest.mark.parametrize(
    ("cpu", "d", "tile"),
    [(AVX512, 64, (64, 4, 64)), (AVX512, 128, (48, 8, 96)), (AVX2, 64, (24, 4, 128)), (AVX2, 128, (24, 4, 128))],
)
def test_tiles_are_those_the_estimate_was_set_for(cpu: Cpu, d: int, tile: tuple[int, int, int]) -> None:
    schedule = planned(cpu, d, d, f32)
    assert (schedule.block_m, schedule.columns, schedule.block_n) == tile


def test_a_tile_beyond_l1_costs() -> None:
    """64 rows of q at width 128 are all of L1, 48 leave room."""
    shape = AttentionShape(128, 128, 4)
    high, low = (blocking_cycles(Blocking(*b), AVX512, shape) for b in ((4, 4, 64), (3, 8, 64)))
    assert high.dots > low.dots == 128


@pytest.mark.parametrize(
    ("rows", "narrow", "wide"),
    [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 4, 4), (5, 8, 8), (9, 16, 16), (17, 24, 32), (33, 32, 48), (1000, 32, 64)],
)
def test_heights_of_folded_tiles(rows: int, narrow: int, wide: int) -> None:
    assert (folded_rows(AVX2, rows), folded_rows(AVX512, rows)) == (narrow, wide)


@pytest.mark.parametrize("cpu", CPUS.values(), ids=lambda c: c.name)
@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16, 40])
def test_few_rows_are_folded_and_their_keys_split(cpu: Cpu, rows: int) -> None:
    for d in WIDTHS:
        for dtype in (f16, f32):
            schedule = planned(cpu, d, d, dtype, rows)
            assert schedule.block_m == folded_rows(cpu, rows)
            assert (schedule.folded, schedule.split, schedule.edge_n) == (1, 1, 16)
            assert schedule.block_n % 16 == 0
            if schedule.block_m < cpu.lanes:
                assert schedule.columns * schedule.block_m == cpu.lanes
                assert schedule.block_n * 2 * d * 4 <= cpu.l2_bytes


def test_the_choice_is_explained() -> None:
    reason = planned(AVX512, 128, 128, f16).reason
    assert reason.startswith("48x96 tiles in register blocks of 3 vectors by 8, ")
    assert "of scratch memory; best of" in reason
    assert planned(AVX512, 128, 128, f16, rows=2).reason.startswith("2 folded rows by 256 keys, 8 keys a vector: ")


@pytest.mark.parametrize(("rows", "bytes_"), [(0, "[0-9]+"), (1, "[0-9]+")])
def test_what_needs_too_much_scratch_memory_is_refused(rows: int, bytes_: str) -> None:
    message = f"no tile sizes fit avx512: head dimensions 200000 and 200000 need {bytes_} bytes of scratch memory"
    with pytest.raises(CompileError, match=message):
        planned(AVX512, 200_000, 200_000, f16, rows)


def test_a_cpu_is_no_device() -> None:
    with pytest.raises(CompileError, match="target 'avx2' is a CPU, and this needs one of sm_80, sm_90"):
        device_named("avx2")


@pytest.mark.parametrize("target", ["sm_90", "interpret"])
def test_schedules_of_gpus_are_written_as_ever(target: str) -> None:
    root = module(64, 64)
    plan(root, target)
    written = attention_in(root).schedule
    assert written is not None
    assert not {key for key, _ in written.items} & set(CPU_FIELDS)


def test_a_schedule_for_a_cpu_reads_back() -> None:
    attention = attention_in(module(64, 64))
    schedule = Schedule(12, 24, 1, 1, target="avx2", lanes=4, columns=2, edge_n=8, folded=1, split=1)
    attention.schedule = schedule.to_attr()
    assert Schedule.of(attention) == schedule
    assert (schedule.edge, Schedule(12, 24, 1, 1, lanes=4).edge) == (8, 24)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule(12, 24, 1, 1, lanes=4, edge_n=16), "schedule 'block_n' 24 must be a multiple of 'edge_n' 16"),
        (Schedule(12, 24, 1, 1, lanes=4, folded=2), "schedule 'folded' must be 0 or 1, but is 2"),
        (Schedule(12, 24, 1, 1, lanes=4, columns=-1), "schedule needs 'columns' as an integer that is not negative"),
    ],
)
def test_a_schedule_by_hand_is_checked(schedule: Schedule, message: str) -> None:
    attention = attention_in(module(64, 64))
    attention.schedule = schedule.to_attr()
    with pytest.raises(CompileError, match=message):
        Schedule.of(attention)


def test_fields_for_cpus_need_lanes() -> None:
    attention = attention_in(module(64, 64))
    attention.schedule = DictAttr((*Schedule(64, 64, 4, 2).to_attr().items, ("edge_n", IntegerAttr(16))))
    with pytest.raises(CompileError, match="schedule 'edge_n' is for CPUs and needs 'lanes'"):
        Schedule.of(attention)
