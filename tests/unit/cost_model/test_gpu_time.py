"""The time of a call on a GPU: waves against simulated programs, and how its terms move with sizes and schedules."""

from __future__ import annotations

import heapq
from dataclasses import replace

import pytest

from attir.compiler.attention_cases import Case
from attir.cost_model.counts import io_lower_bound
from attir.cost_model.devices import MARKETED, Device, device_described
from attir.cost_model.gpu_time import gpu_estimate
from attir.cost_model.prediction import Estimate
from attir.cost_model.problem import Sizes
from attir.cost_model.schedule import Schedule
from attir.cost_model.waves import Waves
from attir.ir.attributes import bf16
from attir.ir.dialects.attn import AttentionOp
from attir.passes.problem import problem_of
from attir.passes.visits import visits_of

H100, H200 = device_described("h100"), device_described("h200")
TILES = Schedule(128, 128, 8, 2, target="sm_90", descriptors="device")


def estimate(
    sizes: Sizes, schedule: Schedule = TILES, device: Device = H100, form: str = "none", width: int = 128
) -> Estimate:
    attention = next(
        AttentionOp(op)
        for op in Case(bf16, width, group=sizes.group, form=form).module().walk()
        if AttentionOp.match(op)
    )  # fmt: skip
    problem = problem_of(attention, sizes, padded=True, few_rows=schedule.few_rows)
    return gpu_estimate(problem, schedule, visits_of(attention, schedule, sizes), device)


def simulated(lengths: list[float], machines: int) -> float:
    """Each program goes to the multiprocessor that is free first, in the order given."""
    free = [0.0] * machines
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


@pytest.mark.parametrize("machines", [8, 108, 132])
@pytest.mark.parametrize("count", [1, 7, 107, 132, 133, 200, 264, 300, 1000, 5000])
def test_equal_programs_take_whole_waves(count: int, machines: int) -> None:
    found = Waves(3.0 * count, 3.0, count, machines)
    assert found.makespan == pytest.approx(simulated([3.0] * count, machines))
    assert found.even + found.tail + found.imbalance == pytest.approx(found.makespan)


@pytest.mark.parametrize("machines", [8, 108, 132])
@pytest.mark.parametrize("heads", [1, 4, 16, 37, 64])
@pytest.mark.parametrize("tiles", [4, 16, 63])
def test_causal_programs_fill_gaps(tiles: int, heads: int, machines: int) -> None:
    """The longest first, the same tile of all heads in turn."""
    lengths = [float(tile) for tile in range(tiles, 0, -1) for _ in range(heads)]
    found = Waves(sum(lengths), max(lengths), len(lengths), machines)
    assert found.makespan == pytest.approx(simulated(lengths, machines), rel=0.15)
    assert found.even + found.tail + found.imbalance == pytest.approx(found.makespan)


def test_nothing_takes_no_time() -> None:
    assert Waves(0.0, 0.0, 0, 132).makespan == 0.0


@pytest.mark.parametrize("name", ["batch", "heads", "queries", "keys"])
@pytest.mark.parametrize("device", MARKETED)
def test_more_takes_longer(name: str, device: str) -> None:
    schedule = replace(TILES, block_m=64, block_n=64, num_warps=4, descriptors="", target=MARKETED[device].name)
    sizes = Sizes(2, 16, 16, 2048, 2048)
    larger = replace(sizes, **{name: 2 * getattr(sizes, name)}, **({"key_heads": 32} if name == "heads" else {}))
    seconds = [estimate(s, schedule, MARKETED[device]).seconds for s in (sizes, larger)]
    assert 1.5 < seconds[1] / seconds[0] < 2.6


def test_half_of_the_keys_take_about_half_of_the_time() -> None:
    sizes = Sizes(4, 32, 32, 8192, 8192)
    dense, causal = (estimate(sizes, form=form).seconds for form in ("none", "causal"))
    assert 0.5 < causal / dense < 0.56


def test_hopper_is_as_fast_as_the_best_kernels_are() -> None:
    """FlashAttention-3 reaches 648 TFLOP/s for these sizes, cuDNN about 595."""
    found = estimate(Sizes(1, 32, 32, 16384, 16384))
    assert 560e12 < 4 * 32 * 16384**2 * 128 / found.seconds < 700e12


def test_decoding_reads_the_cache_as_fast_as_memory_gives_it() -> None:
    """135 us are measured on an H200 for 32 users of 4096 tokens."""
    decode = Schedule(16, 128, 4, 3, target="sm_90", descriptors="host", folded=1, split=1)
    found = estimate(Sizes(32, 32, 8, 1, 4096), decode, H200)
    assert 110e-6 < found.seconds < 150e-6
    assert not found.term("memory").hidden and found.term("scores").hidden


def test_splitting_pays_where_few_programs_read_long_caches() -> None:
    decode = Schedule(16, 128, 4, 3, target="sm_90", descriptors="host", folded=1, split=1)
    alone = replace(decode, split=0)
    long, many = Sizes(1, 32, 8, 1, 65536), Sizes(64, 32, 8, 1, 1024)
    assert estimate(long, decode).seconds < 0.2 * estimate(long, alone).seconds
    assert estimate(many, alone).seconds < estimate(many, decode).seconds
    assert estimate(long, decode).term("merge").seconds > 0.0 == estimate(long, alone).term("merge").seconds


def test_a_wave_more_shows_in_the_tail() -> None:
    one, more = (estimate(Sizes(1, heads, heads, 128, 4096)) for heads in (132, 133))
    assert one.term("tail").seconds == pytest.approx(0.0, abs=1e-9)
    assert more.term("tail").seconds > 0.9 * one.term("scores").seconds


def test_lists_cost_a_kernel_and_save_looking() -> None:
    sizes, tiles = Sizes(1, 8, 8, 4096, 4096), replace(TILES, block_m=64, block_n=64, num_warps=4)
    branching, listed = (estimate(sizes, replace(tiles, lists=x), form="documents") for x in (0, 1))
    assert branching.term("looks").seconds > 0.0 == branching.term("lists").seconds
    assert listed.term("lists").seconds > 0.0 == listed.term("looks").seconds
    assert listed.term("launch").seconds > branching.term("launch").seconds


def test_visible_terms_sum_up_to_what_takes_longest() -> None:
    found = estimate(Sizes(4, 32, 32, 4096, 4096))
    dots = found.term("scores").seconds + found.term("values").seconds
    assert found.seconds > dots + max(found.term("exponentials").seconds, found.term("issue").seconds)
    assert found.seconds >= found.term("memory").seconds and found.term("memory bound").hidden


def test_memory_traffic_is_above_the_lower_bound() -> None:
    sizes = Sizes(4, 32, 32, 8192, 8192)
    found = estimate(sizes)
    attention = next(AttentionOp(op) for op in Case(bf16, 128).module().walk() if AttentionOp.match(op))
    problem = problem_of(attention, sizes, padded=True)
    assert found.term("memory").amount >= found.term("memory bound").amount == io_lower_bound(problem, H100.l2_size)
    assert found.term("l2").amount >= found.term("l2 bound").amount
