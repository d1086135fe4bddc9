"""Splits one score function into scale, mask and what is left, where that keeps its meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..ir.attributes import f32
from ..ir.core import Value
from ..ir.dialects import arith
from .region_math import RegionMath, literal_of

LARGE = 1e9
"""From here on a finite negative number is meant as -inf."""
HALF_LARGEST = 65504.0


def masks_out(value: Value) -> bool:
    """Whether a value is -inf, or a finite number that stands for it."""
    number = literal_of(value)
    return number is not None and (number <= -LARGE or number == -HALF_LARGEST)


@dataclass
class Split:
    """What was found: conditions under which a key is kept, and the score then.

    `exact` says that every condition came from -inf. A finite stand-in differs from it in a row
    without any key, where all scores tie and the model averages every value.
    """

    conditions: list[Value] = field(default_factory=list[Value])
    exact: bool = True


def split_conditions(build: RegionMath, value: Value, split: Split) -> Value:
    """Move masking selects on the way to `value` into `split`; return the score without them.

    select(c, x, -inf) → x where c; x + select(c, 0, -inf) → x where c; also under a positive
    factor and in either order.
    """
    if (select := arith.SelectOp.producing(value)) is not None:
        return _split_select(build, select, split)
    if (add := arith.AddFOp.producing(value)) is not None:
        lhs, rhs = split_conditions(build, add.lhs, split), split_conditions(build, add.rhs, split)
        if literal_of(rhs) == 0 and rhs is not add.rhs:
            return lhs
        if literal_of(lhs) == 0 and lhs is not add.lhs:
            return rhs
        return value if lhs is add.lhs and rhs is add.rhs else build.builder.binary(arith.AddFOp, lhs, rhs)
    for kind in (arith.MulFOp, arith.DivFOp):
        if (product := kind.producing(value)) is not None and _positive(product.rhs):
            inner = split_conditions(build, product.lhs, split)
            return value if inner is product.lhs else build.builder.binary(kind, inner, product.rhs)
    return value


def _split_select(build: RegionMath, select: arith.SelectOp, split: Split) -> Value:
    if masks_out(select.y):
        condition, kept, number = select.condition, select.x, literal_of(select.y)
    elif masks_out(select.x):
        condition, kept, number = build.negate(select.condition), select.y, literal_of(select.x)
    else:
        return select.out
    split.conditions.append(condition)
    split.exact &= number == -math.inf
    return split_conditions(build, kept, split)


def _positive(value: Value) -> bool:
    number = literal_of(value)
    return number is not None and 0 < number < math.inf


def take_scale(value: Value, score: Value) -> tuple[Value, float]:
    """score * c anywhere in `value`, if that is the score's only use  →  (score, c)

    Exact only in real arithmetic: c joins the other constant factors before one multiplication.
    """
    factor = 1.0
    while len(score.uses) == 1:
        user = score.users[0]
        product = arith.MulFOp.match(user) or arith.DivFOp.match(user)
        if product is None:
            break
        other = product.rhs if product.lhs is score else product.lhs
        number = literal_of(other)
        if number is None or not math.isfinite(number) or number == 0 or score.type != f32:
            break
        if isinstance(product, arith.DivFOp):
            if product.lhs is not score:
                break
            number = 1.0 / number
        factor *= number
        if product.out is value:
            value = score
        user.replace_by(score)
    return value, factor
