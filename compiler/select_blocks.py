"""Runs `attn.select` on tensors: estimate what blocks of keys weigh, choose among those that the mask leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch

from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.dialects.attn import SelectOp
from .choose_blocks import Rule, Settled, choose, over_groups
from .estimators import Estimator, Grid, Int4, LowRank, Pooled, Quest, Summary
from .estimators_clusters import Centroids
from .estimators_lines import Sampled
from .live_blocks import MOST_SIZES, Live, LiveBlocks, Sizes

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


def select_blocks(
    op: SelectOp, q: torch.Tensor, k: torch.Tensor, *captures: torch.Tensor, summary: Summary | None = None
) -> torch.Tensor:
    """The chosen blocks (B, K, ceil(M / block_m), ceil(N / block_n)) of a call, as `attn.select` defines them.

    `summary` is what the op's estimator keeps of all the keys k, for decoding: without it, k is summarised anew.
    Raises CompileError where sizes do not fit.
    """
    choice = _choice(op)
    group, rule, sizes = choice.group, choice.rule, choice.sizes(q, k)
    live = choice.live(sizes, captures, q.device)
    table = live.of_key_heads(group)
    if rule.keeps_all:
        return table.expand(sizes.batch, k.shape[1], -1, -1).contiguous()
    estimator = choice.estimator(captures)
    if summary is None:
        summary = estimator.summarise(k, sizes.block)
    elif summary.length != sizes.keys or summary.page != estimator.page_of(sizes.block):
        raise error(
            f"the summary must be of {sizes.keys} keys in pages of {estimator.page_of(sizes.block)}, "
            f"but is of {summary.length} in pages of {summary.page}"
        )
    found = estimator.importance(q, summary, Grid(live, choice.scale, group))
    everything = op.mask.empty
    again = found.numel() > 0 and not choice.live_blocks.captured
    settled = choice.settled(table, sizes) if again else None
    return choose(over_groups(found, live.table, group, all_live=everything), table, rule, sizes, settled)


def live_table(op: SelectOp, q: torch.Tensor, k: torch.Tensor, *captures: torch.Tensor) -> torch.Tensor:
    """Which blocks the mask leaves to a choice: (B or 1, K or 1, ceil(M / block_m), ceil(N / block_n))."""
    choice = _choice(op)
    return choice.live(choice.sizes(q, k), captures, q.device).of_key_heads(choice.group)


class _Choice:
    """One `attn.select` with what is worked out once for all calls: decoding calls it for every token."""

    def __init__(self, op: SelectOp) -> None:
        # Not the operation itself, whose choice is forgotten with it.
        self._name, self._numbers, self._given = op.estimator.value, op.numbers, op.given.value
        self.group, self.scale, self._location = op.group.value, op.scale.value, op.operation.location
        self._blocks, self._masked = (op.block_m.value, op.block_n.value), not op.mask.empty
        self.rule, self.live_blocks = Rule.of(self._numbers), LiveBlocks(op.mask)
        self._own = estimator_of(self._name, self._numbers) if self._given == 0 else None
        self._settled: dict[tuple[Sizes, torch.device], Settled] = {}

    def estimator(self, captures: Tensors) -> Estimator:
        return self._own or estimator_of(self._name, self._numbers, captures[len(captures) - self._given :])

    def live(self, sizes: Sizes, captures: Tensors, device: torch.device) -> Live:
        found = self.live_blocks.find(self._in_whole_blocks(sizes), captures, device)
        return found if found.sizes == sizes else replace(found, sizes=sizes)

    def settled(self, table: torch.Tensor, sizes: Sizes) -> Settled:
        """What of the choice follows from sizes alone, where the mask captures nothing."""
        key = self._in_whole_blocks(sizes), table.device
        if key not in self._settled:
            if len(self._settled) >= MOST_SIZES:
                self._settled.clear()
            shape = (sizes.batch, sizes.heads // self.group, -1, -1)
            self._settled[key] = Settled.of(table.expand(shape), self.rule, key[0], all_live=not self._masked)
        return self._settled[key]

    def _in_whole_blocks(self, sizes: Sizes) -> Sizes:
        """Sizes with the same tables: one query without a mask cannot tell how full the last block is."""
        if self._masked or sizes.queries != 1:
            return sizes
        return replace(sizes, keys=sizes.key_blocks * sizes.block)

    def sizes(self, q: torch.Tensor, k: torch.Tensor) -> Sizes:
        batch, heads, queries, width = q.shape
        if k.shape[:2] != (batch, heads // self.group) or heads % self.group or k.shape[3] != width:
            raise error(
                f"sizes do not fit in groups of {self.group}: q is {tuple(q.shape)}, k is {tuple(k.shape)}",
                self._location,
            )
        return Sizes(batch, heads, queries, k.shape[2], *self._blocks)


_choices: WeakKeyDictionary[Operation, _Choice] = WeakKeyDictionary()


def _choice(op: SelectOp) -> _Choice:
    if (found := _choices.get(op.operation)) is None:
        found = _choices[op.operation] = _Choice(op)
    return found
