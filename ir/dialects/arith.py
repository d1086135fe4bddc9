"""The `arith` dialect: MLIR's own arithmetic, on scalars and elementwise on tensors."""

from __future__ import annotations

from typing import ClassVar

from ..attributes import (
    Attribute,
    FloatAttr,
    FloatType,
    IntegerAttr,
    IntegerType,
    SplatAttr,
    TensorType,
    Type,
    element_type,
    i1,
    i64,
    is_float,
    is_integer,
)
from ..define import Constraint, Op, Operand, OptionalProp, Prop, Result
from ..diagnostics import op_error
from ..dialect import Dialect

FLOAT = Constraint("float or tensor of float", is_float)
INTEGER = Constraint(
    "signless integer, index or a tensor of those", lambda t: is_integer(t) and not _unsigned(element_type(t))
)
FIXED_WIDTH = Constraint(
    "signless integer or a tensor of those", lambda t: isinstance(e := element_type(t), IntegerType) and e.signed
)
BOOL = Constraint("i1 or tensor of i1", lambda t: element_type(t) == i1)


def _unsigned(type_: Type) -> bool:
    return isinstance(type_, IntegerType) and not type_.signed


class ConstantOp(Op, name="arith.constant", pure=True):
    """A number, or a tensor with one number everywhere: `<{value = 1.0 : f32}>`."""

    value = Prop(Attribute)
    out = Result()

    def verify(self) -> None:
        if not isinstance(self.value, IntegerAttr | FloatAttr | SplatAttr):
            op_error(self.operation, f"value must be a number or a splat, but is {self.value}")
        if self.value.type != self.out.type:
            op_error(self.operation, f"value has type {self.value.type}, but the result is {self.out.type}")
        if _unsigned(element_type(self.out.type)):
            op_error(self.operation, f"integers must be signless, but the value is {self.out.type}")


class FloatBinaryOp(Op, pure=True):
    """What arithmetic on two floats has in common."""

    lhs, rhs, out = Operand(FLOAT), Operand(FLOAT), Result(FLOAT)
    fastmath = OptionalProp(Attribute)

    def verify(self) -> None:
        check_same_types(self)


class IntegerBinaryOp(Op, pure=True):
    """What arithmetic on two integers has in common."""

    lhs, rhs, out = Operand(INTEGER), Operand(INTEGER), Result(INTEGER)
    overflowFlags = OptionalProp(Attribute)

    def verify(self) -> None:
        check_same_types(self)


def check_same_types(op: Op) -> None:
    """Fail unless all operands and results of `op` have one type."""
    types = [v.type for v in (*op.operation.operands, *op.operation.results)]
    if any(t != types[0] for t in types):
        op_error(op.operation, f"operands and result must have one type, but have {', '.join(map(str, types))}")


def _same_shapes(op: Op) -> None:
    shapes = [
        t.shape if isinstance(t := v.type, TensorType) else None
        for v in (*op.operation.operands, *op.operation.results)
    ]
    if any(s != shapes[0] for s in shapes):
        types = ", ".join(str(v.type) for v in (*op.operation.operands, *op.operation.results))
        op_error(op.operation, f"operands and result must have one shape, but have {types}")


class AddFOp(FloatBinaryOp, name="arith.addf", pure=True):
    """x + y"""


class SubFOp(FloatBinaryOp, name="arith.subf", pure=True):
    """x - y"""


class MulFOp(FloatBinaryOp, name="arith.mulf", pure=True):
    """x * y"""


class DivFOp(FloatBinaryOp, name="arith.divf", pure=True):
    """x / y"""


class RemFOp(FloatBinaryOp, name="arith.remf", pure=True):
    """x - trunc(x / y) * y, with the sign of x"""


class MaximumFOp(FloatBinaryOp, name="arith.maximumf", pure=True):
    """The larger; nan if either is nan."""


class MinimumFOp(FloatBinaryOp, name="arith.minimumf", pure=True):
    """The smaller; nan if either is nan."""


class NegFOp(Op, name="arith.negf", pure=True):
    """-x"""

    x, out = Operand(FLOAT), Result(FLOAT)
    fastmath = OptionalProp(Attribute)

    def verify(self) -> None:
        check_same_types(self)


