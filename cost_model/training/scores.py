"""How good predictions are: of numbers, of orders within a problem, and of the choices they lead to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from .samples import Array, Places

LEAST_CANDIDATES = 3
"""Of a problem, below which an order or a choice says little."""


def explained(truth: Array, predicted: Array) -> float:
    """R²: the part of the variance that predictions explain; below 0 where the mean would be better."""
    total = float(((truth - truth.mean()) ** 2).sum())
    return 1.0 - float(((truth - predicted) ** 2).sum()) / max(total, 1e-30)


def spearman(x: Array, y: Array) -> float:
    """The correlation of ranks, equal values sharing theirs; 0 where all of one are equal."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _ranks(x: Array) -> Array:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[place]


@dataclass(frozen=True)
class TimeScores:
    """Predicted seconds against measured ones.

    `regret` is the time of the candidate predicted fastest over the best one's, as a geometric mean over problems and
    the worst; `regret3` that of the best of the first three. `spearman` is the median within a problem, `error` the
    median absolute relative error of all candidates, `chosen_error` that of each problem's first choice.
    """

    candidates: int
    problems: int
    regret: float
    worst_regret: float
    regret3: float
    spearman: float
    error: float
    chosen_error: float

    def as_values(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def time_scores(seconds: Array, predicted: Array, problems: Places) -> TimeScores:
    """Scores over all problems with a few candidates."""
    first, third, orders, chosen = list[float](), list[float](), list[float](), list[float]()
    for places in _of_problems(problems):
        order = places[np.argsort(predicted[places], kind="stable")]
        best = seconds[places].min()
        first.append(float(np.log(seconds[order[0]] / best)))
        third.append(float(np.log(seconds[order[:3]].min() / best)))
        orders.append(spearman(seconds[places], predicted[places]))
        chosen.append(float(abs(predicted[order[0]] / seconds[order[0]] - 1.0)))
    if not first:
        return TimeScores(len(seconds), 0, *(float("nan"),) * 6)
    return TimeScores(
        len(seconds),
        len(first),
        float(np.exp(np.mean(first))),
        float(np.exp(np.max(first))),
        float(np.exp(np.mean(third))),
        float(np.median(orders)),
        float(np.median(np.abs(predicted / seconds - 1.0))),
        float(np.median(chosen)),
    )


def _of_problems(problems: Places) -> Iterator[NDArray[np.int64]]:
    for number in np.unique(problems):
        places = np.flatnonzero(problems == number)
        if len(places) >= LEAST_CANDIDATES:
            yield places


@dataclass(frozen=True)
class KernelScores:
    """What a compiler was expected to do against what it did: R² of registers and of the logarithm of the length of
    the main loop, and the part of kernels of which spilling in a loop was told rightly. `missed` of those that spill
    were said to fit."""

    kernels: int
    registers: float
    loop: float
    spills: float
    missed: float

    def as_values(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def kernel_scores(truth: Array, predicted: Array) -> KernelScores:
    """From answers (n, 3) of registers, spilling (0 or 1; predicted: a logit), log loop length; nan: unknown."""
    registers, spilled, loops = (np.isfinite(truth[:, i]) for i in range(3))
    spills, said = truth[spilled, 1] > 0.5, predicted[spilled, 1] > 0.0
    return KernelScores(
        len(truth),
        explained(truth[registers, 0], predicted[registers, 0]),
        explained(truth[loops, 2], predicted[loops, 2]),
        float((spills == said).mean()),
        float((spills & ~said).sum() / max(1, spills.sum())),
    )
