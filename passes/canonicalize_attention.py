"""Rewrites inside the regions of `attn.attention` that hold for scores and positions, not for any number."""

from __future__ import annotations

from ..ir.attributes import i1
from ..ir.core import Block, Operation, Value
from ..ir.dialects import arith, attn
from .affine import Affine, affine_of
from .fold_constants import constant_of
from .pattern import Pattern, Rewriter, pattern

POSITIONS = {"score": slice(3, 5), "mask": slice(2, 4)}
"""Where query and key positions stand among the arguments of a region."""


def _region_name(block: Block | None) -> str | None:
    """Which region of an attention a block is, if it is one that knows positions."""
    region = block.parent if block is not None else None
    attention = attn.AttentionOp.match(region.parent) if region is not None else None
    if attention is None:
        return None
    return next((name for name, own in attention.present if own is region and name in POSITIONS), None)


@pattern(arith.CmpIOp)
def compare_positions(op: arith.CmpIOp, rw: Rewriter) -> bool:
    """m >= 0  →  true: no position is negative"""
    block = op.operation.parent
    name = _region_name(block)
    if block is None or name is None:
        return rw.no_match("it is in no region that knows positions")
    row, column = block.arguments[POSITIONS[name]]
    difference = _difference(op.operation, row, column)
    verdict = _verdict(op.predicate_name, difference) if difference is not None else None
    if verdict is None:
        return rw.no_match("it depends on the position")
    return rw.replace(op.operation, rw.builder.constant(int(verdict), i1))


def _difference(op: Operation, row: Value, column: Value) -> Affine | None:
    left, right = (affine_of(side, row, column) for side in op.operands)
    return left.plus(right, -1) if left is not None and right is not None else None


def _verdict(predicate: str, difference: Affine) -> bool | None:
    """Whether `difference` compares with 0 in the same way at all positions, and how."""
    below, one = difference.times(-1), Affine(constant=1)
    positive, negative = difference.plus(one, -1).never_negative, below.plus(one, -1).never_negative
    match predicate:
        case "sge" | "slt" if difference.never_negative or negative:
            return negative == (predicate == "slt")
        case "sle" | "sgt" if below.never_negative or positive:
            return positive == (predicate == "sgt")
        case "eq" | "ne" if difference == Affine() or positive or negative:
            return (difference == Affine()) == (predicate == "eq")
        case _:
            return None


@pattern(attn.YieldOp)
def drop_added_zero(op: attn.YieldOp, rw: Rewriter) -> bool:
    """score {s + 0}  →  score {s}; -0 becomes 0 on the left, and both have the same exponential"""
    add = arith.AddFOp.producing(op.value)
    if _region_name(op.operation.parent) != "score" or add is None or constant_of(add.rhs) != 0:
        return rw.no_match("it is no score to which 0 is added")
    with rw.modify(op):
        op.value = add.lhs
    return True


ATTENTION_PATTERNS: tuple[Pattern, ...] = (compare_positions, drop_added_zero)
