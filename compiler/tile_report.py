"""Says of the key tiles of an attention how many a kernel computes, or what decides that when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..ir.attributes import Dim
from ..ir.core import Operation
from ..ir.dialects.attn import AttentionOp, SelectOp
from ..passes.count_tiles import TileCount, count_tiles
from ..passes.mask_forms import MaskForms
from ..passes.mask_plan import MaskPlan
from ..passes.position_forms import atoms_of
from .custom_op import Call
from .select_blocks import live_table
from .site_program import SiteProgram
from .sites import capture_names

MOST = 1 << 14
"""Tiles that are looked at one by one for a report."""


def tiles_in_words(op: AttentionOp, plan: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """`36 of 64 live, 28 full (64x64)` for the sizes of the captured call; nothing without a mask or sizes.

    Where the mask reads captured tensors: which ones decide on the device. `sizes` are those of
    symbols by their text. Counted for the first batch and head.
    """
    if op.mask.empty:
        return ""
    found = MaskPlan.of(op.mask)
    sources = dict.fromkeys(a.load.source for a in atoms_of(found.forms.condition) if a.load is not None)
    if sources:
        names = dict(zip(op.mask.block.arguments[4:], capture_names(op), strict=True))
        told = ", ".join(dict.fromkeys(names[source] for source in sources))
        if found.kind in ("pieces", "tiles"):
            return f"decided per tile on the device from {told}"
        return f"all that the bounds leave: no tile can be told from another by {told}"
    if found.kind == "opaque":
        return ""
    queries, keys = (_size(t.shape[2], sizes) for t in op.shapes[:2])
    blocks = _blocks(op, plan)
    if not (queries and keys and blocks):
        return ""
    return _told(count_tiles(found.forms, queries, keys, *blocks, at_once=MOST), blocks)


def counted_in_words(op: AttentionOp, plan: Mapping[str, Any], call: Call) -> str:
    """The same with what `call` captured, over all its batches and heads: `36 of 64 live, ... in this call`."""
    blocks = _blocks(op, plan)
    if op.mask.empty or not blocks or not (call.q[2] and call.k[2]):
        return ""
    arguments = op.mask.block.arguments
    arrays = {argument: _array(t) for argument, t in zip(arguments[4:], call.captures, strict=True)}
    forms, found = MaskForms.of(op.mask), list[TileCount]()
    for b in range(call.q[0] if arguments[0].uses else 1):
        for h in range(call.q[1] if arguments[1].uses else 1):
            found.append(count_tiles(forms, call.q[2], call.k[2], *blocks, captures=arrays, b=b, h=h, at_once=MOST))
    total = TileCount(*(sum(getattr(c, name) for c in found) for name in ("live", "full", "total")))
    return f"{_told(total, blocks)} in this call"


@dataclass
class ChosenBlocks:
    """How many of the live blocks each choice of a call keeps, in the order of the call."""

    seen: dict[Operation, list[tuple[int, int]]] = field(default_factory=dict[Operation, "list[tuple[int, int]]"])

    def see(self, op: Operation, operands: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> None:
        """Count what an operation around a kernel chose, if it chooses blocks."""
        if (select := SelectOp.match(op)) is None:
            return
        live = live_table(select, *operands).expand_as(results[0])
        self.seen.setdefault(op, []).append((int(results[0].sum()), int(live.sum())))

    def in_words(self, program: SiteProgram | None) -> list[str]:
        """The first choice of a program that was not told yet: `chosen: 90 of 512 live blocks ... in this call`."""
        ops = program.function.body.block.ops if program is not None else []
        found = next((self.seen[op] for op in ops if self.seen.get(op)), None)
        if found is None:
            return []
        chosen, live = found.pop(0)
        return [f"chosen: {chosen} of {live} live blocks ({100 * chosen / max(1, live):.1f} %) in this call"]


def _blocks(op: AttentionOp, plan: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many queries and keys a tile has."""
    block_m, block_n = plan.get("block_m"), plan.get("block_n")
    if not isinstance(block_m, int) or not isinstance(block_n, int):
        return None
    return (max(1, block_m // op.group.value) if plan.get("folded") else block_m), block_n


def _told(count: TileCount, blocks: tuple[int, int]) -> str:
    return f"{count.live} of {count.total} live, {count.full} full ({blocks[0]}x{blocks[1]})"


def _array(tensor: torch.Tensor) -> Any:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _size(size: Dim, sizes: Mapping[str, int]) -> int | None:
    return size if isinstance(size, int) else sizes.get(str(size))
