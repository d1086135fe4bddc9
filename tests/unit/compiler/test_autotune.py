"""Candidates are made, compared and measured in turns; the fastest that agrees serves, and is found again."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attir.compiler import autotune, serving, site_plans
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.autotune import WORKER, Stopped, Trial, Tuned, difference_in_words, differs, settled, tune
from attir.compiler.layouts import Results
from attir.compiler.measuring import Timing
from attir.compiler.native_kernels import NativeKernels
from attir.compiler.native_runtime import NativeRunner
from attir.compiler.native_support import native_problem
from attir.compiler.site_plans import Calls, SitePlans, decision_of, schedule_from, wishes_of
from attir.compiler.triton_kernels import TritonKernels
from attir.compiler.triton_runtime import TritonRunner
from attir.compiler.tuning import Tuning
from attir.compiler.tuning_cache import tuning_cache
from attir.cost_model.cpus import DEFAULT_RATES, set_rates
from attir.cost_model.prediction import Estimate, Prediction, Term
from attir.cost_model.problem import Sizes, Visits
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import f16, f32
from attir.ir.diagnostics import CompileError, error
from attir.passes.ranking import Candidate
from benchmarks.fake_driver import FakeDriver, FakeGpu, FakeMachine, fake_driver

native = pytest.mark.skipif(bool(native_problem()), reason=f"no native kernels: {native_problem()}")
SMALL = Shape(1, 2, 2, 64, 64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from other tests."""
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))


# --- the engine, with kernels that are numbers


def candidate(number: int) -> Candidate:
    """The candidate that is predicted to be in place `number`."""
    schedule = Schedule(16 * (number + 1), 16, 1, 1, target="avx512", lanes=16)
    seconds = 1e-3 * (number + 1)
    return Candidate(schedule, Visits(1, 1.0, 0.0), Estimate((Term("all", seconds),)), Prediction(seconds, seconds))


class Bench:
    """Kernels whose results and times are set; time passes only as they are made and measured."""

    def __init__(self, times: Sequence[float], *, making: float = 0.0) -> None:
        self.times, self.making, self.clock = list(times), making, 0.0
        self.results: dict[int, float] = {}
        self.broken: set[int] = set()
        self.made: list[int] = []
        self.measured: list[list[int]] = []
        self.candidates = [candidate(i) for i in range(len(times))]

    def make(self, schedule: Schedule) -> int:
        number = schedule.block_m // 16 - 1
        self.clock += self.making
        if number in self.broken:
            raise error("there is no such kernel")
        self.made.append(number)
        return number

    def call(self, kernel: int) -> Callable[[], Results]:
        value = self.results.get(kernel, 1.0)
        return lambda: (torch.full((1, 1, 2, 4), value), torch.zeros(1, 1, 2))

    def measure(
        self,
        calls: Mapping[str, Callable[[], object]],
        *,
        reference: str | None,
        seconds: float,
        device: str,
        enough: Callable[[Mapping[str, Timing], float], bool],
    ) -> Mapping[str, Timing]:
        del enough
        assert reference == "0" and device == "cpu"
        self.measured.append([int(name) for name in calls])
        self.clock += seconds
        for call in calls.values():
            call()
        kept = [i for i in self.made if i not in self.wrong]
        base = self.times[kept[0]]
        return {
            name: Timing(self.times[kept[int(name)]], self.times[kept[int(name)]] / base, 0.01, 5) for name in calls
        }

    @property
    def wrong(self) -> set[int]:
        return {i for i, value in self.results.items() if value != 1.0}

    def tune(self, tuning: Tuning, stop: threading.Event | None = None) -> Tuned:
        trial = Trial(self.make, self.call)
        return tune(self.candidates, trial, tuning, measure=self.measure, now=lambda: self.clock, stop=stop)


