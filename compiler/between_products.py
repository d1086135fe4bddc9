"""Whether a softmax stands between two products, in whatever operators these are written.

Wider than what raising understands, so that attention in an unusual spelling is reported as not
fused. A product counts where both of its tensors are computed for each element of a batch: a router
multiplies its input with weights that are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..ir.attributes import TensorType
from ..ir.core import Block, Operation, Value
from ..ir.dialects.aten import AtenOp
from ..passes.contraction import is_product, product_of

_PAIRS = ("inner", "dot", "mv", "vdot", "tensordot", "linear", "matmul")
_SUMS = ("sum", "mean")
_ENDS = (
    "linear", "addmm", "convolution", "layer_norm", "rms_norm", "group_norm", "batch_norm", "embedding", "softmax",
    "_softmax", "_safe_softmax", "topk", "sort", "argmax", "argsort", "scaled_dot_product_attention", "one_hot",
)  # fmt: skip
"""Operators behind which a tensor holds something else than scores or weights."""


def between_products(softmax: Operation) -> bool:
    """Whether scores come from a product of two batches, and weights enter another."""
    return all(_reaches(softmax, near, _is_batched_product) for near in (_sources, _users))


def feeds_product(softmax: Operation) -> bool:
    """Whether the weights enter a matrix product."""
    return _reaches(softmax, _users, is_product)


def _sources(op: Operation) -> Iterable[Operation]:
    return [v.defining_op for v in op.operands if v.defining_op is not None]


def _users(op: Operation) -> Iterable[Operation]:
    return [user for result in op.results for user in result.users]


def _reaches(
    start: Operation, near: Callable[[Operation], Iterable[Operation]], wanted: Callable[[Operation], bool]
) -> bool:
    """Whether a product is met from `start` on through operators that keep what they are given."""
    seen: set[Operation] = set()
    work = list(near(start))
    while work:
        op = work.pop()
        if op in seen or op.dialect != "aten":
            continue
        seen.add(op)
        if wanted(op):
            return True
        if AtenOp(op).packet not in _ENDS and not is_product(op):
            work += near(op)
    return False


def _is_batched_product(op: Operation) -> bool:
    packet = AtenOp(op).packet
    if packet in _SUMS:
        factors = AtenOp(op).operand("self")
        product = factors.defining_op if factors is not None else None
        return (
            product is not None
            and product.name == "aten.mul.Tensor"
            and len(set(product.operands)) == 2
            and all(_is_computed(v) for v in product.operands)
        )
    if packet in _PAIRS and product_of(op) is None:
        return len(op.operands) >= 2 and all(_is_computed(v) for v in op.operands[:2])
    einsum = product_of(op)
    if einsum is None:
        return False
    shared = set(einsum.left) & set(einsum.right) & set(einsum.out)
    return bool(shared)


def _is_computed(value: Value) -> bool:
    """Whether a tensor is more than a parameter or a view of one: made by an operator with several operands."""
    while isinstance(value.type, TensorType):
        op = value.defining_op
        if isinstance(value.owner, Block) or op is None:
            return value.type.rank > 2
        if len(op.operands) != 1:
            return True
        value = op.operands[0]
    return False
