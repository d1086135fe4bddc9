"""Estimates from cluster centres of the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from .block_scores import block_maxima, representatives, split_axis
from .estimators import Estimator, Grid, Summary

KEYS_A_CLUSTER = 16
"""Of how many keys, evenly spread, centres are made for each cluster."""

ROUNDS = 4
"""Of k-means."""

POINTS_AT_ONCE = 1024
"""Bounds memory, never the result."""


@dataclass(frozen=True)
class Centroids(Estimator):
    """Each key counts as the centre of its cluster; a block weighs Σ exp(scale * q·centre) over its keys.

    Of the `clusters` centres of a head, half come from k-means over the first keys, and half are the keys that are
    farthest from these, so that a key unlike all others stands for itself. Later keys join the nearest one. With
    two `levels`, clusters of centres are asked first, and the centres in the heavier half of them only; the others
    count as the centre of their cluster. `queries` means stand for a block of queries (0: every row).
    Squeezed Attention, arXiv 2411.09688.
    """

    name: ClassVar[str] = "centroids"
    clusters: int = 64
    levels: int = 1
    queries: int = 0

    def learn(self, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The centres (B, K, C, D); with two levels, theirs (B, K, C2, D) and to which each belongs (B, K, C)."""
        keys = k.shape[2]
        count = min(keys, KEYS_A_CLUSTER * self.clusters)
        centres = k_means(k[:, :, _spread(keys, count, k.device)].float(), self.clusters - self.clusters // 2)
        centres = torch.cat([centres, farthest(k.float(), centres, self.clusters // 2)], dim=2)
        if self.levels == 1:
            return (centres,)
        coarse = k_means(centres, max(1, round(self.clusters**0.5)))
        return centres, coarse, nearest(centres, coarse)

    def describe(self, k: torch.Tensor, page: int, learnt: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return (nearest(k.float(), learnt[0]),)

    def importance(self, q: torch.Tensor, summary: Summary, grid: Grid) -> torch.Tensor:
        members = _members(summary.parts[0], summary.learnt[0].shape[2], grid)
        rows = representatives(q, grid.rows, self.queries) * grid.scale
        logits = block_maxima(rows, summary.learnt[0], 1, grid.group, None)
        if self.levels == 2:
            logits = self._refined(logits, rows, summary.learnt, members.sum(dim=2), grid)
        members = members.repeat_interleave(grid.group, dim=1)
        largest = logits.amax(dim=-1, keepdim=True)
        return ((logits - largest).exp() @ members.transpose(2, 3)).log() + largest

    def _refined(
        self, logits: torch.Tensor, rows: torch.Tensor, learnt: Sequence[torch.Tensor], sizes: torch.Tensor, grid: Grid
    ) -> torch.Tensor:
        """The logits of centres (B, H, MB, C), those of the lighter half of their clusters as of the cluster."""
        _, coarse, parents = learnt
        counts = torch.zeros_like(coarse[..., 0]).scatter_add_(2, parents, sizes)
        of_clusters = block_maxima(rows, coarse, 1, grid.group, None)
        weights = of_clusters + counts.log().repeat_interleave(grid.group, dim=1)[:, :, None]
        heavy = weights.topk(-(-coarse.shape[2] // 2), dim=-1).indices
        asked = torch.zeros_like(weights, dtype=torch.bool).scatter_(-1, heavy, True)
        parent = parents.repeat_interleave(grid.group, dim=1)[:, :, None].expand_as(logits)
        return torch.where(asked.gather(-1, parent), logits, of_clusters.gather(-1, parent))


def _spread(length: int, count: int, device: torch.device) -> torch.Tensor:
    """`count` of `length` positions, evenly spread from the first on."""
    return torch.arange(count, device=device) * length // max(1, count)


def k_means(points: torch.Tensor, clusters: int) -> torch.Tensor:
    """Centres (..., min(clusters, P), D) of points (..., P, D), from points evenly spread; at least one, maybe 0."""
    count = points.shape[-2]
    if count == 0:
        return points.new_zeros((*points.shape[:-2], 1, points.shape[-1]))
    centres = points[..., _spread(count, min(clusters, count), points.device), :]
    for _ in range(ROUNDS):
        members = points.new_zeros((*points.shape[:-1], centres.shape[-2]))
        members.scatter_(-1, nearest(points, centres)[..., None], 1.0)
        sizes = members.sum(dim=-2)[..., None]
        centres = torch.where(sizes > 0, members.transpose(-2, -1) @ points / sizes.clamp(min=1), centres)
    return centres


def nearest(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The number of the centre nearest to each point: (..., P) of points (..., P, D) and centres (..., C, D)."""
    return _closeness(points, centres)[1]


def _closeness(points: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest p·c - c·c / 2 over the centres c, for each point p, and which centre has it."""
    half = centres.square().sum(dim=-1)[..., None, :] / 2
    starts = range(0, max(1, points.shape[-2]), POINTS_AT_ONCE)
    pieces = [points[..., i : i + POINTS_AT_ONCE, :] @ centres.transpose(-2, -1) - half for i in starts]
    largest, numbers = zip(*(x.max(dim=-1) for x in pieces), strict=True)
    return torch.cat(largest, dim=-1), torch.cat(numbers, dim=-1)


def farthest(points: torch.Tensor, centres: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` of points (..., P, D), or all if they are fewer, farthest from the centres."""
    distances = points.square().sum(dim=-1) / 2 - _closeness(points, centres)[0]
    numbers = distances.topk(min(count, points.shape[-2]), dim=-1).indices
    return points.gather(-2, numbers[..., None].expand(*numbers.shape, points.shape[-1]))


def _members(clusters: torch.Tensor, count: int, grid: Grid) -> torch.Tensor:
    """How many keys of each cluster are in each block: (B, K, NB, C) from the keys' clusters (B, K, N)."""
    blocks = grid.live.sizes.key_blocks
    block = torch.arange(clusters.shape[2], device=clusters.device) // grid.block
    found = torch.zeros((*clusters.shape[:2], blocks * count), device=clusters.device)
    found.scatter_add_(2, block * count + clusters, torch.ones_like(clusters, dtype=found.dtype))
    return split_axis(found, 2, (blocks, count))
