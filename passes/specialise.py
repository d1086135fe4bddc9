"""Which attention may have warps that only load: what the warp specialisation of Triton takes on Hopper.

It takes one loop without branches whose loads all go through descriptors made on the device; other loads or a second
loop make it fail, and it silently does nothing for an `if`. So one kernel visits the tiles that the mask keeps whole,
and another one the rest; their results are merged.
"""

from __future__ import annotations

from ..ir.core import Value
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tensor import ExtractOp
from .analyze_mask import analyze_mask
from .mask_structure import MaskStructure


def cannot_specialise(attention: AttentionOp) -> str:
    """Why the loop over whole tiles does not fit, in words; empty where it does."""
    hint = attention.structure
    structure = MaskStructure.from_attr(hint) if hint is not None else analyze_mask(attention.mask)
    if attention.shapes[2].shape[3] == 0:
        return "its values have no width, and there would be no copies of them"
    if structure.opaque:
        return "its mask is no pair of bounds, so that no tile is known to be whole"
    for name in ("query", "key", "value"):
        if not attention.region(name).empty:
            return f"its {name} region changes rows, which copies of tiles cannot"
    if attention.empty_score is not None:
        return "rows without a key average all values, which takes a loop of its own"
    for name in ("score", "weight"):
        region = attention.region(name)
        if region.empty:
            continue
        moving: set[Value] = {region.block.arguments[4]}
        for op in region.block.ops:
            if moving & set(op.operands):
                moving.update(op.results)
                if ExtractOp.match(op):
                    return f"its {name} region loads for each key"
    return ""
