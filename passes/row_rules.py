"""How ATen operators look at one element of a row of q, k, v or the output: what may be fused into attention.

These are the rules of `index_rules` that only compute or view, with joins, sums over a row and norms
beside them. Tables of positions are no rows: cos, sin and lookups stay where they are.
"""

from __future__ import annotations

import math as pymath
from collections.abc import Mapping

from ..ir.attributes import Dim, FloatType, TensorType, is_float
from ..ir.core import Value
from ..ir.dialects import arith, math
from ..ir.dialects.aten import AtenOp
from .index_function import Coordinates, IndexFunction, Rule, argument_list, tensor_type
from .index_rules import RULES, converted, unary
from .region_math import RegionMath, Scalar
from .row_function import RowFunction, is_complex


def _rows(f: IndexFunction) -> RowFunction:
    assert isinstance(f, RowFunction), "these rules are for rows"
    return f


def _source(op: AtenOp, name: str = "self") -> tuple[Value, TensorType] | None:
    value = op.operand(name)
    return (value, value.type) if value is not None and isinstance(value.type, TensorType) else None


def _axis(op: AtenOp, rank: int, default: int = 0) -> int | None:
    given = op.argument("dim", default)
    return given % rank if isinstance(given, int) and rank else None


# --- joins and parts -----------------------------------------------------------------------


