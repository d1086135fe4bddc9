"""exp, exp2, expm1 as text: reduction by powers of two, a polynomial, the exponent put back as bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .approximation import ROUNDER, clamp, exponent, nearest, nearest_f32, polynomial, scale_by_power, with_sign
from .writer import Ssa, Writer

LOG2_E = math.log2(math.e)
EXP2 = {
    3: (1.0, 6.932829272228e-01, 2.422109594702e-01, 5.500893049241e-02),
    4: (1.0, 6.931241933866e-01, 2.402409861351e-01, 5.590642476969e-02, 9.582852974517e-03),
    5: (
        *(1.0, 6.931469775990e-01, 2.402224208526e-01, 5.550733743498e-02, 9.671512644818e-03),
        1.326472712340e-03,
    ),
    6: (
        *(1.0, 6.931472028551e-01, 2.402264791362e-01, 5.550332471044e-02, 9.618437358148e-03),
        *(1.339887444022e-03, 1.535336184289e-04),
    ),
}
"""2^f over |f| ≤ 1/2 by degree, fitted with c[0] = 1: relative errors 1.0e-4, 2.8e-6, 9.2e-8, 2.0e-9"""

EXP2_SCALED_ERROR: Mapping[int, float] = {3: 1.1e-4, 4: 3.0e-6, 5: 1.8e-7, 6: 1.0e-7}
"""The largest relative error of `exp2_scaled` by the degree of its polynomial."""

EXPM1 = (4.999999702e-01, 1.666654497e-01, 4.166746512e-02, 8.366423659e-03, 1.386831631e-03)
"""(e^f - 1 - f) / f² over |f| ≤ ln 2 / 2, fitted: 1.4e-8 of e^f - 1"""


def exp2_scaled(w: Writer, x: Ssa, factor: float, *, degree: int = 5, saturate: bool = False) -> Ssa:
    """2^(x * factor) of a constant factor > 0: the function that a softmax spends its time in.

    x * factor is not rounded: an integer n near it is taken off in the units of x, as n / factor, and
    the factor goes into the coefficients. Without `saturate` it takes 11 instructions at degree 5 and
    holds for x * factor up to 127: nan gives nan, -inf gives 0, 0 gives 1 and what is below 2^-126.5
    gives 0. From 2^-126 on the relative error is at most

        EXP2_SCALED_ERROR[degree] + |x * factor| / 2^24

    where the second part, that of 1 / factor as an f32, is 0 for powers of two, and 1.9e-9 |x * factor|
    for log2 e. With `saturate` there is no second part and every x is right, denormal results and
    overflow included, for 9 instructions more.
    """
    coefficients = [c * factor**i for i, c in enumerate(EXP2[degree])]
    if saturate:
        return _exp2_everywhere(w, x, factor, coefficients)
    # The number with a biased exponent of 0 is 0: whatever lies below is moved there. To discard it by
    # a select in the end would take as many instructions on AVX-512 and one more on AVX2, and would
    # make finite numbers of some nans.
    x = w.greatest(w.constant(-127 / factor, x.type), x)
    z, n = nearest(w, x, factor, ROUNDER + 127)
    f = w.fma(n, w.constant(-1 / factor, x.type), x)
    return w.mul(polynomial(w, f, coefficients), exponent(w, z))


def _exp2_everywhere(w: Writer, x: Ssa, factor: float, coefficients: Sequence[float]) -> Ssa:
    x = clamp(w, x, -151 / factor, 129 / factor)
    z, n = nearest(w, x, factor, ROUNDER)
    f = _remainder(w, x, n, 1 / factor)
    power = w.sub(w.bitcast(z, "i32"), w.bitcast(w.constant(ROUNDER, x.type), "i32"))
    return scale_by_power(w, polynomial(w, f, coefficients), power)


def _remainder(w: Writer, x: Ssa, n: Ssa, unit: float) -> Ssa:
    """x - n * unit, with the unit in two parts where one f32 does not hold it"""
    high = nearest_f32(unit)
    f = w.fma(n, w.constant(-high, x.type), x)
    return w.fma(n, w.constant(high - unit, x.type), f) if high != unit else f


def exp(w: Writer, x: Ssa) -> Ssa:
    """e to the x, for all x. Error: `MAXIMUM_ERROR["math.exp"]` ulp"""
    return exp2_scaled(w, x, LOG2_E, degree=6, saturate=True)


def exp2(w: Writer, x: Ssa) -> Ssa:
    """2 to the x, for all x. Error: `MAXIMUM_ERROR["math.exp2"]` ulp"""
    return exp2_scaled(w, x, 1.0, degree=6, saturate=True)


def expm1(w: Writer, x: Ssa) -> Ssa:
    """e to the x, minus 1, for all x. Error: `MAXIMUM_ERROR["math.expm1"]` ulp

    With x = n ln 2 + f it is 2^n (e^f - 1) + (2^n - 1); twice half of that, as 2^128 is no f32 where
    the result still is one.
    """
    inside = clamp(w, x, -30.0, 89.0)
    z, n = nearest(w, inside, LOG2_E, ROUNDER + 126)
    f = _remainder(w, inside, n, 1 / LOG2_E)
    half = exponent(w, z)
    result = w.fma(half, _expm1_near_0(w, f), w.sub(half, w.constant(0.5, x.type)))
    return with_sign(w, w.add(result, result), x)


def _expm1_near_0(w: Writer, f: Ssa) -> Ssa:
    """e^f - 1 of |f| ≤ ln 2 / 2"""
    return w.fma(w.mul(f, f), polynomial(w, f, EXPM1), f)


def tanh(w: Writer, x: Ssa) -> Ssa:
    """The hyperbolic tangent. Error: `MAXIMUM_ERROR["math.tanh"]` ulp

    With r = e^2x - 1 it is r / (r + 2); from |x| = 9.02 on that is ±1. Here x = n ln √2 + f.
    """
    inside = clamp(w, x, -9.02, 9.02)
    z, n = nearest(w, inside, 2 * LOG2_E, ROUNDER + 127)
    f = w.fma(n, w.constant(-0.5 / LOG2_E, x.type), inside)
    power, near_0 = exponent(w, z), _expm1_near_0(w, w.add(f, f))
    r = w.fma(power, near_0, w.sub(power, w.constant(1.0, x.type)))
    return with_sign(w, w.div(r, w.add(r, w.constant(2.0, x.type))), x)
