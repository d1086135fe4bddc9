"""Arithmetic inside a region with PyTorch's promotion rules: bool, then integer, then f32.

Numbers may be Python literals until they meet a value. Integers that stem from positions are
`index`, those loaded from tensors `i64`. All floats are f32, the type of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..ir.attributes import FloatAttr, FloatType, IndexType, IntegerAttr, IntegerType, Type, f32, i1, i32, i64, index
from ..ir.builder import Builder
from ..ir.core import Value
from ..ir.define import Op
from ..ir.dialects import arith, math

Scalar: TypeAlias = Value | float | int | bool


def literal_of(value: Scalar) -> float | int | None:
    """The number a value is known to be; None where it depends on anything."""
    if not isinstance(value, Value):
        return value
    constant = arith.ConstantOp.producing(value)
    if constant is None:
        return None
    attr = constant.value
    return attr.value if isinstance(attr, FloatAttr | IntegerAttr) else None


def is_float_scalar(value: Scalar) -> bool:
    return isinstance(value.type, FloatType) if isinstance(value, Value) else isinstance(value, float)


def is_bool_scalar(value: Scalar) -> bool:
    return value.type == i1 if isinstance(value, Value) else isinstance(value, bool)


class RegionMath:
    """Builds scalar arithmetic at the end of a region's block."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    # --- literals and casts

    def constant_of(self, number: float | int, element: Type) -> Scalar:
        """A literal with the kind that an element of a tensor of `element` has."""
        if isinstance(element, FloatType):
            return float(number)
        return bool(number) if element == i1 else int(number)

    def as_float(self, x: Scalar) -> Value:
        if not isinstance(x, Value):
            return self.builder.constant(float(x), f32)
        if isinstance(x.type, FloatType):
            return self._resize_float(x)
        if x.type == i1:
            return self._cast(arith.UIToFPOp, x, f32)
        # Positions are below 2**31; the narrow integer is cheaper on a GPU.
        return self._cast(arith.SIToFPOp, self.as_type(x, i32) if x.type == index else x, f32)

    def as_integer(self, x: Scalar) -> Value:
        """An `index` or `i64` value; floats are cut off towards zero."""
        if not isinstance(x, Value):
            return self.builder.constant(int(x), i64)
        if isinstance(x.type, FloatType):
            return self._cast(arith.FPToSIOp, x, i64)
        return self._cast(arith.ExtUIOp, x, i64) if x.type == i1 else x

    def as_index(self, x: Scalar) -> Value:
        if not isinstance(x, Value):
            return self.builder.constant(int(x), index)
        return self.as_type(self.as_integer(x), index)

    def as_bool(self, x: Scalar) -> Value:
        if not isinstance(x, Value):
            return self.builder.constant(bool(x), i1)
        return x if x.type == i1 else self.compare("ne", x, 0)

    def as_type(self, x: Value, type_: Type) -> Value:
        """An integer or index value as another of those types."""
        if x.type == type_:
            return x
        if isinstance(x.type, IndexType) or isinstance(type_, IndexType):
            return self._cast(arith.IndexCastOp, x, type_)
        assert isinstance(x.type, IntegerType) and isinstance(type_, IntegerType)
        if x.type.width > type_.width:
            return self._cast(arith.TruncIOp, x, type_)
        return self._cast(arith.ExtSIOp if x.type.signed else arith.ExtUIOp, x, type_)

    def _resize_float(self, x: Value) -> Value:
        assert isinstance(x.type, FloatType)
        if x.type == f32:
            return x
        return self._cast(arith.ExtFOp if x.type.width < 32 else arith.TruncFOp, x, f32)

    def _cast(self, kind: type[Op], x: Value, type_: Type) -> Value:
        return self.builder.create(kind, [x], [type_]).operation.result

    # --- operators

    def promote(self, x: Scalar, y: Scalar) -> tuple[Value, Value]:
        """Both as values of one type: f32 if either is a float, else index or i64."""
        if is_float_scalar(x) or is_float_scalar(y):
            return self.as_float(x), self.as_float(y)
        common = self._integer_type(x, y)
        return self._integer_as(x, common), self._integer_as(y, common)

    def _integer_type(self, x: Scalar, y: Scalar) -> Type:
        types = [v.type for v in (x, y) if isinstance(v, Value) and v.type != i1]
        return index if types and all(t == index for t in types) else i64

    def _integer_as(self, x: Scalar, type_: Type) -> Value:
        if not isinstance(x, Value):
            return self.builder.constant(int(x), type_)
        return self.as_type(self.as_integer(x), type_)

    def binary(self, floats: type[Op], integers: type[Op], x: Scalar, y: Scalar) -> Value:
        lhs, rhs = self.promote(x, y)
        return self.builder.binary(floats if lhs.type == f32 else integers, lhs, rhs)

    def add(self, x: Scalar, y: Scalar) -> Scalar:
        if literal_of(y) == 0 and not is_float_scalar(y):
            return x
        return self.binary(arith.AddFOp, arith.AddIOp, x, y)

    def sub(self, x: Scalar, y: Scalar) -> Scalar:
        return self.binary(arith.SubFOp, arith.SubIOp, x, y)

    def mul(self, x: Scalar, y: Scalar) -> Scalar:
        if literal_of(y) == 1 and not (is_float_scalar(y) and not is_float_scalar(x)):
            return x
        return self.binary(arith.MulFOp, arith.MulIOp, x, y)

    def true_divide(self, x: Scalar, y: Scalar) -> Scalar:
        return self.builder.binary(arith.DivFOp, self.as_float(x), self.as_float(y))

    def floor_divide(self, x: Scalar, y: Scalar) -> Scalar:
        lhs, rhs = self.promote(x, y)
        if lhs.type == f32:
            return self.unary(math.FloorOp, self.builder.binary(arith.DivFOp, lhs, rhs))
        return self.builder.binary(arith.FloorDivSIOp, lhs, rhs)

    def truncated_divide(self, x: Scalar, y: Scalar) -> Scalar | None:
        lhs, rhs = self.promote(x, y)
        return None if lhs.type == f32 else self.builder.binary(arith.DivSIOp, lhs, rhs)

    def remainder(self, x: Scalar, y: Scalar) -> Scalar:
        """x - floor(x / y) * y, with the sign of y, as PyTorch's `%`."""
        return self.sub(x, self.mul(self.floor_divide(x, y), y))

    def unary(self, kind: type[Op], x: Scalar) -> Value:
        return self.builder.unary(kind, self.as_float(x))

    def absolute(self, x: Scalar) -> Scalar:
        if is_float_scalar(x):
            return self.unary(math.AbsFOp, x)
        return self.builder.unary(math.AbsIOp, self.as_integer(x))

    def compare(self, relation: str, x: Scalar, y: Scalar) -> Value:
        """`relation` is one of eq, ne, lt, le, gt, ge."""
        lhs, rhs = self.promote(x, y)
        if lhs.type == f32:
            kind, name = arith.CmpFOp, ("u" if relation == "ne" else "o") + relation
        else:
            kind, name = arith.CmpIOp, relation if relation in ("eq", "ne") else f"s{relation}"
        return self.builder.create(kind, [lhs, rhs], [i1], {"predicate": kind.predicate_attr(name)}).out

    def logical(self, kind: type[Op], x: Scalar, y: Scalar) -> Value:
        return self.builder.binary(kind, self.as_bool(x), self.as_bool(y))

    def negate(self, condition: Scalar) -> Value:
        """not condition; a comparison of integers is turned round instead."""
        value = self.as_bool(condition)
        if (inverted := arith.XOrIOp.producing(value)) is not None and literal_of(inverted.rhs) == 1:
            return inverted.lhs
        if (compare := arith.CmpIOp.producing(value)) is not None:
            opposite = {"eq": "ne", "ne": "eq", "slt": "sge", "sge": "slt", "sgt": "sle", "sle": "sgt"}
            if name := opposite.get(compare.predicate_name):
                predicate = {"predicate": arith.CmpIOp.predicate_attr(name)}
                return self.builder.create(arith.CmpIOp, [compare.lhs, compare.rhs], [i1], predicate).out
        return self.builder.binary(arith.XOrIOp, value, self.builder.constant(True, i1))

    def select(self, condition: Scalar, x: Scalar, y: Scalar) -> Value:
        lhs, rhs = (
            self.promote(x, y) if not (is_bool_scalar(x) and is_bool_scalar(y)) else (self.as_bool(x), self.as_bool(y))
        )
        return self.builder.create(arith.SelectOp, [self.as_bool(condition), lhs, rhs], [lhs.type]).out

    def linear(self, terms: Sequence[tuple[Scalar, int]]) -> Value:
        """Σ value * stride, as an index."""
        total: Scalar = 0
        for value, stride in terms:
            if literal_of(value) == 0:
                continue
            term = self.mul(self.as_index(value), stride)
            total = term if literal_of(total) == 0 else self.add(total, term)
        return self.as_index(total)


Unary: TypeAlias = Callable[[RegionMath, Scalar], Scalar | None]
Binary: TypeAlias = Callable[[RegionMath, Scalar, Scalar], Scalar | None]
