"""Elementwise operations as MLIR text: the `arith` and `math` dialects, on scalars and vectors alike.

Inside a kernel every float is an f32; f16 and bf16 values are f32s that were rounded. An `index`
is an i64 as a scalar and an i32 in a vector's lanes, which positions never exceed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...ir.attributes import FloatAttr, IntegerAttr, SplatAttr, Type, element_type, f32, is_float
from ...ir.core import Operation
from ...ir.diagnostics import op_error
from ...ir.dialects.arith import CmpFOp, CmpIOp, ConstantOp
from .elementary import ELEMENTARY, pow
from .writer import Ssa, Writer

Operands = Sequence[Ssa]
Emitter = Callable[[Writer, Operation, Operands], Ssa]


def held_element(type_: Type, lanes: int) -> str:
    """The type in which a value of `type_` is held: in each of `lanes`, or alone where that is 0."""
    name = str(element_type(type_))
    if name == "index":
        return "i32" if lanes else "i64"
    if name in ("f16", "bf16"):
        return "f32"
    return name.removeprefix("u").removeprefix("s") if name.startswith(("ui", "si")) else name


def elementwise(w: Writer, op: Operation, operands: Operands) -> Ssa:
    """One op on scalars, or on vectors of equal length; CompileError for one that has no form here."""
    if op.name not in EMITTERS:
        op_error(op, "has no form for CPUs")
    w.source(op.location)
    return EMITTERS[op.name](w, op, operands)


def constant_number(op: Operation) -> float | int:
    """The number in an `arith.constant`, or the one that fills it."""
    value = ConstantOp(op).value
    scalar = value.value if isinstance(value, SplatAttr) else value
    assert isinstance(scalar, FloatAttr | IntegerAttr)
    return scalar.value


def rounded(w: Writer, x: Ssa, type_: Type) -> Ssa:
    """`x` to the precision of `type_`, still an f32."""
    name = str(element_type(type_))
    if name == "f16":
        return w.cast("arith.extf", w.cast("arith.truncf", x, "f16"), "f32")
    if name != "bf16":
        return x
    bits = w.bitcast(x, "i32")
    odd = w.binary("arith.andi", w.binary("arith.shrui", bits, w.constant(16, bits.type)), w.constant(1, bits.type))
    up = w.add(w.add(bits, odd), w.constant(0x7FFF, bits.type))
    kept = w.bitcast(w.binary("arith.andi", up, w.constant(-0x10000, bits.type)), "f32")
    return w.select(w.compare("uno", x, x), x, kept)


def _binary(text: str) -> Emitter:
    return lambda w, op, operands: rounded(w, w.binary(text, *operands), op.result.type)


def _unary(text: str) -> Emitter:
    return lambda w, op, operands: rounded(w, w.unary(text, operands[0]), op.result.type)


def _elementary(name: str) -> Emitter:
    return lambda w, op, operands: rounded(w, ELEMENTARY[name](w, operands[0]), op.result.type)


def _constant(w: Writer, op: Operation, operands: Operands) -> Ssa:
    return w.constant(constant_number(op), held_element(op.result.type, 0))


def _floor_divide(w: Writer, op: Operation, operands: Operands) -> Ssa:
    """The quotient towards zero, one less where a remainder has not the divisor's sign."""
    x, y = operands
    quotient, remainder = w.binary("arith.divsi", x, y), w.binary("arith.remsi", x, y)
    zero = w.constant(0, x.type)
    differs = w.compare("slt", w.binary("arith.xori", remainder, y), zero)
    below = w.binary("arith.andi", differs, w.compare("ne", remainder, zero))
    return w.select(below, w.sub(quotient, w.constant(1, x.type)), quotient)


def _select(w: Writer, op: Operation, operands: Operands) -> Ssa:
    return w.select(*operands)


def _compare_floats(w: Writer, op: Operation, operands: Operands) -> Ssa:
    return w.compare(CmpFOp(op).predicate_name, *operands)


