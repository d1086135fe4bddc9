"""The pieces that elementary functions are made of: polynomials, clamps, powers of two by their bits.

`fitted` in a comment below means: least maximum of the relative error of the whole function over the
interval, by Lawson's reweighted least squares in float64 on 1500 Chebyshev points. What the functions
built on this promise is measured in `tests/unit/codegen/mlir/test_elementary.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from .writer import Ssa, Writer, vector

Function = Callable[[Writer, Ssa], Ssa]

FRACTION_BITS = 23
"""of f32; the exponent sits above them"""

ROUNDER = 1.5 * 2**23
"""Added to an f32 below 2^22 in size, it rounds it to an integer, found in the low bits of the sum."""


def polynomial(w: Writer, x: Ssa, coefficients: Sequence[float]) -> Ssa:
    """c[0] + c[1] x + c[2] x² + …, by Horner's rule: the fewest ops"""
    result = w.constant(coefficients[-1], x.type)
    for coefficient in reversed(coefficients[:-1]):
        result = w.fma(result, x, w.constant(coefficient, x.type))
    return result


def nearest_f32(number: float) -> float:
    """What an f32 constant keeps of a number."""
    return float(struct.unpack("<f", struct.pack("<f", number))[0])


def clamp(w: Writer, x: Ssa, low: float, high: float) -> Ssa:
    """`x` moved into [low, high]; nan stays nan. One instruction for each end."""
    x, last = w.greatest(w.constant(low, x.type), x), w.constant(high, x.type)
    return w.select(w.compare("olt", last, x), last, x)


def nearest(w: Writer, x: Ssa, factor: float, rounder: float) -> tuple[Ssa, Ssa]:
    """The integer nearest to x * factor, in the low bits of a sum and as a number."""
    magic = w.constant(rounder, x.type)
    z = w.fma(x, w.constant(factor, x.type), magic)
    return z, w.sub(z, magic)


def integer(w: Writer, value: int, like: Ssa) -> Ssa:
    """An i32 constant with the lanes of `like`."""
    return w.constant(value, vector("i32", like.lanes))


def exponent(w: Writer, biased: Ssa) -> Ssa:
    """2^(b - 127) of b in 0..255, given as an i32 or in the low nine bits of an f32; 0 of b = 0"""
    bits = w.bitcast(biased, "i32")
    return w.bitcast(w.binary("arith.shli", bits, integer(w, FRACTION_BITS, bits)), "f32")


def scale_by_power(w: Writer, x: Ssa, n: Ssa) -> Ssa:
    """x 2^n of an i32 n in -252..254, rounded once, through to denormals and infinity"""
    half = w.binary("arith.shrsi", n, integer(w, 1, n))
    bias = integer(w, 127, n)
    first, second = w.add(half, bias), w.add(w.sub(n, half), bias)
    return w.mul(w.mul(x, exponent(w, first)), exponent(w, second))


def with_sign(w: Writer, x: Ssa, sign: Ssa) -> Ssa:
    """|x| with the sign of the other, of zeros too"""
    return w.binary("math.copysign", x, sign)
