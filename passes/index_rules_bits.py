"""How shifts of integers look at one position: part of the table behind `IndexFunction`."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.dialects.aten import AtenOp
from .index_function import Coordinates, IndexFunction, Rule
from .region_math import Scalar, is_bool_scalar, is_float_scalar, literal_of

WIDEST = 62
"""The largest shift whose factor is an i64."""


def _shift(right: bool) -> Rule:
    """x >> c is x // 2**c rounded down, also of negative numbers; x << c is x * 2**c."""

    def rule(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
        x, amount = f.argument(op, "self", at), f.argument(op, "other", at)
        count = None if amount is None else literal_of(amount)
        if x is None or not isinstance(count, int) or not 0 <= count <= WIDEST:
            return None
        if is_float_scalar(x) or is_bool_scalar(x):
            return None
        return f.math.floor_divide(x, 2**count) if right else f.math.mul(x, 2**count)

    return rule


def _invert(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """~x is not x of a truth value, and -1 - x of an integer."""
    x = f.argument(op, "self", at)
    if x is None or is_float_scalar(x):
        return None
    return f.math.negate(x) if is_bool_scalar(x) else f.math.sub(-1, f.math.as_integer(x))


BIT_RULES: Mapping[str, Rule] = {
    "__rshift__": _shift(right=True),
    "__lshift__": _shift(right=False),
    "bitwise_right_shift": _shift(right=True),
    "bitwise_left_shift": _shift(right=False),
    "bitwise_not": _invert,
}
