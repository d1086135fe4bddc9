"""Integers of a region as `a*m + b*n + c` over the query position m and the key position n."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..ir.attributes import Attribute, FloatAttr, IntegerAttr, IntegerType
from ..ir.core import Value
from ..ir.dialects.arith import AddIOp, ConstantOp, ExtSIOp, IndexCastOp, MulIOp, SubIOp, TruncIOp

LARGEST = 2**30
"""No coefficient or constant may exceed this, so that no 32-bit sum the region computes can wrap."""
HOLDS: Mapping[str, Callable[[int], bool]] = {
    "eq": lambda d: d == 0,
    "ne": lambda d: d != 0,
    "slt": lambda d: d < 0,
    "sle": lambda d: d <= 0,
    "sgt": lambda d: d > 0,
    "sge": lambda d: d >= 0,
}
"""Whether a comparison holds, by the difference of its sides."""


@dataclass(frozen=True)
class Affine:
    """`row * m + column * n + constant`."""

    row: int = 0
    column: int = 0
    constant: int = 0

    def plus(self, other: Affine, factor: int = 1) -> Affine:
        """`self + factor * other`"""
        return Affine(
            self.row + factor * other.row, self.column + factor * other.column, self.constant + factor * other.constant
        )

    def times(self, factor: int) -> Affine:
        return Affine().plus(self, factor)

    @property
    def is_constant(self) -> bool:
        return not (self.row or self.column)

    @property
    def never_negative(self) -> bool:
        """Whether no position can make it negative; positions never are."""
        return min(self.row, self.column, self.constant) >= 0

    @property
    def small(self) -> bool:
        return max(abs(self.row), abs(self.column), abs(self.constant)) <= LARGEST


def affine_of(value: Value, row: Value, column: Value) -> Affine | None:
    """What number `value` is in terms of the positions `row` and `column`; None where it is not affine."""
    if value is row:
        return Affine(row=1)
    if value is column:
        return Affine(column=1)
    found = _affine_of_result(value, row, column)
    return found if found is not None and found.small else None


def _affine_of_result(value: Value, row: Value, column: Value) -> Affine | None:
    if constant := ConstantOp.producing(value):
        return _whole_number(constant.value)
    if cast := IndexCastOp.producing(value) or ExtSIOp.producing(value):
        return affine_of(cast.x, row, column)
    if narrowed := TruncIOp.producing(value):
        keeps = isinstance(value.type, IntegerType) and value.type.width >= 32
        return affine_of(narrowed.x, row, column) if keeps else None
    if sum_ := AddIOp.producing(value):
        return _combine(sum_.lhs, sum_.rhs, 1, row, column)
    if difference := SubIOp.producing(value):
        return _combine(difference.lhs, difference.rhs, -1, row, column)
    if product := MulIOp.producing(value):
        return _product(affine_of(product.lhs, row, column), affine_of(product.rhs, row, column))
    return None


def _whole_number(attr: Attribute) -> Affine | None:
    """A constant, also one written as a float."""
    if isinstance(attr, IntegerAttr):
        return Affine(constant=attr.value)
    return Affine(constant=int(attr.value)) if isinstance(attr, FloatAttr) and attr.value.is_integer() else None


def _combine(lhs: Value, rhs: Value, factor: int, row: Value, column: Value) -> Affine | None:
    left, right = affine_of(lhs, row, column), affine_of(rhs, row, column)
    return left.plus(right, factor) if left is not None and right is not None else None


def _product(left: Affine | None, right: Affine | None) -> Affine | None:
    if left is None or right is None:
        return None
    if right.is_constant:
        return left.times(right.constant)
    return right.times(left.constant) if left.is_constant else None
