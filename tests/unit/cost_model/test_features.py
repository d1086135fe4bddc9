"""What learned models are told of candidates."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
from unit.cost_model.oracle import CANDIDATES, problems, roofline, visits_of

from attir.cost_model.features import CALL_FEATURES, FEATURES, KERNEL_FEATURES, features_of, kernel_features_of
from attir.cost_model.prediction import Estimate, Term
from attir.cost_model.problem import Problem, Sizes, Visits
from attir.cost_model.resources import AttentionShape
from attir.cost_model.schedule import Schedule

PROBLEM = Problem(Sizes(), AttentionShape(64, 64, 2), "f16", score_ops={"math.tanh": 1, "arith.mulf": 2})
ON_GPU = Schedule(64, 128, 4, 3, target="sm_90", descriptors="device")
VISITS = Visits(128, 1000.0, 50.0)
ESTIMATE = Estimate((Term("softmax", 3e-4), Term("scores", 1e-4), Term("l2", 1e-3, hidden=True)))


def named(schedule: Schedule, problem: Problem = PROBLEM, estimate: Estimate = ESTIMATE) -> dict[str, float]:
    return dict(zip(FEATURES, features_of(problem, schedule, VISITS, estimate), strict=True))


@pytest.mark.parametrize("schedule", [CANDIDATES[0], ON_GPU], ids=["cpu", "gpu"])
def test_each_feature_has_a_name_and_a_number(schedule: Schedule) -> None:
    found = named(schedule)
    assert len(found) == len(FEATURES) == len(set(FEATURES))
    assert all(math.isfinite(x) for x in found.values())
    assert tuple(found.values())[: len(KERNEL_FEATURES)] == kernel_features_of(PROBLEM, schedule)


def test_shares_are_of_what_is_visible() -> None:
    found = named(CANDIDATES[0])
    assert found["share of softmax"] == pytest.approx(0.75)
    assert found["share of scores"] == pytest.approx(0.25)
    assert found["share of l2"] == 2.0


def test_threads_change_nothing() -> None:
    """Times are learned on one thread; more of them divide all terms alike, and add some of their own."""
    own = Term("imbalance", 1e-4), Term("threads", 1e-5, 4, "threads")
    on_four = Estimate((Term("softmax", 7.5e-5), Term("scores", 2.5e-5), *own))
    one, four = (named(CANDIDATES[0], estimate=e) for e in (Estimate(ESTIMATE.terms[:2]), on_four))
    for name in FEATURES:
        assert one[name] == pytest.approx(four[name]), name


def test_sizes_change_only_what_is_of_a_call() -> None:
    one = named(ON_GPU)
    other = named(ON_GPU, replace(PROBLEM, sizes=Sizes(2, 16, 16, 2048, 2048)))
    different = {name for name in FEATURES if one[name] != other[name]}
    assert "log queries" in different and different <= set(CALL_FEATURES)


def test_empty_calls_have_features_too() -> None:
    problem = replace(PROBLEM, sizes=Sizes(1, 1, 1, 0, 0))
    found = features_of(problem, CANDIDATES[0], Visits(0, 0.0, 0.0), Estimate(()))
    assert all(math.isfinite(x) for x in found)


def test_a_candidate_takes_microseconds() -> None:
    _, problem = next(problems(4))
    visits = visits_of(problem, CANDIDATES[0])
    estimate = roofline(problem, CANDIDATES[0], visits)
    times: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(20):
            features_of(problem, CANDIDATES[0], visits, estimate)
        times.append((time.perf_counter() - began) / 20)
    assert min(times) < 100e-6
