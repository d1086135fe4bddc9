"""ATen overloads that act on each element: arithmetic, functions, comparisons, choices, casts.

Everything is computed in float64, int64 or bool; the result's type says how to round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from .aten_arguments import Arguments, Meaning
from .call import Array
from .math import erf, rsqrt

Unary = Callable[[Array], Array]
Binary = Callable[[Array, Array], Array]


def unary(function: Unary) -> Meaning:
    return lambda a: function(a.wide("self"))


def binary(function: Binary, other: str = "other") -> Meaning:
    return lambda a: function(a.wide("self"), a.wide(other))


def scaled(function: Binary) -> Meaning:
    """An op on `self` and `alpha * other`."""
    return lambda a: function(a.wide("self"), _scaled_other(a))


def _scaled_other(a: Arguments) -> Array:
    other, alpha = a.wide("other"), a.value("alpha", 1)
    return other if alpha == 1 else other * alpha


def compare(function: Binary) -> Meaning:
    """A comparison in the type of the tensor; `self` is a tensor."""
    return lambda a: function(a.wide("self"), a.compared("other", "self"))


def logical(function: Binary) -> Meaning:
    return lambda a: function(a.wide("self") != 0, a.wide("other") != 0)


def gelu(a: Arguments) -> Array:
    """x Φ(x), or its tanh approximation."""
    x = a.wide("self")
    if a.value("approximate", "none") == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def softplus(a: Arguments) -> Array:
    """log(1 + exp(beta x)) / beta, and x itself above the threshold."""
    x, beta, threshold = a.wide("self"), a.value("beta", 1), a.value("threshold", 20)
    return np.where(x * beta > threshold, x, np.log1p(np.exp(x * beta)) / beta)


def divide(a: Arguments) -> Array:
    """True division, or rounded as `rounding_mode` says ("floor", "trunc")."""
    x, y, mode = a.wide("self"), a.wide("other"), a.value("rounding_mode")
    if mode == "floor":
        return floor_divide(a)
    return np.trunc(x / y) if mode == "trunc" else x / y


def floor_divide(a: Arguments) -> Array:
    x, y = a.wide("self"), a.wide("other")
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        _check_divisor(a, y)
        return x // y
    quotient = np.floor_divide(x, y)
    return np.where(y == 0, x / y, quotient)


def remainder(a: Arguments) -> Array:
    """x - floor(x / y) * y, with the sign of y."""
    x, y = a.wide("self"), a.wide("other")
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        _check_divisor(a, y)
    return np.mod(x, y)


def _check_divisor(a: Arguments, y: Array) -> None:
    if np.any(y == 0):
        a.fail("divides integers by zero")


def clamp(a: Arguments) -> Array:
    """Bounded below, then above; nan stays."""
    x = a.wide("self")
    for name, function in (("min", np.maximum), ("max", np.minimum)):
        if a.value(name) is not None:
            x = function(x, a.compared(name, "self"))
    return x


def where(a: Arguments) -> Array:
    return np.where(a.array("condition") != 0, a.wide("self"), a.wide("other"))


def masked_fill(a: Arguments) -> Array:
    return np.where(a.array("mask"), a.wide("value"), a.wide("self"))


def cast(a: Arguments) -> Array:
    """The same numbers; the result's type does the rounding. Any float but 0 is true."""
    return a.array("self")


def dropout(a: Arguments) -> Array:
    """The input, in inference; a training dropout has no meaning without a random state."""
    if a.flag("train") and a.value("p") != 0:
        a.fail("draws random numbers in training, which the interpreter does not")
    return a.array("input")


def add_product(a: Arguments) -> Array:
    return a.wide("self") + a.value("value", 1) * a.wide("tensor1") * a.wide("tensor2")


def interpolate(a: Arguments) -> Array:
    start, end = a.wide("self"), a.wide("end")
    return start + a.wide("weight") * (end - start)


ARITHMETIC: Mapping[str, Meaning] = {
    "add.Tensor": scaled(np.add),
    "add.Scalar": scaled(np.add),
    "sub.Tensor": scaled(np.subtract),
    "sub.Scalar": scaled(np.subtract),
    "rsub.Tensor": lambda a: a.wide("other") - a.wide("self") * a.value("alpha", 1),
    "rsub.Scalar": lambda a: a.wide("other") - a.wide("self") * a.value("alpha", 1),
    "mul.Tensor": binary(np.multiply),
    "mul.Scalar": binary(np.multiply),
    "div.Tensor": divide,
    "div.Scalar": divide,
    "div.Tensor_mode": divide,
    "div.Scalar_mode": divide,
    "floor_divide": floor_divide,
    "floor_divide.Scalar": floor_divide,
    "remainder.Tensor": remainder,
    "remainder.Scalar": remainder,
    "pow.Tensor_Scalar": binary(np.power, "exponent"),
    "pow.Tensor_Tensor": binary(np.power, "exponent"),
    "pow.Scalar": binary(np.power, "exponent"),
    "maximum": binary(np.maximum),
    "minimum": binary(np.minimum),
    "max.other": binary(np.maximum),
    "min.other": binary(np.minimum),
    "addcmul": add_product,
    "lerp.Scalar": interpolate,
}

