"""cse: merge operations that compute the same from the same values."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable, MutableMapping
from dataclasses import dataclass

from ..ir.core import Block, Operation
from ..ir.dialects import op_class
from .manager import Pass, PassContext
from .purity import leaves_graph, mergeable


@dataclass(frozen=True)
class CommonSubexpressionElimination(Pass):
    """Merge operations that compute the same from the same values."""

    name = "cse"

    def run(self, module: Operation, ctx: PassContext) -> None:
        ctx.statistics["operations merged"] += _merge_inside(module, ChainMap())


Known = MutableMapping[Hashable, Operation]


def _merge_inside(operation: Operation, known: ChainMap[Hashable, Operation]) -> int:
    """Merge within the regions of `operation`, also with `known` operations that dominate it."""
    declared = op_class(operation)
    visible = ChainMap[Hashable, Operation]() if declared is None or declared.isolated else known
    return sum(_merge_block(b, visible.new_child()) for region in operation.regions for b in region.blocks)


def _merge_block(block: Block, known: ChainMap[Hashable, Operation]) -> int:
    merged = 0
    for operation in list(block.ops):
        if operation.regions:
            merged += _merge_inside(operation, known)
        elif mergeable(operation):
            merged += _merge(operation, known)
    return merged


def _merge(operation: Operation, known: Known) -> bool:
    """Replace `operation` by the equal one in `known`, or make it known."""
    key = _key(operation)
    earlier = known.setdefault(key, operation)
    if earlier is operation:
        return False
    if any(map(leaves_graph, operation.results)) and any(map(leaves_graph, earlier.results)):
        # Two results of the graph must not become one tensor: the caller may write into either.
        return False
    operation.replace_by(*earlier.results)
    return True


def _key(operation: Operation) -> Hashable:
    """What makes two operations equal; attributes are hints and do not count."""
    return (
        operation.name,
        tuple(map(id, operation.operands)),
        frozenset(operation.properties.items()),
        tuple(r.type for r in operation.results),
    )
