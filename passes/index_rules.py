"""How each ATen operator looks at one position: the table behind `IndexFunction`.

A rule gets the operator and the coordinates of the element wanted, and answers with region code,
or None where it cannot: the tensor is then captured as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.attributes import TensorType, Type, index, is_float
from ..ir.core import Value
from ..ir.define import Op
from ..ir.dialects import arith, math
from ..ir.dialects.aten import AtenOp
from .index_function import Coordinates, IndexFunction, Rule, argument_list, tensor_type, view_coordinates
from .index_rules_bits import BIT_RULES
from .index_rules_scans import SCAN_RULES
from .index_rules_sums import SUM_RULES
from .region_math import Binary, RegionMath, Scalar, Unary, is_bool_scalar, literal_of

# --- elementwise ---------------------------------------------------------------------------


def unary(build: Unary) -> Rule:
    def rule(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
        x = f.argument(op, "self", at)
        return None if x is None else build(f.math, x)

    return rule


def binary(build: Binary) -> Rule:
    def rule(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
        x, y = f.argument(op, "self", at), f.argument(op, "other", at)
        return None if x is None or y is None else build(f.math, x, y)

    return rule


def function(kind: type[Op]) -> Rule:
    return unary(lambda m, x: m.unary(kind, x))


def compare(relation: str) -> Rule:
    return binary(lambda m, x, y: m.compare(relation, x, y))


def logical(kind: type[Op]) -> Rule:
    return binary(lambda m, x, y: m.logical(kind, x, y))


def bitwise(kind: type[Op]) -> Rule:
    def build(m: RegionMath, x: Scalar, y: Scalar) -> Scalar:
        if is_bool_scalar(x) and is_bool_scalar(y):
            return m.logical(kind, x, y)
        lhs, rhs = m.promote(x, y)
        return m.builder.binary(kind, lhs, rhs)

    return binary(build)


def _add_like(negative: bool, swapped: bool = False) -> Rule:
    """self ± alpha * other; `rsub` swaps the two."""

    def rule(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
        x, y, alpha = f.argument(op, "self", at), f.argument(op, "other", at), op.argument("alpha", 1)
        if x is None or y is None or not isinstance(alpha, int | float):
            return None
        x, y = (y, f.math.mul(x, alpha)) if swapped else (x, f.math.mul(y, alpha))
        return f.math.sub(x, y) if negative else f.math.add(x, y)

    return rule


def _divide(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    x, y, mode = f.argument(op, "self", at), f.argument(op, "other", at), op.argument("rounding_mode")
    if x is None or y is None:
        return None
    if mode == "floor":
        return f.math.floor_divide(x, y)
    return f.math.truncated_divide(x, y) if mode == "trunc" else f.math.true_divide(x, y)


def _remainder(m: RegionMath, x: Scalar, y: Scalar) -> Scalar:
    """x % y; as the remainder of a view's coordinates where x is a position and y a positive constant."""
    count = literal_of(y)
    if isinstance(x, Value) and x.type == index and isinstance(count, int) and count > 0 and never_negative(x):
        return m.builder.binary(arith.RemSIOp, x, m.builder.index(count))
    return m.remainder(x, y)


