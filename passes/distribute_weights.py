"""Takes apart products of combined weights, so that each has one softmax: (p - c r) v is p v - c r v.

Differential attention is spelled so. Exact only in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.core import Operation, Value
from ..ir.dialects.aten import AtenOp, aten_op
from .contraction import ADDING, is_product
from .follow_weights import PASSING
from .index_function import tensor_type
from .pattern import Rewriter, aten_pattern

SOFTMAXES = ("softmax", "_softmax", "_safe_softmax")
CASTS = ("to", "_to_copy", "type_as", "clone", "contiguous", "alias", "detach", "dropout")


@aten_pattern("matmul", "bmm", "mm", "einsum")
def distribute_weights(product: AtenOp, rw: Rewriter) -> bool:
    """(p + r) v  →  p v + r v, where p and r come from softmaxes"""
    operation = product.operation
    for position, operand in enumerate(operation.operands):
        terms = _terms(operand, rw)
        if len(terms) < 2:
            continue
        total: Value | None = None
        for term, sign in terms:
            part = _with_operand(operation, position, term, rw)
            if total is None:
                total = part
                if sign < 0:
                    total = rw.insert(aten_op("neg", {"self": part}, [part.type], operation.location)).result
            else:
                name = "add.Tensor" if sign > 0 else "sub.Tensor"
                total = rw.insert(aten_op(name, {"self": total, "other": part}, [part.type], operation.location)).result
        assert total is not None
        return rw.replace(operation, total)
    return rw.no_match("no factor is a sum of attention weights")


def _with_operand(operation: Operation, position: int, value: Value, rw: Rewriter) -> Value:
    """The result of the same operation with another operand in one place."""
    copy = operation.clone()
    operands = list(operation.operands)
    operands[position] = value
    copy.set_operands(operands)
    copy.attributes.pop("fx", None)
    return rw.insert(copy).result


def _terms(value: Value, rw: Rewriter) -> Sequence[tuple[Value, int]]:
    """`value` as a sum of signed terms, each from other weights; itself where it is none."""
    op, alone = value.defining_op, [(value, 1)]
    if op is None or op.dialect != "aten" or AtenOp(op).packet not in ("add", "sub", "mul", "div", *CASTS):
        return alone
    view, weights = AtenOp(op), [from_softmax(v) for v in op.operands]
    if view.packet in ("add", "sub"):
        shapes = {tensor_type(v).shape for v in (*op.operands, value)}
        if weights != [True, True] or len(shapes) > 1 or view.argument("alpha", 1) != 1:
            return alone
        x, y = (_terms(v, rw) for v in op.operands)
        sign = 1 if view.packet == "add" else -1
        return [*x, *((term, s * sign) for term, s in y)]
    if sum(weights) != 1 or (view.packet == "div" and not weights[0]):
        return alone
    place = weights.index(True)
    inner = _terms(op.operands[place], rw)
    if len(inner) < 2:
        return alone
    return [(_with_operand(op, place, term, rw), sign) for term, sign in inner]


def from_softmax(value: Value) -> bool:
    """Whether a tensor is computed from a softmax, element by element."""
    seen: set[Operation] = set()
    work = [value.defining_op]
    while work:
        op = work.pop()
        if op is None or op in seen or op.dialect != "aten" or is_product(op):
            continue
        if AtenOp(op).packet in SOFTMAXES:
            return True
        seen.add(op)
        if AtenOp(op).packet in PASSING and AtenOp(op).packet not in ADDING:
            work += [v.defining_op for v in op.operands]
    return False