def _compare_integers(w: Writer, op: Operation, operands: Operands) -> Ssa:
    return w.compare(CmpIOp(op).predicate_name, *operands)


def _truncate_float(w: Writer, op: Operation, operands: Operands) -> Ssa:
    return rounded(w, operands[0], op.result.type)


def _extend_float(w: Writer, op: Operation, operands: Operands) -> Ssa:
    return operands[0]


def _resize(signed: bool) -> Emitter:
    """To an integer type of another width; keeps the low bits where that is narrower."""

    def emit(w: Writer, op: Operation, operands: Operands) -> Ssa:
        (x,) = operands
        target = held_element(op.result.type, x.lanes)
        here, there = int(x.element[1:]), int(target[1:])
        if there < here:
            return w.cast("arith.trunci", x, target)
        return w.cast("arith.extsi" if signed else "arith.extui", x, target)

    return emit


def _to_float(text: str) -> Emitter:
    return lambda w, op, operands: rounded(w, w.cast(text, operands[0], "f32"), op.result.type)


def _to_integer(w: Writer, op: Operation, operands: Operands) -> Ssa:
    return w.cast("arith.fptosi", operands[0], held_element(op.result.type, operands[0].lanes))


def _absolute(w: Writer, op: Operation, operands: Operands) -> Ssa:
    (x,) = operands
    return w.greatest(x, w.sub(w.constant(0, x.type), x))


def _power(w: Writer, op: Operation, operands: Operands) -> Ssa:
    return rounded(w, pow(w, *operands), op.result.type)


def scaled_exponent(op: Operation) -> tuple[Operation, float] | None:
    """exp2(x * c) with a constant c > 0, as the product and c: one function computes it in one go."""
    if op.name != "math.exp2":
        return None
    product = op.operands[0].defining_op
    if product is None or product.name != "arith.mulf" or element_type(product.result.type) != f32:
        return None
    factor = product.operands[1].defining_op
    if factor is None or factor.name != "arith.constant":
        return None
    number = float(constant_number(factor))
    return (product, number) if 2.0**-20 < number < 2.0**20 else None


def check_supported(op: Operation) -> None:
    """f64 would need vectors of half the length; nothing that reaches a kernel is one."""
    for value in (*op.operands, *op.results):
        if is_float(value.type) and str(element_type(value.type)) not in ("f32", "f16", "bf16"):
            op_error(op, f"kernels for CPUs compute in f32, but {value.type} is asked for")


EMITTERS: Mapping[str, Emitter] = {
    "arith.constant": _constant,
    **{f"arith.{n}": _binary(f"arith.{n}") for n in ("addf", "subf", "mulf", "divf", "remf", "maximumf", "minimumf")},
    "arith.negf": _unary("arith.negf"),
    **{
        f"arith.{n}": _binary(f"arith.{n}")
        for n in ("addi", "subi", "muli", "divsi", "remsi", "maxsi", "minsi", "andi", "ori", "xori", "shrsi")
    },
    "arith.floordivsi": _floor_divide,
    "arith.cmpf": _compare_floats,
    "arith.cmpi": _compare_integers,
    "arith.select": _select,
    "arith.extf": _extend_float,
    "arith.truncf": _truncate_float,
    "arith.extsi": _resize(signed=True),
    "arith.extui": _resize(signed=False),
    "arith.trunci": _resize(signed=True),
    "arith.index_cast": _resize(signed=True),
    "arith.sitofp": _to_float("arith.sitofp"),
    "arith.uitofp": _to_float("arith.uitofp"),
    "arith.fptosi": _to_integer,
    "math.absf": _unary("math.absf"),
    "math.absi": _absolute,
    "math.sqrt": _unary("math.sqrt"),
    "math.floor": _unary("math.floor"),
    "math.ceil": _unary("math.ceil"),
    "math.powf": _power,
    **{name: _elementary(name) for name in ELEMENTARY},
}
