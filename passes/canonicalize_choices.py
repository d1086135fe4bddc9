"""Rewrites of numbers that a condition chooses among constants, as masks are made of; bit by bit the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..ir.attributes import element_type, i1
from ..ir.core import Value
from ..ir.define import Op
from ..ir.dialects import arith
from ..ir.dialects import math as math_dialect
from .fold_constants import constant_of
from .pattern import Pattern, Rewriter, pattern


@pattern(arith.CmpIOp, arith.CmpFOp)
def compare_choice(op: arith.CmpIOp | arith.CmpFOp, rw: Rewriter) -> bool:
    """select(c, 1, 0) != 0  →  c; uitofp(c) == 0  →  not c"""
    number, cases = constant_of(op.rhs), _cases(op.lhs)
    holds = _HOLDS.get(op.predicate_name[-2:]) if op.predicate_name[0] not in "u" else None
    if op.predicate_name in ("une", "ueq"):
        holds = _HOLDS[op.predicate_name[-2:]]
    if number is None or cases is None or holds is None or math.isnan(float(number)):
        return rw.no_match("not a comparison of two known choices with a constant")
    condition, x, y = cases
    if condition.type != op.out.type or element_type(op.lhs.type) == i1:
        return rw.no_match("the condition is not what the comparison gives")
    match holds(x, number), holds(y, number):
        case True, False:
            return rw.replace(op.operation, condition)
        case False, True:
            ones = rw.builder.constant(1, condition.type)
            return rw.replace(op.operation, rw.builder.binary(arith.XOrIOp, condition, ones))
        case always, _:
            return rw.replace(op.operation, rw.builder.constant(int(always), op.out.type))


def _cases(value: Value) -> tuple[Value, float, float] | None:
    """A condition and the numbers that `value` is where it holds and where it does not."""
    cast = arith.ExtUIOp.producing(value) or arith.UIToFPOp.producing(value)
    if cast is not None and element_type(cast.x.type) == i1:
        return cast.x, 1, 0
    choice = arith.SelectOp.producing(value)
    if choice is None:
        return None
    x, y = constant_of(choice.x), constant_of(choice.y)
    if x is None or y is None or math.isnan(float(x)) or math.isnan(float(y)):
        return None
    return choice.condition, x, y


_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    "eq": lambda x, y: x == y, "ne": lambda x, y: x != y, "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y, "gt": lambda x, y: x > y, "ge": lambda x, y: x >= y,
}  # fmt: skip


@pattern(arith.AddFOp, arith.SubFOp, arith.MulFOp, arith.DivFOp, arith.NegFOp, math_dialect.LogOp)
def compute_choices(op: Op, rw: Rewriter) -> bool:
    """select(c, x, y) * z  →  select(c, x * z, y * z), where x, y and z are constants"""
    operation = op.operation
    choices = [cases for v in operation.operands if (cases := _cases(v)) is not None]
    constants = [v for v in operation.operands if constant_of(v) is not None]
    if len(choices) != 1 or len(constants) != len(operation.operands) - 1:
        return rw.no_match("not a computation on one choice of constants and constants")
    condition, *numbers = choices[0]
    if element_type(condition.type) != i1:
        return rw.no_match("the condition is no truth value")
    results: list[Value] = []
    for number in numbers:
        copy = operation.clone()
        copy.set_operands(
            [v if constant_of(v) is not None else rw.builder.constant(number, v.type) for v in operation.operands]
        )
        results.append(rw.insert(copy).result)
    return rw.replace(
        operation, rw.builder.create(arith.SelectOp, [condition, *results], [operation.result.type]).out
    )  # fmt: skip


@pattern(arith.SubFOp)
def add_negative_choice(op: arith.SubFOp, rw: Rewriter) -> bool:
    """z - select(c, x, y)  →  z + select(c, -x, -y), where x and y are constants"""
    cases = _cases(op.rhs)
    if cases is None or constant_of(op.lhs) is not None or _cases(op.lhs) is not None:
        return rw.no_match("nothing is subtracted that a condition chooses among constants")
    condition, *numbers = cases
    x, y = (rw.builder.constant(-number, op.out.type) for number in numbers)
    choice = rw.builder.create(arith.SelectOp, [condition, x, y], [op.out.type]).out
    return rw.replace(op.operation, rw.builder.binary(arith.AddFOp, op.lhs, choice))


CHOICE_PATTERNS: tuple[Pattern, ...] = (compare_choice, compute_choices, add_negative_choice)
