"""Trains ensembles of small networks in PyTorch, all members at once; NumPy computes them later.

The same samples and settings give the same weights, bit for bit, on one machine: seeds are fixed, one thread works,
and all samples are read in each step.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from ..learned import Ensemble
from .samples import Array, Places, Samples, numbered

RATIO, NUMBER, CHANCE = "ratio", "number", "chance"
"""Kinds of outputs: logarithms of which differences within a problem matter most; numbers; and what either is or
is not, predicted as a logit."""


@dataclass(frozen=True)
class Settings:
    """Of one training: `members` with two layers of `width`, `steps` over all samples at a `rate` that falls to 0.

    Weights decay by `decay` in a unit of rate. `within` is how much errors of differences within a problem count
    beside errors, and `best` how much more its fastest candidates do. Errors beyond `outlier` (of the standardised
    answers) count linearly. Each member leaves out the families of one of `folds` parts.
    """

    kinds: tuple[str, ...] = (RATIO,)
    members: int = 10
    width: int = 32
    steps: int = 300
    rate: float = 3e-3
    decay: float = 1.0
    within: float = 2.0
    best: float = 2.0
    outlier: float = 1.5
    folds: int = 5
    noise: float = 0.0
    seed: int = 0


@contextmanager
def reproducible(seed: int) -> Generator[torch.Generator]:
    """One thread and only deterministic algorithms, as long as it lasts."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield torch.Generator().manual_seed(seed)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def fit(samples: Samples, settings: Settings) -> Ensemble:
    """The trained members, with spreads as wide as errors on families that members had left out."""
    inputs = _Standard.of(samples.rows)
    center, scale = answer_scale(samples.answers, settings.kinds)
    used = _used(samples.families, settings)
    with reproducible(settings.seed) as generator:
        trainer = _Trainer(samples, inputs.of_rows(samples.rows), (samples.answers - center) / scale, used, settings)
        weights, biases = trainer.trained(generator)
    found = Ensemble(
        inputs.low, inputs.high, inputs.mean, inputs.deviation, weights, biases, center, scale,
        _limits(samples.answers, settings.kinds), np.ones(len(center)), np.zeros(len(center)),
    )  # fmt: skip
    return _widened(found, samples, used, settings)


@dataclass(frozen=True)
class _Standard:
    """How features are brought to a mean of 0 and a deviation of 1."""

    low: Array
    high: Array
    mean: Array
    deviation: Array

    @staticmethod
    def of(rows: Array) -> _Standard:
        rows = rows.astype(np.float32).astype(np.float64)  # as they are stored
        deviation = rows.std(0)
        # What never changes in training says nothing: it is cut to that value.
        deviation[deviation < 1e-6] = 1.0
        found = (rows.min(0), rows.max(0), rows.mean(0), deviation)
        return _Standard(*(x.astype(np.float32).astype(np.float64) for x in found))

    def of_rows(self, rows: Array) -> Array:
        return (np.clip(rows, self.low, self.high) - self.mean) / self.deviation


def answer_scale(answers: Array, kinds: Sequence[str]) -> tuple[Array, Array]:
    logits = np.asarray([kind == CHANCE for kind in kinds])
    center = np.where(logits, 0.0, np.nanmean(answers, 0))
    scale = np.where(logits, 1.0, np.maximum(np.nanstd(answers, 0), 1e-6))
    return center.astype(np.float32).astype(np.float64), scale.astype(np.float32).astype(np.float64)


def _limits(answers: Array, kinds: Sequence[str]) -> Array:
    """The least and most that is answered: of ratios little beyond what was ever seen, of numbers nothing."""
    low, high = np.nanmin(answers, 0), np.nanmax(answers, 0)
    margin = 0.1 * (high - low) * np.asarray([kind == RATIO for kind in kinds])
    logits = np.asarray([kind == CHANCE for kind in kinds])
    return np.stack([np.where(logits, -20.0, low - margin), np.where(logits, 20.0, high + margin)])


def _used(families: Sequence[str], settings: Settings) -> Array:
    """Which samples each member is trained from, (members, samples) of 0 and 1: all families but those of one fold."""
    folds = numbered(families) % settings.folds
    return np.stack([folds != member % settings.folds for member in range(settings.members)]).astype(np.float64)


