"""The meaning of `arith`: integers wrap in two's complement, an i1 is one signed bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..attributes import FloatAttr, IntegerAttr, SplatAttr, element_type, i1
from ..diagnostics import op_error
from ..dialects.arith import CmpFOp, CmpIOp, ConstantOp
from .call import Array, Call, Handler

Binary = Callable[[Array, Array], Array]


def constant(call: Call) -> Sequence[Array]:
    """A number, or a tensor full of it."""
    value = ConstantOp(call.op).value
    if isinstance(value, SplatAttr):
        return [np.full([d for d in value.type.shape if isinstance(d, int)], value.value.value)]
    if not isinstance(value, IntegerAttr | FloatAttr):
        op_error(call.op, f"value must be a number or a splat, but is {value}")
    return [np.asarray(value.value)]


def floats(function: Binary) -> Handler:
    """An op on two floats; numpy computes f16 in f32, and one rounding from there is exact."""
    return lambda call: [function(*call.operands)]


def maximum(x: Array, y: Array) -> Array:
    """The larger, nan if either is nan; 0.0 is larger than -0.0, which numpy leaves open."""
    return np.where((x == 0) & (y == 0), x + y, np.maximum(x, y))


def minimum(x: Array, y: Array) -> Array:
    """The smaller, nan if either is nan; -0.0 is smaller than 0.0."""
    return -maximum(-x, -y)


def integers(function: Binary) -> Handler:
    """An op on two integers whose result keeps the low bits."""

    def run(call: Call) -> Sequence[Array]:
        x, y = call.operands
        if x.dtype != np.bool_:
            return [function(x, y)]
        return [(function(signed(x), signed(y)) & 1).astype(np.bool_)]

    return run


def dividing(function: Binary) -> Handler:
    """An integer op that has no meaning where the second operand is zero."""
    inner = integers(function)

    def run(call: Call) -> Sequence[Array]:
        if np.any(call.operands[1] == 0):
            op_error(call.op, "divides by zero")
        return inner(call)

    return run


def divide_towards_zero(x: Array, y: Array) -> Array:
    return (x - np.fmod(x, y)) // y


def signed(x: Array) -> Array:
    """Integers that numpy can extend: the i1 true is -1."""
    return -x.astype(np.int8) if x.dtype == np.bool_ else x


def unsigned(x: Array) -> Array:
    """The same bits as an unsigned integer."""
    return x.astype(np.uint8) if x.dtype == np.bool_ else x.astype(f"uint{8 * x.dtype.itemsize}")


def compare_integers(call: Call) -> Sequence[Array]:
    """One of `CMPI_PREDICATES`."""
    predicate = CmpIOp(call.op).predicate_name
    view = unsigned if predicate.startswith("u") else signed
    x, y = (view(x) for x in call.operands)
    return [COMPARISONS[predicate[-2:]](x, y)]


def compare_floats(call: Call) -> Sequence[Array]:
    """One of `CMPF_PREDICATES`; every comparison of numpy is ordered but `!=`."""
    predicate = CmpFOp(call.op).predicate_name
    x, y = call.operands
    unordered = np.isnan(x) | np.isnan(y)
    if predicate in ("false", "true"):
        return [np.full(unordered.shape, predicate == "true")]
    if predicate in ("ord", "uno"):
        return [unordered ^ (predicate == "ord")]
    holds = COMPARISONS[predicate[1:]](x, y)
    return [holds | unordered if predicate.startswith("u") else holds & ~unordered]


COMPARISONS: Mapping[str, Binary] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def select(call: Call) -> Sequence[Array]:
    return [np.where(*call.operands)]


def convert(view: Callable[[Array], Array]) -> Handler:
    """A cast that reads its operand through `view`; the rounding of results does the rest."""
    return lambda call: [view(call.operands[0])]


def truncate_integer(call: Call) -> Sequence[Array]:
    """The low bits; rounding keeps them, but for an i1 it would ask for nonzero."""
    x = signed(call.operands[0])
    return [x & 1 if element_type(call.op.result.type) == i1 else x]


def float_to_integer(call: Call) -> Sequence[Array]:
    return [np.trunc(call.operands[0]).astype(np.int64)]


ARITH: Mapping[str, Handler] = {
    "arith.constant": constant,
    "arith.addf": floats(np.add),
    "arith.subf": floats(np.subtract),
    "arith.mulf": floats(np.multiply),
    "arith.divf": floats(np.divide),
    "arith.remf": floats(np.fmod),
    "arith.maximumf": floats(maximum),
    "arith.minimumf": floats(minimum),
    "arith.negf": convert(np.negative),
    "arith.addi": integers(np.add),
    "arith.subi": integers(np.subtract),
    "arith.muli": integers(np.multiply),
    "arith.divsi": dividing(divide_towards_zero),
    "arith.floordivsi": dividing(np.floor_divide),
    "arith.remsi": dividing(np.fmod),
    "arith.maxsi": integers(np.maximum),
    "arith.minsi": integers(np.minimum),
    "arith.andi": integers(np.bitwise_and),
    "arith.ori": integers(np.bitwise_or),
    "arith.xori": integers(np.bitwise_xor),
    "arith.shrsi": integers(np.right_shift),
    "arith.cmpf": compare_floats,
    "arith.cmpi": compare_integers,
    "arith.select": select,
    "arith.extf": convert(np.asarray),
    "arith.truncf": convert(np.asarray),
    "arith.extsi": convert(signed),
    "arith.extui": convert(unsigned),
    "arith.trunci": truncate_integer,
    "arith.index_cast": truncate_integer,
    "arith.sitofp": convert(signed),
    "arith.uitofp": convert(unsigned),
    "arith.fptosi": float_to_integer,
}
