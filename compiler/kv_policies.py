"""Which tokens of a key-value cache to keep: published rules, each a few lines over `kv_cache.Policy`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity, max_pool1d, normalize

from ..ir.diagnostics import error
from .kv_cache import Budget, Choice, tokens
from .side_outputs import Statistics


def best(score: torch.Tensor, count: int, always: torch.Tensor | None = None) -> torch.Tensor:
    """The `count` highest of the last axis as a bool tensor, those of `always` (N,) before all others; ties go to
    the earlier one."""
    if always is not None:
        score = score.masked_fill(always, math.inf)
    order = torch.argsort(score, dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True)


def ends(length: int, sinks: int, recent: int, device: torch.device) -> torch.Tensor:
    """The first `sinks` and the last `recent` of `length` tokens, (N,) bool."""
    for name, number in (("sinks", sinks), ("recent", recent)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise error(f"{name} must be a number of tokens, but is {number!r}")
    n = torch.arange(length, device=device)
    return (n < sinks) | (n >= length - recent)


def mass_of(statistics: Statistics | None, policy: object) -> torch.Tensor:
    """The column mass that a policy ranks tokens by."""
    mass = None if statistics is None else statistics.column_mass
    if mass is None:
        raise error(f"{type(policy).__name__} ranks tokens by their mass: give statistics with column_mass")
    return mass


def _fitting(policy: object, always: int, budget: int, length: int) -> None:
    """Refuse a budget that the tokens a policy always keeps do not fit."""
    if min(always, length) > budget:
        raise error(f"{type(policy).__name__} always keeps {always} tokens, but its budget is {budget} of {length}")


@dataclass(frozen=True)
class H2O:
    """Heavy hitters: the tokens of the largest mass over all queries so far, and the most recent ones.

    H2O, arXiv 2306.14048. Half of the budget goes to recent tokens, or `recent` of them.
    """

    budget: Budget
    recent: int | None = None

    def choose(self, k: torch.Tensor, v: torch.Tensor, statistics: Statistics | None) -> Choice:
        length = k.shape[2]
        count = tokens(self.budget, length)
        recent = count // 2 if self.recent is None else self.recent
        _fitting(self, recent, count, length)
        return Choice(best(mass_of(statistics, self), count, ends(length, 0, recent, k.device)))


@dataclass(frozen=True)
class SnapKV:
    """The tokens of the largest mass for the last queries, whose own tokens stay (SnapKV, 2404.14469).

    Give statistics of the `last` queries. The mass is pooled over `pool` neighbours, an odd number, so that what
    surrounds a heavy token stays with it. With one last query, `sinks` and no pooling it is SAGE-KV.
    """

    budget: Budget
    recent: int = 32
    sinks: int = 0
    pool: int = 1

    def choose(self, k: torch.Tensor, v: torch.Tensor, statistics: Statistics | None) -> Choice:
        if self.pool < 1 or self.pool % 2 == 0:
            raise error(f"pool must be a positive odd number, but is {self.pool}")
        length, mass = k.shape[2], mass_of(statistics, self)
        count = tokens(self.budget, length)
        _fitting(self, self.sinks + self.recent, count, length)
        pooled = max_pool1d(mass, self.pool, stride=1, padding=self.pool // 2) if self.pool > 1 else mass
        return Choice(best(pooled, count, ends(length, self.sinks, self.recent, k.device)))


def sage_kv(budget: Budget, sinks: int = 4, recent: int = 32) -> SnapKV:
    """SAGE-KV (2503.08879): the tokens that the last query attends to most; give statistics with last=1."""
    return SnapKV(budget, recent, sinks)


@dataclass(frozen=True)
class KeyDiff:
    """The keys least like the mean of all normalised keys, by cosine (KeyDiff, 2504.15364); needs no statistics."""

    budget: Budget

    def choose(self, k: torch.Tensor, v: torch.Tensor, statistics: Statistics | None) -> Choice:
        keys = normalize(k.to(torch.promote_types(k.dtype, torch.float32)), dim=-1)
        anchor = keys.mean(2, keepdim=True)
        return Choice(best(-cosine_similarity(keys, anchor, dim=-1), tokens(self.budget, k.shape[2])))


@dataclass(frozen=True)
class StreamingLLM:
    """The first tokens, on which attention rests where nothing else fits, and the most recent ones.

    StreamingLLM, arXiv 2309.17453.
    """

    recent: int
    sinks: int = 4

    def choose(self, k: torch.Tensor, v: torch.Tensor, statistics: Statistics | None) -> Choice:
        tokens(self.sinks + self.recent, k.shape[2])
        return Choice(ends(k.shape[2], self.sinks, self.recent, k.device).expand(k.shape[:3]))


@dataclass(frozen=True)
class RazorAttention:
    """Retrieval heads keep all; others their ends, and one token for all the rest (RazorAttention, 2407.15891).

    That token is the mean of the keys and of the values dropped, and weighs as much as all of them. `retrieval` are
    numbers of key heads.
    """

    retrieval: Sequence[int]
    recent: int
    sinks: int = 4

    def choose(self, k: torch.Tensor, v: torch.Tensor, statistics: Statistics | None) -> Choice:
        heads, length = k.shape[1], k.shape[2]
        if wrong := [h for h in self.retrieval if not 0 <= h < heads]:
            raise error(f"retrieval heads are key heads from 0 to {heads - 1}, but {wrong[0]} is among them")
        tokens(self.sinks + self.recent, length)
        whole = torch.zeros(heads, dtype=torch.bool, device=k.device)
        whole[list(self.retrieval)] = True
        kept = ends(length, self.sinks, self.recent, k.device) | whole[:, None]
        return Choice(kept.expand(k.shape[:3]), ~whole)


@dataclass(frozen=True)
class Cake:
    """The tokens of the largest mean plus `gamma` times variance of weight for the last queries (CAKE, 2503.12491).

    Give statistics of the `last` queries with column_square; `cake_budgets` shares a budget out among layers.
    """

    budget: Budget
    recent: int = 32
    gamma: float = 200.0

    def choose(self, k: torch.Tensor, v: torch.Tensor, statistics: Statistics | None) -> Choice:
        mass_of(statistics, self)
        assert statistics is not None
        length = k.shape[2]
        count = tokens(self.budget, length)
        _fitting(self, self.recent, count, length)
        score = statistics.column_mean + self.gamma * statistics.column_variance
        return Choice(best(score, count, ends(length, 0, self.recent, k.device)))


def cake_budgets(
    layers: Sequence[Statistics], total: int, *, spread: float = 1.0, shift: float = 1.0, least: int = 1
) -> list[int]:
    """How many of `total` tokens each layer may keep: in proportion to H^(1/spread) V^(1/shift), as CAKE does.

    H is the mean entropy of the rows looked at, V the variance of the weights of each key, summed over keys: how
    widely a layer attends, and how much that moves. Each layer gets `least` first; the budgets sum to `total`
    exactly, remainders going to the largest fractions.
    """
    if spread <= 0 or shift <= 0:
        raise error(f"spread and shift must be positive, but are {spread} and {shift}")
    if not layers or least < 0 or total < least * len(layers):
        raise error(f"{total} tokens cannot be shared out among {len(layers)} layers with at least {least} each")
    preferences: list[float] = []
    for layer in layers:
        if layer.entropy is None:
            raise error("budgets of layers need statistics with entropy=True and column_square=True")
        wide, moving = layer.entropy.double().mean().item(), layer.column_variance.double().sum(-1).mean().item()
        preferences.append(max(wide, 0.0) ** (1.0 / spread) * max(moving, 0.0) ** (1.0 / shift))
    rest = total - least * len(layers)
    whole = math.fsum(preferences)
    shares = [rest * p / whole if whole > 0 else rest / len(layers) for p in preferences]
    budgets = [math.floor(share) for share in shares]
    by_fraction = sorted(range(len(shares)), key=lambda i: (budgets[i] - shares[i], i))
    for i in by_fraction[: rest - sum(budgets)]:
        budgets[i] += 1
    return [least + budget for budget in budgets]