FUNCTIONS: Mapping[str, Meaning] = {
    "neg": unary(np.negative),
    "abs": unary(np.abs),
    "sign": unary(np.sign),
    "square": unary(np.square),
    "reciprocal": unary(lambda x: 1.0 / x),
    "sqrt": unary(np.sqrt),
    "rsqrt": unary(rsqrt),
    "exp": unary(np.exp),
    "exp2": unary(np.exp2),
    "expm1": unary(np.expm1),
    "log": unary(np.log),
    "log2": unary(np.log2),
    "log1p": unary(np.log1p),
    "sin": unary(np.sin),
    "cos": unary(np.cos),
    "tanh": unary(np.tanh),
    "erf": unary(erf),
    "sigmoid": unary(lambda x: 1 / (1 + np.exp(-x))),
    "silu": unary(lambda x: x / (1 + np.exp(-x))),
    "relu": unary(lambda x: np.maximum(x, 0)),
    "gelu": gelu,
    "softplus": softplus,
    "leaky_relu": lambda a: np.where(
        a.wide("self") > 0, a.wide("self"), a.wide("self") * a.value("negative_slope", 0.01)
    ),
    "floor": unary(np.floor),
    "ceil": unary(np.ceil),
    "round": unary(np.round),
    "trunc": unary(np.trunc),
    "clamp": clamp,
    "clamp.Tensor": clamp,
    "clamp_min": clamp,
    "clamp_max": clamp,
    "isnan": unary(np.isnan),
    "isinf": unary(np.isinf),
    "isfinite": unary(np.isfinite),
    "isneginf": unary(lambda x: x == -np.inf),
    "isposinf": unary(lambda x: x == np.inf),
}

LOGIC: Mapping[str, Meaning] = {
    "eq.Tensor": compare(np.equal),
    "eq.Scalar": compare(np.equal),
    "ne.Tensor": compare(np.not_equal),
    "ne.Scalar": compare(np.not_equal),
    "lt.Tensor": compare(np.less),
    "lt.Scalar": compare(np.less),
    "le.Tensor": compare(np.less_equal),
    "le.Scalar": compare(np.less_equal),
    "gt.Tensor": compare(np.greater),
    "gt.Scalar": compare(np.greater),
    "ge.Tensor": compare(np.greater_equal),
    "ge.Scalar": compare(np.greater_equal),
    "__and__.Tensor": binary(np.bitwise_and),
    "__and__.Scalar": binary(np.bitwise_and),
    "bitwise_and.Tensor": binary(np.bitwise_and),
    "bitwise_and.Scalar": binary(np.bitwise_and),
    "__or__.Tensor": binary(np.bitwise_or),
    "__or__.Scalar": binary(np.bitwise_or),
    "bitwise_or.Tensor": binary(np.bitwise_or),
    "bitwise_or.Scalar": binary(np.bitwise_or),
    "__xor__.Tensor": binary(np.bitwise_xor),
    "__xor__.Scalar": binary(np.bitwise_xor),
    "bitwise_xor.Tensor": binary(np.bitwise_xor),
    "bitwise_xor.Scalar": binary(np.bitwise_xor),
    "bitwise_not": unary(np.invert),
    "logical_and": logical(np.logical_and),
    "logical_or": logical(np.logical_or),
    "logical_xor": logical(np.logical_xor),
    "logical_not": unary(np.logical_not),
    "where.self": where,
    "where.Scalar": where,
    "where.ScalarSelf": where,
    "where.ScalarOther": where,
    "masked_fill.Scalar": masked_fill,
    "masked_fill.Tensor": masked_fill,
}

CASTS: Mapping[str, Meaning] = {
    "to.dtype": cast,
    "to.dtype_layout": cast,
    "to.device": cast,
    "to.other": cast,
    "_to_copy": cast,
    "type_as": cast,
    "clone": cast,
    "contiguous": cast,
    "alias": cast,
    "detach": cast,
    "lift_fresh": cast,
    "lift_fresh_copy": cast,
    "dropout": dropout,
    "_assert_tensor_metadata": lambda a: [],
}