def _power(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    base, exponent = f.argument(op, "self", at), f.argument(op, "exponent", at)
    if base is None or exponent is None:
        return None
    if (known := literal_of(exponent)) is not None and is_float(tensor_type(op.out)):
        return _constant_power(f.math, f.math.as_float(base), float(known))
    return f.math.builder.binary(math.PowFOp, f.math.as_float(base), f.math.as_float(exponent))


def _constant_power(m: RegionMath, base: Value, exponent: float) -> Scalar:
    """Products, quotients and roots where these are exact or nearly so, as PyTorch takes them."""
    if abs(exponent) in (0.5, 1.0, 2.0, 3.0):
        magnitude: Scalar = m.unary(math.SqrtOp, base) if abs(exponent) == 0.5 else base
        for _ in range(int(abs(exponent)) - 1):
            magnitude = m.mul(magnitude, base)
        return magnitude if exponent > 0 else m.true_divide(1.0, magnitude)
    return m.builder.binary(math.PowFOp, base, m.as_float(exponent))


def _sigmoid(m: RegionMath, x: Scalar) -> Scalar:
    return m.true_divide(1.0, m.add(1.0, m.unary(math.ExpOp, m.builder.unary(arith.NegFOp, m.as_float(x)))))


def _negate(m: RegionMath, x: Scalar) -> Scalar:
    value = m.as_float(x) if isinstance(x, float) or (isinstance(x, Value) and is_float(x.type)) else m.as_integer(x)
    return m.builder.unary(arith.NegFOp, value) if is_float(value.type) else m.sub(0, value)


def _maximum(m: RegionMath, x: Scalar, y: Scalar) -> Scalar:
    return m.binary(arith.MaximumFOp, arith.MaxSIOp, x, y)


def _minimum(m: RegionMath, x: Scalar, y: Scalar) -> Scalar:
    return m.binary(arith.MinimumFOp, arith.MinSIOp, x, y)


def _clamp(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    x = f.argument(op, "self", at)
    for name, limit in (("min", _maximum), ("max", _minimum)):
        if x is None:
            return None
        if op.argument(name) is not None:
            bound = f.argument(op, name, at)
            x = None if bound is None else limit(f.math, x, bound)
    return x


def _where(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    condition, x, y = (f.argument(op, name, at) for name in ("condition", "self", "other"))
    return None if condition is None or x is None or y is None else f.math.select(condition, x, y)


def _masked_fill(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    x, condition, value = (f.argument(op, name, at) for name in ("self", "mask", "value"))
    return None if x is None or condition is None or value is None else f.math.select(condition, value, x)


def _cast(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    x = f.argument(op, "self", at)
    return None if x is None else converted(f.math, x, tensor_type(op.out).element)


def converted(m: RegionMath, x: Scalar, type_: Type) -> Scalar:
    """`x` as an element of a tensor of `type_`; float types are all computed in f32."""
    if is_float(type_):
        return m.as_float(x)
    return m.as_bool(x) if str(type_) == "i1" else m.as_integer(x)


def _same(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    return f.argument(op, "self", at)


def _dropout(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    return f.argument(op, "input", at) if op.argument("train") is False or op.argument("p") == 0.0 else None


# --- constants and positions ---------------------------------------------------------------


def _filled(number: float | int | None) -> Rule:
    """A tensor with one number everywhere; None reads it from the operator."""

    def rule(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
        value = number
        if number is None:
            value = op.argument("s") if op.argument("fill_value") is None else op.argument("fill_value")
        if not isinstance(value, bool | int | float):
            return None
        return f.math.constant_of(value, tensor_type(op.out).element)

    return rule


def _arange(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    start, step = op.argument("start", 0), op.argument("step", 1)
    if not (isinstance(start, int) and isinstance(step, int)):
        return None
    position = f.math.add(f.math.mul(at[0], step), start)
    return converted(f.math, position, tensor_type(op.out).element) if is_float(op.out.type) else position


def _triangle(lower: bool) -> Rule:
    """tril keeps column <= row + diagonal, triu column >= row + diagonal."""

    def rule(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
        diagonal, x = op.argument("diagonal", 0), f.argument(op, "self", at)
        if x is None or not isinstance(diagonal, int):
            return None
        kept = f.math.compare("le" if lower else "ge", at[-1], f.math.add(at[-2], diagonal))
        if literal_of(x) == 1 and is_bool_scalar(x):
            return kept
        zero = f.math.constant_of(0, tensor_type(op.out).element)
        return f.math.select(kept, x, zero)

    return rule


# --- views ---------------------------------------------------------------------------------


def _source(op: AtenOp) -> tuple[Value, TensorType] | None:
    value = op.operand("self")
    return (value, value.type) if value is not None and isinstance(value.type, TensorType) else None


def _expand(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    return f.argument(op, "self", at)


def _axis(given: object, rank: int) -> int | None:
    return given % rank if isinstance(given, int) and not isinstance(given, bool) and rank else None


def _transpose(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    value = op.operand("self")
    i, j = (_axis(op.argument(name, default), len(at)) for name, default in (("dim0", -2), ("dim1", -1)))
    if value is None or i is None or j is None:
        return None
    order = list(at)
    order[i], order[j] = order[j], order[i]
    return f.at(value, tuple(order))


def _permute(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    value, dims = op.operand("self"), op.argument("dims")
    if value is None or not isinstance(dims, list):
        return None
    order = list(at)
    for position, axis in enumerate(dims):
        target = _axis(axis, len(at))
        if target is None:
            return None
        order[target] = at[position]
    return f.at(value, tuple(order))


def _reshape(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    source = _source(op)
    if source is None or not isinstance(op.out.type, TensorType):
        return None
    inside = view_coordinates(f, source[1], op.out.type, at)
    return None if inside is None else f.at(source[0], inside)


def _slice(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    source, start, step = _source(op), op.argument("start", 0), op.argument("step", 1)
    axis = _axis(op.argument("dim", 0), len(at))
    start = 0 if start is None else start
    if source is None or axis is None or not isinstance(start, int) or not isinstance(step, int):
        return None
    size = source[1].shape[axis]
    if start < 0:
        if not isinstance(size, int):
            return None
        start = max(start + size, 0)
    moved = f.math.add(f.math.mul(at[axis], step), start)
    return f.at(source[0], (*at[:axis], f.math.as_index(moved), *at[axis + 1 :]))


def _select(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    source, position = _source(op), op.argument("index")
    if source is None or not isinstance(position, int):
        return None
    axis = _axis(op.argument("dim"), source[1].rank)
    size = source[1].shape[axis] if axis is not None else None
    if axis is None or (position < 0 and not isinstance(size, int)):
        return None
    if position < 0 and isinstance(size, int):
        position += size
    return f.at(source[0], (*at[:axis], f.math.builder.index(position), *at[axis:]))


# --- reading one tensor at positions of another --------------------------------------------


def _position(f: IndexFunction, value: Scalar, size: object) -> Value | None:
    """An index into an axis; negative ones count from the end, as in PyTorch."""
    found = f.math.as_index(value)
    if never_negative(found):
        return found
    if not isinstance(size, int):
        return None
    return f.math.select(
        f.math.compare("lt", found, f.math.builder.index(0)), f.math.add(found, f.math.builder.index(size)), found
    )


def never_negative(value: Value) -> bool:
    """Whether an integer is known to be at least 0: positions, and sums and products of those."""
    operation = value.defining_op
    if operation is None:
        return str(value.type) == "index"
    number = literal_of(value)
    if number is not None:
        return number >= 0
    closed = (
        "arith.addi",
        "arith.muli",
        "arith.floordivsi",
        "arith.divsi",
        "arith.minsi",
        "arith.index_cast",
        "arith.remsi",
    )
    if operation.name in closed:
        return all(never_negative(v) for v in operation.operands)
    if operation.name == "arith.maxsi":
        return any(never_negative(v) for v in operation.operands)
    if operation.name == "arith.select":
        return all(never_negative(v) for v in operation.operands[1:])
    return operation.name == "arith.extui"


def _index(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """self[i0, i1, ...] with index tensors on the leading axes, one after the other."""
    source, given = _source(op), argument_list(op.argument("indices"))
    indices = [v for v in given if isinstance(v, Value) and isinstance(v.type, TensorType)]
    if source is None or len(indices) != len(given) or not indices:
        return None
    if any(str(tensor_type(v).element) == "i1" for v in indices):
        return None
    rank = max(tensor_type(v).rank for v in indices)
    lead: list[Value] = []
    for value, size in zip(indices, source[1].shape, strict=False):
        position = f.broadcast(value, at[:rank])
        found = None if position is None else _position(f, position, size)
        if found is None:
            return None
        lead.append(found)
    return f.at(source[0], (*lead, *at[rank:]))


def _embedding(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    weight, indices = op.operand("weight"), op.operand("indices")
    if weight is None or indices is None:
        return None
    row = _position(f, f.at(indices, at[:-1]), tensor_type(weight).shape[0])
    return None if row is None else f.at(weight, (row, at[-1]))


RULES: Mapping[str, Rule] = {
    **SCAN_RULES,
    **BIT_RULES,
    **SUM_RULES,
    "add": _add_like(negative=False),
    "sub": _add_like(negative=True),
    "rsub": _add_like(negative=True, swapped=True),
    "mul": binary(lambda m, x, y: m.mul(x, y)),
    "div": _divide,
    "true_divide": _divide,
    "floor_divide": binary(lambda m, x, y: m.floor_divide(x, y)),
    "remainder": binary(_remainder),
    "pow": _power,
    "neg": unary(_negate),
    "abs": unary(lambda m, x: m.absolute(x)),
    "exp": function(math.ExpOp),
    "exp2": function(math.Exp2Op),
    "expm1": function(math.ExpM1Op),
    "log": function(math.LogOp),
    "log2": function(math.Log2Op),
    "log1p": function(math.Log1POp),
    "tanh": function(math.TanhOp),
    "sqrt": function(math.SqrtOp),
    "rsqrt": function(math.RsqrtOp),
    "sin": function(math.SinOp),
    "cos": function(math.CosOp),
    "erf": function(math.ErfOp),
    "floor": function(math.FloorOp),
    "ceil": function(math.CeilOp),
    "sigmoid": unary(_sigmoid),
    "relu": unary(lambda m, x: _maximum(m, x, 0)),
    "maximum": binary(_maximum),
    "minimum": binary(_minimum),
    "max": binary(_maximum),
    "min": binary(_minimum),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "where": _where,
    "masked_fill": _masked_fill,
    "eq": compare("eq"),
    "ne": compare("ne"),
    "lt": compare("lt"),
    "le": compare("le"),
    "gt": compare("gt"),
    "ge": compare("ge"),
    "logical_and": logical(arith.AndIOp),
    "logical_or": logical(arith.OrIOp),
    "logical_xor": logical(arith.XOrIOp),
    "logical_not": unary(lambda m, x: m.negate(x)),
    "__and__": bitwise(arith.AndIOp),
    "__or__": bitwise(arith.OrIOp),
    "__xor__": bitwise(arith.XOrIOp),
    "bitwise_and": bitwise(arith.AndIOp),
    "bitwise_or": bitwise(arith.OrIOp),
    "bitwise_xor": bitwise(arith.XOrIOp),
    "to": _cast,
    "_to_copy": _cast,
    "type_as": _cast,
    "alias": _same,
    "clone": _same,
    "contiguous": _same,
    "detach": _same,
    "lift_fresh_copy": _same,
    "dropout": _dropout,
    "zeros": _filled(0),
    "ones": _filled(1),
    "full": _filled(None),
    "scalar_tensor": _filled(None),
    "zeros_like": _filled(0),
    "ones_like": _filled(1),
    "full_like": _filled(None),
    "new_zeros": _filled(0),
    "new_ones": _filled(1),
    "new_full": _filled(None),
    "arange": _arange,
    "tril": _triangle(lower=True),
    "triu": _triangle(lower=False),
    "expand": _expand,
    "expand_as": _expand,
    "broadcast_to": _expand,
    "transpose": _transpose,
    "t": _transpose,
    "permute": _permute,
    "unsqueeze": _reshape,
    "squeeze": _reshape,
    "view": _reshape,
    "_unsafe_view": _reshape,
    "reshape": _reshape,
    "flatten": _reshape,
    "unflatten": _reshape,
    "slice": _slice,
    "select": _select,
    "index": _index,
    "embedding": _embedding,
}
