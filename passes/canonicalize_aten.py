"""Rewrites of captured graphs that leave every value as it is, so that fewer spellings remain."""

from __future__ import annotations

from ..ir.attributes import TensorType
from ..ir.core import Operation
from ..ir.dialects.aten import AtenOp
from .pattern import Pattern, Rewriter, aten_pattern
from .views import RESHAPES

CASTS = ("_to_copy", "to.dtype", "to.dtype_layout", "to.device", "to.other", "type_as")


def _leaves_graph(op: AtenOp) -> bool:
    """Whether the result is returned: then it must not alias an argument the caller holds."""
    return any(user.name == "func.return" for user in op.out.users)


@aten_pattern("_assert_tensor_metadata")
def drop_metadata_check(op: AtenOp, rw: Rewriter) -> bool:
    """assert_tensor_metadata(x)  →  nothing: the type says what it checks"""
    return rw.erase(op.operation)


@aten_pattern("dropout")
def drop_dropout(op: AtenOp, rw: Rewriter) -> bool:
    """dropout(x, p, train=False) or dropout(x, 0)  →  x"""
    source = op.operand("input")
    if source is None or (op.argument("train") is not False and op.argument("p") != 0.0):
        return rw.no_match("dropout is at work")
    if _leaves_graph(op):
        return rw.no_match("the result leaves the graph")
    return rw.replace(op.operation, source)


@aten_pattern(*CASTS)
def drop_cast(op: AtenOp, rw: Rewriter) -> bool:
    """to(x, dtype of x)  →  x"""
    source = op.operand("self")
    if source is None or source.type != op.out.type or op.argument("device") is not None:
        return rw.no_match("the cast changes its operand")
    if op.argument("memory_format") is not None or _leaves_graph(op):
        return rw.no_match("the result is a tensor of its own")
    return rw.replace(op.operation, source)


@aten_pattern("expand", "alias", "detach")
def drop_identity_view(op: AtenOp, rw: Rewriter) -> bool:
    """expand(x, shape of x)  →  x; alias(x)  →  x"""
    source = op.operand("self")
    if source is None or source.type != op.out.type or _leaves_graph(op):
        return rw.no_match("the view changes its operand or leaves the graph")
    return rw.replace(op.operation, source)


@aten_pattern("slice.Tensor")
def drop_full_slice(op: AtenOp, rw: Rewriter) -> bool:
    """x[0:size of x]  →  x; PyTorch writes one for every `:` beside a size it does not know"""
    source, axis = op.operand("self"), op.argument("dim", 0)
    if source is None or source.type != op.out.type or not isinstance(axis, int) or _leaves_graph(op):
        return rw.no_match("the slice changes its operand or leaves the graph")
    if op.argument("start") not in (None, 0) or op.argument("step", 1) != 1:
        return rw.no_match("the slice does not start with its operand")
    if isinstance(source.type, TensorType) and source.type.shape[axis] is None:
        return rw.no_match("the size is unknown, so equal types may differ in it")
    return rw.replace(op.operation, source)


@aten_pattern("mul.Tensor", "mul.Scalar", "div.Tensor", "div.Scalar")
def drop_unit_factor(op: AtenOp, rw: Rewriter) -> bool:
    """x * 1  →  x; x / 1  →  x"""
    source = op.operand("self")
    if source is None or source.type != op.out.type or op.argument("other") != 1:
        return rw.no_match("the factor is not 1")
    if op.argument("rounding_mode") is not None or _leaves_graph(op):
        return rw.no_match("the result is rounded or leaves the graph")
    return rw.replace(op.operation, source)


@aten_pattern(*RESHAPES, "flatten", "unflatten", "squeeze", "unsqueeze")
def drop_round_trip(op: AtenOp, rw: Rewriter) -> bool:
    """view(view(x, ...), shape of x)  →  x"""
    if not isinstance(op.out.type, TensorType) or None in op.out.type.shape or _leaves_graph(op):
        return rw.no_match("the result leaves the graph, or its size is unknown")
    source = op.operand("self")
    while source is not None and source.type != op.out.type:
        before = source.defining_op
        source = AtenOp(before).operand("self") if before is not None and _keeps_order(before) else None
    if source is None:
        return rw.no_match("no value before it has the same shape")
    return rw.replace(op.operation, source)


def _keeps_order(op: Operation) -> bool:
    """Whether an operator only splits and merges axes."""
    return op.dialect == "aten" and AtenOp(op).packet in (*RESHAPES, "flatten", "unflatten", "squeeze", "unsqueeze")


ATEN_PATTERNS: tuple[Pattern, ...] = (
    drop_metadata_check,
    drop_dropout,
    drop_cast,
    drop_identity_view,
    drop_full_slice,
    drop_unit_factor,
    drop_round_trip,
)
