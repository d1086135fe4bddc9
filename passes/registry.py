"""Every pass by the name that pipelines and the command line use."""

from __future__ import annotations

from collections.abc import Mapping

from .analyze_mask import AnalyzeMask
from .canonicalize import Canonicalize
from .cse import CommonSubexpressionElimination
from .dce import DeadCodeElimination
from .lower_attention import LowerAttention
from .manager import Pass
from .plan import PlanAttention
from .raise_attention import RaiseAttention

PASSES: Mapping[str, type[Pass]] = {
    cls.name: cls
    for cls in (
        Canonicalize,
        CommonSubexpressionElimination,
        DeadCodeElimination,
        RaiseAttention,
        AnalyzeMask,
        PlanAttention,
        LowerAttention,
    )
}
