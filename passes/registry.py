"""Every pass by the name that pipelines and the command line use."""

from __future__ import annotations

from collections.abc import Mapping

from .absorb_rows import AbsorbRows
from .analyze_mask import AnalyzeMask
from .canonicalize import Canonicalize
from .choose_layout import ChooseLayout
from .convert_torch import ConvertTorch
from .cse import CommonSubexpressionElimination
from .dce import DeadCodeElimination
from .lower_attention import LowerAttention
from .make_persistent import MakePersistent
from .manager import Pass
from .permute_tokens import PermuteTokens
from .plan import PlanAttention
from .quantize import Quantize
from .raise_attention import RaiseAttention
from .raise_flex import RaiseFlexAttention
from .side_outputs import SideOutput
from .sparsify import Sparsify
from .swap_operands import SwapOperands

PASSES: Mapping[str, type[Pass]] = {
    cls.name: cls
    for cls in (
        ConvertTorch,
        Canonicalize,
        CommonSubexpressionElimination,
        DeadCodeElimination,
        RaiseAttention,
        RaiseFlexAttention,
        AbsorbRows,
        ChooseLayout,
        Sparsify,
        Quantize,
        PermuteTokens,
        AnalyzeMask,
        PlanAttention,
        LowerAttention,
        SwapOperands,
        MakePersistent,
        SideOutput,
    )
}
