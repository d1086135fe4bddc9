"""Which factors scores are multiplied by, and where: what makes powers of two of them. Knows no loop and no tile."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..ir.attributes import FloatAttr, Type, f16, f32, is_float, is_float8
from ..ir.core import Region
from ..ir.dialects.arith import ConstantOp
from ..ir.dialects.tensor import ExtractOp

LOG2_E = math.log2(math.e)
HUGE = 1e37
"""Scores up to here may be multiplied by log2(e), and added a few times, without overflow."""
FLOAT8_WEIGHT_BITS = 8
"""2^8 is the largest power of two that all 8-bit floats hold."""


@dataclass(frozen=True)
class Scaling:
    """`before` multiplies the raw scores, `exponent` turns final scores into powers of two.

    With no score region the scale goes into the exponent and costs nothing; of a negative one the sign
    goes to the tile of q (`negated`), which is exact. `late` scores
    may lie near the largest float (a model adds `finfo.min` where it means -inf), so that
    multiplying them would overflow: they are multiplied after the maximum is subtracted, which
    costs one more operation on each, and the carried maximum stays in natural units. So are scores
    of f32 inputs, for whose exact dots one operation more is nothing: s*c - m would lose digits
    where it is not fused into one rounding.

    On CPUs, where all is f32, `queries` multiplies the tile of q once. That is exact only in real
    arithmetic: each element of q rounds, by as much as each score would. A factor that could take
    ordinary elements out of the range of floats multiplies the scores.

    Weights that are rounded to 8 bits are 2^`weight_bits` times as large, so that small ones keep digits.
    """

    before: float
    exponent: float
    late: bool = False
    queries: float = 1.0
    weight_bits: int = 0
    negated: bool = False

    @staticmethod
    def of(scale: float, score: Region, element: Type, *, native: bool = False, may_negate: bool = True) -> Scaling:
        """What suits scores of a region's kind and elements of q, whose sign may change only with `may_negate`."""
        if is_float8(element):
            return replace(Scaling.of(scale, score, f16, may_negate=False), weight_bits=FLOAT8_WEIGHT_BITS)
        if native:
            usual = 2.0**-20 < abs(scale) < 2.0**20
            return Scaling(1.0 if usual else scale, LOG2_E, late=True, queries=scale if usual else 1.0)
        folded = scale * LOG2_E
        usable = 2.0**-100 < abs(folded) < 2.0**100 and (folded > 0 or may_negate)
        if element == f32:
            return Scaling(scale, LOG2_E, late=True)
        if usable and score.empty:
            return Scaling(1.0, abs(folded), negated=folded < 0)
        return Scaling(scale, LOG2_E, late=may_be_huge(score))


def may_be_huge(score: Region) -> bool:
    """Whether a score region may yield numbers that a factor of log2(e) takes beyond the floats.

    It may where it adds a huge constant, or a float captured for each position, which may be one.
    """
    if score.empty:
        return False
    moving = set(score.block.arguments[3:5])
    for op in score.block.ops:
        constant = ConstantOp.match(op)
        if (
            constant is not None
            and isinstance(constant.value, FloatAttr)
            and HUGE < abs(constant.value.value) < math.inf
        ):
            return True
        if any(v in moving for v in op.operands):
            if op.name == ExtractOp.op_name and is_float(op.result.type):
                return True
            moving.update(op.results)
    return False
