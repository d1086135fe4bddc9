"""log, log2, log1p as text: the exponent taken off as bits, a polynomial for what is left."""

from __future__ import annotations

import math

from .approximation import FRACTION_BITS, exponent, integer, nearest_f32, polynomial, with_sign
from .writer import Ssa, Writer

LOG1P = (
    *(-4.999998808e-01, 3.333332539e-01, -2.500160933e-01, 2.000201344e-01, -1.660845429e-01),
    *(1.418060362e-01, -1.324705034e-01, 1.291457415e-01, -7.624913007e-02),
)
"""(log(1 + t) - t) / t² over √½ ≤ 1 + t ≤ √2, fitted: 4.2e-9 of log(1 + t)"""

SQRT_HALF_BITS = 0x3F3504F3
LEAST_NORMAL = 2.0**-126


def split(w: Writer, x: Ssa) -> tuple[Ssa, Ssa]:
    """k and m of x = 2^k m with √½ ≤ m < √2, of a normal x > 0; k is an i32"""
    bits = w.bitcast(x, "i32")
    above = w.sub(bits, integer(w, SQRT_HALF_BITS, bits))
    k = w.binary("arith.shrsi", above, integer(w, FRACTION_BITS, bits))
    m = w.sub(bits, w.binary("arith.shli", k, integer(w, FRACTION_BITS, bits)))
    return k, w.bitcast(m, "f32")


def split_any(w: Writer, x: Ssa) -> tuple[Ssa, Ssa]:
    """k, as a float, and m - 1 of x = 2^k m with √½ ≤ m < √2, of any x > 0"""
    small = w.compare("olt", x, w.constant(LEAST_NORMAL, x.type))
    k, m = split(w, w.select(small, w.mul(x, w.constant(2.0**24, x.type)), x))
    k = w.add(k, w.select(small, integer(w, -24, k), integer(w, 0, k)))
    return w.cast("arith.sitofp", k, "f32"), w.sub(m, w.constant(1.0, x.type))


def at_the_edges(w: Writer, x: Ssa, result: Ssa) -> Ssa:
    """A logarithm of `x` with what it is of 0 (-inf), of numbers below (nan), of inf and of nan (those)."""
    zero, infinity = w.constant(0.0, x.type), w.constant(math.inf, x.type)
    result = w.select(w.compare("oeq", x, zero), w.constant(-math.inf, x.type), result)
    result = w.select(w.compare("olt", x, zero), w.constant(math.nan, x.type), result)
    return w.select(w.compare("uge", x, infinity), x, result)


def _sum(w: Writer, k: Ssa, t: Ssa) -> Ssa:
    """k ln 2 + log(1 + t), smallest parts first"""
    high = nearest_f32(math.log(2))
    small = w.fma(k, w.constant(math.log(2) - high, t.type), t)
    small = w.fma(w.mul(t, t), polynomial(w, t, LOG1P), small)
    return w.fma(k, w.constant(high, t.type), small)


def log(w: Writer, x: Ssa) -> Ssa:
    """The natural logarithm. Error: `MAXIMUM_ERROR["math.log"]` ulp"""
    k, t = split_any(w, x)
    return at_the_edges(w, x, _sum(w, k, t))


def log2(w: Writer, x: Ssa) -> Ssa:
    """The logarithm to base 2, exact of powers of two. Error: `MAXIMUM_ERROR["math.log2"]` ulp"""
    k, t = split_any(w, x)
    unit = 1 / math.log(2)
    high = nearest_f32(unit)
    small = w.mul(t, w.constant(unit - high, x.type))
    small = w.fma(w.mul(t, t), polynomial(w, t, [c * unit for c in LOG1P]), small)
    return at_the_edges(w, x, w.add(k, w.fma(t, w.constant(high, x.type), small)))


def log1p(w: Writer, x: Ssa) -> Ssa:
    """log(1 + x). Error: `MAXIMUM_ERROR["math.log1p"]` ulp

    Of u = 1 + x, rounded, the part c that rounding dropped is put back: (u + c) / 2^k = m + c / 2^k.
    """
    one = w.constant(1.0, x.type)
    u = w.add(x, one)
    dropped = w.sub(x, w.sub(u, one))
    k, m = split(w, u)
    # c is no part of a u beyond 2^24, and 2^-128 has no bits of an f32's exponent.
    unit = exponent(w, w.sub(integer(w, 127, k), w.least(k, integer(w, 64, k))))
    t = w.fma(dropped, unit, w.sub(m, one))
    return with_sign(w, at_the_edges(w, u, _sum(w, w.cast("arith.sitofp", k, "f32"), t)), x)
