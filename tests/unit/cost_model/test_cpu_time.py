"""The analytical time of native kernels: terms beside arithmetic by hand, what it grows with, what it ranks first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from attir.cost_model import cpu_time
from attir.cost_model.cpu_time import BLOCK, EXPOSED_WIDE, cpu_estimate, score_cycles, wide_step
from attir.cost_model.cpus import CPUS, DEFAULT_RATES, CpuRates, rates_for, set_rates
from attir.cost_model.prediction import Estimate
from attir.cost_model.problem import CaptureLoad, Problem, Sizes, Visits
from attir.cost_model.resources import AttentionShape
from attir.cost_model.schedule import Schedule
from attir.passes.plan_cpu import cpu_candidates

RATES = replace(DEFAULT_RATES["avx512"], threads=1)
WIDE = Schedule(64, 64, 1, 1, target="avx512", lanes=16, columns=4, edge_n=16)
NARROW = Schedule(2, 64, 1, 1, target="avx512", lanes=16, columns=8, edge_n=16, folded=1)


USUAL = Sizes()


def problem(width: int = 64, sizes: Sizes = USUAL, element: str = "f32") -> Problem:
    return Problem(sizes, AttentionShape(width, width, 4 if element == "f32" else 2), element)


def visited(case: Problem, schedule: Schedule, splits: int = 1) -> Visits:
    """All keys, as kernels without a mask visit them."""
    sizes = case.sizes
    rows = sizes.queries * (sizes.group if schedule.folded else 1)
    heads = sizes.batch * (sizes.key_heads if schedule.folded else sizes.heads)
    programs = heads * -(-rows // schedule.block_m)
    full, rest = divmod(sizes.keys, schedule.block_n)
    cut = -(-rest // schedule.edge)
    pairs = heads * rows * full * schedule.block_n, heads * rows * rest
    return Visits(
        programs, programs * full, programs * cut, heaviest=sizes.keys / splits, splits=splits,
        full_pairs=pairs[0], cut_pairs=pairs[1],
    )  # fmt: skip


def estimate(case: Problem, schedule: Schedule, rates: CpuRates = RATES, splits: int = 1) -> Estimate:
    return cpu_estimate(case, schedule, visited(case, schedule, splits), rates)


def by_time(case: Problem, rows: int = 0, rates: CpuRates = RATES) -> list[Schedule]:
    """The candidates, best first."""
    found = cpu_candidates(CPUS[rates.name], case.shape, rows)
    assert isinstance(found, list)
    return sorted(found, key=lambda s: estimate(case, s, rates).seconds)


# --- terms


@pytest.mark.parametrize(("block_m", "columns"), [(16, 8), (32, 8), (48, 4), (64, 4)])
def test_the_cycles_of_products_are_those_of_every_step_counted(block_m: int, columns: int) -> None:
    case = problem(sizes=Sizes(1, 2, 2, 128, 192))
    schedule = replace(WIDE, block_m=block_m, columns=columns, block_n=48)
    cycles = {"scores": 0.0, "values": 0.0}
    for _ in range(2 * -(-128 // block_m)):
        for _ in range(0, 192, 48):
            for _ in range(0, 48, columns):
                cycles["scores"] += BLOCK + sum(wide_step(block_m // 16, columns, RATES) for _ in range(64))
            for _ in range(0, 64, columns):
                cycles["values"] += BLOCK + sum(wide_step(block_m // 16, columns, RATES) for _ in range(48))
    found = estimate(case, schedule)
    for name, expected in cycles.items():
        assert found.term(name).amount == pytest.approx(expected)
        assert found.term(name).seconds == pytest.approx(expected / RATES.clock)


def test_a_step_takes_no_less_than_any_of_its_limits() -> None:
    for vectors, columns in ((1, 4), (1, 16), (2, 8), (3, 8), (4, 4)):
        step = wide_step(vectors, columns, RATES)
        assert step >= max(vectors * columns / RATES.fma, cpu_time.LATENCY_SHARE * RATES.latency)
    assert wide_step(1, 4, RATES) < 1.2 * RATES.latency
    assert wide_step(4, 4, RATES) / 16 < 0.7 * wide_step(1, 4, RATES) / 4


def test_columns_that_do_not_divide_the_width_cost_a_block_of_their_own() -> None:
    whole, ragged = (estimate(problem(width), WIDE).term("values").seconds / width for width in (64, 66))
    assert whole < ragged < 1.1 * whole


@pytest.mark.parametrize(
    ("sizes", "level"),
    [
        (Sizes(1, 1, 1, 1024, 256), "l2"),
        (Sizes(1, 1, 1, 1024, 8192), "l3"),
        (Sizes(1, 1, 1, 1024, 1 << 18), "memory"),
    ],
)
def test_keys_are_read_again_from_where_they_fit(sizes: Sizes, level: str) -> None:
    found = estimate(problem(sizes=sizes), WIDE)
    read = {name: found.term(name).amount for name in ("l2", "l3", "memory")}
    assert read == {name: (1024 // 64 * sizes.keys * 128 * 4 if name == level else 0) for name in read}
    place = ("l2", "l3", "memory").index(level) + 1
    assert found.term(level).seconds == pytest.approx(EXPOSED_WIDE * read[level] / RATES.levels[place].read)


def test_the_keys_of_many_heads_come_from_afar_once() -> None:
    """One head lies in L2, all of them do not: the first tile of rows of each head reads from L3."""
    found = estimate(problem(sizes=Sizes(1, 16, 16, 256, 512)), WIDE)
    assert found.term("l3").amount == 16 * 512 * 512
    assert found.term("l2").amount == 3 * 16 * 512 * 512


def test_half_types_are_converted_and_f32_is_not() -> None:
    terms = [estimate(problem(element=e), WIDE).term("conversions").seconds for e in ("f32", "f16", "bf16")]
    assert terms[0] == 0 < min(terms[1:])
    slower = replace(RATES, widened_f16=RATES.widened_f16 / 2)
    assert estimate(problem(element="f16"), WIDE, slower).term("conversions").seconds == pytest.approx(2 * terms[1])


def test_softmax_and_rescaling_follow_vectors_and_tiles() -> None:
    case = problem()
    short, long = (estimate(case, replace(WIDE, block_n=n)) for n in (32, 128))
    assert short.term("rescaling").amount == 4 * long.term("rescaling").amount
    assert short.term("softmax").seconds > long.term("softmax").seconds


def test_regions_cost_by_what_they_hold() -> None:
    plain = problem()
    kinds = {
        "add": replace(plain, score_ops={"arith.addf": 1}),
        "tanh": replace(plain, score_ops={"math.tanh": 1}),
        "slope": replace(plain, loads=(CaptureLoad("score", 0, "h", 4),), score_ops={"tensor.extract": 1}),
        "bias": replace(plain, loads=(CaptureLoad("score", 0, "hmn", 4),), score_ops={"tensor.extract": 1}),
    }
    times = {name: estimate(case, WIDE).term("regions").seconds for name, case in kinds.items()}
    assert estimate(plain, WIDE).term("regions").seconds == 0
    assert 0 < times["add"] <= times["slope"] < times["bias"]
    assert times["tanh"] > 5 * times["add"]
    alone = estimate(kinds["bias"], replace(WIDE, columns=2)).term("regions").seconds
    assert alone > 2 * times["bias"], "elements of columns that are no run are gathered one by one"


def test_masks_cost_in_cut_tiles_and_where_tiles_are_looked_at() -> None:
    visits = Visits(16, 100, 40, looked=30)
    none, bounds, tiles = (
        cpu_estimate(replace(problem(), mask=kind, mask_ops={"arith.cmpi": 2}), WIDE, visits, RATES)
        for kind in ("none", "bounds", "tiles")
    )
    assert none.term("mask").seconds == 0 < bounds.term("mask").seconds < tiles.term("mask").seconds
    assert bounds.term("mask").amount == pytest.approx(40 * 16 * 4 * cpu_time.BOUND)
    assert tiles.term("looks").amount == pytest.approx(30 * cpu_time.LOOK)
    listed = cpu_estimate(replace(problem(), mask="tiles"), replace(WIDE, lists=1), visits, RATES)
    assert listed.term("looks").seconds < tiles.term("looks").seconds
    assert listed.term("lists").amount == 30 and tiles.term("lists").seconds == 0


def test_ragged_ends_are_told_and_counted_once() -> None:
    even, ragged = (estimate(problem(sizes=Sizes(1, 1, 1, n, n)), WIDE) for n in (128, 120))
    assert even.term("ragged ends").amount == 0
    assert ragged.term("ragged ends").amount == 128 * 128 - 120 * 120
    assert ragged.term("ragged ends").hidden
    assert ragged.seconds == pytest.approx(sum(t.seconds for t in ragged.terms if t.name != "ragged ends"))


def test_split_keys_are_merged_and_single_parts_of_f32_are_the_result() -> None:
    case = problem(sizes=Sizes(1, 16, 8, 1, 8192))
    split = replace(NARROW, split=1)
    assert estimate(case, NARROW).term("merge").seconds == 0
    assert estimate(case, split, splits=1).term("merge").seconds == 0
    assert estimate(replace(case, element="bf16"), split, splits=1).term("merge").seconds > 0
    assert estimate(case, split, splits=8).term("merge").amount == 16 * 8


# --- threads


def test_threads_share_programs_and_the_heaviest_is_waited_for() -> None:
    case = problem(sizes=Sizes(1, 8, 8, 1024, 1024))
    one, eight = estimate(case, WIDE), estimate(case, WIDE, replace(RATES, threads=8))
    assert one.seconds / 8 < eight.seconds < one.seconds / 6
    assert eight.term("imbalance").seconds >= 0
    visits = Visits(10, 100, 0, heaviest=64 * 91)
    lone = cpu_estimate(case, WIDE, visits, replace(RATES, threads=10))
    whole = cpu_estimate(case, WIDE, visits, RATES)
    assert lone.seconds > 0.9 * whole.seconds


def test_split_keys_pay_where_threads_would_idle_and_not_on_one() -> None:
    case = problem(128, Sizes(1, 16, 2, 1, 32768))
    schedule = replace(NARROW, block_m=8, columns=2, block_n=128)
    for threads, better in ((1, 0), (16, 1)):
        rates = replace(RATES, threads=threads)
        whole, parts = estimate(case, schedule, rates), estimate(case, replace(schedule, split=1), rates, splits=32)
        assert (parts.seconds < whole.seconds) == bool(better)


def test_small_calls_stay_on_one_thread() -> None:
    case = problem(sizes=Sizes(1, 1, 1, 16, 16))
    assert estimate(case, WIDE, replace(RATES, threads=64)) == estimate(case, WIDE)


# --- monotonicity

MORE: dict[str, Callable[[Problem], Problem]] = {
    "keys": lambda p: replace(p, sizes=replace(p.sizes, keys=2 * p.sizes.keys)),
    "queries": lambda p: replace(p, sizes=replace(p.sizes, queries=2 * p.sizes.queries)),
    "heads": lambda p: replace(p, sizes=replace(p.sizes, heads=2 * p.sizes.heads, key_heads=2 * p.sizes.key_heads)),
    "batch": lambda p: replace(p, sizes=replace(p.sizes, batch=3 * p.sizes.batch)),
    "width": lambda p: replace(p, shape=replace(p.shape, key_width=2 * p.shape.key_width)),
    "value width": lambda p: replace(p, shape=replace(p.shape, value_width=2 * p.shape.value_width)),
    "ops": lambda p: replace(p, score_ops={"math.exp": 2}),
}


@pytest.mark.parametrize("change", MORE)
@pytest.mark.parametrize("schedule", [WIDE, NARROW, replace(NARROW, block_m=16)], ids=["wide", "narrow", "few"])
def test_more_work_takes_longer(change: str, schedule: Schedule) -> None:
    case = problem()
    assert estimate(MORE[change](case), schedule).seconds > 1.02 * estimate(case, schedule).seconds


@pytest.mark.parametrize("rate", ["clock", "exponentials", "widened_f16", "fma", "loads"])
def test_nothing_gets_slower_on_a_faster_cpu(rate: str) -> None:
    faster = replace(RATES, **{rate: 1.5 * getattr(RATES, rate)})
    for schedule in (WIDE, NARROW):
        case = problem(element="f16")
        assert estimate(case, schedule, faster).seconds <= estimate(case, schedule).seconds


# --- what is ranked first, as measured on a Zen 5


@pytest.mark.parametrize(("width", "element"), [(32, "f32"), (64, "f32"), (128, "f32"), (64, "bf16"), (128, "f16")])
def test_register_blocks_that_are_known_to_be_good_come_first(width: int, element: str) -> None:
    """Blocks of 16 accumulators and more beat those bound by latency by up to a half."""
    case = problem(width, Sizes(1, 2, 2, 1024, 1024), element)
    ranked = by_time(case)
    best, worst = ranked[0], ranked[-1]
    assert best.block_m // 16 * best.columns >= 12
    assert worst.block_m // 16 * worst.columns <= 4
    assert estimate(case, worst).seconds > 1.5 * estimate(case, best).seconds


def test_tiles_as_high_as_the_queries_are_worth_most() -> None:
    """128 rows are 3 tiles of 48, which compute 16 rows in vain."""
    ranked = by_time(problem(64, Sizes(1, 8, 8, 128, 128)))
    assert 128 % ranked[0].block_m == 0


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_narrow_tiles_serve_few_rows(rows: int) -> None:
    """A whole vector of rows for 8 or fewer took twice to five times as long."""
    case = problem(64, Sizes(1, 4 * rows, 4, 1, 4096))
    best = by_time(case, rows)[0]
    assert best.block_m == rows and best.block_n >= 48
    wide = [s for s in by_time(case, rows) if s.block_m >= 16]
    assert not wide or estimate(case, wide[0]).seconds > 1.3 * estimate(case, best).seconds


def test_an_estimate_takes_microseconds() -> None:
    """About 25 where nothing else runs."""
    case = problem()
    schedules = [s for s in by_time(case) for _ in range(5)]
    started = time.process_time()
    for schedule in schedules:
        estimate(case, schedule)
    assert (time.process_time() - started) / len(schedules) < 3e-4


def test_cycles_of_a_score_are_those_of_long_sequences() -> None:
    case = problem(sizes=Sizes(1, 1, 1, 8192, 8192))
    main = [t.seconds for t in estimate(case, WIDE).terms if t.name not in ("launch", "rows") and not t.hidden]
    assert score_cycles(case.shape, WIDE, RATES, "f32") == pytest.approx(sum(main) / 8192**2 * RATES.clock, rel=0.02)


# --- rates


def test_rates_that_are_set_replace_the_default() -> None:
    faster = replace(DEFAULT_RATES["avx2"], clock=9e9)
    try:
        set_rates("avx2", faster)
        assert rates_for("avx2") == faster
        assert rates_for("avx2", threads=3) == replace(faster, threads=3)
    finally:
        set_rates("avx2", None)
    assert rates_for("avx2") == DEFAULT_RATES["avx2"]


@pytest.mark.parametrize("name", CPUS)
def test_default_rates_make_sense(name: str) -> None:
    rates = DEFAULT_RATES[name]
    assert [level.bytes for level in rates.levels] == sorted(level.bytes for level in rates.levels)
    assert [level.read for level in rates.levels] == sorted((level.read for level in rates.levels), reverse=True)
    assert rates.levels[-1].bytes == math.inf
    assert rates.flops == 2 * CPUS[name].lanes * rates.fma * rates.clock
    assert all(level.copy <= level.read for level in rates.levels)
