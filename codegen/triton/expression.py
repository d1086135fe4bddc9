"""Pieces of Python text with what is needed to put them together: precedence, tile shape, names.

Knows Python's operators and Triton's broadcasting; knows no operation of the IR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.attributes import FloatAttr, FloatType, IntegerAttr, Type, float_text

COMPARE, OR, XOR, AND, SHIFT, ADD, MULTIPLY, UNARY, ATOM = range(9)

OPERATOR_PRECEDENCE = {
    "<": COMPARE, "<=": COMPARE, ">": COMPARE, ">=": COMPARE, "==": COMPARE, "!=": COMPARE,
    "|": OR, "^": XOR, "&": AND, ">>": SHIFT, "<<": SHIFT,
    "+": ADD, "-": ADD, "*": MULTIPLY, "/": MULTIPLY, "//": MULTIPLY, "%": MULTIPLY,
}  # fmt: skip

_TRITON_TYPES = {
    "f16": "tl.float16", "bf16": "tl.bfloat16", "f32": "tl.float32", "f64": "tl.float64",
    "f8E4M3FN": "tl.float8e4nv", "f8E5M2": "tl.float8e5",
    "i1": "tl.int1", "i8": "tl.int8", "i16": "tl.int16", "i32": "tl.int32", "i64": "tl.int64", "ui8": "tl.uint8",
    "index": "tl.int32",
}  # fmt: skip

_SIGNATURE_TYPES = {
    "f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp64", "f8E4M3FN": "fp8e4nv", "f8E5M2": "fp8e5",
    "i1": "i1", "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64", "ui8": "u8", "index": "i64",
}  # fmt: skip


def triton_type(type_: Type) -> str:
    """The name of a scalar type in Triton; `index` is 32 bits wide inside a kernel."""
    return _TRITON_TYPES[str(type_)]


def signature_type(type_: Type) -> str:
    """The name of a scalar type in a compiled kernel's signature: `fp16`."""
    return _SIGNATURE_TYPES[str(type_)]


@dataclass(frozen=True)
class Expression:
    """Text that has a value. `shape` is what Triton sees, with 1 where a tile is not yet spread out.

    `names` are the variables it reads: reassigning one of them changes what the text means.
    """

    text: str
    precedence: int = ATOM
    shape: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()
    literal: bool = False

    def within(self, precedence: int) -> str:
        """The text, in parentheses if it binds less tightly than `precedence`."""
        return self.text if self.precedence >= precedence else f"({self.text})"

    @property
    def is_name(self) -> bool:
        return self.text.isidentifier() and not self.literal


def name(text: str, shape: tuple[int, ...] = ()) -> Expression:
    """A variable."""
    return Expression(text, ATOM, shape, frozenset({text}))


def literal(attr: FloatAttr | IntegerAttr) -> Expression:
    """A number as Python writes it."""
    if isinstance(attr, FloatAttr):
        text = _float_literal(attr.value, attr.type)
    elif str(attr.type) == "i1":
        text = "True" if attr.value else "False"
    else:
        text = str(attr.value)
    return Expression(text, UNARY if text.startswith("-") else ATOM, literal=True)


def _float_literal(value: float, type_: FloatType) -> str:
    if math.isnan(value):
        return 'float("nan")'
    if math.isinf(value):
        return f'float("{"-" if value < 0 else ""}inf")'
    short = float(float_text(value, type_))
    if type_.name == "f64" or short == 0 or _F32_SMALLEST <= abs(short) <= _F32_LARGEST:
        return repr(short)
    if abs(value) > _F32_SMALLEST:  # the shortest digits of the largest floats lie just outside
        return repr(value)
    return f"tl.full([], {value!r}, tl.float32)"


# Triton takes a Python float outside this range for a float64.
_F32_SMALLEST, _F32_LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127


def is_zero(expression: Expression) -> bool:
    return expression.literal and expression.text in ("0", "0.0")


def infix(operator: str, lhs: Expression, rhs: Expression) -> Expression:
    """`lhs operator rhs`. The right side binds tighter, so that a - (b + c) keeps its meaning."""
    if operator == "+" and rhs.literal and rhs.text.startswith("-"):
        operator, rhs = "-", Expression(rhs.text[1:], literal=True)
    level = OPERATOR_PRECEDENCE[operator]
    left = level + 1 if level == COMPARE else level
    text = f"{lhs.within(left)} {operator} {rhs.within(level + 1)}"
    return combine(text, [lhs, rhs], level)


def prefix(operator: str, x: Expression) -> Expression:
    return combine(f"{operator}{x.within(UNARY)}", [x], UNARY)


def call(function: str, *arguments: Expression | str) -> Expression:
    """`function(arguments)`; strings are passed as they are, such as `other=0.0`."""
    text = ", ".join(a if isinstance(a, str) else a.text for a in arguments)
    return combine(f"{function}({text})", [a for a in arguments if isinstance(a, Expression)], ATOM)


def combine(text: str, parts: Sequence[Expression], precedence: int) -> Expression:
    """An elementwise expression made of `parts`."""
    shape = broadcast_shapes([p.shape for p in parts])
    return Expression(text, precedence, shape, frozenset[str]().union(*(p.names for p in parts)))


def broadcast_shapes(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of an elementwise result; scalars go with everything."""
    tiles = [s for s in shapes if s]
    return tuple(max(sizes) for sizes in zip(*tiles, strict=True)) if tiles else ()


def cast(x: Expression, type_: Type) -> Expression:
    """`x` in another scalar type. Scalars may be plain Python numbers, which have no `.to`."""
    if x.shape:
        return combine(f"{x.within(ATOM)}.to({triton_type(type_)})", [x], ATOM)
    return call("tl.cast", x, triton_type(type_))


def index_with(x: Expression, kept: Sequence[bool]) -> Expression:
    """Give a tile new axes of size one: `x[:, None]` for kept = (True, False)."""
    if not x.shape or all(kept):
        return x
    sizes = iter(x.shape)
    shape = tuple(next(sizes) if keep else 1 for keep in kept)
    subscript = ", ".join(":" if keep else "None" for keep in kept)
    return Expression(f"{x.within(ATOM)}[{subscript}]", ATOM, shape, x.names)
