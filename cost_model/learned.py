"""What was learned from recorded measurements: small ensembles of neural networks, computed with NumPy.

Weights lie in `weights/`, one file for each kind of answer and its targets, and are data: arrays of numbers and
names, no code. `attir tune --train` writes them. A target without weights has the analytical model alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .features import FEATURES, KERNEL_FEATURES

FORMAT = 1
"""Of the files; others are not read."""

WEIGHTS = Path(__file__).parent / "weights"

TIME, KERNEL = "time", "kernel"
"""Kinds of answers: how much longer a call takes than the analytical model says, and what a compiler makes of a
kernel."""

ALL_GPUS = "gpus"
"""The name of weights for the kernels of several targets."""

INPUTS: Mapping[str, tuple[str, ...]] = {TIME: FEATURES, KERNEL: KERNEL_FEATURES}
OUTPUTS: Mapping[str, tuple[str, ...]] = {TIME: ("log ratio",), KERNEL: ("registers", "spills", "log loop")}
"""What models of each kind are told and answer; "spills" is the logit of spilling in a loop."""

SURE = 1e-3
"""The least spread: predictions of several models that agree by chance are not exact."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ensemble:
    """Members of one shape: two hidden layers each, on standardised inputs; numbers beyond `low` and `high` are cut.

    `weights` and `biases` are of the layers, with the members as their first axis. Answers are `center` + `scale`
    times the last layer's, kept within `limits` (least and most of each). `widening` makes the members' spread as
    wide as their errors were where they had not been trained, and `noise` is what no member can know.
    """

    low: Array
    high: Array
    mean: Array
    deviation: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    center: Array
    scale: Array
    limits: Array
    widening: Array
    noise: Array

    def answers(self, rows: Array) -> tuple[Array, Array]:
        """Mean and spread among the members, each (rows, outputs), for rows of features."""
        x = ((np.clip(rows, self.low, self.high) - self.mean) / self.deviation)[None]
        *hidden, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in hidden:
            x = silu(x @ weight + bias[:, None])
        found = (x @ last[0] + last[1][:, None]) * self.scale + self.center
        mean = np.clip(found.mean(0), *self.limits)
        return mean, np.hypot(np.maximum(found.std(0), SURE) * self.widening, self.noise)


def silu(x: Array) -> Array:
    """x sigmoid(x)"""
    return x / (1.0 + np.exp(-x))


@dataclass(frozen=True)
class Learned:
    """The learned time of calls on some targets; `data` is the fingerprint of what it was trained from."""

    ensemble: Ensemble
    data: str

    def correct(self, rows: Sequence[tuple[float, ...]]) -> tuple[Array, Array]:
        """log(time / analytical time) of candidates, from their `features_of`, and its standard deviation."""
        mean, spread = self.ensemble.answers(np.asarray(rows, np.float64).reshape(-1, len(FEATURES)))
        return mean[:, 0], spread[:, 0]


@dataclass(frozen=True)
class Expected:
    """What a compiler is expected to make of a kernel: registers a thread, the probability that its loops spill,
    and the instructions of a step of its main loop."""

    registers: float
    spills: float
    loop: float


@dataclass(frozen=True)
class KernelModel:
    """What compilers do for some targets; `data` is the fingerprint of what it was trained from."""

    ensemble: Ensemble
    data: str

    def expect(self, rows: Sequence[tuple[float, ...]]) -> list[Expected]:
        """One for each kernel, from their `kernel_features_of`."""
        mean, _ = self.ensemble.answers(np.asarray(rows, np.float64).reshape(-1, len(KERNEL_FEATURES)))
        return [Expected(float(r), float(1 / (1 + np.exp(-s))), float(np.exp(loop))) for r, s, loop in mean]


def learned_for(target: str) -> Learned | None:
    """The model of times on `target`; None where there is none that fits, and `fallback_reason` says why."""
    found = _weights(WEIGHTS, TIME, target)
    return None if isinstance(found, str) else Learned(*found)


