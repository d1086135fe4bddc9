"""The elementary functions of the `math` dialect for f32, as text that needs no library of functions.

Each works alike on `f32` and on vectors of it, without branches, and has the special values of IEEE 754
and PyTorch. None uses a fast-math flag, which would fold the rounding tricks away.
"""

from __future__ import annotations

from collections.abc import Mapping

from .approximation import Function, clamp, polynomial
from .exponentials import EXP2_SCALED_ERROR, exp, exp2, exp2_scaled, expm1, tanh
from .logarithms import log, log1p, log2
from .powers import pow
from .trigonometry import cos, sin
from .writer import Ssa, Writer

__all__ = ["ELEMENTARY", "EXP2_SCALED_ERROR", "MAXIMUM_ERROR", "exp2_scaled", "pow"]

ERF_ABOVE = (
    *(1.128379167e00, 1.902438465e-01, 5.271893844e-02, 3.756209971e-03, 2.842400328e-04),
    2.045724061e-06,
)
ERF_BELOW = (
    *(1.0, 5.019321480e-01, 1.140342064e-01, 1.495099971e-02, 1.159437268e-03),
    3.801288012e-05,
)
"""erf x / x in x² as a quotient, over |x| ≤ 3.93, fitted with the limit at 0 given: 2.0e-8"""


def erf(w: Writer, x: Ssa) -> Ssa:
    """The error function 2/√π ∫ e^(-t²) from 0 to x. Error: `MAXIMUM_ERROR["math.erf"]` ulp"""
    x = clamp(w, x, -3.93, 3.93)
    square = w.mul(x, x)
    quotient = w.div(w.mul(x, polynomial(w, square, ERF_ABOVE)), polynomial(w, square, ERF_BELOW))
    return clamp(w, quotient, -1.0, 1.0)


def rsqrt(w: Writer, x: Ssa) -> Ssa:
    """1 / √x, of which both are single instructions. Error: `MAXIMUM_ERROR["math.rsqrt"]` ulp"""
    return w.div(w.constant(1.0, x.type), w.unary("math.sqrt", x))


ELEMENTARY: Mapping[str, Function] = {
    "math.exp": exp,
    "math.exp2": exp2,
    "math.expm1": expm1,
    "math.log": log,
    "math.log2": log2,
    "math.log1p": log1p,
    "math.tanh": tanh,
    "math.erf": erf,
    "math.sin": sin,
    "math.cos": cos,
    "math.rsqrt": rsqrt,
}

MAXIMUM_ERROR: Mapping[str, float] = {
    "math.exp": 1.1,
    "math.exp2": 1.0,
    "math.expm1": 1.6,
    "math.log": 1.0,
    "math.log2": 1.0,
    "math.log1p": 1.5,
    "math.tanh": 2.6,
    "math.erf": 6.0,
    "math.sin": 1.7,
    "math.cos": 1.7,
    "math.rsqrt": 1.5,
    "math.powf": 1.2,
}
"""The largest distance from the true value, in units of the last place that an f32 has there."""
