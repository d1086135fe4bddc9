"""The meaning of `math`: every function is computed in float64 and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from .call import Array, Handler
from .rounding import wide

Unary = Callable[[Array], Array]


def erf(x: Array) -> Array:
    """The error function in float64."""
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def rsqrt(x: Array) -> Array:
    """1 / sqrt(x) in float64."""
    return 1.0 / np.sqrt(x)


def elementwise(function: Unary) -> Handler:
    return lambda call: [function(wide(call.operands[0]))]


MATH: Mapping[str, Handler] = {
    "math.exp": elementwise(np.exp),
    "math.exp2": elementwise(np.exp2),
    "math.expm1": elementwise(np.expm1),
    "math.log": elementwise(np.log),
    "math.log2": elementwise(np.log2),
    "math.log1p": elementwise(np.log1p),
    "math.tanh": elementwise(np.tanh),
    "math.sqrt": elementwise(np.sqrt),
    "math.rsqrt": elementwise(rsqrt),
    "math.absf": elementwise(np.abs),
    "math.absi": elementwise(np.abs),
    "math.sin": elementwise(np.sin),
    "math.cos": elementwise(np.cos),
    "math.erf": elementwise(erf),
    "math.floor": elementwise(np.floor),
    "math.ceil": elementwise(np.ceil),
    "math.powf": lambda call: [np.power(wide(call.operands[0]), wide(call.operands[1]))],
}
