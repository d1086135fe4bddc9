"""canonicalize: bring what can be said in several ways into one, so that later passes match one."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.core import Operation
from .canonicalize_arith import ARITH_PATTERNS
from .canonicalize_aten import ATEN_PATTERNS
from .canonicalize_attention import ATTENTION_PATTERNS
from .canonicalize_choices import CHOICE_PATTERNS
from .dce import drop_dead_code
from .join_decomposed import JOINED_PATTERNS
from .manager import Pass, PassContext
from .pattern import Pattern, apply_greedily

CANONICAL: tuple[Pattern, ...] = (
    *ARITH_PATTERNS,
    *CHOICE_PATTERNS,
    *ATEN_PATTERNS,
    *ATTENTION_PATTERNS,
    *JOINED_PATTERNS,
)


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Fold constants, drop what changes nothing, and order operands; values stay bit by bit."""

    name = "canonicalize"

    def run(self, module: Operation, ctx: PassContext) -> None:
        drop_dead_code(module)
        while apply_greedily(module, CANONICAL, ctx):
            drop_dead_code(module)