class AddIOp(IntegerBinaryOp, name="arith.addi", pure=True):
    """x + y, wrapping"""


class SubIOp(IntegerBinaryOp, name="arith.subi", pure=True):
    """x - y, wrapping"""


class MulIOp(IntegerBinaryOp, name="arith.muli", pure=True):
    """x * y, wrapping"""


class DivSIOp(IntegerBinaryOp, name="arith.divsi", pure=True):
    """x / y, rounded towards zero"""


class FloorDivSIOp(IntegerBinaryOp, name="arith.floordivsi", pure=True):
    """x / y, rounded down"""


class RemSIOp(IntegerBinaryOp, name="arith.remsi", pure=True):
    """x - (x / y rounded towards zero) * y, with the sign of x"""


class MaxSIOp(IntegerBinaryOp, name="arith.maxsi", pure=True):
    """The larger, signed."""


class MinSIOp(IntegerBinaryOp, name="arith.minsi", pure=True):
    """The smaller, signed."""


class AndIOp(IntegerBinaryOp, name="arith.andi", pure=True):
    """x & y"""


class OrIOp(IntegerBinaryOp, name="arith.ori", pure=True):
    """x | y"""


class XOrIOp(IntegerBinaryOp, name="arith.xori", pure=True):
    """x ^ y"""


class ShRSIOp(IntegerBinaryOp, name="arith.shrsi", pure=True):
    """x >> y, with the sign of x moving in from the left"""


CMPI_PREDICATES = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")
CMPF_PREDICATES = (
    "false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord",
    "ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true",
)  # fmt: skip


class CompareOp(Op, pure=True):
    """What comparisons have in common: a predicate by its number, an i1 as the result."""

    predicates: ClassVar[tuple[str, ...]] = ()
    predicate = Prop(IntegerAttr)

    @property
    def predicate_name(self) -> str:
        return self.predicates[self.predicate.value]

    @classmethod
    def predicate_attr(cls, name: str) -> IntegerAttr:
        return IntegerAttr(cls.predicates.index(name))

    def verify(self) -> None:
        if self.predicate.type != i64:
            op_error(self.operation, f"predicate must have type i64, but has {self.predicate.type}")
        if not 0 <= self.predicate.value < len(self.predicates):
            op_error(
                self.operation, f"predicate must be 0 to {len(self.predicates) - 1}, but is {self.predicate.value}"
            )
        lhs, rhs = (v.type for v in self.operation.operands)
        if lhs != rhs:
            op_error(self.operation, f"operands must have one type, but have {lhs} and {rhs}")
        if self.operation.result.type != with_element(lhs, i1):
            op_error(self.operation, f"result must be {with_element(lhs, i1)}, but is {self.operation.result.type}")


def with_element(like: Type, element: Type) -> Type:
    """`element`, or a tensor of it shaped as `like`."""
    return like.with_element(element) if isinstance(like, TensorType) else element


class CmpFOp(CompareOp, name="arith.cmpf", pure=True):
    """Compare floats; predicates of `CMPF_PREDICATES` (o: ordered, u: unordered or)."""

    predicates = CMPF_PREDICATES
    lhs, rhs, out = Operand(FLOAT), Operand(FLOAT), Result(BOOL)
    fastmath = OptionalProp(Attribute)


class CmpIOp(CompareOp, name="arith.cmpi", pure=True):
    """Compare integers; predicates of `CMPI_PREDICATES` (s: signed, u: unsigned)."""

    predicates = CMPI_PREDICATES
    lhs, rhs, out = Operand(INTEGER), Operand(INTEGER), Result(BOOL)


class SelectOp(Op, name="arith.select", pure=True):
    """condition ? x : y; a scalar condition may choose between tensors."""

    condition, x, y, out = Operand(BOOL), Operand(), Operand(), Result()

    def verify(self) -> None:
        types = [self.x.type, self.y.type, self.out.type]
        if any(t != types[0] for t in types):
            have = ", ".join(map(str, types))
            op_error(self.operation, f"both choices and the result must have one type, but have {have}")
        condition = self.condition.type
        if isinstance(condition, TensorType) and condition != with_element(self.out.type, i1):
            op_error(self.operation, f"condition must be i1 or {with_element(self.out.type, i1)}, but is {condition}")