def numbers(tuned: Tuned) -> list[int]:
    return [m.candidate.schedule.block_m // 16 - 1 for m in tuned.order]


def test_the_best_few_are_measured_and_the_fastest_wins() -> None:
    bench = Bench([3.0, 2.0, 1.0, 0.1])
    tuned = bench.tune(Tuning(3))
    assert numbers(tuned) == [2, 1, 0] and tuned.source == "measured 3 of 4" and tuned.note == ""


def test_what_is_hardly_faster_is_noise_and_the_model_keeps_its_choice() -> None:
    assert numbers(Bench([1.0, 0.995]).tune(Tuning(2))) == [0, 1]
    assert numbers(Bench([1.0, 0.98]).tune(Tuning(2))) == [1, 0]


def test_a_candidate_with_another_result_is_dropped_and_told_of() -> None:
    bench = Bench([2.0, 0.1, 1.0])
    bench.results[1] = 1.5
    tuned = bench.tune(Tuning(3))
    assert numbers(tuned) == [2, 0] and tuned.source == "measured 2 of 3"
    assert "dropped block_m=32: out differs by 5.0e-01" in tuned.note


def test_a_candidate_that_cannot_be_made_is_dropped_and_told_of() -> None:
    bench = Bench([2.0, 0.1, 1.0])
    bench.broken = {1}
    assert "dropped block_m=32: there is no such kernel" in bench.tune(Tuning(2)).note
    bench.broken = {0, 1, 2}
    with pytest.raises(CompileError, match="no candidate can be measured: there is no such kernel"):
        bench.tune(Tuning(None))


def test_the_slower_half_is_measured_briefly() -> None:
    bench = Bench([float(i) for i in range(24, 0, -1)])
    tuned = bench.tune(Tuning(None, seconds=8.0))
    assert numbers(tuned)[:3] == [23, 22, 21] and len(tuned.order) == 24
    # The reference stands beside all of them.
    assert [len(turn) for turn in bench.measured] == [24, 13, 7, 4]
    assert bench.clock == pytest.approx(8.0)  # pyright: ignore[reportUnknownMemberType]


def test_the_budget_ends_the_making_of_kernels_and_the_report_says_so() -> None:
    bench = Bench([1.0] * 100, making=1.0)
    tuned = bench.tune(Tuning(None, seconds=10.0))
    assert len(bench.made) == 6 and tuned.source == "measured 6 of 100"
    assert tuned.note == "no time was left for 94 more"
    # Two are compared however slow the compiler is.
    assert Bench([2.0, 1.0, 3.0], making=100.0).tune(Tuning(3)).source == "measured 2 of 3"


def test_measuring_goes_on_until_the_order_is_clear_or_of_no_use() -> None:
    def timings(*ratios: float, spread: float = 0.02, seconds: float = 1e-3) -> list[Timing]:
        return [Timing(ratio * seconds, ratio, spread, 5) for ratio in ratios]

    cheap = 1e-6
    # The standard error of a ratio is 1.1 %, or 2.8 %.
    assert settled(timings(1.0, 1.2, 1.1), 1, cheap) and settled(timings(1.2, 1.0, 1.1, spread=0.05), 1, cheap)
    assert not settled(timings(1.01, 1.0, 1.2, spread=0.05), 1, cheap)
    # Which of equals is the faster is of no use where both are known well.
    assert settled(timings(1.0, 1.001, spread=0.002), 1, cheap) and not settled(timings(1.0, 1.001), 1, cheap)
    # What another round costs must come back.
    close = timings(1.0, 1.01, spread=0.05)
    assert settled(close, 1, cost=1.0) and not settled(timings(1.0, 1.01, spread=0.05, seconds=1.0), 1, cost=1.0)
    # Of many, who leaves must be clear.
    assert settled(timings(1.0, 1.001, 1.2), 2, cheap) and not settled(timings(1.0, 1.2, 1.201), 2, cheap)
    assert settled(timings(1.0), 1, cheap)


def test_measuring_stops_when_the_process_ends() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        Bench([1.0, 2.0]).tune(Tuning(2), stop)


def test_progress_is_one_line_that_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    Bench([1.0, 2.0]).tune(Tuning(2, shown=True))
    told = capsys.readouterr().err
    assert "tuning attention [............" in told and "1 of 2 compiled" in told and told.endswith("\r")
    Bench([1.0, 2.0]).tune(Tuning(2))
    assert capsys.readouterr().err == ""


def test_results_are_compared_relative_to_what_they_are() -> None:
    """Small numbers are no excuse, and rounding is."""
    lse = torch.zeros(1, 1, 2)
    tiny = torch.tensor([1e-6, 2e-6])
    assert difference_in_words((tiny, lse), (tiny * 1.001, lse)).startswith("out differs by")
    assert difference_in_words((tiny, lse), (tiny * (1 + 1e-6), lse)) == ""
    half = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    assert difference_in_words((half, lse), (half * 1.004, lse)) == ""
    assert difference_in_words((half, lse), (half * 1.05, lse)).startswith("out differs by")
    lost = torch.tensor([float("nan"), 2.0])
    assert "inf or nan" in difference_in_words((torch.ones(2), lse), (lost, lse))
    assert difference_in_words((lost, lse), (lost.clone(), lse)) == ""
    assert "lse differs" in difference_in_words((tiny, lse), (tiny, lse + 1e-3))
    assert "out is torch.float32 (1,)" in difference_in_words((tiny, lse), (tiny[:1], lse))


def test_tensors_that_change_meanwhile_are_not_taken_for_wrong_kernels() -> None:
    changes = itertools.count()

    def changing() -> Results:
        return torch.tensor([float(min(next(changes), 4))]), torch.zeros(1)

    def steady() -> Results:
        return torch.tensor([4.0]), torch.zeros(1)

    assert differs(changing, steady) == ""
    forever = itertools.count()
    assert "kept changing" in differs(lambda: (torch.tensor([float(next(forever))]), torch.zeros(1)), steady)


# --- plans that are kept


def entries(schedule: Schedule) -> dict[str, Any]:
    return {name: value for name, value in vars(schedule).items() if name != "reason"}


GOOD: Mapping[str, Any] = entries(Schedule(32, 64, 1, 1, target="avx512", lanes=16, columns=4, edge_n=16))


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        (None, "must be a mapping"),
        ([1], "must be a mapping"),
        ({**GOOD, "exec": 1}, "no field 'exec'"),
        ({**GOOD, "block_m": "32"}, "field 'block_m' of a schedule must be a number, not '32'"),
        ({**GOOD, "block_m": True}, "field 'block_m' of a schedule must be a number"),
        ({**GOOD, "block_m": 32.0}, "field 'block_m' of a schedule must be a number"),
        ({**GOOD, "precision": 3}, "field 'precision' of a schedule must be text"),
        ({**GOOD, "target": "sm_90"}, "the schedule is for sm_90, not for avx512"),
        ({**GOOD, "swap": 1}, "field 'swap' means nothing on avx512"),
        ({k: v for k, v in GOOD.items() if k != "block_n"}, "a schedule needs 'block_n'"),
    ],
)
def test_a_kept_schedule_is_checked_field_by_field(kept: Any, problem: str) -> None:
    found = schedule_from(kept, "avx512")
    assert isinstance(found, str) and problem in found


