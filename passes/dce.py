"""dce: drop operations whose results nobody reads and which do nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.core import Operation
from .manager import Pass, PassContext
from .purity import removable


@dataclass(frozen=True)
class DeadCodeElimination(Pass):
    """Drop operations that have no effect and whose results nobody reads."""

    name = "dce"

    def run(self, module: Operation, ctx: PassContext) -> None:
        ctx.statistics["operations dropped"] += drop_dead_code(module)


def drop_dead_code(root: Operation) -> int:
    """Drop what is dead inside `root`, users before what they use; return how many went."""
    dropped = 0
    for operation in root.walk_inner_first():
        if operation is not root and not any(r.uses for r in operation.results) and removable(operation):
            operation.erase()
            dropped += 1
    return dropped
