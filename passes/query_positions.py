"""At which key position each query stands, from what a causal mask says: its last key."""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.builder import Builder
from ..ir.core import Block, Operation, Value
from ..ir.dialects.arith import AddIOp, AndIOp, CmpIOp, ConstantOp, ExtSIOp, ExtUIOp, IndexCastOp

BELOW = {"sle": 0, "slt": -1}
"""Predicates of n < X, with what is to be added to X for the last key; the others say the same the other way round."""
ABOVE = {"sge": 0, "sgt": -1}


def last_key(block: Block, kept: Value, m: Value, n: Value) -> Value | None:
    """X, where `kept` demands n ≤ X in a mask region's block and X follows from m alone of m and n.

    None where it demands nothing like that. What has to be computed for X is written at the block's end.
    """
    for comparison in _demanded(kept):
        name = CmpIOp(comparison).predicate_name
        lhs, rhs = comparison.operands
        for key, other, moved in ((lhs, rhs, BELOW.get(name)), (rhs, lhs, ABOVE.get(name))):
            if moved is None or _cast_away(key) is not n:
                continue
            reached = _reached(other)
            if n in reached or m not in reached:
                continue
            builder = Builder(block, location=comparison.location)
            return builder.binary(AddIOp, other, builder.constant(moved, other.type), "position") if moved else other
    return None


def _demanded(kept: Value) -> Iterator[Operation]:
    """The comparisons that all hold where `kept` does."""
    op = kept.defining_op
    if op is None:
        return
    if AndIOp.match(op) is not None:
        for operand in op.operands:
            yield from _demanded(operand)
    elif CmpIOp.match(op) is not None:
        yield op


def _cast_away(value: Value) -> Value:
    """The number behind changes of its type."""
    op = value.defining_op
    while op is not None and any(kind.match(op) for kind in (IndexCastOp, ExtSIOp, ExtUIOp)):
        value = op.operands[0]
        op = value.defining_op
    return value


def _reached(value: Value) -> set[Value]:
    """Everything that `value` is computed from, and itself."""
    found, todo = set[Value](), [value]
    while todo:
        if (value := todo.pop()) in found:
            continue
        found.add(value)
        if (op := value.defining_op) is not None and ConstantOp.match(op) is None:
            todo += op.operands
    return found
