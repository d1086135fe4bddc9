"""Key-value caches with fewer tokens: what a policy keeps, gathered; and caches that grow and are cut again.

A policy sees keys, values and statistics of attention, and says which tokens each key head keeps. It knows nothing of
how they are gathered, and this file nothing of why they were kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..ir.diagnostics import error
from .mask_algebra import Held, Mask
from .side_outputs import Statistics

Budget = int | float
"""Tokens to keep for each key head: a number, or as a float from 0 to 1 the part of all."""


@dataclass(frozen=True)
class Choice:
    """Which tokens are kept, (B, K, N) bool; and for which heads, (K,) bool, one token stands for all others."""

    kept: torch.Tensor
    compensated: torch.Tensor | None = None


class Policy(Protocol):
    """Chooses tokens; the same inputs give the same choice, and ties go to the earlier token."""

    def choose(self, k: torch.Tensor, v: torch.Tensor, statistics: Statistics | None) -> Choice:
        """Of k (B, K, N, D) and v (B, K, N, E); statistics are of queries over these keys."""
        ...


@dataclass(frozen=True)
class Compacted:
    """A cache of fewer tokens: k (B, K, N', D), v (B, K, N', E), the same N' for all heads.

    `positions` (B, K, N') are those of the tokens in what was compacted, ascending; -1 for a token that stands for
    others, which comes last, and for padding behind a shorter head. `log_weight` (B, K, N') in f32 is to be added
    to the scores: 0 for tokens, the logarithm of how many a token stands for, and -inf for padding. `lengths`
    (B, K) counts tokens without padding.
    """

    k: torch.Tensor
    v: torch.Tensor
    positions: torch.Tensor
    log_weight: torch.Tensor
    lengths: torch.Tensor

    def bias(self, heads: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """`log_weight` for `heads` query heads, (B, H, 1, N'): the attn_mask of scaled_dot_product_attention."""
        groups, rest = divmod(heads, self.k.shape[1])
        if rest or not groups:
            raise error(f"query heads must be a multiple of {self.k.shape[1]} key heads, but there are {heads}")
        return self.log_weight.repeat_interleave(groups, 1)[:, :, None].to(dtype or self.k.dtype)

    def mask(self, heads: int) -> Mask:
        """Which tokens are no padding, for statistics of `heads` query heads over this cache."""
        group = heads // self.k.shape[1]
        return Mask(_within, (Held(self.lengths), group), "length of each head")


def _within(at: tuple[Any, Any, Any, Any], lengths: torch.Tensor, group: int) -> Any:
    b, h, _, n = at
    return n < lengths[b, h // group]


def compact(k: torch.Tensor, v: torch.Tensor, policy: Policy, statistics: Statistics | None = None) -> Compacted:
    """The tokens that `policy` keeps, in their order, and the mean of the others where it asks for that.

    Attention over the result with `log_weight` added to its scores is attention over all tokens with the
    dropped ones masked; a token for others weighs as much as so many copies of their mean. Raises CompileError
    where keys, values and statistics do not fit each other.
    """
    _check(k, v, statistics)
    choice = policy.choose(k, v, statistics)
    kept, length = choice.kept, k.shape[2]
    counts = kept.sum(2)
    dropped = length - counts
    extra = torch.zeros_like(dropped) if choice.compensated is None else (choice.compensated & (dropped > 0)).long()
    lengths = counts + extra
    size = int(lengths.max()) if lengths.numel() else 0
    # A stable sort brings kept tokens to the front, in their order.
    order = torch.argsort(~kept, dim=2, stable=True)[:, :, :size]
    place = torch.arange(order.shape[2], device=k.device)
    token = place < counts[..., None]
    positions = torch.where(token, order, -1)
    found_k, found_v = (_rows(x, order, token) for x in (k, v))
    log_weight = torch.zeros(token.shape, device=k.device).masked_fill(~token, -math.inf)
    found = Compacted(found_k, found_v, positions, log_weight, lengths)
    return _compensated(found, k, v, kept, counts, extra) if bool(extra.any()) else found


def _rows(x: torch.Tensor, order: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Rows of x (B, K, N, D) in an order (B, K, N'), zeros where there is no token."""
    return x.gather(2, order[..., None].expand(-1, -1, -1, x.shape[3])).masked_fill(~token[..., None], 0)


def _compensated(
    cache: Compacted, k: torch.Tensor, v: torch.Tensor, kept: torch.Tensor, counts: torch.Tensor, extra: torch.Tensor
) -> Compacted:
    """The mean of the dropped tokens behind those kept, for the heads with an `extra` one; sums are in f32 or wider."""
    place = torch.arange(cache.positions.shape[2], device=k.device)
    here = (place == counts[..., None]) & (extra[..., None] > 0)
    dropped = ~kept
    number = dropped.sum(2)
    means: list[torch.Tensor] = []
    for x, own in ((k, cache.k), (v, cache.v)):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = (wide * dropped[..., None]).sum(2) / number.clamp_min(1)[..., None]
        means.append(torch.where(here[..., None], mean.to(x.dtype)[:, :, None], own))
    log_count = number.clamp_min(1).float().log()[..., None]
    return replace(cache, k=means[0], v=means[1], log_weight=torch.where(here, log_count, cache.log_weight))


def _check(k: torch.Tensor, v: torch.Tensor, statistics: Statistics | None) -> None:
    if k.dim() != 4 or v.dim() != 4 or k.shape[:3] != v.shape[:3]:
        raise error(
            "k and v must have four axes and agree in batch, heads and length, "
            f"but have {tuple(k.shape)} and {tuple(v.shape)}"
        )
    mass = None if statistics is None else statistics.column_mass
    if mass is not None and mass.shape != k.shape[:3]:
        raise error(f"statistics of keys {tuple(mass.shape)} are not those of k, which has {tuple(k.shape)}")


def tokens(budget: Budget, length: int) -> int:
    """How many of `length` tokens a budget is; more than there are is all. CompileError for none, or less."""
    if isinstance(budget, bool) or not isinstance(budget, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise error(f"a budget must be a number of tokens or a fraction, but is {budget!r}")
    if isinstance(budget, float) and not 0.0 < budget <= 1.0:
        raise error(f"a budget that is a fraction must be above 0 and at most 1, but is {budget}")
    if budget <= 0:
        raise error(f"a budget must be at least one token, but is {budget}")
    return min(length, math.ceil(budget * length) if isinstance(budget, float) else budget)


@dataclass(eq=False)
class GrowingCache:
    """A cache that tokens are appended to and that a policy cuts again: never longer than its budget after a cut.

    The mass of each token adds up over all statistics since it came, as H2O counts it, and goes with it. `positions`
    are counted from the first token ever. Policies whose heads keep different numbers of tokens are refused: padding
    would come to lie between tokens.
    """

    policy: Policy
    k: torch.Tensor
    v: torch.Tensor
    positions: torch.Tensor
    mass: torch.Tensor
    seen: int

    @staticmethod
    def of(policy: Policy, k: torch.Tensor, v: torch.Tensor) -> GrowingCache:
        """A cache that holds k (B, K, N, D) and v (B, K, N, E)."""
        _check(k, v, None)
        positions = torch.arange(k.shape[2], device=k.device).expand(k.shape[:3])
        return GrowingCache(policy, k, v, positions, torch.zeros(k.shape[:3], device=k.device), k.shape[2])

    @property
    def length(self) -> int:
        """How many tokens each head holds."""
        return self.k.shape[2]

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Add tokens at the end."""
        _check(k, v, None)
        count = k.shape[2]
        positions = torch.arange(self.seen, self.seen + count, device=k.device).expand(k.shape[:3])
        self.k, self.v = torch.cat([self.k, k], 2), torch.cat([self.v, v], 2)
        self.positions = torch.cat([self.positions, positions], 2)
        self.mass = torch.nn.functional.pad(self.mass, (0, count))
        self.seen += count

    def cut(self, statistics: Statistics | None = None) -> None:
        """Keep what the policy chooses, after `statistics` of the newest queries over this cache were added."""
        _check(self.k, self.v, statistics)
        if statistics is not None and statistics.column_mass is not None:
            self.mass = self.mass + statistics.column_mass
            statistics = replace(statistics, column_mass=self.mass)
        choice = self.policy.choose(self.k, self.v, statistics)
        counts = choice.kept.sum(2)
        if choice.compensated is not None or counts.numel() == 0 or bool((counts != counts.flatten()[0]).any()):
            name = type(self.policy).__name__
            raise error(f"{name} leaves heads of different lengths; compact once and append to what is left")
        size = int(counts.flatten()[0])
        order = torch.argsort(~choice.kept, dim=2, stable=True)[:, :, :size]
        token = torch.ones_like(order, dtype=torch.bool)
        self.k, self.v = _rows(self.k, order, token), _rows(self.v, order, token)
        self.positions, self.mass = self.positions.gather(2, order), self.mass.gather(2, order)
