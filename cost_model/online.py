"""What measurements on one device change: a small correction of its predictions, and whether more of them pay.

All functions are pure; the tuning cache keeps the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .problem import Problem

CORRECTION = "correction"
"""The name under which the tuning cache keeps a device's correction."""

TERMS = ("all", "half precision", "decode", "few rows", "wide", "masked", "regions", "large")
"""What a correction distinguishes; each is a number between 0 and 1 of a problem."""

FEW_QUERIES, WIDE, LARGE, LARGEST = 16, 128, 24, 34
"""Queries up to which rows are few, widths from which heads are wide, and the logarithm of the scores from which, and
at which, a call is large: tensors leave the caches."""

PRIOR = (0.5, *(0.15,) * (len(TERMS) - 1))
"""How far log(measured / predicted) may lie from 0 on a device of which nothing is known, term by term: deviations."""

NOISE = 0.08
"""The deviation of one measurement from what such terms can say."""

MEMORY = 0.99
"""How much of what is known remains after each measurement: about the last hundred count."""

OUTLIER = 3.0
"""Deviations beyond which a measurement says no more than one at them: the machine was busy with something else."""

LARGEST_CORRECTION = math.log(20.0)
"""A factor beyond this is no property of a device."""

Vector = tuple[float, ...]


def terms_of(problem: Problem) -> Vector:
    """The numbers called `TERMS`."""
    sizes, shape = problem.sizes, problem.shape
    scores = max(1.0, float(sizes.batch * sizes.heads) * sizes.queries * sizes.keys)
    return (
        1.0,
        float(shape.element_bytes <= 2),
        float(sizes.queries == 1),
        float(1 < sizes.queries <= FEW_QUERIES),
        float(max(shape.key_width, shape.value_width) >= WIDE),
        float(problem.mask != "none"),
        float(bool(problem.score_ops or problem.row_ops)),
        min(1.0, max(0.0, (math.log2(scores) - LARGE) / (LARGEST - LARGE))),
    )


@dataclass(frozen=True)
class Correction:
    """log(measured / predicted) of a device as a weighted sum of terms: Bayesian least squares that slowly forget.

    `weights` are the likeliest, `covariance` how sure they are, `count` how many measurements they are from.
    """

    weights: Vector = (0.0,) * len(TERMS)
    covariance: tuple[Vector, ...] = tuple(
        tuple(PRIOR[i] ** 2 if i == j else 0.0 for j in range(len(TERMS))) for i in range(len(TERMS))
    )
    count: int = 0

    def at(self, terms: Vector) -> tuple[float, float]:
        """log(time / predicted time) of a problem, and its standard deviation; nothing is said before measurements."""
        if self.count == 0:
            return 0.0, 0.0
        ratio = _dot(self.weights, terms)
        bounded = min(LARGEST_CORRECTION, max(-LARGEST_CORRECTION, ratio))
        return bounded, math.sqrt(max(0.0, _dot(_times(self.covariance, terms), terms)))

    def updated(self, terms: Vector, predicted: float, measured: float) -> Correction:
        """With one more measurement, in seconds as the prediction without correction; unusable ones change nothing."""
        if not (0.0 < predicted < math.inf and 0.0 < measured < math.inf):
            return self
        grown = _remembered(self.covariance)
        gain = _times(grown, terms)
        variance = _dot(gain, terms) + NOISE**2
        surprise = math.log(measured / predicted) - _dot(self.weights, terms)
        limit = OUTLIER * math.sqrt(variance)
        surprise = min(limit, max(-limit, surprise))
        weights = tuple(w + g * surprise / variance for w, g in zip(self.weights, gain, strict=True))
        places = range(len(gain))
        covariance = tuple(tuple(grown[i][j] - gain[i] * gain[j] / variance for j in places) for i in places)
        return Correction(weights, covariance, self.count + 1)

    def to_values(self) -> dict[str, Any]:
        """As plain numbers, for the tuning cache."""
        return {
            "terms": list(TERMS), "weights": list(self.weights), "covariance": [list(row) for row in self.covariance],
            "count": self.count,
        }  # fmt: skip

    @staticmethod
    def of(values: Mapping[str, Any] | None) -> Correction:
        """From such numbers; a new one where they are none, or of other terms, or damaged."""
        if values is None or list(values.get("terms", ())) != list(TERMS):
            return Correction()
        try:
            weights = tuple(float(x) for x in values["weights"])
            covariance = tuple(tuple(float(x) for x in row) for row in values["covariance"])
            found = Correction(weights, covariance, int(values["count"]))
        except (KeyError, TypeError, ValueError):
            return Correction()
        size = len(TERMS)
        whole = len(weights) == len(covariance) == size and all(len(row) == size for row in covariance)
        finite = all(math.isfinite(x) for row in (weights, *covariance) for x in row)
        return found if whole and finite and found.count >= 0 else Correction()