def _cat(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """One tensor after the other: the first whose end lies behind the position."""
    rows, axis = _rows(f), _axis(op, len(at))
    tensors = [v for v in argument_list(op.argument("tensors")) if isinstance(v, Value)]
    if axis is None or not tensors or any(tensor_type(t).rank != len(at) for t in tensors):
        return None
    starts = [0]
    for tensor in tensors[:-1]:
        size = tensor_type(tensor).shape[axis]
        if not isinstance(size, int):
            return None
        starts.append(starts[-1] + size)
    found: Value | None = None
    for position in reversed(range(len(tensors))):
        here = (*at[:axis], rows.moved(at[axis], -starts[position]), *at[axis + 1 :])
        part = f.math.as_float(rows.piece(tensors[position], here, axis))
        if found is None:
            found = part
        else:
            found = rows.choose(f.math.compare("lt", at[axis], starts[position + 1]), part, found)
    return found


def _stack(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    rows, axis = _rows(f), _axis(op, len(at))
    tensors = [v for v in argument_list(op.argument("tensors")) if isinstance(v, Value)]
    if axis is None or not tensors:
        return None
    rest = (*at[:axis], *at[axis + 1 :])
    found = f.math.as_float(f.at(tensors[-1], rest))
    for position in reversed(range(len(tensors) - 1)):
        part = f.math.as_float(f.at(tensors[position], rest))
        found = rows.choose(f.math.compare("eq", at[axis], position), part, found)
    return found


def _slice(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """self[start::step] along one axis; where a slice ends its type says."""
    rows, source, axis = _rows(f), _source(op), _axis(op, len(at))
    start, step = op.argument("start", 0) or 0, op.argument("step", 1)
    if source is None or axis is None or not isinstance(start, int) or not isinstance(step, int):
        return None
    size = source[1].shape[axis]
    if start < 0:
        if not isinstance(size, int):
            return None
        start = max(start + size, 0)
    position = at[axis] if step == 1 else f.math.as_index(f.math.mul(at[axis], step))
    return f.at(source[0], (*at[:axis], rows.moved(position, start), *at[axis + 1 :]))


def _narrow(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    source, start, axis = _source(op), op.argument("start"), _axis(op, len(at))
    if source is None or axis is None or not isinstance(start, int) or start < 0:
        return None
    return f.at(source[0], (*at[:axis], _rows(f).moved(at[axis], start), *at[axis + 1 :]))


def _flip(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    source, dims = _source(op), op.argument("dims")
    if source is None or not isinstance(dims, list):
        return None
    order = list(at)
    for given in dims:
        axis = given % len(at) if isinstance(given, int) else 0
        size = source[1].shape[axis]
        if not isinstance(given, int) or not isinstance(size, int):
            return None
        order[axis] = f.math.as_index(f.math.sub(f.math.builder.index(size - 1), order[axis]))
    return f.at(source[0], tuple(order))


def _roll(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """Along one axis of constant size."""
    source, shifts, dims = _source(op), op.argument("shifts"), op.argument("dims")
    if source is None or not isinstance(shifts, list) or not isinstance(dims, list) or len(shifts) != 1 != len(dims):
        return None
    if len(dims) != 1 or not isinstance(dims[0], int) or not isinstance(shifts[0], int):
        return None
    axis = dims[0] % len(at)
    size = source[1].shape[axis]
    if not isinstance(size, int) or size == 0:
        return None
    around = f.math.builder.binary(
        arith.RemSIOp, _rows(f).moved(at[axis], (-shifts[0]) % size), f.math.builder.index(size)
    )
    return f.at(source[0], (*at[:axis], around, *at[axis + 1 :]))


def _swap_last(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    value = op.operand("self")
    return None if value is None else f.at(value, (*at[:-2], at[-1], at[-2]))


# --- sums over a row -----------------------------------------------------------------------


def _last_axis(op: AtenOp, rank: int, name: str = "dim") -> bool:
    """Whether an operator works along the last axis and no other."""
    given = op.argument(name)
    dims = given if isinstance(given, list) else [given]
    return len(dims) == 1 and isinstance(dims[0], int) and dims[0] % rank == rank - 1


def _lead(op: AtenOp, at: Coordinates) -> Coordinates:
    return at[:-1] if op.argument("keepdim") is True else at


def _width(type_: TensorType) -> Dim:
    return type_.shape[-1] if type_.rank else None


def _sum_of(
    f: IndexFunction, op: AtenOp, at: Coordinates, what: str, term: Rule, *, mean: bool = False
) -> Value | None:
    """Σ over the last axis of `term` at each of its positions, divided by their number for a `mean`."""
    source = _source(op)
    if source is None or not source[1].rank or not _last_axis(op, source[1].rank) or op.argument("dtype") is not None:
        return None
    width, lead = _width(source[1]), _lead(op, at)
    total = _rows(f).row_sum(op, what, width, lead, lambda c: term(f, op, (*lead, c)))
    if total is None or not mean:
        return total
    assert isinstance(width, int), "sums are of rows of constant length"
    return f.math.builder.binary(arith.DivFOp, total, f.math.as_float(float(width)))


def _element(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    value = op.operand("self")
    return None if value is None else f.at(value, at)


def _square(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    x = _element(f, op, at)
    return None if x is None else f.math.mul(x, x)


def _sum(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    return _sum_of(f, op, at, "sum", _element)


def _mean(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    return _sum_of(f, op, at, "sum", _element, mean=True)


def _variance(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    source, correction = _source(op), op.argument("correction", 1)
    if op.argument("unbiased") is False:
        correction = 0
    mean = _sum_of(f, op, at, "sum", _element, mean=True)
    width = None if source is None else _width(source[1])
    if mean is None or not isinstance(width, int) or not isinstance(correction, int) or correction >= width:
        return None
    total = _sum_of(f, op, at, "squares", lambda g, o, here: _square_below(g, _element(g, o, here), mean))
    return None if total is None else f.math.true_divide(total, float(width - correction))


def _square_below(f: IndexFunction, x: Scalar | None, mean: Value) -> Scalar | None:
    if x is None:
        return None
    difference = f.math.sub(x, mean)
    return f.math.mul(difference, difference)


def _vector_norm(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """The Euclidean length of a row."""
    if op.argument("ord", 2) not in (2, 2.0) or op.argument("p", 2) not in (2, 2.0):
        return None
    total = _sum_of(f, op, at, "squares", _square)
    return None if total is None else f.math.unary(math.SqrtOp, total)


def _layer_norm(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    source, shape, eps = _source(op, "input"), op.argument("normalized_shape"), op.argument("eps", 1e-5)
    if source is None or not isinstance(shape, list) or len(shape) != 1 or not isinstance(eps, float):
        return None
    (x, type_), lead, rows = source, at[:-1], _rows(f)
    width = _width(type_)
    total = rows.row_sum(op, "sum", width, lead, lambda c: f.at(x, (*lead, c)))
    if total is None or not isinstance(width, int):
        return None
    count = f.math.as_float(float(width))
    mean = f.math.builder.binary(arith.DivFOp, total, count)
    squares = rows.row_sum(op, "squares", width, lead, lambda c: _square_below(f, f.at(x, (*lead, c)), mean))
    assert squares is not None, "a row that has a sum has one of squares"
    variance = f.math.builder.binary(arith.DivFOp, squares, count)
    inverse = f.math.unary(math.RsqrtOp, f.math.add(variance, eps))
    return _affine(f, op, at, f.math.mul(f.math.sub(f.at(x, at), mean), inverse))


def _rms_norm(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    source, shape, eps = _source(op, "input"), op.argument("normalized_shape"), op.argument("eps")
    if source is None or not isinstance(shape, list) or len(shape) != 1 or not isinstance(eps, float | None):
        return None
    (x, type_), lead = source, at[:-1]
    width = _width(type_)

    def term(c: Value) -> Scalar:
        element = f.at(x, (*lead, c))
        return f.math.mul(element, element)

    total = _rows(f).row_sum(op, "squares", width, lead, term)
    if total is None or not isinstance(width, int):
        return None
    mean = f.math.builder.binary(arith.DivFOp, total, f.math.as_float(float(width)))
    least = _epsilon(type_) if eps is None else eps
    inverse = f.math.unary(math.RsqrtOp, f.math.add(mean, least))
    return _affine(f, op, at, f.math.mul(f.at(x, at), inverse))


def _epsilon(type_: TensorType) -> float:
    """What PyTorch adds where no epsilon is given: the spacing of numbers at 1."""
    assert isinstance(type_.element, FloatType)
    return {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-23}.get(type_.element.name, 2.0**-52)


def _affine(f: IndexFunction, op: AtenOp, at: Coordinates, x: Scalar) -> Scalar:
    """x * weight + bias, where there are any."""
    for name, combine in (("weight", f.math.mul), ("bias", f.math.add)):
        value = op.operand(name)
        if value is not None:
            x = combine(x, f.at(value, at[-1:]))
    return x


# --- elementwise ---------------------------------------------------------------------------


def _silu(m: RegionMath, x: Scalar) -> Scalar:
    value = m.as_float(x)
    return m.true_divide(value, m.add(1.0, m.unary(math.ExpOp, m.builder.unary(arith.NegFOp, value))))


def _gelu(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    given = f.argument(op, "self", at)
    if given is None or op.argument("approximate", "none") not in ("none", "tanh"):
        return None
    m, x = f.math, f.math.as_float(given)
    if op.argument("approximate", "none") == "tanh":
        cubic = m.add(x, m.mul(m.mul(m.mul(x, x), x), 0.044715))
        bent = m.unary(math.TanhOp, m.mul(cubic, pymath.sqrt(2.0 / pymath.pi)))
    else:
        bent = m.unary(math.ErfOp, m.mul(x, pymath.sqrt(0.5)))
    return m.mul(m.mul(x, 0.5), m.add(bent, 1.0))


def _float_cast(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """To another float type; what is rounded to integers on the way is not an element of a row."""
    element = tensor_type(op.out).element
    x = f.argument(op, "self", at) if is_float(element) else None
    return None if x is None else converted(f.math, x, element)


# --- complex numbers -----------------------------------------------------------------------


def _multiply(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """A product; of complex numbers, the part of it that is asked for."""
    if not is_complex(op.out):
        return RULES["mul"](f, op, at)
    x, y = op.operand("self"), op.operand("other")
    if x is None or y is None:
        return None
    rows, m = _rows(f), f.math
    (a, b), (c, d) = (
        tuple(rows.part_of(value, part, at) for part in (0, 1)) if is_complex(value) else (f.broadcast(value, at), 0.0)
        for value in (x, y)
    )
    if a is None or b is None or c is None or d is None:
        return None
    return m.sub(m.mul(a, c), m.mul(b, d)) if rows.part == 0 else m.add(m.mul(a, d), m.mul(b, c))


def _view_as_complex(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    value, rows = op.operand("self"), _rows(f)
    return None if value is None else f.at(value, (*at, rows.place_of_part()))


def _view_as_real(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """The real part at the last position 0, the imaginary one at 1."""
    value, rows = op.operand("self"), _rows(f)
    if value is None:
        return None
    real, imaginary = (rows.part_of(value, part, at[:-1]) for part in (0, 1))
    if real is None or imaginary is None:
        return None
    return rows.choose(f.math.compare("eq", at[-1], 0), real, imaginary)


# --- the table -----------------------------------------------------------------------------

KEPT = (
    "add", "sub", "rsub", "div", "true_divide", "pow", "neg", "abs", "exp", "exp2", "tanh", "sqrt", "rsqrt", "erf",
    "sigmoid", "relu", "maximum", "minimum", "clamp", "clamp_min", "clamp_max", "where", "masked_fill",
    "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "dropout", "expand", "expand_as", "broadcast_to",
    "transpose", "t", "permute", "unsqueeze", "squeeze", "view", "_unsafe_view", "reshape", "flatten", "unflatten",
    "select", "scalar_tensor", "full", "ones", "zeros",
)  # fmt: skip
"""What means the same for rows as for scores."""

VIEWS = frozenset({
    "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "expand", "expand_as", "broadcast_to", "transpose",
    "t", "permute", "unsqueeze", "squeeze", "view", "_unsafe_view", "reshape", "flatten", "unflatten", "select",
    "slice", "narrow", "mT", "split", "split_with_sizes", "chunk", "unbind",
})  # fmt: skip
"""Operators that compute nothing: their results lie in memory as soon as their operands do, or could."""

ELEMENTWISE = frozenset({
    "add", "sub", "rsub", "mul", "div", "true_divide", "pow", "neg", "abs", "exp", "exp2", "tanh", "sqrt", "rsqrt",
    "erf", "sigmoid", "relu", "maximum", "minimum", "clamp", "clamp_min", "clamp_max", "where", "masked_fill", "square",
    "reciprocal", "silu", "gelu", "to", "_to_copy", "type_as", "dropout",
})  # fmt: skip
"""Operators that compute each element of their result from the elements at its place."""

CONSTANTS = frozenset({"scalar_tensor", "full", "ones", "zeros"})
"""Operators whose results are the same number everywhere."""

ROW_RULES: Mapping[str, Rule] = {
    **{name: RULES[name] for name in KEPT},
    "mul": _multiply,
    "square": unary(lambda m, x: m.mul(x, x)),
    "reciprocal": unary(lambda m, x: m.true_divide(1.0, x)),
    "silu": unary(_silu),
    "gelu": _gelu,
    "to": _float_cast,
    "_to_copy": _float_cast,
    "type_as": _float_cast,
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "slice": _slice,
    "narrow": _narrow,
    "flip": _flip,
    "roll": _roll,
    "mT": _swap_last,
    "sum": _sum,
    "mean": _mean,
    "var": _variance,
    "linalg_vector_norm": _vector_norm,
    "norm": _vector_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
}