class _Cast(Op, pure=True):
    x, out = Operand(), Result()

    def verify(self) -> None:
        _same_shapes(self)


def _check_width(op: Op, *, wider: bool) -> None:
    """Fail unless a cast goes to a wider type, or to a narrower one, as it says."""
    source, target = (element_type(v.type) for v in (*op.operation.operands, *op.operation.results))
    assert isinstance(source, FloatType | IntegerType) and isinstance(target, FloatType | IntegerType)
    if source.width == target.width or (source.width < target.width) != wider:
        op_error(
            op.operation, f"must go to a {'wider' if wider else 'narrower'} type, but goes from {source} to {target}"
        )


class ExtFOp(_Cast, name="arith.extf", pure=True):
    """A wider float, exactly."""

    x, out = Operand(FLOAT), Result(FLOAT)
    fastmath = OptionalProp(Attribute)

    def verify(self) -> None:
        _same_shapes(self)
        _check_width(self, wider=True)


class TruncFOp(_Cast, name="arith.truncf", pure=True):
    """A narrower float, rounded to nearest even."""

    x, out = Operand(FLOAT), Result(FLOAT)
    fastmath = OptionalProp(Attribute)
    roundingmode = OptionalProp(Attribute)

    def verify(self) -> None:
        _same_shapes(self)
        _check_width(self, wider=False)


class ExtSIOp(_Cast, name="arith.extsi", pure=True):
    """A wider integer, keeping the sign."""

    x, out = Operand(FIXED_WIDTH), Result(FIXED_WIDTH)

    def verify(self) -> None:
        _same_shapes(self)
        _check_width(self, wider=True)


class ExtUIOp(_Cast, name="arith.extui", pure=True):
    """A wider integer, filled with zeros: i1 true becomes 1."""

    x, out = Operand(FIXED_WIDTH), Result(FIXED_WIDTH)

    def verify(self) -> None:
        _same_shapes(self)
        _check_width(self, wider=True)


class TruncIOp(_Cast, name="arith.trunci", pure=True):
    """The low bits."""

    x, out = Operand(FIXED_WIDTH), Result(FIXED_WIDTH)
    overflowFlags = OptionalProp(Attribute)

    def verify(self) -> None:
        _same_shapes(self)
        _check_width(self, wider=False)


class IndexCastOp(_Cast, name="arith.index_cast", pure=True):
    """Between `index` and a fixed-width integer, keeping the sign."""

    x, out = Operand(INTEGER), Result(INTEGER)

    def verify(self) -> None:
        _same_shapes(self)
        fixed = [isinstance(element_type(v.type), IntegerType) for v in (self.x, self.out)]
        if fixed[0] == fixed[1]:
            op_error(
                self.operation, f"must go between index and an integer, but goes from {self.x.type} to {self.out.type}"
            )


class SIToFPOp(_Cast, name="arith.sitofp", pure=True):
    """A float from a signed integer."""

    x, out = Operand(FIXED_WIDTH), Result(FLOAT)


class UIToFPOp(_Cast, name="arith.uitofp", pure=True):
    """A float from an unsigned integer: i1 true becomes 1.0."""

    x, out = Operand(FIXED_WIDTH), Result(FLOAT)


class FPToSIOp(_Cast, name="arith.fptosi", pure=True):
    """A signed integer from a float, rounded towards zero."""

    x, out = Operand(FLOAT), Result(FIXED_WIDTH)


ARITH = Dialect(
    "arith",
    (
        ConstantOp,
        AddFOp, SubFOp, MulFOp, DivFOp, RemFOp, MaximumFOp, MinimumFOp, NegFOp,
        AddIOp, SubIOp, MulIOp, DivSIOp, FloorDivSIOp, RemSIOp, MaxSIOp, MinSIOp,
        AndIOp, OrIOp, XOrIOp, ShRSIOp,
        CmpFOp, CmpIOp, SelectOp,
        ExtFOp, TruncFOp, ExtSIOp, ExtUIOp, TruncIOp, IndexCastOp, SIToFPOp, UIToFPOp, FPToSIOp,
    ),
)  # fmt: skip
