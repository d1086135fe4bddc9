"""Masks to attend with: predicates over (batch, head, query, key) that combine with `&`, `|` and `~`.

    mask = attir.masks.causal() & attir.masks.window(128)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask.dense(q.shape[2], k.shape[2]))
    out = flex_attention(q, k, v, block_mask=create_block_mask(mask, None, None, m, n))

Compiled by attir neither builds a mask of queries times keys: the predicate becomes part of the kernel,
and tiles without kept keys are not computed. `attir mask show EXPRESSION` draws one.
"""

from attir.compiler.mask_algebra import Mask
from attir.compiler.mask_constructors import (
    block_diagonal,
    causal,
    dilated,
    document,
    global_window,
    prefix,
    shifted_groups,
    sink_window,
    strided_shards,
    vertical_slash,
    window,
)
from attir.compiler.mask_grids import neighborhood, tree

__all__ = [
    "Mask",
    "block_diagonal",
    "causal",
    "dilated",
    "document",
    "global_window",
    "neighborhood",
    "prefix",
    "shifted_groups",
    "sink_window",
    "strided_shards",
    "tree",
    "vertical_slash",
    "window",
]
