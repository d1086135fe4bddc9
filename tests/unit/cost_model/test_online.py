"""Corrections from measurements on a made-up device, and whether more measurements pay."""

from __future__ import annotations

import json
import math
import random

import pytest

from attir.cost_model.online import TERMS, Correction, expected_gains, terms_of, worth_measuring
from attir.cost_model.problem import Problem, Sizes
from attir.cost_model.resources import AttentionShape

SLOWER = {"all": 0.4, "half precision": 0.25, "decode": -0.2}
"""How much the device is slower than predicted, as logarithms."""


def problem(draw: random.Random) -> Problem:
    width, keys = draw.choice((64, 128)), draw.choice((512, 2048, 8192))
    sizes = Sizes(1, 8, 8, draw.choice((1, 8, keys)), keys)
    shape = AttentionShape(width, width, draw.choice((2, 4)))
    return Problem(sizes, shape, mask=draw.choice(("none", "bounds")))


def true_ratio(of: Problem) -> float:
    terms = dict(zip(TERMS, terms_of(of), strict=True))
    return sum(SLOWER.get(name, 0.0) * value for name, value in terms.items())


def learnt(measurements: int, seed: int = 0, shift: float = 0.0, start: Correction | None = None) -> Correction:
    """After so many measurements, one in twenty of which fails badly."""
    draw, found = random.Random(seed), start or Correction()
    for _ in range(measurements):
        of = problem(draw)
        noise = draw.gauss(0.0, 0.05) + (2.0 if draw.random() < 0.05 else 0.0)
        found = found.updated(terms_of(of), 1e-3, 1e-3 * math.exp(true_ratio(of) + shift + noise))
    return found


def mean_error(correction: Correction, shift: float = 0.0) -> float:
    draw = random.Random(99)
    of = [problem(draw) for _ in range(100)]
    return sum(abs(correction.at(terms_of(x))[0] - true_ratio(x) - shift) for x in of) / len(of)


def test_nothing_is_corrected_before_measurements() -> None:
    assert Correction().at(terms_of(problem(random.Random(0)))) == (0.0, 0.0)


def test_errors_fall_with_measurements() -> None:
    assert mean_error(Correction()) > 0.3
    assert mean_error(learnt(3)) < 0.25
    assert mean_error(learnt(100)) < 0.08
    spreads = [learnt(n).at(terms_of(problem(random.Random(1))))[1] for n in (1, 10, 100)]
    assert spreads == sorted(spreads, reverse=True)


def test_one_failed_measurement_changes_little() -> None:
    before = learnt(100)
    terms = terms_of(problem(random.Random(5)))
    after = before.updated(terms, 1e-3, 10.0)
    assert abs(after.at(terms)[0] - before.at(terms)[0]) < 0.15


def test_a_device_that_changes_is_followed() -> None:
    changed = learnt(200, seed=2, shift=0.5, start=learnt(200))
    assert mean_error(changed, shift=0.5) < 0.15


@pytest.mark.parametrize("measured", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_time_changes_nothing(measured: float) -> None:
    assert Correction().updated((1.0,) * len(TERMS), 1e-3, measured) == Correction()


def test_corrections_are_kept_as_plain_numbers() -> None:
    found = learnt(20)
    assert Correction.of(json.loads(json.dumps(found.to_values()))) == found


@pytest.mark.parametrize(
    "changed",
    [
        {"terms": ["all"]},
        {"weights": [1.0]},
        {"weights": ["x"] * 8},
        {"covariance": [[math.nan] * 8] * 8},
        {"count": -1},
    ],
)
def test_damaged_numbers_are_not_used(changed: dict[str, object]) -> None:
    assert Correction.of({**learnt(20).to_values(), **changed}) == Correction()
    assert Correction.of(None) == Correction()


# --- whether to measure


def test_gains_are_those_of_a_simulation() -> None:
    predictions, spreads, draw = (1.0, 1.1, 1.4), (0.1, 0.2, 0.3), random.Random(0)
    found = expected_gains(predictions, spreads)
    for i in range(3):
        best = min(predictions)
        gains: list[float] = []
        for _ in range(40000):
            times = list(predictions)
            times[i] = predictions[i] * math.exp(draw.gauss(0.0, spreads[i]) - spreads[i] ** 2 / 2)
            gains.append((times[i] if i == 0 else best) - min(times))
        assert found[i] == pytest.approx(sum(gains) / len(gains), rel=0.05)


def test_measuring_stops_when_it_does_not_pay() -> None:
    predictions, spreads = (1e-3, 1.05e-3, 2e-3), (0.1, 0.1, 0.1)
    assert worth_measuring(predictions, spreads, 0.1, 1e6) in (0, 1)
    assert worth_measuring(predictions, spreads, 0.1, 100) is None
    assert worth_measuring(predictions, (0.0, 0.0, 0.0), 1e-9, 1e9) is None
    assert worth_measuring((), (), 0.1, 1e6) is None
    assert worth_measuring((1.0,), (0.5,), 0.1, 1e6) is None


def test_a_candidate_that_is_dear_to_measure_comes_later() -> None:
    predictions, spreads = (1e-3, 1.05e-3, 1.06e-3), (0.0, 0.1, 0.1)
    assert worth_measuring(predictions, spreads, 0.1, 1e6) == 1
    assert worth_measuring(predictions, spreads, (0.1, 100.0, 0.1), 1e6) == 2


def test_it_finds_nearly_the_best_with_few_measurements() -> None:
    draw, regrets, used = random.Random(0), list[float](), list[int]()
    for _ in range(50):
        predictions = [1e-3 * math.exp(draw.gauss(0.0, 0.2)) for _ in range(24)]
        times = [p * math.exp(draw.gauss(0.0, 0.1)) for p in predictions]
        known, spreads, measured = list(predictions), [0.1] * 24, 0
        while (i := worth_measuring(known, spreads, 0.05, 1e5)) is not None:
            known[i], spreads[i], measured = times[i], 0.0, measured + 1
        chosen = min(range(24), key=lambda i: known[i])
        regrets.append(times[chosen] / min(times))
        used.append(measured)
    assert sum(regrets) / len(regrets) < 1.01
    assert sum(used) / len(used) < 8
