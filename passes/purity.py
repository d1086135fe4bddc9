"""Which operations may be dropped when unused, and which may be merged with an equal one.

Captured graphs are functional: an `aten` op has no effect unless it is listed here. `fx` ops
belong to other libraries and stay as they are.
"""

from __future__ import annotations

from ..ir.core import Operation, Value
from ..ir.dialects import is_pure, op_class
from ..ir.dialects.aten import AtenOp

RANDOM = frozenset({
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli",
    "multinomial", "normal", "normal_functional", "poisson", "binomial", "uniform", "exponential",
    "geometric", "cauchy", "log_normal", "random", "rrelu", "rrelu_with_noise", "dropout",
    "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "_fused_dropout",
    "_sample_dirichlet", "_standard_gamma", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
})  # fmt: skip
"""Operators that draw random numbers: dropping one changes what the next one draws."""

CHECKS = ("_assert", "_functional_assert", "sym_constrain", "_functional_sym_constrain", "_print")
"""Starts of the names of operators that exist to fail or to speak."""

VIEWS = frozenset({
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "transpose", "permute", "t", "mT", "expand",
    "expand_as", "view_as", "slice", "select", "unsqueeze", "squeeze", "narrow", "unbind", "split", "chunk",
    "split_with_sizes", "diagonal", "movedim", "swapaxes", "swapdims", "unfold", "as_strided", "alias", "detach",
    "contiguous", "to", "_to_copy", "type_as", "lift_fresh", "real", "view_as_real", "view_as_complex",
})  # fmt: skip
"""Operators whose result may share its storage with an operand."""

READS = frozenset({"tile.load", "tile.gather"})
STRUCTURED = frozenset({"scf.for", "scf.if"})


def removable(operation: Operation) -> bool:
    """Whether nobody notices when `operation` goes, provided that its results are unused."""
    if operation.dialect == "aten":
        return _functional(AtenOp(operation))
    if operation.name in STRUCTURED:
        inner = [op for region in operation.regions for block in region.blocks for op in block.ops]
        return all(_ends_block(op) or removable(op) for op in inner)
    return is_pure(operation) or operation.name in READS


def mergeable(operation: Operation) -> bool:
    """Whether `operation` may give way to an earlier one with equal operands and properties.

    Operations with regions are left alone: comparing them costs more than merging them brings.
    """
    if operation.regions or not operation.results:
        return False
    return _functional(AtenOp(operation)) if operation.dialect == "aten" else is_pure(operation)


def leaves_graph(value: Value) -> bool:
    """Whether a caller gets `value` or a view of it, and could write into it."""
    return any(
        user.name == "func.return"
        or (user.dialect == "aten" and AtenOp(user).packet in VIEWS and any(leaves_graph(r) for r in user.results))
        for user in value.users
    )


def _functional(op: AtenOp) -> bool:
    packet, overload = op.packet, op.name.partition(".")[2]
    in_place = packet.endswith("_") and not packet.endswith("__")
    dropout = op.operation.name == "aten.scaled_dot_product_attention" and op.argument("dropout_p", 0.0) != 0.0
    writes = in_place or overload.split("_")[-1] == "out"
    return not (writes or dropout or packet in RANDOM or packet.startswith(CHECKS))


def _ends_block(operation: Operation) -> bool:
    declared = op_class(operation)
    return declared is not None and declared.terminator
