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
ABSORBING = 1e30
"""From here on a number stays what it is when an ordinary one is added in f32."""


def masks_out(value: Value) -> bool:
    """Whether a value is -inf, or a finite number that stands for it."""
    number = literal_of(value)
    return number is not None and (number <= -LARGE or number == -HALF_LARGEST)


def score_where_masked(value: Value) -> set[float | None]:
    """The scores that masked keys may have by the masks on the way to `value`, None for one that is not known.

    select(c, s, F) gives F; x + F is F where F is so large that it absorbs all ordinary numbers x.
    """
    if (select := arith.SelectOp.producing(value)) is not None:
        for number, kept in ((select.y, select.x), (select.x, select.y)):
            if masks_out(number):
                return {literal_of(number)} | score_where_masked(kept)
        return set()
    if (add := arith.AddFOp.producing(value)) is not None:
        left, right = score_where_masked(add.lhs), score_where_masked(add.rhs)
        if left and right:
            return {None}
        return {x if x is not None and x <= -ABSORBING else None for x in left | right}
    for kind in (arith.MulFOp, arith.DivFOp):
        if (product := kind.producing(value)) is not None and _positive(product.rhs):
            return {None} if score_where_masked(product.lhs) else set()
    return set()


@dataclass
class Split:
    """What was found: conditions under which a key is kept, and the score then.

    `exact` says that every condition came from -inf. A finite stand-in differs from it in a row
    without any key, where all scores tie and the model averages every value. `only_exact` leaves
    the stand-ins where they are.
    """

    only_exact: bool = False
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
    if split.only_exact and number != -math.inf:
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
