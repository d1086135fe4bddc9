"""choose-layout: lets attention write its result in the order in which the model goes on to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..ir.attributes import UnitAttr
from ..ir.core import Operation
from ..ir.dialects.attn import AttentionOp
from .manager import Pass, PassContext
from .views import permutation_of

HEADS_BEHIND_POSITIONS = [0, 2, 1, 3]


@dataclass(frozen=True)
class ChooseLayout(Pass):
    """Mark the attentions whose result is only read with the heads behind the positions.

    Models join the heads: `out.transpose(1, 2).reshape(B, M, H * E)`. Where out lies in memory as
    (B, M, H, E) that is a view; else it copies the whole result.
    """

    name: ClassVar[str] = "choose-layout"

    def run(self, module: Operation, ctx: PassContext) -> None:
        for operation in module.walk():
            attention = AttentionOp.match(operation)
            if attention is None or not attention.out.uses:
                continue
            if all(_moves_heads(user) for user in attention.out.users):
                attention.positions_first = UnitAttr()
                ctx.statistics["results written with heads behind positions"] += 1


def _moves_heads(user: Operation) -> bool:
    permuted = permutation_of(user)
    return permuted is not None and permuted[1] == HEADS_BEHIND_POSITIONS
