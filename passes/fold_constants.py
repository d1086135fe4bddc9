"""Evaluates `arith` and `math` on constants, exactly as the operations are defined.

Integers wrap at their width (`index` has 64 bits). Floats are computed in double precision and
rounded once to their type, which for `+ - * /` and the square root is the correctly rounded
result in every narrower type. Whatever has no defined value is left to run time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..ir.attributes import (
    FloatAttr,
    FloatType,
    IntegerAttr,
    IntegerType,
    SplatAttr,
    TensorType,
    Type,
    element_type,
)
from ..ir.core import Operation, Value
from ..ir.dialects.arith import CmpFOp, CmpIOp, ConstantOp
from .pattern import Pattern, Rewriter

Number: TypeAlias = int | float
Fold: TypeAlias = Callable[[Operation, Sequence[Number]], Number | None]
"""The value of an operation on these operands; None where it has none."""


def constant_of(value: Value) -> Number | None:
    """The number that `value` always is, everywhere for a tensor; i1 is 0 or 1."""
    constant = ConstantOp.producing(value)
    if constant is None:
        return None
    attr = constant.value
    scalar = attr.value if isinstance(attr, SplatAttr) else attr
    return scalar.value if isinstance(scalar, FloatAttr | IntegerAttr) else None


def can_be_constant(type_: Type) -> bool:
    """Whether a constant of this type can be written down: its sizes are known."""
    return not isinstance(type_, TensorType) or all(isinstance(d, int) for d in type_.shape)


def width_of(type_: Type) -> int:
    """The bits of an integer type or element type."""
    element = element_type(type_)
    return element.width if isinstance(element, IntegerType) else 64


def wrapped(value: int, type_: Type) -> int:
    """The low bits of `value`, read in `type_`: signed, but 0 or 1 for an i1."""
    element, width = element_type(type_), width_of(type_)
    low = value & ((1 << width) - 1)
    unsigned = width == 1 or (isinstance(element, IntegerType) and not element.signed)
    return low if unsigned or low < 1 << (width - 1) else low - (1 << width)


def signed(value: int, type_: Type) -> int:
    """An integer constant as a signed number: the i1 true is -1."""
    return -value if width_of(type_) == 1 else value


def unsigned(value: int, type_: Type) -> int:
    return value & ((1 << width_of(type_)) - 1)


def _integers(compute: Callable[[int, int], int | None]) -> Fold:
    def fold(op: Operation, operands: Sequence[Number]) -> int | None:
        result = compute(*(signed(int(x), op.operands[0].type) for x in operands))
        return None if result is None else wrapped(result, op.results[0].type)

    return fold


def _float(compute: Callable[[float], float]) -> Fold:
    def fold(_: Operation, operands: Sequence[Number]) -> float | None:
        try:
            return compute(float(operands[0]))
        except (ValueError, OverflowError, ZeroDivisionError):
            return None

    return fold


def _floats(compute: Callable[[float, float], float]) -> Fold:
    def fold(_: Operation, operands: Sequence[Number]) -> float | None:
        x, y = operands
        try:
            return compute(float(x), float(y))
        except (ValueError, OverflowError, ZeroDivisionError):
            return None

    return fold


def _divided(x: int, y: int) -> int | None:
    """x / y rounded towards zero; None for a division by zero."""
    return None if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def _remainder(x: int, y: int) -> int | None:
    quotient = _divided(x, y)
    return None if quotient is None else x - quotient * y


def _float_quotient(x: float, y: float) -> float:
    if y != 0 or x != x or y != y:
        return x / y
    return math.nan if x == 0 else math.copysign(math.inf, x) * math.copysign(1.0, y)


def _larger(x: float, y: float) -> float:
    if x != x or y != y:
        return math.nan
    return x if x > y or (x == y and math.copysign(1.0, x) > 0) else y


def _smaller(x: float, y: float) -> float:
    return -_larger(-x, -y)


def _compare_integers(op: Operation, operands: Sequence[Number]) -> int:
    predicate, type_ = CmpIOp(op).predicate_name, op.operands[0].type
    view = unsigned if predicate.startswith("u") else signed
    x, y = (view(int(v), type_) for v in operands)
    return int(_COMPARISONS[predicate[-2:]](x, y))


def _compare_floats(op: Operation, operands: Sequence[Number]) -> int:
    predicate = CmpFOp(op).predicate_name
    x, y = operands
    if predicate in ("true", "false"):
        return int(predicate == "true")
    if x != x or y != y:
        return int(predicate.startswith("u"))
    return int(_COMPARISONS[predicate[-2:]](x, y)) if predicate not in ("ord", "uno") else int(predicate == "ord")


_COMPARISONS: Mapping[str, Callable[[Number, Number], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def _select(op: Operation, operands: Sequence[Number]) -> Number:
    condition, x, y = operands
    return x if condition else y


def _sign_extended(op: Operation, operands: Sequence[Number]) -> int:
    return wrapped(signed(int(operands[0]), op.operands[0].type), op.results[0].type)


def _zero_extended(op: Operation, operands: Sequence[Number]) -> int:
    return wrapped(unsigned(int(operands[0]), op.operands[0].type), op.results[0].type)


def _exact_float(value: int) -> float | None:
    """`value` as a double; None for the integers a double cannot hold, which would round twice."""
    return float(value) if abs(value) <= 1 << 53 else None


def _signed_to_float(op: Operation, operands: Sequence[Number]) -> float | None:
    return _exact_float(signed(int(operands[0]), op.operands[0].type))


def _unsigned_to_float(op: Operation, operands: Sequence[Number]) -> float | None:
    return _exact_float(unsigned(int(operands[0]), op.operands[0].type))


def _float_to_signed(op: Operation, operands: Sequence[Number]) -> int | None:
    (x,) = operands
    limit = 1 << (width_of(op.results[0].type) - 1)
    if not math.isfinite(x) or not -limit <= math.trunc(x) < limit:
        return None
    return wrapped(math.trunc(x), op.results[0].type)


def _sqrt(x: float) -> float:
    return math.nan if x < 0 else math.sqrt(x)


def _log(x: float) -> float:
    return math.nan if x < 0 else -math.inf if x == 0 else math.log(x)


FOLDS: Mapping[str, Fold] = {
    "arith.addf": _floats(lambda x, y: x + y),
    "arith.subf": _floats(lambda x, y: x - y),
    "arith.mulf": _floats(lambda x, y: x * y),
    "arith.divf": _floats(_float_quotient),
    "arith.remf": _floats(math.fmod),
    "arith.maximumf": _floats(_larger),
    "arith.minimumf": _floats(_smaller),
    "arith.negf": _float(lambda x: -x),
    "arith.addi": _integers(lambda x, y: x + y),
    "arith.subi": _integers(lambda x, y: x - y),
    "arith.muli": _integers(lambda x, y: x * y),
    "arith.divsi": _integers(_divided),
    "arith.floordivsi": _integers(lambda x, y: x // y if y else None),
    "arith.remsi": _integers(_remainder),
    "arith.maxsi": _integers(max),
    "arith.minsi": _integers(min),
    "arith.andi": _integers(lambda x, y: x & y),
    "arith.ori": _integers(lambda x, y: x | y),
    "arith.xori": _integers(lambda x, y: x ^ y),
    "arith.cmpi": _compare_integers,
    "arith.cmpf": _compare_floats,
    "arith.select": _select,
    "arith.extf": _float(float),
    "arith.truncf": _float(float),
    "arith.extsi": _sign_extended,
    "arith.extui": _zero_extended,
    "arith.trunci": _zero_extended,
    "arith.index_cast": _sign_extended,
    "arith.sitofp": _signed_to_float,
    "arith.uitofp": _unsigned_to_float,
    "arith.fptosi": _float_to_signed,
    "math.exp": _float(math.exp),
    "math.exp2": _float(math.exp2),
    "math.expm1": _float(math.expm1),
    "math.log": _float(_log),
    "math.log2": _float(math.log2),
    "math.log1p": _float(math.log1p),
    "math.tanh": _float(math.tanh),
    "math.sqrt": _float(_sqrt),
    "math.rsqrt": _float(lambda x: 1.0 / math.sqrt(x)),
    "math.absf": _float(math.fabs),
    "math.absi": lambda op, x: wrapped(abs(signed(int(x[0]), op.operands[0].type)), op.results[0].type),
    "math.sin": _float(math.sin),
    "math.cos": _float(math.cos),
    "math.erf": _float(math.erf),
    "math.floor": _float(lambda x: math.copysign(math.floor(x), x)),
    "math.ceil": _float(lambda x: math.copysign(math.ceil(x), x)),
    "math.powf": _floats(math.pow),
}
"""Every op that is folded; tests hold it against the interpreter."""


def fold_constants(op: Operation, rw: Rewriter) -> bool:
    """op(constants)  →  the constant it computes"""
    operands = [number for v in op.operands if (number := constant_of(v)) is not None]
    type_ = op.results[0].type
    if len(operands) != len(op.operands):
        return rw.no_match("an operand is not constant")
    if not can_be_constant(type_) or _rounding_unknown(op):
        return rw.no_match("the result cannot be written as a constant")
    folded = FOLDS[op.name](op, operands)
    if folded is None:
        return rw.no_match("the result is not defined, or not exact, on these operands")
    return rw.replace(op, rw.builder.constant(folded, type_))


def _rounding_unknown(op: Operation) -> bool:
    """Whether an 8-bit float or a rounding mode is involved: those are left to run time."""
    elements = [element_type(v.type) for v in (*op.operands, *op.results)]
    return "roundingmode" in op.properties or any(isinstance(e, FloatType) and e.width == 8 for e in elements)


FOLD_CONSTANTS = Pattern("fold_constants", 10, frozenset(FOLDS), fold_constants)
