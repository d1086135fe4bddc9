"""Rewrites of `arith`, `math`, `tensor`, `tile` and `scf` that leave every value, bit by bit, as it is.

What is true of real numbers only is not here: x + 0.0 changes -0.0, x * 0.0 changes nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir.attributes import IntegerAttr, TensorType, element_type, i1
from ..ir.core import Value
from ..ir.define import Op
from ..ir.dialects import arith, scf, tensor, tile
from ..ir.dialects.arith import CMPF_PREDICATES, CMPI_PREDICATES
from .fold_constants import FOLD_CONSTANTS, can_be_constant, constant_of, width_of, wrapped
from .pattern import Pattern, Rewriter, pattern

COMMUTATIVE = (
    arith.AddIOp, arith.MulIOp, arith.MaxSIOp, arith.MinSIOp, arith.AndIOp, arith.OrIOp, arith.XOrIOp,
    arith.AddFOp, arith.MulFOp, arith.MaximumFOp, arith.MinimumFOp,
)  # fmt: skip
SWAPPED: Mapping[str, str] = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
"""The comparison that says the same with its operands exchanged; the others are symmetric."""
NEGATED_INTEGER: Mapping[str, str] = {
    "eq": "ne", "ne": "eq", "slt": "sge", "sle": "sgt", "sgt": "sle", "sge": "slt",
    "ult": "uge", "ule": "ugt", "ugt": "ule", "uge": "ult",
}  # fmt: skip
NEGATED_FLOAT: Mapping[str, str] = {
    "false": "true", "true": "false", "oeq": "une", "une": "oeq", "one": "ueq", "ueq": "one",
    "ogt": "ule", "ule": "ogt", "oge": "ult", "ult": "oge", "olt": "uge", "uge": "olt", "ole": "ugt", "ugt": "ole",
    "ord": "uno", "uno": "ord",
}  # fmt: skip
"""A comparison is unordered exactly where its negation is ordered, so nan is on the other side."""


# --- integers ------------------------------------------------------------------------------


@pattern(*COMMUTATIVE)
def move_constant_right(op: arith.IntegerBinaryOp | arith.FloatBinaryOp, rw: Rewriter) -> bool:
    """c + x  →  x + c, and so for every operation that does not mind the order"""
    if constant_of(op.lhs) is None or constant_of(op.rhs) is not None:
        return rw.no_match("the only constant is not on the left")
    with rw.modify(op):
        op.operation.set_operands([op.rhs, op.lhs])
    return True


@pattern(arith.AddIOp, arith.SubIOp, arith.OrIOp, arith.XOrIOp)
def drop_integer_zero(op: arith.IntegerBinaryOp, rw: Rewriter) -> bool:
    """x + 0, x - 0, x | 0, x ^ 0  →  x"""
    return _keep_left_if(op, rw, 0)


@pattern(arith.MulIOp, arith.DivSIOp, arith.FloorDivSIOp)
def drop_integer_one(op: arith.IntegerBinaryOp, rw: Rewriter) -> bool:
    """x * 1, x / 1  →  x"""
    if width_of(op.out.type) == 1:
        return rw.no_match("the i1 true is -1")
    return _keep_left_if(op, rw, 1)


@pattern(arith.MulIOp, arith.AndIOp)
def multiply_by_zero(op: arith.IntegerBinaryOp, rw: Rewriter) -> bool:
    """x * 0, x & 0  →  0"""
    if constant_of(op.rhs) != 0:
        return rw.no_match("the right operand is not 0")
    return rw.replace(op.operation, op.rhs)


@pattern(arith.AndIOp)
def and_with_ones(op: arith.AndIOp, rw: Rewriter) -> bool:
    """x & true  →  x"""
    return _keep_left_if(op, rw, wrapped(-1, op.out.type))


@pattern(arith.OrIOp)
def or_with_ones(op: arith.OrIOp, rw: Rewriter) -> bool:
    """x | true  →  true"""
    if constant_of(op.rhs) != wrapped(-1, op.out.type):
        return rw.no_match("the right operand does not have every bit set")
    return rw.replace(op.operation, op.rhs)


@pattern(arith.AndIOp, arith.OrIOp, arith.MaxSIOp, arith.MinSIOp)
def drop_repetition(op: arith.IntegerBinaryOp, rw: Rewriter) -> bool:
    """x & x, x | x, max(x, x), min(x, x)  →  x"""
    if op.lhs is not op.rhs:
        return rw.no_match("the operands differ")
    return rw.replace(op.operation, op.lhs)


@pattern(arith.SubIOp, arith.XOrIOp)
def cancel_equal(op: arith.IntegerBinaryOp, rw: Rewriter) -> bool:
    """x - x, x ^ x  →  0"""
    if op.lhs is not op.rhs:
        return rw.no_match("the operands differ")
    return _replace_by_constant(op, rw, op.out, 0)


@pattern(arith.RemSIOp)
def remainder_of_one(op: arith.RemSIOp, rw: Rewriter) -> bool:
    """x mod 1  →  0"""
    if constant_of(op.rhs) != 1 or width_of(op.out.type) == 1:
        return rw.no_match("the divisor is not 1")
    return _replace_by_constant(op, rw, op.out, 0)


@pattern(arith.AddIOp, arith.MulIOp, arith.AndIOp, arith.OrIOp, arith.XOrIOp)
def merge_constants(op: arith.IntegerBinaryOp, rw: Rewriter) -> bool:
    """(x + a) + b  →  x + (a + b), and so for *, &, |, ^: wrapping integers are associative"""
    inner = type(op).producing(op.lhs)
    outer_constant = constant_of(op.rhs)
    if inner is None or outer_constant is None or constant_of(inner.rhs) is None:
        return rw.no_match("the operands are not an expression with a constant and a constant")
    if inner.operation.properties or op.operation.properties:
        return rw.no_match("the overflow of one sum says nothing about that of the other")
    merged = rw.builder.binary(type(op), inner.rhs, op.rhs)
    with rw.modify(op):
        op.operation.set_operands([inner.lhs, merged])
    return True


# --- floats --------------------------------------------------------------------------------


@pattern(arith.MulFOp, arith.DivFOp)
def drop_float_one(op: arith.FloatBinaryOp, rw: Rewriter) -> bool:
    """x * 1.0, x / 1.0  →  x"""
    return _keep_left_if(op, rw, 1.0)


@pattern(arith.SubFOp)
def subtract_zero(op: arith.SubFOp, rw: Rewriter) -> bool:
    """x - 0.0  →  x; not x - -0.0, which turns -0.0 into 0.0"""
    return _drop_zero(op, rw, 1.0)


@pattern(arith.AddFOp)
def add_negative_zero(op: arith.AddFOp, rw: Rewriter) -> bool:
    """x + -0.0  →  x; not x + 0.0, which turns -0.0 into 0.0"""
    return _drop_zero(op, rw, -1.0)


@pattern(arith.NegFOp)
def negate_twice(op: arith.NegFOp, rw: Rewriter) -> bool:
    """-(-x)  →  x"""
    if (inner := arith.NegFOp.producing(op.x)) is None:
        return rw.no_match("the operand is not a negation")
    return rw.replace(op.operation, inner.x)


def _drop_zero(op: arith.FloatBinaryOp, rw: Rewriter, sign: float) -> bool:
    zero = constant_of(op.rhs)
    if zero is None or zero != 0 or math.copysign(1.0, zero) != sign:
        return rw.no_match(f"the right operand is not {math.copysign(0.0, sign)}")
    return rw.replace(op.operation, op.lhs)


# --- comparisons and choices ---------------------------------------------------------------


@pattern(arith.CmpIOp)
def compare_with_itself(op: arith.CmpIOp, rw: Rewriter) -> bool:
    """x <= x  →  true; x < x  →  false"""
    if op.lhs is not op.rhs:
        return rw.no_match("the operands differ")
    return _replace_by_constant(op, rw, op.out, int(op.predicate_name[-2:] in ("eq", "le", "ge")))


@pattern(arith.CmpIOp, arith.CmpFOp)
def move_compared_constant_right(op: arith.CmpIOp | arith.CmpFOp, rw: Rewriter) -> bool:
    """c < x  →  x > c"""
    if constant_of(op.lhs) is None or constant_of(op.rhs) is not None:
        return rw.no_match("the only constant is not on the left")
    start, relation = op.predicate_name[:-2], op.predicate_name[-2:]
    with rw.modify(op):
        if relation in SWAPPED:
            op.predicate = op.predicate_attr(start + SWAPPED[relation])
        op.operation.set_operands([op.rhs, op.lhs])
    return True


@pattern(arith.XOrIOp)
def negate_comparison(op: arith.XOrIOp, rw: Rewriter) -> bool:
    """not (x < y)  →  x >= y"""
    compared = arith.CmpIOp.producing(op.lhs) or arith.CmpFOp.producing(op.lhs)
    if compared is None or constant_of(op.rhs) != 1:
        return rw.no_match("not the negation of a comparison")
    integers = isinstance(compared, arith.CmpIOp)
    predicates, negated = (CMPI_PREDICATES, NEGATED_INTEGER) if integers else (CMPF_PREDICATES, NEGATED_FLOAT)
    predicate = IntegerAttr(predicates.index(negated[compared.predicate_name]))
    inverse = rw.builder.create(type(compared), [compared.lhs, compared.rhs], [op.out.type], {"predicate": predicate})
    return rw.replace(op.operation, inverse.out)


@pattern(arith.SelectOp)
def choose_known(op: arith.SelectOp, rw: Rewriter) -> bool:
    """select(true, x, y)  →  x; select(false, x, y)  →  y; select(c, x, x)  →  x"""
    condition = constant_of(op.condition)
    if condition is None and op.x is not op.y:
        return rw.no_match("the condition is not constant and the choices differ")
    return rw.replace(op.operation, op.y if condition == 0 else op.x)


@pattern(arith.SelectOp)
def choose_condition(op: arith.SelectOp, rw: Rewriter) -> bool:
    """select(c, true, false)  →  c; select(c, false, true)  →  not c"""
    if op.condition.type != op.out.type or element_type(op.out.type) != i1:
        return rw.no_match("the choices are not as the condition is")
    match constant_of(op.x), constant_of(op.y):
        case 1, 0:
            return rw.replace(op.operation, op.condition)
        case 0, 1:
            ones = rw.builder.constant(1, op.out.type)
            return rw.replace(op.operation, rw.builder.binary(arith.XOrIOp, op.condition, ones))
        case _:
            return rw.no_match("the choices are not true and false")


@pattern(arith.SelectOp)
def choose_by_negation(op: arith.SelectOp, rw: Rewriter) -> bool:
    """select(not c, x, y)  →  select(c, y, x)"""
    negation = arith.XOrIOp.producing(op.condition)
    if negation is None or constant_of(negation.rhs) != 1:
        return rw.no_match("the condition is not a negation")
    with rw.modify(op):
        op.operation.set_operands([negation.lhs, op.y, op.x])
    return True


@pattern(arith.SelectOp)
def choose_once(op: arith.SelectOp, rw: Rewriter) -> bool:
    """select(c, select(c, x, z), y), select(c, x, select(c, z, y))  →  select(c, x, y)"""
    first, second = arith.SelectOp.producing(op.x), arith.SelectOp.producing(op.y)
    x = first.x if first is not None and first.condition is op.condition else op.x
    y = second.y if second is not None and second.condition is op.condition else op.y
    if x is op.x and y is op.y:
        return rw.no_match("no choice is itself chosen by the same condition")
    with rw.modify(op):
        op.x, op.y = x, y
    return True


# --- casts ---------------------------------------------------------------------------------


@pattern(arith.IndexCastOp)
def cast_there_and_back(op: arith.IndexCastOp, rw: Rewriter) -> bool:
    """index_cast(index_cast(x))  →  x, where the type between is as wide as that of x"""
    inner = arith.IndexCastOp.producing(op.x)
    if inner is None or inner.x.type != op.out.type:
        return rw.no_match("not a cast there and back")
    if width_of(inner.out.type) < width_of(op.out.type):
        return rw.no_match(f"{element_type(inner.out.type)} does not hold every {element_type(op.out.type)}")
    return rw.replace(op.operation, inner.x)


@pattern(arith.TruncIOp)
def narrow_widened(op: arith.TruncIOp, rw: Rewriter) -> bool:
    """trunci(extsi(x)), trunci(extui(x))  →  x, back in its own type"""
    inner = arith.ExtSIOp.producing(op.x) or arith.ExtUIOp.producing(op.x)
    if inner is None or inner.x.type != op.out.type:
        return rw.no_match("the operand was not widened from the result's type")
    return rw.replace(op.operation, inner.x)


@pattern(arith.TruncFOp)
def narrow_widened_float(op: arith.TruncFOp, rw: Rewriter) -> bool:
    """truncf(extf(x))  →  x, back in its own type"""
    inner = arith.ExtFOp.producing(op.x)
    if inner is None or inner.x.type != op.out.type:
        return rw.no_match("the operand was not widened from the result's type")
    return rw.replace(op.operation, inner.x)


@pattern(arith.ExtFOp, arith.ExtSIOp, arith.ExtUIOp)
def widen_once(op: arith.ExtFOp | arith.ExtSIOp | arith.ExtUIOp, rw: Rewriter) -> bool:
    """extf(extf(x))  →  extf(x), and so for integers"""
    if (inner := type(op).producing(op.x)) is None:
        return rw.no_match("the operand was not widened in the same way")
    with rw.modify(op):
        op.x = inner.x
    return True


# --- tensors, tiles, loops -----------------------------------------------------------------


@pattern(tensor.DimOp)
def known_size(op: tensor.DimOp, rw: Rewriter) -> bool:
    """dim(tensor<8x?xf32>, 0)  →  8"""
    source, axis = op.source.type, constant_of(op.axis)
    if not isinstance(source, TensorType) or not isinstance(axis, int) or not 0 <= axis < source.rank:
        return rw.no_match("the axis is not constant")
    size = source.shape[axis]
    if not isinstance(size, int):
        return rw.no_match("the size is known at run time only")
    return _replace_by_constant(op, rw, op.out, size)


@pattern(tensor.ExtractOp)
def element_of_constant(op: tensor.ExtractOp, rw: Rewriter) -> bool:
    """extract(a constant tensor, i)  →  c"""
    value = constant_of(op.source)
    if value is None:
        return rw.no_match("the tensor is not constant")
    return _replace_by_constant(op, rw, op.out, value)


@pattern(tile.BroadcastOp)
def broadcast_constant(op: tile.BroadcastOp, rw: Rewriter) -> bool:
    """broadcast(c)  →  a constant tile"""
    value = constant_of(op.x)
    if value is None:
        return rw.no_match("the operand is not constant")
    return _replace_by_constant(op, rw, op.out, value)


@pattern(tile.BroadcastOp, tile.SliceOp)
def drop_unchanged(op: tile.BroadcastOp | tile.SliceOp, rw: Rewriter) -> bool:
    """broadcast along no axis, slice at no index  →  the operand"""
    source = op.operation.operands[0]
    if source.type != op.out.type:
        return rw.no_match("the operand is changed")
    return rw.replace(op.operation, source)


@pattern(tile.TransposeOp)
def transpose_constant(op: tile.TransposeOp, rw: Rewriter) -> bool:
    """transpose(c)  →  a constant tile; transpose(transpose(x))  →  x"""
    if (inner := tile.TransposeOp.producing(op.x)) is not None:
        return rw.replace(op.operation, inner.x)
    value = constant_of(op.x)
    if value is None:
        return rw.no_match("the operand is neither constant nor a transpose")
    return _replace_by_constant(op, rw, op.out, value)


@pattern(scf.IfOp)
def take_known_branch(op: scf.IfOp, rw: Rewriter) -> bool:
    """if true {x} else {y}  →  x"""
    condition = constant_of(op.condition)
    if condition is None:
        return rw.no_match("the condition is not constant")
    branch = op.then if condition else op.otherwise
    if branch.empty:
        return rw.erase(op.operation)
    *body, end = branch.block.ops
    for inner in body:
        rw.insert(inner.detach())
    return rw.replace(op.operation, *end.operands)


@pattern(scf.ForOp)
def skip_empty_loop(op: scf.ForOp, rw: Rewriter) -> bool:
    """for i in a..b with a >= b, carrying x  →  x"""
    lower, upper = constant_of(op.lower), constant_of(op.upper)
    empty = op.lower is op.upper or (lower is not None and upper is not None and lower >= upper)
    if not empty:
        return rw.no_match("the loop may run")
    return rw.replace(op.operation, *op.initial)


def _keep_left_if(op: arith.IntegerBinaryOp | arith.FloatBinaryOp, rw: Rewriter, neutral: float) -> bool:
    if constant_of(op.rhs) != neutral:
        return rw.no_match(f"the right operand is not {neutral}")
    return rw.replace(op.operation, op.lhs)


def _replace_by_constant(op: Op, rw: Rewriter, out: Value, value: float) -> bool:
    if not can_be_constant(out.type):
        return rw.no_match(f"a constant of {out.type} cannot be written")
    return rw.replace(op.operation, rw.builder.constant(value, out.type))


ARITH_PATTERNS: tuple[Pattern, ...] = (
    FOLD_CONSTANTS,
    move_constant_right, drop_integer_zero, drop_integer_one, multiply_by_zero, and_with_ones, or_with_ones,
    drop_repetition, cancel_equal, remainder_of_one, merge_constants,
    drop_float_one, subtract_zero, add_negative_zero, negate_twice,
    compare_with_itself, move_compared_constant_right, negate_comparison,
    choose_known, choose_condition, choose_by_negation, choose_once,
    cast_there_and_back, narrow_widened, narrow_widened_float, widen_once,
    known_size, element_of_constant, broadcast_constant, drop_unchanged, transpose_constant,
    take_known_branch, skip_empty_loop,
)  # fmt: skip
