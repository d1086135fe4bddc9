"""Whether a softmax notices that all scores of a row moved by the same number."""

from __future__ import annotations

import math

from ..ir.attributes import FloatAttr
from ..ir.core import Operation, Region, Value
from ..ir.dialects.arith import AddFOp, ConstantOp, SelectOp, SubFOp


def moves_with_scores(score: Region) -> bool:
    """Whether a score region gives s + c + something for s + c, or -inf, where it gives s + something for s."""
    if score.empty:
        return True
    s = score.block.arguments[0]
    moving, changed = {s}, {s}
    for op in score.block.ops[:-1]:
        if _reads(op, changed):
            changed |= set(op.results)
            if _moves(op, moving, changed):
                moving |= set(op.results)
    (result,) = score.block.terminator.operands
    return result in moving


def _reads(op: Operation, values: set[Value]) -> bool:
    return any(v in values for inner in op.walk() for v in inner.operands)


def _moves(op: Operation, moving: set[Value], changed: set[Value]) -> bool:
    """Whether the result of `op` moves as far as s does; values that are not `changed` do not depend on s."""
    if (add := AddFOp.match(op)) is not None:
        return any(x in moving and y not in changed for x, y in ((add.lhs, add.rhs), (add.rhs, add.lhs)))
    if (sub := SubFOp.match(op)) is not None:
        return sub.lhs in moving and sub.rhs not in changed
    if (choice := SelectOp.match(op)) is not None:
        condition, *choices = choice.operation.operands
        return condition not in changed and all(x in moving or _is_minus_infinity(x) for x in choices)
    return False


def _is_minus_infinity(value: Value) -> bool:
    constant = ConstantOp.producing(value)
    number = constant.value if constant is not None else None
    return isinstance(number, FloatAttr) and number.value == -math.inf
