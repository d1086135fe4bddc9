"""Reads a softmax that is spelled by exponentials and a sum, where it is the softmax of an attention.

Before: exp(x - max(x)) / sum(exp(x - max(x))), exp(x - logsumexp(x)), exp(log_softmax(x)), with
masks multiplied or filled in. After: softmax(x), with -inf where the masks are 0. A model that does
not subtract the maximum overflows for large scores, where attention does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir.attributes import Symbol, TensorType, i1
from ..ir.core import Value
from ..ir.dialects.aten import AtenOp, aten_op
from .follow_weights import PASSING, comes_from_product, reaches_product
from .index_function import tensor_type
from .pattern import Pattern, Rewriter, aten_pattern
from .softmax_shift import REDUCTIONS, is_constant_along
from .views import Views

CASTS = ("to", "_to_copy", "type_as", "alias", "detach", "clone", "contiguous", "expand")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "bitwise_not", "isnan")


@aten_pattern("div.Tensor", "mul.Tensor")
def divide_by_sum(op: AtenOp, rw: Rewriter) -> bool:
    """x / (sum(x) + exp(c))  →  softmax(log x), beside a score c without a value if there is one"""
    numerator, denominator = _quotient(op)
    if numerator is None or denominator is None or not isinstance(numerator.type, TensorType):
        return rw.no_match("it is no quotient of tensors")
    total = _sum_of(denominator, numerator)
    if total is None and (late := _divide_late(op, rw, numerator, denominator)) is not None:
        return late
    if total is None:
        return rw.no_match("the denominator is not the sum of the numerator")
    hand = ByHand(rw, op)
    scores = hand.logarithm(numerator, total.axis)
    if scores is None or not _attends(op, scores):
        return rw.no_match("it is not the softmax of an attention")
    if isinstance(total.beside, str):
        return rw.no_match(f"by hand: {total.beside}")
    if total.beside is None:
        return rw.replace(op.operation, hand.softmax(scores, total.axis))
    sink = hand.sink(scores, total.beside, total.axis)
    if isinstance(sink, str):
        return rw.no_match(f"by hand: {sink}")
    return rw.replace(op.operation, hand.softmax_beside(*sink, total.axis))


def _divide_late(op: AtenOp, rw: Rewriter, numerator: Value, denominator: Value) -> bool | None:
    """(x v) / sum(x)  →  softmax(log x) v; None where that is not what is divided"""
    product = _producer(numerator)
    if product is None or product.packet not in ("matmul", "bmm") or op.packet != "div":
        return None
    terms = product.operation.operands[0]
    total = _sum_of(denominator, terms)
    hand = ByHand(rw, product)
    if total is None or total.axis not in (-1, tensor_type(terms).rank - 1) or total.beside is not None:
        return None
    scores = hand.logarithm(terms, total.axis)
    if scores is None or not comes_from_product(scores):
        return None
    weights = hand.softmax(scores, -1)
    arguments = {name: product.operand(name) for name in product.operand_names}
    arguments[product.operand_names[0]] = weights
    given = {name: value for name, value in arguments.items() if value is not None}
    made = aten_op(product.name, given, [product.out.type], product.operation.location)
    return rw.replace(op.operation, rw.insert(made).result)


def _attends(op: AtenOp, scores: Value) -> bool:
    """Whether scores from a product become weights that enter another."""
    return reaches_product(op.operation) and comes_from_product(scores)


@aten_pattern("exp")
def exponentiate(op: AtenOp, rw: Rewriter) -> bool:
    """exp(x - logsumexp(x)), exp(log_softmax(x))  →  softmax(x)"""
    inner = _producer(op.operand("self"))
    if inner is None or inner.operand("self") is None:
        return rw.no_match("not of a logarithm of a softmax")
    scores = inner.operand("self")
    axis = inner.argument("dim") if inner.packet in ("log_softmax", "_log_softmax") else None
    if inner.packet == "sub" and isinstance(other := inner.argument("other"), Value):
        reduction = _producer(_uncast(other))
        if reduction is not None and reduction.packet == "logsumexp" and same(reduction.operand("self"), scores):
            axis = _only_axis(reduction, "dim") if reduction.argument("keepdim", False) else None
    if scores is None or not isinstance(axis, int) or not _attends(op, scores):
        return rw.no_match("it is not the softmax of an attention")
    return rw.replace(op.operation, ByHand(rw, op).softmax(scores, axis))


@aten_pattern("split_with_sizes", "split.Tensor", "split.sizes", "chunk")
def slice_parts(op: AtenOp, rw: Rewriter) -> bool:
    """split(softmax(x), sizes)[i]  →  softmax(x)[start:end]"""
    source, axis = op.operand("self"), op.argument("dim", 0)
    producer = _producer(_uncast(source))
    if source is None or producer is None or "softmax" not in producer.packet or not isinstance(axis, int):
        return rw.no_match("what is split is no softmax")
    if any(not isinstance(tensor_type(part).shape[axis], int) for part in op.operation.results[:-1]):
        return rw.no_match("a size is known at run time only")
    parts, start = list[Value](), 0
    for part in op.operation.results:
        size = tensor_type(part).shape[axis]
        given: dict[str, Value | int] = {"self": source, "dim": axis, "start": start}
        if isinstance(size, int):
            start += size
            given["end"] = start
        made = aten_op("slice.Tensor", given, [part.type], op.operation.location)
        parts.append(rw.insert(made).result)
    return rw.replace(op.operation, *parts)


BY_HAND: tuple[Pattern, ...] = (divide_by_sum, exponentiate, slice_parts)


@dataclass(frozen=True)
class Total:
    """A sum along `axis`, and what is added to it: a tensor, a number, nothing, or a sentence for what is not read."""

    axis: int
    beside: Value | float | str | None = None


@dataclass(frozen=True)
class ByHand:
    """Builds the softmax in front of `op`."""

    rw: Rewriter
    op: AtenOp

    @property
    def views(self) -> Views:
        return Views(self.rw.builder)

    def _make(self, name: str, arguments: dict[str, Value | float | int], type_: TensorType) -> Value:
        return self.rw.insert(aten_op(name, arguments, [type_], self.op.operation.location)).result

    def logarithm(self, value: Value, axis: int) -> Value | None:
        """The scores whose exponentials `value` holds, -inf where it is 0; None for anything else.

        A softmax over `axis` holds them, too, but for a factor of each row, which the sum takes away.
        """
        op = _producer(value)
        if op is None:
            return None
        source = op.operand("self")
        if op.packet == "exp":
            return source
        if op.packet in ("softmax", "_softmax", "_safe_softmax"):
            dim, rank = op.argument("dim"), tensor_type(value).rank
            return source if isinstance(dim, int) and dim % rank == axis % rank else None
        if op.packet == "where" and _is_zero(op.argument("other")) and (mask := op.operand("condition")) is not None:
            inner = self.logarithm(source, axis) if source is not None else None
            return self._masked(inner, mask, drop=False) if inner is not None else None
        if source is None:
            return None
        if (op.packet in CASTS and source.type == value.type) or op.packet in ("to", "_to_copy"):
            return self.logarithm(source, axis)
        if op.packet == "masked_fill" and _is_zero(op.argument("value")) and (mask := op.operand("mask")) is not None:
            inner = self.logarithm(source, axis)
            return self._masked(inner, mask, drop=True) if inner is not None else None
        other = op.operand("other")
        if op.packet != "mul" or other is None:
            return None
        for factor, mask in ((source, other), (other, source)):
            if is_zero_or_one(mask) and (inner := self.logarithm(factor, axis)) is not None:
                return self._masked(inner, mask, drop=False)
        return None

    def _masked(self, scores: Value, mask: Value, *, drop: bool) -> Value:
        """The scores, -inf where `mask` is 1, or where it is 0."""
        if not drop:
            type_ = TensorType(tensor_type(mask).shape, i1)
            mask = self._make("eq.Scalar", {"self": mask, "other": 0}, type_)
        elif tensor_type(mask).element != i1:
            mask = self._make("ne.Scalar", {"self": mask, "other": 0}, TensorType(tensor_type(mask).shape, i1))
        return self._make(
            "masked_fill.Scalar", {"self": scores, "mask": mask, "value": -math.inf}, tensor_type(scores)
        )  # fmt: skip

    def softmax(self, scores: Value, axis: int) -> Value:
        """softmax(scores) in the type of what it stands for."""
        weights = self._make("softmax.int", {"self": scores, "dim": axis}, tensor_type(scores))
        wanted = tensor_type(self.op.out)
        if tensor_type(weights).element == wanted.element:
            return weights
        return self._make("type_as", {"self": weights, "other": self.op.operation.operands[0]}, wanted)

    def sink(self, scores: Value, beside: Value | float, axis: int) -> tuple[Value, Value | float] | str:
        """The scores and the one that is added to their sum, both without the shift that both have."""
        shifted = _producer(scores)
        shift: Value | None = None
        if shifted is not None and shifted.packet == "sub" and (other := shifted.operand("other")) is not None:
            from_end = axis - tensor_type(scores).rank if axis >= 0 else axis
            shift = other if is_constant_along(other, from_end) and _is_reduction(other) else None
        if not isinstance(beside, Value):
            if shift is not None:
                return "a number is added to the sum of exponentials under their maximum, which no score of a row is"
            return scores, math.log(beside)
        exponential = _producer(_uncast(beside))
        inner = exponential.operand("self") if exponential is not None and exponential.packet == "exp" else None
        if inner is None:
            return "what is added to the sum of the exponentials is no exponential"
        if shift is None or shifted is None:
            return scores, inner
        source, moved = shifted.operand("self"), _producer(inner)
        assert source is not None
        if moved is not None and moved.packet == "neg" and same(moved.operand("self"), shift):
            return source, 0.0
        column = moved.operand("self") if moved is not None and moved.packet == "sub" else None
        if moved is None or column is None or not same(moved.operand("other"), shift):
            return "what is added to the sum of the exponentials is not under the same maximum"
        return source, column

    def softmax_beside(self, scores: Value, sink: Value | float, axis: int) -> Value:
        """softmax(cat([scores, sink]))[:-1]"""
        type_ = tensor_type(scores)
        axis %= type_.rank
        shape = list(type_.shape)
        shape[axis] = 1
        if not isinstance(sink, Value):
            start = self._make("slice.Tensor", {"self": scores, "dim": axis, "end": 1}, type_.with_shape(*shape))
            column = self._make("full_like", {"self": start, "fill_value": sink}, type_.with_shape(*shape))
        else:
            while tensor_type(sink).rank < type_.rank:
                sink = self.views.unsqueeze(sink, 0)
            column = self.views.expand(sink, shape, scores)
        size = type_.shape[axis]
        joined = size + 1 if isinstance(size, int) else Symbol(f"{size.text} + 1") if size is not None else None
        both = self.views.concatenate([scores, column], axis, joined)
        weights = self._make("softmax.int", {"self": both, "dim": axis}, tensor_type(both))
        return self._make("slice.Tensor", {"self": weights, "dim": axis, "start": 0, "end": -1}, type_)


def _quotient(op: AtenOp) -> tuple[Value | None, Value | None]:
    """x and y of x / y, x * reciprocal(y) and x * (1 / y)."""
    x, y = op.operand("self"), op.operand("other")
    if op.packet == "div":
        return (x, _uncast(y)) if op.argument("rounding_mode") is None else (None, None)
    for factor, inverse in ((x, y), (y, x)):
        found = _producer(_uncast(inverse))
        if found is not None and found.packet == "reciprocal":
            return factor, _uncast(found.operand("self"))
    return None, None


def _sum_of(value: Value, terms: Value) -> Total | None:
    """`value` as the sum of `terms` along one axis, kept as an axis of size 1."""
    op = _producer(_uncast(value))
    if op is None:
        return None
    if op.packet == "sum" and same(_uncast(op.operand("self")), _uncast(terms)):
        axis = _only_axis(op, "dim")
        return Total(axis) if axis is not None and op.argument("keepdim", False) else None
    if op.packet == "unsqueeze":
        inner, axis = _producer(op.operand("self")), op.argument("dim")
        if inner is None or inner.packet != "sum" or inner.argument("keepdim", False) or not isinstance(axis, int):
            return None
        rank, summed = tensor_type(terms).rank, _only_axis(inner, "dim")
        fits = summed is not None and summed % rank == axis % rank
        return Total(axis) if fits and same(_uncast(inner.operand("self")), _uncast(terms)) else None
    if op.packet in ("clamp", "clamp_min", "maximum"):
        inner = op.operand("self")
        total = _sum_of(inner, terms) if inner is not None else None
        limited = "the sum of the exponentials is kept from falling below a number, which changes rows without a key"
        return Total(total.axis, limited) if total is not None else None
    if op.packet != "add":
        return None
    x, y = op.argument("self"), op.argument("other")
    for inner, beside in ((x, y), (y, x)):
        total = _sum_of(inner, terms) if isinstance(inner, Value) else None
        if total is None or total.beside is not None or op.argument("alpha", 1) != 1:
            continue
        if isinstance(beside, int | float) and beside >= 0:
            return Total(total.axis, float(beside) or None)
        return Total(total.axis, beside if isinstance(beside, Value) else "a negative number is added to the sum")
    return None


def _only_axis(op: AtenOp, name: str) -> int | None:
    axes = op.argument(name)
    if isinstance(axes, list):
        axes = axes[0] if len(axes) == 1 else None
    return axes if isinstance(axes, int) else None


def _producer(value: Value | None) -> AtenOp | None:
    op = value.defining_op if value is not None else None
    return AtenOp(op) if op is not None and op.dialect == "aten" else None


def _uncast(value: Value | None) -> Value | None:
    """What `value` is a cast, a copy or a repetition of."""
    while (op := _producer(value)) is not None and op.packet in CASTS and op.operand("self") is not None:
        value = op.operand("self")
    return value


def _is_reduction(value: Value) -> bool:
    op = _producer(_uncast(value))
    return op is not None and op.packet in REDUCTIONS


def _is_zero(value: object) -> bool:
    if isinstance(value, int | float):
        return value == 0
    op = _producer(_uncast(value)) if isinstance(value, Value) else None
    if op is None:
        return False
    return op.packet in ("zeros", "zeros_like", "new_zeros") or (
        op.packet in ("full", "scalar_tensor", "full_like") and 0 in (op.argument("fill_value"), op.argument("s"))
    )


def is_zero_or_one(value: Value) -> bool:
    """Whether a tensor holds nothing but zeros and ones, because conditions were made numbers."""
    if tensor_type(value).element == i1:
        return True
    op = _producer(value)
    source = op.operand("self") if op is not None else None
    if op is None:
        return False
    if op.packet in ("ones", "zeros", "ones_like", "zeros_like"):
        return True
    if op.packet == "rsub" or op.packet == "mul":
        other = op.operand("other")
        if op.packet == "rsub":
            return source is not None and op.argument("other") == 1 and is_zero_or_one(source)
        return source is not None and other is not None and is_zero_or_one(source) and is_zero_or_one(other)
    moves = op.packet in PASSING and op.packet in _KEEPING
    return moves and source is not None and is_zero_or_one(source)


_KEEPING = ("to", "_to_copy", "type_as", "view", "reshape", "unsqueeze", "squeeze", "expand", "transpose", "permute",
            "slice", "select", "tril", "triu", "alias", "clone", "detach", "contiguous", "index")  # fmt: skip


def same(x: Value | None, y: Value | None, depth: int = 12) -> bool:
    """Whether two values are computed by equal operators from the same values."""
    if x is y or x is None or y is None:
        return x is y and x is not None
    a, b = x.defining_op, y.defining_op
    if a is None or b is None or not depth or a.name != b.name or a.properties != b.properties or x.index != y.index:
        return False
    if AtenOp(a).packet in ("dropout", "rand", "randn", "bernoulli") or len(a.operands) != len(b.operands):
        return False
    return all(same(p, q, depth - 1) for p, q in zip(a.operands, b.operands, strict=True))
