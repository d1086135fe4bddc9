"""Which blocks of keys each block of queries keeps, by estimates of their weight; nothing waits for the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

from .block_scores import split_axis
from .live_blocks import Sizes

LARGEST = torch.finfo(torch.float32).max

INDEX_BITS, VALUE_BITS = 24, 32
"""Of the whole numbers that blocks are ordered by: how many say which block it is, and what it weighs."""

FEW_BLOCKS = 1 << 16
"""So many blocks are sorted as a whole."""

ROUNDING = 1e-6
"""By so much of a block, a count of blocks may be rounded down: 0.1 * 30 is 3."""


@dataclass(frozen=True)
class Rule:
    """What is kept of the live blocks of a row.

    "top_k": the fraction `keep` of them, rounded up; "threshold": those that weigh at least `threshold` of
    what the heaviest does; "cumulative": the fewest that weigh `mass` of all. Always kept, and counted, are the
    first `sinks` of them and those less than `local` blocks away from a block on the diagonal.
    """

    rule: str = "top_k"
    keep: float = 0.1
    threshold: float = 0.0
    mass: float = 1.0
    sinks: int = 1
    local: int = 4

    @staticmethod
    def of(numbers: Mapping[str, int | float | str]) -> Rule:
        """From parameters by name; those of other things are left out."""
        known = {f.name for f in fields(Rule)}
        return Rule(**{name: value for name, value in numbers.items() if name in known})  # type: ignore[arg-type]

    @property
    def keeps_all(self) -> bool:
        """Whether every live block is kept, whatever it weighs."""
        number, bound = {"top_k": (self.keep, 1), "threshold": (-self.threshold, 0), "cumulative": (self.mass, 1)}[
            self.rule
        ]
        return number >= bound


@dataclass(frozen=True)
class Settled:
    """What of a choice no weight changes: which blocks are live, and which are always kept, both (B, K, MB, NB).

    `all_live` tells where nothing is dead, without a look at the device. Of the top `most` blocks of a row, the
    `taken` (B, K, MB, most) ones are kept by rule "top_k".
    """

    live: torch.Tensor
    always: torch.Tensor
    all_live: bool
    most: int
    taken: torch.Tensor

    @staticmethod
    def of(live: torch.Tensor, rule: Rule, sizes: Sizes, *, all_live: bool = False) -> Settled:
        """For live blocks that are expanded to all batches and heads."""
        always, blocks = always_kept(live, rule, sizes), live.shape[-1]
        wanted = (live.sum(dim=-1, keepdim=True) * rule.keep - ROUNDING).ceil()
        wanted = torch.maximum(wanted, always.sum(dim=-1, keepdim=True))
        most = min(blocks, max(math.ceil(blocks * rule.keep), _most_always(rule, sizes)))
        return Settled(live, always, all_live, most, torch.arange(most, device=live.device) < wanted)


def choose(
    importance: torch.Tensor, live: torch.Tensor, rule: Rule, sizes: Sizes, settled: Settled | None = None
) -> torch.Tensor:
    """The kept blocks (B, K, MB, NB) from logarithms of their weights and from which are live, which broadcasts.

    Of equal ones, the first is kept. A weight that is nan counts as the largest. What is `settled` for these live
    blocks, this rule and these sizes may be given, where a choice is made again and again.
    """
    if rule.keeps_all or importance.numel() == 0:
        return live.expand(importance.shape).clone()
    logits = finite(importance)
    settled = settled or Settled.of(live.expand(importance.shape), rule, sizes)
    live, always = settled.live, settled.always
    match rule.rule:
        case "top_k":
            return _largest(logits, settled)
        case "threshold":
            least = _masked(logits, live).amax(dim=-1, keepdim=True).double() + math.log(rule.threshold)
            return live & ((logits.double() >= least) | always)
        case _:
            return _heaviest(logits, live, always, rule.mass)


def finite(importance: torch.Tensor) -> torch.Tensor:
    return importance.float().nan_to_num(nan=LARGEST, posinf=LARGEST, neginf=-LARGEST)


def always_kept(live: torch.Tensor, rule: Rule, sizes: Sizes) -> torch.Tensor:
    """The first live blocks of each row and those around the diagonal.

    The diagonal of a row m is at the key m + N - M (at m if there are fewer keys than queries), but not
    behind the last live block.
    """
    numbers = torch.arange(live.shape[-1], device=live.device)
    first = live & (live.cumsum(dim=-1) <= rule.sinks)
    if rule.local == 0:
        return first
    last_live = (live * (numbers + 1)).amax(dim=-1) - 1
    begin, end = _diagonal(last_live, sizes)
    return first | (live & (numbers > begin - rule.local) & (numbers < end + rule.local))


def _diagonal(last_live: torch.Tensor, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the last block (B, K, MB, 1) that the diagonal runs through."""
    ahead = max(0, sizes.keys - sizes.queries)
    if sizes.queries == 1:
        only = last_live.clamp(max=ahead // sizes.block)[..., None]
        return only, only
    rows = torch.arange(ahead, ahead + sizes.queries, sizes.rows, device=last_live.device)
    last_rows = (rows + (sizes.rows - 1)).clamp(max=ahead + sizes.queries - 1)
    begin, end = (torch.minimum(m // sizes.block, last_live)[..., None] for m in (rows, last_rows))
    return begin, end


def _most_always(rule: Rule, sizes: Sizes) -> int:
    """More blocks than that are not always kept in any row."""
    return rule.sinks + 2 * rule.local + -(-sizes.rows // sizes.block)


def _masked(logits: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(~live, -LARGEST)


def _order(logits: torch.Tensor, live: torch.Tensor, always: torch.Tensor) -> torch.Tensor:
    """Whole numbers, all different in a row: larger for what is always kept, then for live blocks by their weight."""
    bits = (logits + 0.0).view(torch.int32)
    value = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    order = (value << INDEX_BITS) - torch.arange(logits.shape[-1], device=logits.device)
    first = 1 << (VALUE_BITS + INDEX_BITS)
    return torch.where(always, order + first, torch.where(live, order, order - first))


def _largest(logits: torch.Tensor, settled: Settled) -> torch.Tensor:
    if logits.numel() <= FEW_BLOCKS:
        # Few operations count for more than few comparisons.
        kept_first = logits.masked_fill(settled.always, torch.inf)
        if not settled.all_live:
            kept_first = kept_first.masked_fill(~settled.live, -torch.inf)
        places = kept_first.sort(dim=-1, descending=True, stable=True).indices[..., : settled.most]
    else:
        places = _order(logits, settled.live, settled.always).topk(settled.most, dim=-1).indices
    chosen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    return chosen.scatter_(-1, places, settled.taken.expand(places.shape))


def _heaviest(logits: torch.Tensor, live: torch.Tensor, always: torch.Tensor, mass: float) -> torch.Tensor:
    """The fewest that weigh `mass` of all; what is always kept counts first."""
    largest = _masked(logits, live).amax(dim=-1, keepdim=True).double()
    weights = (logits.double() - largest).exp().masked_fill(~live, 0.0)
    places = _order(logits, live, always).argsort(dim=-1, descending=True)
    ordered = weights.gather(-1, places)
    before = ordered.cumsum(dim=-1) - ordered
    needed = before < mass * ordered.sum(dim=-1, keepdim=True)
    return live & (torch.zeros_like(live).scatter_(-1, places, needed) | always)


def over_groups(importance: torch.Tensor, live: torch.Tensor, group: int, *, all_live: bool = False) -> torch.Tensor:
    """(B, H, MB, NB) for query heads as (B, K, MB, NB) for key heads: the most that a block weighs for any head.

    Heads are compared by the share of a block in what all live blocks weigh for the head. `all_live` says that
    no block is dead.
    """
    if group == 1:
        return importance
    if all_live:
        return split_axis(finite(importance).log_softmax(dim=-1), 1, (-1, group)).amax(dim=2)
    dead = ~live
    shares = finite(importance).masked_fill(dead, -torch.inf).log_softmax(dim=-1).masked_fill(dead, -torch.inf)
    return split_axis(shares, 1, (-1, group)).amax(dim=2)
