"""Runs `attn.select` on tensors: estimate what blocks of keys weigh, choose among those that the mask leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch

from ..ir.core import Operation
from ..ir.diagnostics import error, op_error
from ..ir.dialects.attn import SelectOp
from .choose_blocks import Rule, choose, over_groups
from .estimators import Estimator, Grid, Int4, LowRank, Pooled, Quest, Summary
from .estimators_clusters import Centroids
from .estimators_lines import Sampled
from .live_blocks import Live, LiveBlocks, Sizes

Number: TypeAlias = int | float | str
Tensors: TypeAlias = Sequence[torch.Tensor]

KINDS: Mapping[str, tuple[type[Estimator], tuple[str, ...], Mapping[int, tuple[str, ...]]]] = {
    "quest": (Quest, ("page",), {0: ()}),
    "pooled": (Pooled, ("queries",), {0: (), 1: ("gate",), 2: ("gate_q", "gate_k")}),
    "low_rank": (LowRank, ("rank", "queries"), {0: (), 1: ("basis",)}),
    "int4": (Int4, ("queries",), {0: ()}),
    "sampled": (Sampled, ("queries",), {0: ()}),
    "centroids": (Centroids, ("clusters", "levels", "queries"), {0: ()}),
}
"""Each estimator: its class, the names of its numbers, and those of its tensors by how many are given."""


def estimator_of(name: str, numbers: Mapping[str, Number], tensors: Tensors = ()) -> Estimator:
    """The estimator of that name with those of the numbers that are its own, and the tensors it is given."""
    if name not in KINDS:
        raise error(f"unknown estimator '{name}'; expected {', '.join(KINDS)}")
    kind, own, given = KINDS[name]
    if len(tensors) not in given:
        counts = " or ".join(str(n) for n in given)
        raise error(f"estimator '{name}' takes {counts} tensors, but {len(tensors)} are given")
    build: Callable[..., Estimator] = kind
    parameters = {n: numbers[n] for n in own if n in numbers}
    return build(**parameters, **dict(zip(given[len(tensors)], tensors, strict=True)))


_live_blocks: WeakKeyDictionary[Operation, LiveBlocks] = WeakKeyDictionary()


def select_blocks(
    op: SelectOp, q: torch.Tensor, k: torch.Tensor, *captures: torch.Tensor, summary: Summary | None = None
) -> torch.Tensor:
    """The chosen blocks (B, K, ceil(M / block_m), ceil(N / block_n)) of a call, as `attn.select` defines them.

    `summary` is what the op's estimator keeps of all the keys k, for decoding: without it, k is summarised anew.
    Raises CompileError where sizes do not fit.
    """
    group, rule = op.group.value, Rule.of(op.numbers)
    sizes = _sizes(op, q, k)
    live = _live(op, sizes, captures, q.device)
    table = live.of_key_heads(group)
    if rule.keeps_all:
        return table.expand(sizes.batch, k.shape[1], -1, -1).contiguous()
    estimator = estimator_of(op.estimator.value, op.numbers, captures[len(captures) - op.given.value :])
    if summary is None:
        summary = estimator.summarise(k, sizes.block)
    elif summary.length != sizes.keys or summary.page != estimator.page_of(sizes.block):
        raise error(
            f"the summary must be of {sizes.keys} keys in pages of {estimator.page_of(sizes.block)}, "
            f"but is of {summary.length} in pages of {summary.page}"
        )
    found = estimator.importance(q, summary, Grid(live, op.scale.value, group))
    return choose(over_groups(found, live.table, group), table, rule, sizes)


def live_table(op: SelectOp, q: torch.Tensor, k: torch.Tensor, *captures: torch.Tensor) -> torch.Tensor:
    """Which blocks the mask leaves to a choice: (B or 1, K or 1, ceil(M / block_m), ceil(N / block_n))."""
    return _live(op, _sizes(op, q, k), captures, q.device).of_key_heads(op.group.value)


def _live(op: SelectOp, sizes: Sizes, captures: Tensors, device: torch.device) -> Live:
    if (live_blocks := _live_blocks.get(op.operation)) is None:
        live_blocks = _live_blocks[op.operation] = LiveBlocks(op.mask)
    return live_blocks.find(sizes, captures, device)


def _sizes(op: SelectOp, q: torch.Tensor, k: torch.Tensor) -> Sizes:
    batch, heads, queries, width = q.shape
    if k.shape[:2] != (batch, heads // op.group.value) or heads % op.group.value or k.shape[3] != width:
        op_error(
            op.operation,
            f"sizes do not fit in groups of {op.group.value}: q is {tuple(q.shape)}, k is {tuple(k.shape)}",
        )
    return Sizes(batch, heads, queries, k.shape[2], op.block_m.value, op.block_n.value)
