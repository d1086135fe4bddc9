"""Runs `attn.query_positions` on tensors: which key of a cache each query is."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from ..ir.core import Operation
from ..ir.dialects.attn import QueryPositionsOp
from .live_blocks import LiveBlocks, Sizes

SCORES_AT_ONCE = 1 << 22
"""How many positions are looked at together; bounds memory, never the result."""

_masks: WeakKeyDictionary[Operation, LiveBlocks] = WeakKeyDictionary()


def query_positions(op: QueryPositionsOp, q: torch.Tensor, k: torch.Tensor, *captures: torch.Tensor) -> torch.Tensor:
    """The positions (B, M) of a call, as `attn.query_positions` defines them."""
    batch, heads, queries, keys = *q.shape[:3], k.shape[2]
    rows = torch.arange(queries, device=q.device)
    last = (rows + max(0, keys - queries)).expand(batch, -1)
    if op.mask.empty or 0 in (batch, heads, queries, keys):
        return last.contiguous()
    if (mask := _masks.get(op.operation)) is None:
        mask = _masks[op.operation] = LiveBlocks(op.mask)
    call, found = mask.of_call(Sizes(batch, heads, queries, keys, 1, keys), captures, q.device), list[torch.Tensor]()
    numbers = torch.arange(1, keys + 1, device=q.device)
    step = max(1, SCORES_AT_ONCE // (batch * heads * keys))
    for start in range(0, queries, step):
        kept = call.kept(rows[start : start + step, None], numbers[None] - 1)
        found.append((kept.any(dim=1) * numbers).amax(dim=-1).expand(batch, -1))
    seen = torch.cat(found, dim=1)
    return torch.where(seen > 0, seen - 1, last)
