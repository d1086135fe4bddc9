"""A choice between two elements of a row: where both read the same tensors, each is read once, at a chosen place."""

from __future__ import annotations

from ..ir.core import Operation, Value
from ..ir.dialects import arith
from ..ir.dialects.tensor import ExtractOp
from .region_math import RegionMath, literal_of

COMMUTATIVE = (arith.AddFOp.op_name, arith.MulFOp.op_name)


def choose(build: RegionMath, condition: Value, x: Value, y: Value) -> Value:
    """condition ? f(t[i]) : f(t[j])  →  f(t[condition ? i : j]), and so for signs and sums of these.

    Rotating half of a row is such a choice: cat(-x[D/2:], x[:D/2]) reads one partner, with a sign.
    """
    if _mergeable(x, y):
        return _merged(build, condition, x, y)
    return build.select(condition, x, y)


def _mergeable(x: Value, y: Value) -> bool:
    """Whether both compute the same of elements of the same tensors, signs aside."""
    if x is y:
        return True
    one, other = x.defining_op, y.defining_op
    if one is None or other is None:
        return False
    if literal_of(x) is not None or literal_of(y) is not None:
        return literal_of(x) == literal_of(y) and x.type == y.type
    if _negated(one) is not None or _negated(other) is not None:
        return _mergeable(_positive(x), _positive(y))
    if _is_sum(one) and _is_sum(other):
        return _pairs(one, other) is not None
    if one.name != other.name or one.properties != other.properties or one.regions:
        return False
    if ExtractOp.match(one) is not None:
        return one.operands[0] is other.operands[0]
    return one.dialect in ("arith", "math") and _pairs(one, other) is not None


def _pairs(one: Operation, other: Operation) -> list[tuple[Value, Value]] | None:
    """The operands that belong together."""
    orders = [other.operands, other.operands[::-1]] if other.name in COMMUTATIVE else [other.operands]
    for order in orders:
        pairs = list(zip(one.operands, order, strict=True))
        if all(_mergeable(x, y) for x, y in pairs):
            return pairs
    return None


def _is_sum(op: Operation) -> bool:
    return op.name in (arith.AddFOp.op_name, arith.SubFOp.op_name)


def _negated(op: Operation | None) -> Value | None:
    return op.operands[0] if op is not None and op.name == arith.NegFOp.op_name else None


def _positive(x: Value) -> Value:
    inner = _negated(x.defining_op)
    return x if inner is None else inner


def _merged(build: RegionMath, condition: Value, x: Value, y: Value) -> Value:
    one, other = x.defining_op, y.defining_op
    if x is y or one is None or other is None or literal_of(x) is not None:
        return x
    if _negated(one) is not None or _negated(other) is not None:
        signs = _negated(one) is not None, _negated(other) is not None
        return _signed(build, condition, _merged(build, condition, _positive(x), _positive(y)), signs)
    if ExtractOp.match(one) is not None:
        pairs = zip(one.operands[1:], other.operands[1:], strict=True)
        indices = [i if i is j else build.select(condition, i, j) for i, j in pairs]
        return build.builder.create(ExtractOp, [one.operands[0], *indices], [x.type]).out
    operands = [_merged(build, condition, i, j) for i, j in _pairs(one, other) or ()]
    if _is_sum(one):
        signs = one.name == arith.SubFOp.op_name, other.name == arith.SubFOp.op_name
        return build.builder.binary(arith.AddFOp, operands[0], _signed(build, condition, operands[1], signs))
    created = Operation.create(one.name, operands, [x.type], one.properties)
    return build.builder.insert(created).result


def _signed(build: RegionMath, condition: Value, x: Value, signs: tuple[bool, bool]) -> Value:
    """x, negated where the condition holds or does not, as the two `signs` say."""
    if signs == (False, False):
        return x
    negative = build.builder.unary(arith.NegFOp, x)
    if signs == (True, True):
        return negative
    return build.select(condition, negative, x) if signs[0] else build.select(condition, x, negative)
