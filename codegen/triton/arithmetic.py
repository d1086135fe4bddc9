"""Elementwise operations as Python text: the `arith` and `math` dialects.

One function for each kind of operation; `EMITTERS` says which op uses which. Half precision is
widened to float32 for every operation, as PyTorch does, and because Triton's interpreter gets
arithmetic on bfloat16 wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...ir.attributes import FloatAttr, IntegerAttr, SplatAttr, bf16, element_type, f16, f32, i1, i32
from ...ir.core import Operation
from ...ir.dialects.arith import CmpFOp, CmpIOp
from ...ir.dialects.math import TanhOp
from .expression import Expression, call, cast, infix, literal, prefix
from .signs import never_negative
from .writer import Emitter, KernelWriter


@dataclass(frozen=True)
class Infix:
    """x operator y"""

    operator: str

    def __call__(self, op: Operation, writer: KernelWriter) -> None:
        lhs, rhs = float_operands(op, writer)
        writer.define(op, narrowed(op, infix(self.operator, lhs, rhs)))


@dataclass(frozen=True)
class Call:
    """function(x, ...); `library` names a function that is written into the module where it is used."""

    function: str
    trailing: tuple[str, ...] = ()
    library: bool = False

    def __call__(self, op: Operation, writer: KernelWriter) -> None:
        operands = [as_tensor(x, op) for x in float_operands(op, writer)]
        function = writer.library_function(self.function) if self.library else self.function
        writer.define(op, narrowed(op, call(function, *operands, *self.trailing)))


def tangent(op: Operation, writer: KernelWriter) -> None:
    """The short form where its absolute error is what counts."""
    function = "tanh" if TanhOp(op).absolute is None else "tanh_of_cap"
    Call(function, library=True)(op, writer)


def float_operands(op: Operation, writer: KernelWriter) -> list[Expression]:
    """The operands, half precision widened to float32."""
    values = [(writer.operand(v), element_type(v.type)) for v in op.operands]
    return [cast(x, f32) if type_ in (f16, bf16) and not x.literal else x for x, type_ in values]


def narrowed(op: Operation, x: Expression) -> Expression:
    """`x` in the half precision the result has, if it has."""
    type_ = element_type(op.result.type)
    return cast(x, type_) if type_ in (f16, bf16) else x


def as_tensor(x: Expression, op: Operation) -> Expression:
    """A number as a Triton value, where a function does not take Python's."""
    return call("tl.cast", x, "tl.float32") if x.literal and element_type(op.operands[0].type) == f32 else x


def constant(op: Operation, writer: KernelWriter) -> None:
    value = op.properties["value"]
    scalar = value.value if isinstance(value, SplatAttr) else value
    assert isinstance(scalar, FloatAttr | IntegerAttr)
    writer.alias(op.result, literal(scalar))


def negate(op: Operation, writer: KernelWriter) -> None:
    (x,) = float_operands(op, writer)
    writer.define(op, narrowed(op, prefix("-", x)))


def exclusive_or(op: Operation, writer: KernelWriter) -> None:
    """x ^ true is not x."""
    lhs, rhs = (writer.operand(v) for v in op.operands)
    if element_type(op.result.type) == i1 and rhs.text == "True":
        writer.define(op, prefix("~", as_bool_tensor(lhs)))
    else:
        writer.define(op, infix("^", lhs, rhs))


def as_bool_tensor(x: Expression) -> Expression:
    """Python's own `~` on a bool would be -2."""
    return call("tl.cast", x, "tl.int1") if x.literal else x


def floor_divide(op: Operation, writer: KernelWriter) -> None:
    """Triton's // rounds towards zero, which is rounding down only where both are not negative."""
    lhs, rhs = (writer.operand(v) for v in op.operands)
    if all(never_negative(v) for v in op.operands):
        writer.define(op, infix("//", lhs, rhs))
    else:
        writer.define(op, call(writer.library_function("floor_divide"), lhs, rhs))


def select(op: Operation, writer: KernelWriter) -> None:
    condition, x, y = (writer.operand(v) for v in op.operands)
    chosen = call("tl.where", condition, x, y)
    type_ = element_type(op.result.type)
    if x.literal and y.literal and type_ not in (f32, i32):
        chosen = cast(chosen, type_)
    writer.define(op, chosen)


_SIGNED = {"eq": "==", "ne": "!=", "slt": "<", "sle": "<=", "sgt": ">", "sge": ">="}
_UNSIGNED = {"ult": "<", "ule": "<=", "ugt": ">", "uge": ">="}
_ORDERED = {"oeq": "==", "ogt": ">", "oge": ">=", "olt": "<", "ole": "<=", "une": "!="}
_UNORDERED = {"ugt": "<=", "uge": "<", "ult": ">=", "ule": ">"}
"""Unordered predicates are what is left when the opposite ordered one fails."""


def compare_integers(op: Operation, writer: KernelWriter) -> None:
    lhs, rhs = (writer.operand(v) for v in op.operands)
    predicate = CmpIOp(op).predicate_name
    if predicate in _SIGNED:
        writer.define(op, infix(_SIGNED[predicate], lhs, rhs))
        return
    unsigned = "tl.uint64" if str(element_type(op.operands[0].type)) == "i64" else "tl.uint32"
    lhs, rhs = (call("tl.cast", x, unsigned) for x in (lhs, rhs))
    writer.define(op, infix(_UNSIGNED[predicate], lhs, rhs))


