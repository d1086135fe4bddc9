"""Which attention of a graph was not fused, and why."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from ..ir.core import Operation
from ..ir.diagnostics import CompileError
from ..ir.location import Location
from ..passes.manager import PassContext
from ..passes.raise_attention import NOT_ATTENTION
from .between_products import between_products, feeds_product
from .fx_import import location_of
from .report import GraphReport

ATTENTION_OPS = frozenset(
    f"aten.{name}"
    for name in ("softmax.int", "_softmax", "_safe_softmax", "scaled_dot_product_attention", "flex_attention")
)
BY_HAND, HAND = frozenset(("aten.div.Tensor", "aten.mul.Tensor")), "by hand: "
"""Operators that may normalise by hand, and how the reason begins where one does and is not raised."""
WHOLE_LAYERS = frozenset(("aten._transformer_encoder_layer_fwd", "aten._native_multi_head_attention"))
"""Operators that hold attention among other things, which PyTorch's modules use when they infer."""


def refusal(op: Operation, context: PassContext, hidden: Mapping[Location, str]) -> str | None:
    """Why `op`, left over after raising, was not fused; None where it is no attention.

    `hidden` holds the reasons for sites that were raised but have no kernel, by location.
    """
    name = op.name.removeprefix("fx.")
    if name in WHOLE_LAYERS:
        return (
            "PyTorch's fast path runs a whole layer as one operator; "
            "call torch.backends.mha.set_fastpath_enabled(False) before the first call"
        )
    if name in BY_HAND:
        said = [m.reason for m in context.misses if m.location == op.location and m.reason.startswith(HAND)]
        return f"a softmax by hand: {said[-1].removeprefix(HAND)}" if said else None
    if name not in ATTENTION_OPS or not op.results[0].uses:
        return None
    if op.name != name:
        return hidden.get(op.location, "an argument has no form in the IR")
    misses = [m.reason for m in context.misses if m.location == op.location and m.pattern.startswith("raise")]
    reason = misses[-1] if misses else "no rule raises it to attention"
    if name.endswith("attention"):
        return reason
    if reason.startswith(NOT_ATTENTION):
        return reason.removeprefix(NOT_ATTENTION) if between_products(op) else None
    return reason if feeds_product(op) else None


def refuse_graph(gm: fx.GraphModule, graph: GraphReport, problem: CompileError) -> None:
    """Report every attention that Dynamo's graph mentions as refused for one reason."""
    graph.sites.clear()
    reason = problem.diagnostics[0].message
    mentioned = [n for n in gm.graph.nodes if _mentions_attention(n)]
    for node in mentioned:
        graph.refuse(_callee(node), location_of(node), reason)
    if not mentioned:
        graph.notes.append(f"left to PyTorch: {reason}")


def _callee(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def _mentions_attention(node: fx.Node) -> bool:
    words = ("softmax", "scaled_dot_product", "multi_head_attention", "flex_attention")
    return node.op.startswith("call") and any(w in _callee(node) for w in words) and "log_" not in _callee(node)
