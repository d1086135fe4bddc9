"""The `math` dialect: MLIR's own elementary functions, on scalars and elementwise on tensors."""

from __future__ import annotations

from ..attributes import Attribute, UnitAttr
from ..define import Hint, Op, Operand, OptionalProp, Result
from ..dialect import Dialect
from .arith import FLOAT, INTEGER, check_same_types


class _Unary(Op, pure=True):
    x, out = Operand(FLOAT), Result(FLOAT)
    fastmath = OptionalProp(Attribute)

    def verify(self) -> None:
        check_same_types(self)


class ExpOp(_Unary, name="math.exp", pure=True):
    """e to the x"""


class Exp2Op(_Unary, name="math.exp2", pure=True):
    """2 to the x; `nonpositive` says that x is never above 0."""

    nonpositive = Hint(UnitAttr)


class ExpM1Op(_Unary, name="math.expm1", pure=True):
    """e to the x, minus 1"""


class LogOp(_Unary, name="math.log", pure=True):
    """The natural logarithm."""


class Log2Op(_Unary, name="math.log2", pure=True):
    """The logarithm to base 2."""


class Log1POp(_Unary, name="math.log1p", pure=True):
    """log(1 + x)"""


class TanhOp(_Unary, name="math.tanh", pure=True):
    """The hyperbolic tangent; `absolute` says that results near 0 need be no closer than those near 1."""

    absolute = Hint(UnitAttr)


class SqrtOp(_Unary, name="math.sqrt", pure=True):
    """The square root."""


class RsqrtOp(_Unary, name="math.rsqrt", pure=True):
    """1 / sqrt(x)"""


class AbsFOp(_Unary, name="math.absf", pure=True):
    """|x|"""


class SinOp(_Unary, name="math.sin", pure=True):
    """The sine, of radians."""


class CosOp(_Unary, name="math.cos", pure=True):
    """The cosine, of radians."""


class ErfOp(_Unary, name="math.erf", pure=True):
    """The error function."""


class FloorOp(_Unary, name="math.floor", pure=True):
    """The largest whole number not above x."""


class CeilOp(_Unary, name="math.ceil", pure=True):
    """The smallest whole number not below x."""


class AbsIOp(Op, name="math.absi", pure=True):
    """|x| of an integer"""

    x, out = Operand(INTEGER), Result(INTEGER)

    def verify(self) -> None:
        check_same_types(self)


class PowFOp(Op, name="math.powf", pure=True):
    """x to the y"""

    lhs, rhs, out = Operand(FLOAT), Operand(FLOAT), Result(FLOAT)
    fastmath = OptionalProp(Attribute)

    def verify(self) -> None:
        check_same_types(self)


MATH = Dialect(
    "math",
    (
        ExpOp, Exp2Op, ExpM1Op, LogOp, Log2Op, Log1POp, TanhOp, SqrtOp, RsqrtOp,
        AbsFOp, AbsIOp, SinOp, CosOp, ErfOp, FloorOp, CeilOp, PowFOp,
    ),
)  # fmt: skip
