"""The orders in which passes run."""

from __future__ import annotations

from ..passes.analyze_mask import AnalyzeMask
from ..passes.canonicalize import Canonicalize
from ..passes.cse import CommonSubexpressionElimination
from ..passes.dce import DeadCodeElimination
from ..passes.lower_attention import LowerAttention
from ..passes.manager import Pass
from ..passes.plan import PlanAttention
from ..passes.raise_attention import RaiseAttention

RAISE: tuple[Pass, ...] = (Canonicalize(), RaiseAttention(), DeadCodeElimination())
"""From the captured graph to attn.attention."""

LOWER: tuple[Pass, ...] = (LowerAttention(), Canonicalize(), CommonSubexpressionElimination(), DeadCodeElimination())
"""From a scheduled attention to a kernel."""


def schedule(target: str, rows: int = 0) -> tuple[Pass, ...]:
    """What decides how an attention runs on `target`, and leaves it an attention.

    `rows` is for how many pairs of query and head of a group it is made; 0 for any number.
    """
    return (AnalyzeMask(), PlanAttention(target, rows), Canonicalize(), CommonSubexpressionElimination())
