"""What a softmax runs over, and which operators before it move whole rows, so that it does not notice them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.attributes import TensorType
from ..ir.core import Operation, Value
from ..ir.dialects.aten import AtenOp
from .views import RESHAPES

REDUCTIONS = ("amax", "max", "logsumexp", "mean")
VIEWS = ("unsqueeze", "squeeze", "expand", "to", "_to_copy", "alias", "detach", "clone", *RESHAPES)
ELEMENTWISE = ("to", "_to_copy", "add", "sub", "masked_fill", "where", "clone", "alias", "detach", "contiguous")


@dataclass(frozen=True)
class Normalised:
    """A softmax of `scores` over `axis`; `shifts` maps operators before it to what they move by whole rows."""

    operation: Operation
    scores: Value
    axis: int
    shifts: Mapping[Operation, Value]


def normalised(softmax: AtenOp) -> Normalised | str:
    """The softmax as it is read, or why it is none over an axis of scores."""
    scores, axis = softmax.operand("self"), softmax.argument("dim")
    if scores is None or not isinstance(scores.type, TensorType) or scores.type.rank < 2 or not isinstance(axis, int):
        return "the softmax is not over a matrix"
    axis %= scores.type.rank
    return Normalised(softmax.operation, scores, axis, row_shifts(scores, axis))


def row_shifts(scores: Value, axis: int) -> Mapping[Operation, Value]:
    """The operators on the way to `scores` that subtract one number from each row along `axis`.

    softmax(x - c) is softmax(x), exactly in real arithmetic. Only numbers that rows themselves give
    are left out: another one may be so large that the scores are lost in it.
    """
    found: dict[Operation, Value] = {}
    work = [scores]
    while work:
        value = work.pop()
        op = value.defining_op
        if op is None or op.dialect != "aten" or op in found or not isinstance(value.type, TensorType):
            continue
        if (moved := _moved(AtenOp(op), axis - value.type.rank)) is not None:
            found[op] = moved
            work.append(moved)
        elif AtenOp(op).packet in ELEMENTWISE:
            work += [v for v in op.operands if isinstance(v.type, TensorType) and v.type.shape == value.type.shape]
    return found


def _moved(op: AtenOp, axis: int) -> Value | None:
    """x, where `op` is x - max(x) or log_softmax(x) along `axis`, counted from the end."""
    source = op.operand("self")
    if source is None or not isinstance(source.type, TensorType):
        return None
    if op.packet in ("log_softmax", "_log_softmax"):
        dim = op.argument("dim")
        return source if isinstance(dim, int) and dim - source.type.rank * (dim >= 0) == axis else None
    other = op.operand("other")
    if op.packet != "sub" or other is None or not isinstance(other.type, TensorType):
        return None
    if source.type.shape[axis] == 1 or not is_constant_along(other, axis):
        return None
    return source if _is_reduction(other) and source.type.shape == getattr(op.out.type, "shape", None) else None


def is_constant_along(value: Value, axis: int) -> bool:
    """Whether a tensor is broadcast along `axis`, counted from the end."""
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    return len(shape) < -axis or shape[axis] == 1


def _is_reduction(value: Value) -> bool:
    """Whether `value` is a maximum, a mean or the like, in any view."""
    op = value.defining_op
    while op is not None and op.dialect == "aten" and AtenOp(op).packet in VIEWS:
        source = AtenOp(op).operand("self")
        op = source.defining_op if source is not None else None
    return op is not None and op.dialect == "aten" and AtenOp(op).packet in REDUCTIONS
