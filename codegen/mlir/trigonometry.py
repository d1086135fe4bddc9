"""sin and cos as text: the multiple of π/2 taken off in f64, a polynomial for each half of the quadrants."""

from __future__ import annotations

import math

from .approximation import integer, polynomial, with_sign
from .powers import ROUNDER_F64
from .writer import Ssa, Writer

SIN = (-1.666665524e-01, 8.332189173e-03, -1.951828599e-04)
"""(sin f - f) / f³ in f², over |f| ≤ π/4, fitted: 4.0e-9 of sin f"""

COS = (4.166664556e-02, -1.388730947e-03, 2.443232734e-05)
"""(cos f - 1 + f²/2) / f⁴ in f², over |f| ≤ π/4, fitted: 1.2e-10 of cos f"""

HALF_PI_LOW = 6.123233995736766e-17
"""What the f64 nearest to π/2 leaves of it."""

FARTHEST = 2.0**50
"""Beyond, f64 does not hold the multiple of π/2 any more."""


def sin(w: Writer, x: Ssa) -> Ssa:
    """The sine, of radians; nan beyond 2^50. Error: `MAXIMUM_ERROR["math.sin"]` ulp"""
    return _wave(w, x, 0)


def cos(w: Writer, x: Ssa) -> Ssa:
    """The cosine, of radians; nan beyond 2^50. Error: `MAXIMUM_ERROR["math.cos"]` ulp"""
    return _wave(w, x, 1)


def _wave(w: Writer, x: Ssa, shift: int) -> Ssa:
    """sin(x + shift π/2)"""
    quadrant, f = _quadrant(w, x)
    if shift:
        quadrant = w.add(quadrant, integer(w, shift, quadrant))
    square = w.mul(f, f)
    sine = with_sign(w, w.fma(w.mul(square, f), polynomial(w, square, SIN), f), f)
    cosine = w.fma(square, w.constant(-0.5, x.type), w.constant(1.0, x.type))
    cosine = w.fma(w.mul(square, square), polynomial(w, square, COS), cosine)
    one = integer(w, 1, quadrant)
    odd = w.compare("eq", w.binary("arith.andi", quadrant, one), one)
    # The second bit of the quadrant becomes the sign.
    flip = w.binary("arith.shli", w.binary("arith.shrui", quadrant, one), integer(w, 31, quadrant))
    result = w.bitcast(w.binary("arith.xori", w.bitcast(w.select(odd, cosine, sine), "i32"), flip), "f32")
    near = w.compare("ole", w.unary("math.absf", x), w.constant(FARTHEST, x.type))
    return w.select(near, result, w.constant(math.nan, x.type))


def _quadrant(w: Writer, x: Ssa) -> tuple[Ssa, Ssa]:
    """n, as an i32 of its low bits, and f of x = n π/2 + f with |f| ≤ π/4"""
    wide = w.cast("arith.extf", x, "f64")
    magic = w.constant(ROUNDER_F64, wide.type)
    z = w.fma(wide, w.constant(2 / math.pi, wide.type), magic)
    n = w.sub(z, magic)
    f = w.fma(n, w.constant(-math.pi / 2, wide.type), wide)
    f = w.fma(n, w.constant(-HALF_PI_LOW, wide.type), f)
    return w.cast("arith.trunci", w.bitcast(z, "i64"), "i32"), w.cast("arith.truncf", f, "f32")
