"""Plans for CPUs: register blocks that fit, tiles that stay in the caches, heights for few rows."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from unit.passes.test_plan import attention_in, module, plan

from attir.compiler.attention_cases import Case, Form, window
from attir.cost_model.cpus import CPUS, Cpu
from attir.cost_model.devices import device_named
from attir.cost_model.resources import AttentionShape
from attir.cost_model.schedule import CPU_FIELDS, Schedule
from attir.ir.attributes import DictAttr, FloatType, IntegerAttr, bf16, f16, f32
from attir.ir.diagnostics import CompileError
from attir.passes.live_keys import LiveKeys, RowsTried, Visits, keys_of_blocks
from attir.passes.manager import PassContext
from attir.passes.mask_plan import MaskPlan
from attir.passes.plan import PlanAttention
from attir.passes.plan_cpu import SCRATCH_BYTES, Blocking, blocking_cycles, folded_rows, scratch_bytes
from benchmarks.mask_families import MaskCase

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


@dataclass(frozen=True)
class Windowed(Case):
    """Each query sees itself and some keys before it."""

    keys: int = 0

    @property
    def rule(self) -> Form:
        return window(self.keys)


def windowed(keys: int) -> Windowed:
    return Windowed(f32, 64, keys=keys)


def planned_under(case: Case, rows: int = 0, cpu: Cpu = AVX512) -> Schedule:
    root = case.module()
    PlanAttention(cpu.name, rows).run(root, PassContext())
    return Schedule.of(attention_in(root))


def test_masks_of_nearly_everything_keep_the_tiles_of_attention_without_one() -> None:
    for d in (64, 128):
        usual = planned(AVX512, d, d, f32)
        for form in ("causal", "documents"):
            schedule = planned_under(Case(f32, d, form=form))
            assert (schedule.block_m, schedule.block_n, schedule.columns) == (
                usual.block_m, usual.block_n, usual.columns,
            )  # fmt: skip


def test_narrow_windows_get_short_tiles() -> None:
    """A tile visits the window and as many keys more as it has rows."""
    heights = [planned_under(windowed(width)).block_m for width in (32, 256, 4096)]
    assert heights[0] <= heights[1] == 32 < heights[2] == 64


def test_a_window_is_cut_into_whole_tiles() -> None:
    """256 keys seen by 32 rows are 224 that all of them see."""
    schedule = planned_under(windowed(256))
    assert 224 % schedule.block_n == 0


@pytest.mark.parametrize("unit", [16, 32, 48, 64, 96, 128])
@pytest.mark.parametrize("cpu", CPUS.values(), ids=lambda c: c.name)
def test_tiles_lie_inside_the_blocks_of_a_table(unit: int, cpu: Cpu) -> None:
    for d in (64, 128):
        schedule = planned_under(MaskCase(f32, d, form="block table", unit=unit), cpu=cpu)
        assert unit % schedule.block_m == unit % schedule.block_n == 0
        assert schedule.lists == 1
        for rows in (1, 8, 40):
            assert unit % planned_under(MaskCase(f32, d, form="block table", unit=unit), rows, cpu).block_n == 0


def test_lists_are_made_where_bounds_do_not_tell_which_tiles_are_empty() -> None:
    wanted = {"documents": 1, "block table": 1, "2-d neighbourhood": 1, "sink and window": 0, "chunked": 0}
    for form, lists in wanted.items():
        case = MaskCase(f32, 64, form=form, unit=64)
        assert planned_under(case).lists == lists
        assert planned_under(case, rows=4).lists == 0


def test_visits_are_those_of_the_mask() -> None:
    """Of 64 rows in the middle of a window of 256: 193 keys that all of them see, 319 that one does."""
    plan = MaskPlan.of(attention_in(windowed(256).module()).mask)
    tried = LiveKeys.of(plan, None, None, 16).at_height(64)
    middle = RowsTried(tried.kind, tried.bounded, 16, tried.may[5:6], tried.must[5:6])
    assert middle.visits(64) == Visits(192, 128, 0)
    assert middle.visits(128) == Visits(128, 192, 0)


def test_visits_of_tables_of_which_nothing_is_known() -> None:
    """About one block in eight is taken to be kept, and tiles across blocks to be cut."""
    plan = MaskPlan.of(attention_in(MaskCase(f32, 64, form="block table", unit=64).module()).mask)
    assert keys_of_blocks(plan) == 64
    live = LiveKeys.of(plan, None, None, 16)
    inside, across = live.at_height(64).visits(64), live.at_height(48).visits(64)
    assert inside.cut == 0 and 0.09 < inside.full / live.keys < 0.16
    assert across.cut > 0.3 * inside.full and inside.looked == live.keys / 64


def test_planning_takes_milliseconds() -> None:
    """A few, where nothing else runs; much more here would mean that every tile is looked at."""
    for form in ("2-d neighbourhood", "block table"):
        root = MaskCase(f32, 64, form=form, unit=512).module()
        started = time.process_time()
        PlanAttention("avx512").run(root, PassContext())
        assert time.process_time() - started < 0.2