class _Trainer:
    """Trains all members at once, each from the samples that it uses."""

    def __init__(self, samples: Samples, x: Array, y: Array, used: Array, settings: Settings) -> None:
        self.settings = settings
        self.x, self.y, self.used = (torch.tensor(a, dtype=torch.float32) for a in (x, np.nan_to_num(y), used))
        self.known = torch.tensor(np.isfinite(samples.answers), dtype=torch.float32)
        self.problems = numbered(list(samples.problems))
        self.worth = torch.tensor(worth_of(samples, self.problems, settings.best), dtype=torch.float32)

    def trained(self, generator: torch.Generator) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        parameters = self._initial(generator)
        settings = self.settings
        optimizer = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=settings.decay)
        for step in range(settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * falling(step / settings.steps)
            optimizer.zero_grad()
            found = self._answers(parameters)
            loss = loss_of(found, self.y, self.known, self.worth, self.problems, settings, self.used)
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        arrays = [p.detach().numpy().astype(np.float16).astype(np.float64) for p in parameters]
        return tuple(arrays[0::2]), tuple(arrays[1::2])

    def _initial(self, generator: torch.Generator) -> list[torch.Tensor]:
        widths = (self.x.shape[1], self.settings.width, self.settings.width, self.y.shape[1])
        found: list[torch.Tensor] = []
        for inner, outer in pairwise(widths):
            weight = torch.randn(self.settings.members, inner, outer, generator=generator) / math.sqrt(inner)
            found += [weight, torch.zeros(self.settings.members, outer)]
        # A network that starts at 0 starts as the analytical model, or at the mean.
        found[-2] *= 0.1
        return [p.requires_grad_() for p in found]

    def _answers(self, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """(members, samples, outputs)"""
        x = self.x.expand(self.settings.members, -1, -1)
        for weight, bias in zip(parameters[0:-2:2], parameters[1:-2:2], strict=True):
            x = torch.nn.functional.silu(torch.baddbmm(bias[:, None], x, weight))
        return torch.baddbmm(parameters[-1][:, None], x, parameters[-2])


class LossSettings(Protocol):
    """What a loss is told, as `Settings` describe it."""

    @property
    def kinds(self) -> tuple[str, ...]: ...
    @property
    def within(self) -> float: ...
    @property
    def outlier(self) -> float: ...


def loss_of(
    found: torch.Tensor,
    target: torch.Tensor,
    known: torch.Tensor,
    worth: torch.Tensor,
    problems: Places,
    settings: LossSettings,
    used: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean loss of answers (members, samples, outputs), summed over outputs and members."""
    used = torch.ones(found.shape[:2]) if used is None else used
    total = torch.zeros(())
    for output, kind in enumerate(settings.kinds):
        weight = used * known[:, output]
        answer, wanted = found[:, :, output], target[:, output].expand(found.shape[:2])
        if kind == CHANCE:
            losses = torch.nn.functional.binary_cross_entropy_with_logits(answer, wanted, reduction="none")
        else:
            losses = _huber(answer - wanted, settings.outlier)
        if kind == RATIO:
            within = _within(answer - wanted, problems, worth)
            losses = (losses + settings.within * _huber(within, settings.outlier)) * worth
        total = total + (losses * weight).sum() / weight[0].sum().clamp(min=1.0)
    return total


def _within(error: torch.Tensor, problems: Places, worth: torch.Tensor) -> torch.Tensor:
    """The error less the mean of its problem, in which good candidates count most: what orders depend on."""
    place = torch.from_numpy(numbered(list(problems)))  # pyright: ignore[reportUnknownMemberType]
    count = int(place.max()) + 1
    sizes = torch.zeros(count).index_add(0, place, worth)
    means = torch.zeros(len(error), count).index_add(1, place, error * (worth / sizes[place]))
    return error - means[:, place]


def _huber(error: torch.Tensor, outlier: float) -> torch.Tensor:
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=outlier)


def falling(part: float) -> float:
    """The rate over a training, as a cosine, after a short rise."""
    return min(1.0, part / 0.05 + 0.02) * 0.5 * (1.0 + math.cos(math.pi * part))


def worth_of(samples: Samples, problems: Places, best: float) -> Array:
    """1 for a slow candidate, up to 1 + `best` for the fastest of its problem; then scaled to a mean of 1."""
    worth = np.ones(len(samples))
    if not samples.seconds.any():
        return worth
    fastest = np.full(int(problems.max()) + 1, np.inf)
    np.minimum.at(fastest, problems, samples.seconds)
    worth += best * np.exp(-6.0 * (samples.seconds / fastest[problems] - 1.0))
    return worth / worth.mean()


def _widened(found: Ensemble, samples: Samples, used: Array, settings: Settings) -> Ensemble:
    """The spread as wide as errors of members on what they had left out, beside the `noise` of measurements."""
    left_out = _left_out_answers(found, samples, used)
    noise = np.full(len(found.center), settings.noise)
    logits = np.asarray([kind == CHANCE for kind in settings.kinds])
    error = np.nanmean((left_out - samples.answers) ** 2, 0) - noise**2
    spread = np.mean(found.answers(samples.rows)[1] ** 2, 0)
    widening = np.where(logits, 1.0, np.sqrt(np.maximum(error, 1e-12) / np.maximum(spread, 1e-12)))
    widening = np.maximum(1.0, widening)
    return replace(found, widening=widening, noise=noise)


def _left_out_answers(found: Ensemble, samples: Samples, used: Array) -> Array:
    """What the members that had left out a sample say of it, their mean; (samples, outputs)."""
    total, count = np.zeros_like(samples.answers), np.zeros(len(samples))
    for member in range(len(used)):
        weights, biases = (tuple(x[member : member + 1] for x in layers) for layers in (found.weights, found.biases))
        alone = replace(found, weights=weights, biases=biases)
        places = np.flatnonzero(used[member] == 0)
        if len(places):
            total[places] += alone.answers(samples.rows[places])[0]
            count[places] += 1
    return total / np.maximum(count, 1)[:, None]


def left_out_answers(found: Ensemble, samples: Samples, settings: Settings) -> Array:
    """As members predict families they had left out: an honest view of the training samples, to choose settings by."""
    return _left_out_answers(found, samples, _used(samples.families, settings))