def _remembered(covariance: tuple[Vector, ...]) -> tuple[Vector, ...]:
    """The covariance after a little was forgotten; no term is ever less sure than before all measurements."""
    grown = [[x / MEMORY for x in row] for row in covariance]
    size = len(grown)
    for i in range(size):
        if (most := PRIOR[i] ** 2) < grown[i][i]:
            shrink = math.sqrt(most / grown[i][i])
            for j in range(size):
                grown[i][j] *= shrink
                grown[j][i] *= shrink
    return tuple(tuple(row) for row in grown)


def _dot(x: Vector, y: Vector) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def _times(matrix: tuple[Vector, ...], x: Vector) -> Vector:
    return tuple(_dot(row, x) for row in matrix)


# --- whether to measure


def worth_measuring(
    predictions: Sequence[float], spreads: Sequence[float], cost_seconds: float | Sequence[float], calls_expected: float
) -> int | None:
    """The candidate whose measurement pays most; None where none pays.

    `predictions` are seconds of one call and `spreads` standard deviations of their logarithms, 0 for what was
    measured. A measurement costs `cost_seconds` (one number, or one for each candidate: compiling is part of it) and
    gains, in each of the `calls_expected`, what the choice after it is expected to be faster than the one before.
    """
    costs = [cost_seconds] * len(predictions) if isinstance(cost_seconds, int | float) else list(cost_seconds)
    gains = [calls_expected * gain for gain in expected_gains(predictions, spreads)]
    worth = [gain - cost for gain, cost in zip(gains, costs, strict=True)]
    best = max(range(len(worth)), key=lambda i: (worth[i], -i), default=None)
    return best if best is not None and worth[best] > 0.0 and spreads[best] > 0.0 else None


def expected_gains(predictions: Sequence[float], spreads: Sequence[float]) -> list[float]:
    """Seconds a call that knowing each candidate's time is expected to save: by taking it, or by not taking it."""
    order = sorted(range(len(predictions)), key=lambda i: (predictions[i], i))
    if len(order) < 2:
        return [0.0] * len(predictions)
    first, second = predictions[order[0]], predictions[order[1]]
    return [
        # What is taken now is given up where it turns out slower than the next one.
        _mean_beyond(predictions[i], spreads[i], second, above=True) if i == order[0]
        else _mean_beyond(predictions[i], spreads[i], first, above=False)
        for i in range(len(predictions))
    ]  # fmt: skip


def _mean_beyond(mean: float, spread: float, limit: float, *, above: bool) -> float:
    """The mean of max(0, x - limit), or of max(0, limit - x), where log(x) is normal with `spread` and x has `mean`."""
    if spread <= 0.0:
        return max(0.0, mean - limit if above else limit - mean)
    upper = math.log(mean / limit) / spread + spread / 2
    lower = upper - spread
    if above:
        return max(0.0, mean * _normal(upper) - limit * _normal(lower))
    return max(0.0, limit * _normal(-lower) - mean * _normal(-upper))


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))