def compare_floats(op: Operation, writer: KernelWriter) -> None:
    lhs, rhs = float_operands(op, writer)
    writer.define(op, float_comparison(CmpFOp(op).predicate_name, lhs, rhs))


def float_comparison(predicate: str, lhs: Expression, rhs: Expression) -> Expression:
    """Comparisons in Triton are ordered, except != which also holds for nan."""
    if predicate in _ORDERED:
        return infix(_ORDERED[predicate], lhs, rhs)
    if predicate in _UNORDERED:
        return prefix("~", infix(_UNORDERED[predicate], lhs, rhs))
    different = infix("|", infix("<", lhs, rhs), infix(">", lhs, rhs))
    compound: Mapping[str, Callable[[], Expression]] = {
        "one": lambda: different,
        "ueq": lambda: prefix("~", different),
        "ord": lambda: infix("&", infix("==", lhs, lhs), infix("==", rhs, rhs)),
        "uno": lambda: infix("|", infix("!=", lhs, lhs), infix("!=", rhs, rhs)),
        "true": lambda: Expression("True", literal=True),
        "false": lambda: Expression("False", literal=True),
    }
    return compound[predicate]()


def convert(op: Operation, writer: KernelWriter) -> None:
    (x,) = (writer.operand(v) for v in op.operands)
    writer.define(op, cast(x, element_type(op.result.type)))


def convert_index(op: Operation, writer: KernelWriter) -> None:
    """An index is an int32 inside a kernel, so that going to or from i32 changes nothing."""
    types = {str(element_type(v.type)) for v in (op.operands[0], op.result)}
    if types == {"index", "i32"}:
        writer.alias_or_define(op, writer.operand(op.operands[0]))
    else:
        convert(op, writer)


def extend_sign(op: Operation, writer: KernelWriter) -> None:
    """Triton widens int1 with zeros, so true must be negated to become -1."""
    x, type_ = writer.operand(op.operands[0]), element_type(op.result.type)
    wide = cast(x, type_)
    writer.define(op, prefix("-", wide) if element_type(op.operands[0].type) == i1 else wide)


def convert_unsigned(op: Operation, writer: KernelWriter) -> None:
    """Widen as unsigned first; int1 already is."""
    x, source = writer.operand(op.operands[0]), str(element_type(op.operands[0].type))
    if source in ("i8", "i16", "i32", "i64"):
        x = call("tl.cast", x, f"tl.u{triton_integer(source)}", "bitcast=True")
    writer.define(op, cast(x, element_type(op.result.type)))


def triton_integer(type_name: str) -> str:
    return f"int{type_name[1:]}"


def truncate_integer(op: Operation, writer: KernelWriter) -> None:
    """The low bits; Triton's cast to int1 would test for zero instead."""
    x, type_ = writer.operand(op.operands[0]), element_type(op.result.type)
    if type_ != i1:
        writer.define(op, cast(x, type_))
        return
    one = literal(IntegerAttr(1))
    writer.define(op, infix("!=", infix("&", x, one), literal(IntegerAttr(0))))


def integer_absolute(op: Operation, writer: KernelWriter) -> None:
    (x,) = (writer.operand(v) for v in op.operands)
    writer.define(op, call("tl.abs", x))


_NAN = ("propagate_nan=tl.PropagateNan.ALL",)

EMITTERS: Mapping[str, Emitter] = {
    "arith.constant": constant,
    "arith.addf": Infix("+"),
    "arith.subf": Infix("-"),
    "arith.mulf": Infix("*"),
    "arith.divf": Infix("/"),
    "arith.remf": Call("float_remainder", library=True),
    "arith.maximumf": Call("tl.maximum", _NAN),
    "arith.minimumf": Call("tl.minimum", _NAN),
    "arith.negf": negate,
    "arith.addi": Infix("+"),
    "arith.subi": Infix("-"),
    "arith.muli": Infix("*"),
    "arith.divsi": Infix("//"),
    "arith.floordivsi": floor_divide,
    "arith.remsi": Infix("%"),
    "arith.maxsi": Call("tl.maximum"),
    "arith.minsi": Call("tl.minimum"),
    "arith.andi": Infix("&"),
    "arith.ori": Infix("|"),
    "arith.xori": exclusive_or,
    "arith.shrsi": Infix(">>"),
    "arith.cmpf": compare_floats,
    "arith.cmpi": compare_integers,
    "arith.select": select,
    "arith.extf": convert,
    "arith.truncf": convert,
    "arith.extsi": extend_sign,
    "arith.extui": convert_unsigned,
    "arith.trunci": truncate_integer,
    "arith.index_cast": convert_index,
    "arith.uitofp": convert_unsigned,
    "arith.fptosi": convert,
    "math.exp": Call("tl.exp"),
    "math.exp2": Call("tl.exp2"),
    "math.expm1": Call("exp_minus_1", library=True),
    "math.log": Call("tl.log"),
    "math.log2": Call("tl.log2"),
    "math.log1p": Call("log_1_plus", library=True),
    "math.tanh": tangent,
    "math.sqrt": Call("tl.sqrt"),
    "math.rsqrt": Call("tl.rsqrt"),
    "math.absf": Call("tl.abs"),
    "math.absi": integer_absolute,
    "math.sin": Call("tl.sin"),
    "math.cos": Call("tl.cos"),
    "math.erf": Call("tl.erf"),
    "math.floor": Call("tl.floor"),
    "math.ceil": Call("tl.ceil"),
    "math.powf": Call("power", library=True),
}