def kernel_model_for(target: str) -> KernelModel | None:
    """The model of what compilers do for `target`; None where there is none that fits."""
    found = _weights(WEIGHTS, KERNEL, target, ALL_GPUS)
    return None if isinstance(found, str) else KernelModel(*found)


def fallback_reason(target: str) -> str:
    """Why times on `target` are predicted by the analytical model alone; empty where they are not."""
    found = _weights(WEIGHTS, TIME, target)
    return found if isinstance(found, str) else ""


def weights_file(kind: str, name: str, folder: Path = WEIGHTS) -> Path:
    """Of one kind; `name` is a target, or that of several."""
    return folder / f"{kind}.{name}.npz"


@cache
def _weights(folder: Path, kind: str, target: str, name: str = "") -> tuple[Ensemble, str] | str:
    """The ensemble of one kind for `target`, read once, and its data's fingerprint; the reason where there is none."""
    path = weights_file(kind, name or target, folder)
    if not path.exists():
        return f"analytical only: no times measured on {target} were learned from"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _read(arrays, kind, target)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as problem:
        return f"analytical only: {path.name} cannot be read: {problem}"


def _read(arrays: Mapping[str, NDArray[Any]], kind: str, target: str) -> tuple[Ensemble, str] | str:
    if (version := int(arrays["format"])) != FORMAT:
        return f"analytical only: weights have format {version}, but {FORMAT} is read; 'attir tune --train' writes it"
    if target not in (targets := [str(x) for x in arrays["targets"]]):
        return f"analytical only: weights were trained for {', '.join(targets)}, not for {target}"
    for name, expected in (("features", INPUTS[kind]), ("outputs", OUTPUTS[kind])):
        found = tuple(str(x) for x in arrays[name])
        if found != expected:
            different = sorted(set(found) ^ set(expected)) or ["their order"]
            return f"analytical only: weights were trained for other {name} ({', '.join(different[:3])})"
    return ensemble_of(arrays), str(arrays["data"])


LAYERS = 3

SINGLE = ("low", "high", "mean", "deviation", "center", "scale", "limits", "widening", "noise")
"""The fields of an ensemble that are one array each."""


def ensemble_of(arrays: Mapping[str, NDArray[Any]]) -> Ensemble:
    """From the arrays of a file, which `arrays_of` made; ValueError where their shapes do not fit each other."""
    weights, biases = (tuple(_finite(arrays[f"{kind}{i}"]) for i in range(LAYERS)) for kind in ("weight", "bias"))
    found = Ensemble(**{name: _finite(arrays[name]) for name in SINGLE}, weights=weights, biases=biases)
    width = len(found.mean)
    for weight, bias in zip(weights, biases, strict=True):
        if weight.ndim != 3 or weight.shape[1] != width or bias.shape != (len(weight), weight.shape[2]):
            raise ValueError(f"layers of shapes {[w.shape for w in weights]} do not follow each other")
        width = weight.shape[2]
    return found


def arrays_of(ensemble: Ensemble, kind: str, targets: Sequence[str], data: str) -> dict[str, NDArray[Any]]:
    """What a file of weights holds. They are kept in half the digits, which changes answers by far less than noise."""
    layers = {f"weight{i}": w for i, w in enumerate(ensemble.weights)}
    layers |= {f"bias{i}": b for i, b in enumerate(ensemble.biases)}
    return {
        "format": np.asarray(FORMAT),
        "features": np.asarray(INPUTS[kind]),
        "outputs": np.asarray(OUTPUTS[kind]),
        "targets": np.asarray(targets),
        "data": np.asarray(data),
        **{name: np.asarray(getattr(ensemble, name), np.float32) for name in SINGLE},
        **{name: array.astype(np.float16) for name, array in layers.items()},
    }


def _finite(array: NDArray[Any]) -> Array:
    found = array.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError("weights are not finite")
    return found
