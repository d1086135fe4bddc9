"""raise-attention: a normalised product between two contractions becomes one attn.attention.

One shape is matched, whatever the spelling: softmax(scores) v, where following the scores
backwards meets a contraction of q and k. A scaled_dot_product_attention call is the same shape
with its parts named. Masks and biases on the way become regions.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.core import Operation
from .distribute_weights import distribute_weights
from .follow_weights import NOT_ATTENTION as NOT_ATTENTION
from .manager import Pass, PassContext
from .pattern import apply_greedily
from .raise_sdpa import raise_sdpa
from .raise_softmax import raise_softmax
from .softmax_by_hand import BY_HAND


@dataclass(frozen=True)
class RaiseAttention(Pass):
    """Replace attention, however it is spelled, by attn.attention with what surrounds its products as regions."""

    name = "raise-attention"

    def run(self, module: Operation, ctx: PassContext) -> None:
        apply_greedily(module, BY_HAND, ctx)
        apply_greedily(module, (distribute_weights,), ctx)
        apply_greedily(module, PATTERNS, ctx)


PATTERNS = (raise_softmax, raise_sdpa)
