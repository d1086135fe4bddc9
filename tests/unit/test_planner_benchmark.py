"""The harness of benchmarks/planner.py computes and judges what it says; no time is judged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from attir.compiler.attention_cases import Case
from attir.compiler.native_support import native_problem
from attir.cost_model.dataset import CaseFields, CompileRecord
from attir.cost_model.families import held_out
from attir.cost_model.learned import Expected
from attir.cost_model.prediction import LEARNED, Estimate, Prediction
from attir.cost_model.problem import Sizes, Visits
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import f32
from attir.passes.ranking import Candidate
from benchmarks import planner
from benchmarks.grouped import Settings
from benchmarks.planned import crossover_rows, feasibility_rows, regret_rows, tuning_rows
from benchmarks.planned.candidates import Posed, WrongCandidateError, held_out_problems, kernel_calls
from benchmarks.planned.crossover_rows import Point
from benchmarks.planned.feasibility_rows import Compiled
from benchmarks.planned.figures import (
    as_one_step,
    change_in_words,
    fastest,
    geometric_mean,
    regret,
    relative_errors,
    steps_apart,
)
from benchmarks.planned.regret_rows import Truth, correlation

needs_native = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")
POSED = Posed.of("made up", Case(f32, 16, lse=False), Sizes(1, 1, 1, 16, 32))


def candidate(number: int, analytical: float, predicted: float) -> Candidate:
    schedule = Schedule(16, 16 * (number + 1), 1, 1, lanes=16, columns=4, edge_n=16, target="avx512")
    return Candidate(schedule, Visits(1, 1, 0), Estimate(()), Prediction(predicted, analytical, 0.1, LEARNED))


def made_up(one: tuple[float, ...], other: tuple[float, ...], *, learned: bool = True) -> Truth:
    """Four candidates, of which the models choose the second and the first; measuring three finds the third."""
    models = ((3e-3, 1e-3), (1e-3, 2e-3), (2e-3, 3e-3), (4e-3, 4e-3))
    candidates = tuple(candidate(i, *seconds) for i, seconds in enumerate(models))
    return Truth(POSED, candidates, (one, other), (1, 0, 2), 9, learned)


def test_figures_of_choices() -> None:
    seconds = [4.0, 2.0, 3.0]
    assert fastest(seconds) == 1 and regret(seconds, 2) == 1.5
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert relative_errors([2.0, 4.0], [3.0, 3.0]) == [0.5, 0.25]
    assert correlation([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("gains", "pattern"),
    [
        ((-1, -0.5, 0.5, 1), (False, False, True, True)),
        ((1, 0.5, -0.5), (True, True, False)),
        ((-1, 0.01, -0.5, 1), (False, False, False, True)),  # a draw on the wrong side says little
        ((0.2, 0.1), (True, True)),
        ((-0.2, -0.1), (False, False)),
    ],
)
def test_measurements_are_one_change(gains: tuple[float, ...], pattern: tuple[bool, ...]) -> None:
    assert tuple(as_one_step(gains)) == pattern


def test_changes_in_words_and_apart() -> None:
    names = ("whole", "split")
    assert change_in_words([False, False], [1, 2], names) == "whole everywhere"
    assert change_in_words([True, True], [1, 2], names) == "split everywhere"
    assert change_in_words([False, True, True], [1, 2, 4], names) == "split from 2 on"
    assert change_in_words([True, False, False], [1, 2, 4], names) == "whole from 2 on"
    assert steps_apart([False, True, True], [False, False, True]) == 1


def test_a_crossover_is_held_within_a_step() -> None:
    points = [Point(1, (1.0, 2.0), 0.9), Point(2, (2.0, 1.0), 0.8), Point(4, (3.0, 1.0), 1.5)]
    assert points[1].gain == pytest.approx(math.log(2))
    row = crossover_rows.judged("ways", "N", ("one", "other"), points)
    assert row.held and row.figures["measured"] == "other from 2 on" and row.figures["model"] == "other from 4 on"
    assert row.figures["other is faster"] == "1:0.50(0.90) 2:2.00(0.80) 4:3.00(1.50)"
    wrong = [replace(point, predicted=0.5) for point in points]
    assert crossover_rows.judged("ways", "N", ("one", "other"), wrong).held is False
    never = [replace(point, seconds=(1.0, 2.0), predicted=0.5) for point in points]
    row = crossover_rows.judged("ways", "N", ("one", "other"), never)
    assert row.held and row.note == "no change between 1 and 4"


def test_a_draw_is_no_mistake() -> None:
    points = [Point(n, (1.0, 1.0), predicted) for n, predicted in ((1, 2.0), (2, 0.5), (4, 2.0))]
    row = crossover_rows.judged("ways", "N", ("one", "other"), points)
    assert row.held and row.figures["apart"] == 0 and row.note == "draws at 1, 2, 4"


def test_regret_is_against_the_best_of_both_sessions() -> None:
    truth = made_up((2e-3, 3e-3, 1e-3, 4e-3), (2e-3, 3e-3, 4e-3, 4e-3))
    assert truth.seconds == pytest.approx([2e-3, 3e-3, 2e-3, 4e-3])
    assert truth.regrets() == pytest.approx((1.5, 1.0, 1.0))
    # The best of one session takes four times as long as the best of the other in that, and that twice in the first.
    assert truth.noise == pytest.approx(math.sqrt(2.0 * 2.0))
    row = regret_rows.problem_row(truth)
    assert row.figures["analytical"] == pytest.approx(1.5) and row.figures["candidates"] == "4 of 9"
    assert row.times["first"] == [2e-3, 2e-3, 1e-3, 3e-3] and len(row.times) == 4


def test_bars_of_regret() -> None:
    same = (1e-3, 2e-3, 3e-3, 4e-3)
    rows = {row.what: row for row in regret_rows.summary([made_up(same, same)])}
    held = {what: row.held for what, row in rows.items()}
    assert held == {
        "regret of the first choice, analytical": False,  # twice the best
        "regret of the first choice, analytical + learned": True,
        "regret with 3 measurements": False,
        "regret of measuring everything again": None,
        "rank correlation within a problem (Spearman)": True,
        "error of predicted time, held-out families": True,
    }
    first = rows["regret of the first choice, analytical"]
    assert "fewer than the 40 of 24" in first.note and first.figures["worst"] == pytest.approx(2.0)


def test_without_a_learned_model_its_bar_is_missed() -> None:
    same = (1e-3, 2e-3, 3e-3, 4e-3)
    rows = {row.what: row for row in regret_rows.summary([made_up(same, same, learned=False)])}
    row = rows["regret of the first choice, analytical + learned"]
    assert row.held is False and "nothing was learned" in row.note


def test_problems_are_held_out_and_have_enough_candidates() -> None:
    problems = held_out_problems(12)
    assert all(held_out(posed.name.rpartition(", ")[0]) for posed in problems)
    assert len({posed.name for posed in problems}) == 12
    if not native_problem():
        assert min(len(posed.ranking().candidates) for posed in problems) >= regret_rows.FEWEST


@needs_native
def test_a_sample_holds_the_first_choices_of_both_models() -> None:
    ranking = POSED.ranking()
    taken = regret_rows.sample(ranking, 8)
    assert len(taken) == 8 and taken == regret_rows.sample(ranking, 8)
    assert list(taken[:3]) == list(ranking.candidates[:3])
    assert min(ranking.candidates, key=lambda c: c.prediction.analytical) in taken


@needs_native
def test_candidates_are_measured_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regret_rows, "MOST", 6)
    with torch.no_grad(), regret_rows.with_threads(1):
        truth = regret_rows.truth_of(POSED, 0.0)
    assert len(truth.candidates) == 6 < truth.of and truth.chosen[2] in range(3)
    assert all(seconds > 0 for session in truth.sessions for seconds in session)


@needs_native
def test_a_candidate_that_computes_something_else_ends_the_benchmark() -> None:
    schedules = [c.schedule for c in POSED.ranking().candidates[:2]]
    shifted = replace(POSED, inputs=iter(()).__next__)
    with pytest.raises(StopIteration):
        kernel_calls(shifted, schedules)
    with pytest.raises(WrongCandidateError, match="asked for"):
        kernel_calls(POSED, [replace(schedules[0], num_stages=7)])


def compiled(shared: int, loop_spills: int, tiles: int) -> Compiled:
    """f16 on sm_90; tiles of 256 rows and keys are refused."""
    case = CaseFields("f16", 96, 96, 1, "none")
    schedule = Schedule(tiles, tiles, 4, 2, target="sm_90", descriptors="device")
    loops, mix = (100,), {"matrix": 8}
    found = CompileRecord(
        "f16 D96 g1 prefill: none", case, "sm_90", "3.9.0", 0, schedule, 100, loop_spills, loop_spills, shared, loops,
        mix, 1.0,
    )  # fmt: skip
    return Compiled(found)


def test_what_fits_is_compared_with_what_was_said() -> None:
    kernels = [compiled(1 << 14, 0, 64), compiled(1 << 20, 0, 256), compiled(1 << 14, 3, 64)]
    assert [k.refused for k in kernels] == [False, True, False]
    expected = [Expected(100, 0.1, 100), Expected(100, 0.1, 100), Expected(100, 0.9, 100)]
    rows = {row.what.partition(": ")[2]: row for row in feasibility_rows.fitting_rows("sm_90", kernels, expected, 0)}
    assert [row.held for row in rows.values()] == [True, False, True]
    planned = rows["spills or too much shared memory, as planned"].figures
    assert planned["of these said to fit"] == 1 and planned["said to fit, cannot be launched"] == 0


def test_a_kernel_that_is_said_to_fit_but_cannot_be_launched_misses_the_bar() -> None:
    kernels = [compiled(1 << 20, 0, 64), *[compiled(1 << 14, 0, 64)] * 99]
    row = next(iter(feasibility_rows.fitting_rows("sm_90", kernels, None, 0)))
    assert row.figures["right"] == 0.99 and row.held is False


def test_registers_are_compared_where_they_were_learned() -> None:
    answers = np.asarray([(100.0, 0, math.log(50)), (200.0, 1, math.nan), (150.0, 0, math.log(80))])
    exact = [Expected(100, 0.1, 50), Expected(200, 0.9, 60), Expected(150, 0.1, 80)]
    registers, loops = feasibility_rows.resource_rows("sm_90", answers, exact)
    assert registers.held and registers.figures == {"R2": 1.0, "mean error": 0.0}
    assert loops.figures["R2 of its logarithm"] == pytest.approx(1.0)
    (missing,) = feasibility_rows.resource_rows("sm_90", answers, None)
    assert missing.held is False and missing.note == "nothing was learned for sm_90"


def test_compiled_kernels_of_held_out_families_are_judged() -> None:
    rows = list(feasibility_rows.feasibility(Settings(quick=True)))
    assert rows and all(row.what.startswith(feasibility_rows.TARGETS) for row in rows)


def test_tuning_time_is_judged_by_both_others() -> None:
    def told(**seconds: float) -> dict[str, dict[str, object]]:
        return {way: {"seconds": x, "source": "", "note": "as told"} for way, x in seconds.items()}

    row = tuning_rows.judged("x", told(off=0.5, top3=1.0, full=50.0, flex=20.0))
    assert row.held and row.figures["of Flex"] == 0.05 and row.note == "as told"
    assert not tuning_rows.judged("x", told(off=0.5, top3=1.0, full=50.0, flex=5.0)).held


def test_every_bar_has_a_group() -> None:
    assert set(planner.GROUPS) == {"regret", "feasibility", "crossovers", "tuning_time", "planning"}
    assert Settings().seconds > 0
