"""x to the power of y as text, with every special case of IEEE 754."""

from __future__ import annotations

import math

from .approximation import clamp, polynomial, scale_by_power
from .exponentials import EXP2
from .logarithms import split_any
from .writer import Ssa, Writer

LOG2_1P = (
    *(1.44269504086870470e00, -7.21347520868746095e-01, 4.80898361395703244e-01, -3.60673674829942947e-01),
    *(2.88537293455908894e-01, -2.40453165492762383e-01, 2.06175359787195200e-01, -1.80300603342446131e-01),
    *(1.58769799743534418e-01, -1.43156442931699712e-01, 1.44748441572711217e-01, -1.42839380071747069e-01),
    7.73704306932324476e-02,
)
"""log2(1 + t) / t over √½ ≤ 1 + t ≤ √2, fitted: 1.6e-11. A power up to 2^128 leaves 2e-9 of that."""

ROUNDER_F64 = 1.5 * 2**52
"""Added to an f64 below 2^51 in size, it rounds it to an integer, found in the low bits of the sum."""


def pow(w: Writer, x: Ssa, y: Ssa) -> Ssa:
    """x to the power of y, as C's and torch's. Error: `MAXIMUM_ERROR["math.powf"]` ulp

    2^(y log2 |x|) with the logarithm and its product in f64, the sign and the special cases after.
    """
    size = w.unary("math.absf", x)
    exponent = w.mul(_log2_f64(w, size), w.cast("arith.extf", y, "f64"))
    result = _exp2_of_f64(w, exponent)
    # 0 * inf: a 1 to any power, as 1 is of -1 to ±inf.
    one = w.constant(1.0, x.type)
    of_one = w.binary("arith.andi", w.compare("oeq", size, one), w.compare("ord", y, y))
    result = _signed(w, x, y, w.select(of_one, one, result))
    always_one = w.binary("arith.ori", w.compare("oeq", x, one), w.compare("oeq", y, w.constant(0.0, y.type)))
    return w.select(always_one, one, result)


def _log2_f64(w: Writer, x: Ssa) -> Ssa:
    """log2 of an f32 x ≥ 0 as an f64; of 0 -inf, of inf and nan those"""
    k, t = (w.cast("arith.extf", part, "f64") for part in split_any(w, x))
    result = w.fma(t, polynomial(w, t, LOG2_1P), k)
    result = w.select(w.compare("oeq", x, w.constant(0.0, x.type)), w.constant(-math.inf, result.type), result)
    return w.select(w.compare("uge", x, w.constant(math.inf, x.type)), w.cast("arith.extf", x, "f64"), result)


def _exp2_of_f64(w: Writer, x: Ssa) -> Ssa:
    """2 to an f64, as an f32"""
    x, magic = clamp(w, x, -160.0, 160.0), w.constant(ROUNDER_F64, x.type)
    z = w.add(x, magic)
    f = w.cast("arith.truncf", w.sub(x, w.sub(z, magic)), "f32")
    # The rounder's own low bits are 0.
    n = w.cast("arith.trunci", w.bitcast(z, "i64"), "i32")
    return scale_by_power(w, polynomial(w, f, EXP2[6]), n)


def _signed(w: Writer, x: Ssa, y: Ssa, power: Ssa) -> Ssa:
    """|x| to the y as x to the y: the sign for an odd y, nan of x < 0 for one that is no integer."""
    half = w.mul(y, w.constant(0.5, y.type))
    whole = w.compare("oeq", w.unary("math.floor", y), y)
    odd = w.binary("arith.andi", whole, w.compare("one", w.unary("math.floor", half), half))
    power = w.select(odd, w.binary("math.copysign", power, x), power)
    finite = w.compare("ogt", x, w.constant(-math.inf, x.type))
    below = w.binary("arith.andi", w.compare("olt", x, w.constant(0.0, x.type)), finite)
    fraction = w.compare("une", w.unary("math.floor", y), y)
    return w.select(w.binary("arith.andi", below, fraction), w.constant(math.nan, x.type), power)