CALLS = Calls(Sizes(1, 2, 2, 64, 64), 0, "any-rows", threads=1)


def test_a_kept_schedule_is_followed_whole_or_not_at_all() -> None:
    plans = SitePlans(Case(f32, 16).module(), "avx512")
    assert plans.find(CALLS).reason.startswith("miss: no plan")
    chosen = plans.by_model(CALLS, None)
    plans.keep(CALLS, chosen, effort=3, rounds=9, seconds=1e-3)
    found = plans.find(CALLS)
    assert found.chosen is not None and found.reason.startswith("hit") and found.effort == 3
    assert site_plans.same(found.chosen.schedule) == site_plans.same(chosen.schedule)
    assert found.chosen.decision["source"] == "cache: model" and found.chosen.decision["candidates"] > 1
    # What is no candidate is not followed, whatever it looks like.
    key = plans.key(CALLS)
    wrong = {**entries(chosen.schedule), "block_m": 17}
    tuning_cache().keep_plan(key, {"schedule": wrong, "source": "somebody"}, support=99)
    found = plans.find(CALLS)
    assert (
        found.chosen is None
        and found.reason == "miss: the kept plan is of no use: it is none of the candidates that fit"
    )


def test_what_the_model_decided_alone_holds_for_that_model(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = SitePlans(Case(f32, 16).module(), "avx512")
    chosen = plans.by_model(CALLS, None)
    plans.keep(CALLS, chosen)
    assert plans.find(CALLS).chosen is not None
    monkeypatch.setattr(site_plans, "model_mark", lambda: "trained anew")
    found = plans.find(CALLS)
    assert found.chosen is None and "the cost model has changed" in found.reason
    # Measurements are of kernels, and stay.
    plans.keep(CALLS, chosen, effort=3, rounds=9)
    monkeypatch.setattr(site_plans, "model_mark", lambda: "and again")
    assert plans.find(CALLS).chosen is not None


def test_what_the_model_decided_alone_holds_for_the_rates_of_a_cpu() -> None:
    plans = SitePlans(Case(f32, 16).module(), "avx512")
    chosen = plans.by_model(CALLS, None)
    plans.keep(CALLS, chosen)
    assert plans.find(CALLS).chosen is not None
    try:
        set_rates("avx512", replace(DEFAULT_RATES["avx512"], clock=1e9))
        reason = "miss: avx512 has other rates than when the kept plan was made, and nothing was measured"
        assert plans.find(CALLS).chosen is None and plans.find(CALLS).reason == reason
        # What was measured holds whatever was predicted.
        plans.keep(CALLS, chosen, effort=3, rounds=9, seconds=1e-3)
        set_rates("avx512", None)
        assert plans.find(CALLS).chosen is not None
    finally:
        set_rates("avx512", None)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_a_kept_schedule_of_a_gpu_is_checked_as_candidates_are(target: str) -> None:
    for case, rows in ((Case(f16, 64, form="causal"), 0), (Case(f16, 64, form="documents"), 0), (Case(f16, 64), 16)):
        plans, calls = SitePlans(case.module(), target), replace(CALLS, rows=rows)
        feasible = plans.schedules(calls)
        assert feasible and not any(plans.problem(schedule, calls) for schedule in feasible)
        first, known = feasible[0], {site_plans.same(s) for s in feasible}
        changes = (
            {"block_n": 48},
            {"block_m": 1024},
            {"num_warps": 3},
            {"num_stages": 40},
            {"persistent": 7},
            {"swap": 1},
        )
        for change in (*changes, {"folded": 1 - first.folded}, {"lists": 1 - first.lists}):
            other = replace(first, **change)
            if site_plans.same(other) not in known:
                assert plans.problem(other, calls), change


def test_calls_that_need_other_kernels_have_plans_of_their_own() -> None:
    sizes = Sizes(1, 2, 2, 64, 64)
    others = [
        CALLS,
        Calls(sizes, 0, "any-rows-any-strides", threads=1),
        Calls(sizes, 0, "any-rows", threads=2),
        Calls(sizes, 0, "any-rows", (("split", 0),), 1),
        Calls(Sizes(1, 2, 2, 64, 65), 0, "any-rows", threads=1),
    ]
    assert len({calls.bucket for calls in others}) == len(others)
    assert Calls(Sizes(1, 2, 2, 63, 60), 0, "any-rows", threads=1).bucket == CALLS.bucket


def test_wishes_leave_nothing_to_choose() -> None:
    for target in ("avx512", "sm_80"):
        plans = SitePlans(Case(f32, 32).module(), target, kept=False)
        calls = Calls(Sizes(1, 2, 2, 256, 256))
        schedules = plans.schedules(calls)
        assert schedules
        for schedule in schedules[:: max(1, len(schedules) // 4)]:
            asked = Calls(calls.sizes, wishes=wishes_of(schedule))
            assert [site_plans.same(s) for s in plans.schedules(asked)] == [site_plans.same(schedule)]


def test_a_decision_names_the_two_runners_up_with_their_times() -> None:
    order = [candidate(i) for i in range(4)]
    times = {order[0].schedule: 5e-6, order[1].schedule: 6e-6}
    told = decision_of(Sizes(), "measured 2 of 4", order, 4, times)
    assert (told["predicted_us"], told["measured_us"], told["candidates"]) == (1000.0, 5.0, 4)
    assert (told["runner_up_1"], told["runner_up_1_us"], told["runner_up_1_measured_us"]) == ("block_m=32", 2000.0, 6.0)
    assert told["runner_up_2_us"] == 3000.0 and "runner_up_2_measured_us" not in told and "runner_up_3" not in told


# --- native kernels


class Watched(NativeKernels):
    """Kernels that count how often one was made."""

    def __init__(self, case: Case, tuning: Tuning, *, cache: bool = True) -> None:
        super().__init__(case.module(), _host(), cache, tuning)
        self.built: list[int] = []
        build = self.serving.shop.build

        def counted(choice: Any, wishes: Any, sizes: Any) -> Any:
            self.built.append(len(wishes))
            return build(choice, wishes, sizes)

        object.__setattr__(self.serving.shop, "build", counted)


def _host() -> str:
    from attir.compiler.host_cpu import host_target

    return host_target()


def run(runner: NativeRunner, case: Case, shape: Shape) -> None:
    """Call it, and compare with plain PyTorch."""
    q, k, v, captures = case.tensors(shape)
    out, _ = runner(q, k, v, captures, False)
    torch.testing.assert_close(out, case.reference(q, k, v, captures)[0].to(out.dtype), rtol=1e-4, atol=1e-4)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@native
@pytest.mark.usefixtures("one_thread")
def test_a_first_call_measures_and_the_next_process_knows() -> None:
    case, tuning = Case(f32, 16, form="causal"), Tuning(2)
    first = Watched(case, tuning)
    run(NativeRunner(first), case, SMALL)
    (variant,) = first.variants[-1:]
    decision = variant.plan["decision"]
    assert decision["source"].startswith("measured 2 of ") and decision["measured_us"] > 0
    assert decision["runner_up_1_measured_us"] > 0 and decision["predicted_us"] > 0
    again = Watched(case, tuning)
    runner = NativeRunner(again)
    run(runner, case, SMALL)
    run(runner, case, Shape(1, 2, 2, 60, 60))
    assert len(again.built) == 1 and again.variants[-1].plan["decision"]["source"].startswith("cache: measured 2 of ")
    assert again.variants[-1].plan["decision"]["measured_us"] == decision["measured_us"]
    # Whoever asks for more gets more; whoever asks for less takes what is known.
    more, off = Watched(case, Tuning(3)), Watched(case, Tuning())
    run(NativeRunner(more), case, SMALL)
    assert more.variants[-1].plan["decision"]["source"].startswith("measured 3 of ")
    run(NativeRunner(off), case, SMALL)
    assert len(off.built) == 1 and "cache: measured 3" in off.variants[-1].plan["decision"]["source"]


@native
@pytest.mark.usefixtures("one_thread")
def test_keys_that_grow_do_not_compile_again_and_again() -> None:
    case = Case(f32, 16)
    kernels = Watched(case, Tuning())
    runner = NativeRunner(kernels)
    for keys in range(16, 4096, 136):
        run(runner, case, Shape(1, 2, 2, 1, keys))
    assert len(kernels.built) <= 3
    assert len({v.plan["block_n"] for v in kernels.variants}) <= len(kernels.variants)


@native
@pytest.mark.usefixtures("one_thread")
def test_another_kernel_is_compiled_only_where_it_is_predicted_to_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(f32, 16)
    kernels = Watched(case, Tuning())
    runner = NativeRunner(kernels)
    run(runner, case, SMALL)
    monkeypatch.setattr(site_plans, "WORTH", -1e9)  # anything pays
    monkeypatch.setattr(site_plans, "LEAST_SAVED", -1e9)
    run(runner, case, Shape(1, 2, 2, 300, 700))
    differ = len({(v.plan["block_m"], v.plan["block_n"], v.plan["columns"]) for v in kernels.variants}) > 1
    assert differ == (len(kernels.built) > 1)
    if differ:
        assert "another kernel for these sizes" in kernels.variants[-1].plan["decision"]["note"]
    monkeypatch.setattr(site_plans, "WORTH", 2.0)  # nothing does
    built = len(kernels.built)
    run(runner, case, Shape(1, 8, 8, 2000, 100))
    assert len(kernels.built) == built


@native
@pytest.mark.usefixtures("one_thread")
def test_the_background_swaps_the_kernel_and_calls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(f32, 16)
    kernels = Watched(case, Tuning(2, background=True))
    runner = NativeRunner(kernels)
    going = threading.Event()
    real = serving.tune

    def tuned(candidates: Any, trial: Any, tuning: Tuning, **named: Any) -> Tuned:
        going.wait(30)
        found = real(candidates, trial, tuning, **named)
        # The last one measured shall win, so that there is something to swap.
        order = (found.order[-1], *found.order[:-1]) if found.order[0].candidate is candidates[0] else found.order
        return Tuned(order, found.reference, found.dropped, found.wanted, found.considered)

    monkeypatch.setattr(serving, "tune", tuned)
    run(runner, case, SMALL)
    first = len(kernels.variants)
    assert "measured_us" not in kernels.variants[-1].plan.get("decision", {})
    going.set()
    assert WORKER.wait(60)
    assert len(kernels.variants) == first + 1
    assert kernels.variants[-1].plan["decision"]["source"].startswith("measured 2 of ")
    before = len(kernels.built)
    run(runner, case, SMALL)
    assert len(kernels.built) == before


@native
def test_what_fails_in_the_background_is_reported_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> Tuned:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(serving, "tune", failing)
    case = Case(f32, 16)
    kernels = Watched(case, Tuning(2, background=True), cache=False)
    runner = NativeRunner(kernels)
    run(runner, case, SMALL)
    assert WORKER.wait(60)
    run(runner, case, SMALL)
    assert (
        "measuring in the background failed: RuntimeError: out of luck" in kernels.variants[0].plan["decision"]["note"]
    )


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    """Starting kernels is only written down; those that were compiled are let go before it ends."""
    with fake_driver() as driver:
        yield driver


def test_triton_kernels_are_tuned_by_the_same_engine(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(f16, 64, lse=False)
    devices: list[str] = []

    def tuned(candidates: Sequence[Candidate], trial: Trial[Any], tuning: Tuning, **_: object) -> Tuned:
        devices.append(trial.device)
        for one in candidates[:2]:
            trial.call(trial.make(one.schedule))()
        order = tuple(autotune.Measured(one, Timing(1e-5)) for one in (candidates[1], candidates[0]))
        return Tuned(order, candidates[0], (), 2, len(candidates))

    monkeypatch.setattr(serving, "tune", tuned)
    kernels = TritonKernels(case.module(), "sm_90", tuning=Tuning(2))
    runner = TritonRunner(kernels, FakeGpu(FakeMachine()))
    q, k, v, captures = case.tensors(Shape(1, 2, 2, 512, 512))
    runner(q, k, v, captures, False)
    started = len(driver.launches)
    runner(q, k, v, captures, False)
    assert (devices, len(driver.launches) - started) == (["cuda"], 1)
    decision = kernels.variants[-1].plan["decision"]
    assert decision["source"].startswith("measured 2 of ") and decision["runner_up_1_measured_us"] == 10.0


PROGRAM = """
import json, sys, time
import torch
torch.set_num_threads(1)
from attir.compiler import measuring, native_cache, autotune
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.ir.attributes import f16, f32

case = Case(f32, 16, form="causal")
q, k, v, captures = case.tensors(Shape(1, 2, 2, 64, 64))
site = compile_site(case.module(), Options(backend="native", autotune=sys.argv[1], tune_seconds=5), 64)
out, _ = site.runner(q, k, v, captures, False)
assert torch.allclose(out, case.reference(q, k, v, captures)[0], atol=1e-4)
if sys.argv[1] == "background:top24":
    sys.exit()  # in the middle of it
print(json.dumps([[v.origin, v.plan.get("decision", {}).get("source", "")] for v in site.variants]))
"""


def in_a_process(how: str, tmp_path: Path) -> str:
    environment = {**os.environ, "ATTIR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@native
def test_a_new_process_measures_nothing_and_compiles_nothing(tmp_path: Path) -> None:
    cold, warm = (json.loads(in_a_process("top2", tmp_path)) for _ in range(2))
    assert any(source.startswith("measured 2 of ") for _, source in cold)
    assert any(source.startswith("cache: measured 2 of ") for _, source in warm)
    assert all(not origin.startswith("compiled") for origin, _ in warm)


@native
def test_a_process_that_ends_waits_for_no_measurements(tmp_path: Path) -> None:
    assert in_a_process("background:top24", tmp_path) == ""
