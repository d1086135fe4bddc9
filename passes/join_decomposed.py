"""Puts together again what decompositions take apart: one operator where PyTorch has one.

torch-mlir and `run_decompositions` spell an operator by simpler ones. Raising reads the operator,
and graphs from every door look the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir.attributes import TensorType
from ..ir.core import Value
from ..ir.dialects.aten import Argument, AtenOp, aten_op
from .pattern import Pattern, Rewriter, aten_pattern

SOFTMAXES = ("aten.softmax.int", "aten._softmax")
NEGATIONS = ("aten.logical_not", "aten.bitwise_not")
VIEWS = ("aten.view", "aten._unsafe_view", "aten.reshape")


def _producer(value: Value | None, *names: str) -> AtenOp | None:
    definer = value.defining_op if value is not None else None
    return AtenOp(definer) if definer is not None and definer.name in names else None


# --- softmax -------------------------------------------------------------------------------


@aten_pattern("where.self")
def join_safe_softmax(op: AtenOp, rw: Rewriter) -> bool:
    """where(all(x == -inf, dim), 0, softmax(x, dim))  →  _safe_softmax(x, dim)"""
    softmax = _producer(op.operand("other"), *SOFTMAXES)
    if softmax is None or softmax.operand("self") is None or not _is_zero(op.operand("self")):
        return rw.no_match("it does not choose between 0 and a softmax")
    scores, dim = softmax.operand("self"), softmax.argument("dim")
    if scores is None or scores.type != op.out.type or not _all_masked(op.operand("condition"), scores, dim):
        return rw.no_match("the condition is not that all scores of the softmax are -inf")
    joined = aten_op("_safe_softmax", {"self": scores, "dim": dim}, [op.out.type], softmax.operation.location)
    joined.attributes.update(softmax.operation.attributes)
    return rw.replace(op.operation, rw.insert(joined).result)


_FILLS: Mapping[str, str | None] = {
    "aten.full_like": "fill_value", "aten.full": "fill_value", "aten.scalar_tensor": "s",
    "aten.zeros_like": None, "aten.zeros": None,
}  # fmt: skip


def _is_zero(value: Value | None) -> bool:
    fill = _producer(value, *_FILLS)
    if fill is None:
        return False
    name = _FILLS[fill.operation.name]
    return name is None or fill.argument(name) == 0


def _all_masked(condition: Value | None, scores: Value, dim: Argument) -> bool:
    """Whether `condition` is all(scores == -inf), or not any(scores != -inf), over `dim`, which stays with size 1."""
    negated = _producer(condition, *NEGATIONS)
    over = negated.operand("self") if negated else condition
    reduction = _producer(over, "aten.any.dim" if negated else "aten.all.dim")
    if reduction is None or reduction.argument("dim") != dim or reduction.argument("keepdim") is not True:
        return False
    compared = reduction.operand("self")
    inner = _producer(compared, *NEGATIONS) if negated else None
    equal = inner is not None or negated is None
    comparison = _producer(
        inner.operand("self") if inner else compared, "aten.eq.Scalar" if equal else "aten.ne.Scalar"
    )
    if comparison is None:
        return False
    return comparison.operand("self") is scores and comparison.argument("other") == -math.inf


# --- products ------------------------------------------------------------------------------


@aten_pattern("view", "_unsafe_view", "reshape")
def join_matmul(op: AtenOp, rw: Rewriter) -> bool:
    """view(bmm(view(a), view(b)), (b, h, m, n))  →  matmul(a, b), for a of (b, h, m, k) and b of (b, h, k, n)"""
    product = _producer(op.operand("self"), "aten.bmm")
    if product is None or not isinstance(op.out.type, TensorType):
        return rw.no_match("it is no view of a batched product")
    lead = op.out.type.shape[:-2]
    factors = [_unflattened(product.operand(name), lead) for name in ("self", "mat2")]
    left, right = factors
    if left is None or right is None or not _multiply(left, right, op.out.type):
        return rw.no_match("the factors were not flattened in the same way")
    joined = aten_op("matmul", {"self": left, "other": right}, [op.out.type], product.operation.location)
    return rw.replace(op.operation, rw.insert(joined).result)


def _unflattened(value: Value | None, lead: tuple[object, ...]) -> Value | None:
    """What `value` was before its leading axes `lead`, of known sizes, were merged into one."""
    view = _producer(value, *VIEWS)
    source = view.operand("self") if view is not None else None
    if source is None or value is None or len(lead) < 2 or None in lead:
        return None
    before, after = source.type, value.type
    if not (isinstance(before, TensorType) and isinstance(after, TensorType)) or before.shape[:-2] != lead:
        return None
    return source if before.shape[-2:] == after.shape[-2:] and None not in after.shape[-2:] else None


def _multiply(left: Value, right: Value, out: TensorType) -> bool:
    """Whether the last two axes of the factors are those of the product."""
    a, b = left.type, right.type
    assert isinstance(a, TensorType) and isinstance(b, TensorType)
    return (a.shape[-2], b.shape[-1]) == out.shape[-2:] and a.shape[-1] == b.shape[-2]


@aten_pattern("add.Tensor")
def join_addmm(op: AtenOp, rw: Rewriter) -> bool:
    """mm(a, b) + bias  →  addmm(bias, a, b): a linear layer is one operator, also where its bias is added apart"""
    product, bias = _producer(op.operand("self"), "aten.mm"), op.operand("other")
    if product is None or bias is None or op.argument("alpha", 1) != 1 or not isinstance(op.out.type, TensorType):
        return rw.no_match("it adds no tensor to a product of matrices")
    if len(product.out.uses) != 1 or bias.type != TensorType(op.out.type.shape[-1:], op.out.type.element):
        return rw.no_match("what is added is no bias, or the product is used elsewhere")
    arguments: dict[str, Argument] = {"self": bias}
    arguments |= {name: product.operand(part) for name, part in (("mat1", "self"), ("mat2", "mat2"))}
    joined = aten_op("addmm", arguments, [op.out.type], product.operation.location)
    return rw.replace(op.operation, rw.insert(joined).result)


# --- differences ---------------------------------------------------------------------------


@aten_pattern("sub.Tensor")
def join_diff(op: AtenOp, rw: Rewriter) -> bool:
    """y[1:] - y[:-1], for y = cat(p, x) and one element of p  →  diff(x, prepend=p)"""
    later, earlier = (_producer(op.operand(name), "aten.slice.Tensor") for name in ("self", "other"))
    whole = later.operand("self") if later is not None else None
    if later is None or earlier is None or whole is None or earlier.operand("self") is not whole:
        return rw.no_match("it is no difference of two slices of one tensor")
    if op.argument("alpha", 1) != 1 or not isinstance(op.out.type, TensorType):
        return rw.no_match("the second slice has a factor")
    axis = _sliced_axis(later, 1)
    joined = _producer(whole, "aten.cat")
    if axis is None or joined is None or _sliced_axis(earlier, 0) != axis:
        return rw.no_match("the slices are not all but the first and all but the last")
    tensors = joined.argument("tensors")
    if not isinstance(tensors, list) or len(tensors) != 2 or _axis(joined, op.out.type) != axis:
        return rw.no_match("the tensor is not one element and another tensor behind it")
    first, rest = tensors
    if not (isinstance(first, Value) and isinstance(rest, Value)) or rest.type != op.out.type:
        return rw.no_match("the slices do not cover the second tensor")
    if not isinstance(first.type, TensorType) or first.type.shape[axis] != 1 or op.out.type.shape[axis] is None:
        return rw.no_match("more than one element comes first")
    difference = aten_op("diff", {"self": rest, "dim": axis, "prepend": first}, [rest.type], op.operation.location)
    return rw.replace(op.operation, rw.insert(difference).result)


def _axis(op: AtenOp, type_: TensorType) -> int | None:
    dim = op.argument("dim", 0)
    return dim % type_.rank if isinstance(dim, int) and type_.rank else None


def _sliced_axis(op: AtenOp, start: int) -> int | None:
    """The axis along which a slice begins at `start`, step by step; where it ends its type says."""
    begins = (op.argument("start") or 0) == start and op.argument("step", 1) == 1
    return _axis(op, op.out.type) if begins and isinstance(op.out.type, TensorType) else None


# --- names ---------------------------------------------------------------------------------


@aten_pattern("min.other", "max.other")
def name_extreme(op: AtenOp, rw: Rewriter) -> bool:
    """min(x, y)  →  minimum(x, y), which is what PyTorch calls for it"""
    arguments = {name: op.argument(name) for name in ("self", "other")}
    named = aten_op(f"{op.packet}imum", arguments, [op.out.type], op.operation.location)
    return rw.replace(op.operation, rw.insert(named).result)


JOINED_PATTERNS: tuple[Pattern, ...] = (join_safe_softmax, join_matmul, join_addmm, join_diff, name_extreme)
