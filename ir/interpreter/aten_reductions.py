"""ATen overloads that fold axes: sums, extremes, softmax, norms, running sums and differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..attributes import Type, f64
from .aten_arguments import Arguments, Meaning
from .call import Array

Reduction = Callable[..., Any]


def reduction(function: Reduction, **options: Any) -> Meaning:
    """Fold the axes of `dim`, or all of them where it is absent or empty."""

    def run(a: Arguments) -> Array:
        axes = tuple(a.integers("dim", [])) or None
        return np.asarray(function(a.wide("self"), axis=axes, keepdims=a.flag("keepdim"), **options))

    return run


def extreme(function: Reduction, position: Reduction) -> Meaning:
    """The extreme along `dim` and where it first stands; nan counts as more extreme than any number."""

    def run(a: Arguments) -> tuple[Array, Array]:
        x, axis, keep = a.wide("self"), a.integer("dim"), a.flag("keepdim")
        return function(x, axis=axis, keepdims=keep), position(x, axis=axis, keepdims=keep)

    return run


def position_of_largest(a: Arguments) -> Array:
    """The first position of the largest element, in the flattened tensor without `dim`."""
    x, axis = a.wide("self"), a.value("dim")
    return np.asarray(np.argmax(x, axis=None if axis is None else int(axis), keepdims=a.flag("keepdim")))


def variance(a: Arguments) -> Array:
    """The mean square distance from the mean, over n - correction."""
    axes = tuple(a.integers("dim", [])) or None
    correction = a.value("correction", int(a.value("unbiased", True)))
    return np.asarray(np.var(a.wide("self"), axis=axes, ddof=correction, keepdims=a.flag("keepdim")))


def _softmax_input(a: Arguments) -> tuple[Array, int]:
    x, dtype = a.wide("self"), a.value("dtype")
    return (a.rounded(x, dtype) if isinstance(dtype, Type) else x), a.integer("dim")


def softmax(a: Arguments) -> Array:
    """exp(x) / Σ exp(x) along `dim`; nan where every element is -inf."""
    x, axis = _softmax_input(a)
    weights = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return weights / weights.sum(axis=axis, keepdims=True)


def safe_softmax(a: Arguments) -> Array:
    """Like `softmax`, but 0 where every element is -inf."""
    x, axis = _softmax_input(a)
    return np.where((x == -np.inf).all(axis=axis, keepdims=True), 0.0, softmax(a))


def log_softmax(a: Arguments) -> Array:
    x, axis = _softmax_input(a)
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def log_sum_exp(a: Arguments) -> Array:
    x, axes, keep = a.wide("self"), tuple(a.integers("dim")), a.flag("keepdim")
    largest = x.max(axis=axes, keepdims=True, initial=-np.inf)
    shift = np.where(np.isinf(largest), 0.0, largest)
    total = np.log(np.exp(x - shift).sum(axis=axes, keepdims=True)) + shift
    return total if keep else np.squeeze(total, axis=axes)


def difference(a: Arguments) -> Array:
    """Each element minus the one before it, `n` times; `prepend` and `append` lengthen it first."""
    axis = a.integer("dim", -1)
    parts = [a.wide(name) for name in ("prepend", "self", "append") if a.value(name) is not None]
    return np.diff(np.concatenate(parts, axis=axis), n=a.integer("n", 1), axis=axis)


def _normalised_axes(a: Arguments) -> tuple[int, ...]:
    return tuple(range(-len(a.integers("normalized_shape")), 0))


def _affine(a: Arguments, x: Array) -> Array:
    weight = x if a.value("weight") is None else x * a.wide("weight")
    return weight if a.value("bias") is None else weight + a.wide("bias")


def native_layer_norm(a: Arguments) -> tuple[Array, Array, Array]:
    """The normalised input, and the mean and 1 / deviation it was normalised with."""
    x, axes = a.wide("input"), _normalised_axes(a)
    mean = x.mean(axis=axes, keepdims=True)
    scale = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + a.value("eps", 1e-5))
    return _affine(a, (x - mean) * scale), mean, scale


def rms_norm(a: Arguments) -> Array:
    """x / sqrt(mean(x²) + eps); by default eps is the spacing of f32 at 1, of f64 for f64."""
    x = a.wide("input")
    eps = a.value("eps", 2.0**-52 if a.element("input") == f64 else 2.0**-23)
    return _affine(a, x / np.sqrt((x * x).mean(axis=_normalised_axes(a), keepdims=True) + eps))


REDUCTIONS: Mapping[str, Meaning] = {
    "sum": reduction(np.sum),
    "sum.dim_IntList": reduction(np.sum),
    "mean": reduction(np.mean),
    "mean.dim": reduction(np.mean),
    "prod": reduction(np.prod),
    "amax": reduction(np.max),
    "amin": reduction(np.min),
    "max": reduction(np.max),
    "min": reduction(np.min),
    "max.dim": extreme(np.max, np.argmax),
    "min.dim": extreme(np.min, np.argmin),
    "argmax": position_of_largest,
    "any": reduction(np.any),
    "any.dim": reduction(np.any),
    "any.dims": reduction(np.any),
    "all": reduction(np.all),
    "all.dim": reduction(np.all),
    "all.dims": reduction(np.all),
    "var.dim": variance,
    "var.correction": variance,
    "cumsum": lambda a: np.cumsum(a.wide("self"), axis=a.integer("dim")),
    "diff": difference,
    "softmax.int": softmax,
    "_softmax": softmax,
    "_safe_softmax": safe_softmax,
    "log_softmax.int": log_softmax,
    "_log_softmax": log_softmax,
    "logsumexp": log_sum_exp,
    "layer_norm": lambda a: native_layer_norm(a)[0],
    "native_layer_norm": native_layer_norm,
    "rms_norm": rms_norm,
}
