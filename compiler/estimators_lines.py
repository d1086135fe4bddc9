"""Estimates from the exact weights of a few rows: columns that weigh much for all of them, and diagonals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from .estimators import Estimator, Grid, Summary

WEIGHTS_AT_ONCE = 1 << 24
"""How many weights are held at a time; bounds memory, never the result."""


@dataclass(frozen=True)
class Sampled(Estimator):
    """Columns and diagonals of the weights of `queries` rows: the last ones, and as many from everywhere.

    A key's column is its mean weight over those of the rows that see it; a diagonal m - n is the mean of what
    the weights on it have more than their columns. A block weighs as much as its columns and diagonals sum up to, on
    average over its rows. MInference, arXiv 2407.02490; SampleAttention, arXiv 2406.15486.
    """

    name: ClassVar[str] = "sampled"
    queries: int = 64

    def describe(self, k: torch.Tensor, page: int, learnt: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return (k,)

    def importance(self, q: torch.Tensor, summary: Summary, grid: Grid) -> torch.Tensor:
        sizes, keys, device = grid.live.sizes, summary.parts[0], q.device
        rows = sampled_rows(sizes.queries, self.queries)
        out = q.new_empty((sizes.batch, sizes.heads, sizes.query_blocks, sizes.key_blocks), dtype=torch.float32)
        if out.numel() == 0:
            return out
        numbers = torch.cat([torch.arange(row, row + 1, device=device) for row in rows])
        seen = grid.live.rows(numbers)
        at_once = max(1, WEIGHTS_AT_ONCE // max(1, len(rows) * sizes.keys))
        for b in range(sizes.batch):
            for h in range(0, sizes.heads, at_once):
                heads = slice(h, min(h + at_once, sizes.heads))
                some = keys[b, torch.arange(heads.start, heads.stop, device=device) // grid.group].float()
                scores = q[b, heads][:, numbers].float() @ some.transpose(1, 2) * grid.scale
                kept = seen[b % seen.shape[0]]
                kept = kept if kept.shape[0] == 1 else kept[heads]
                out[b, heads] = _block_weights(_weights(scores, kept), kept, rows, grid).log().float()
        return out


def sampled_rows(length: int, queries: int) -> list[int]:
    """Which of `length` rows are looked at: half are the last ones, the others lie evenly in front of them."""
    count = min(length, queries)
    spread = count // 2
    rest = length - (count - spread)
    return [(2 * i + 1) * rest // (2 * spread) for i in range(spread)] + list(range(rest, length))


def _weights(scores: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Each row's softmax over the keys it sees; 0 for a row that sees none."""
    return scores.masked_fill(~kept, -torch.inf).softmax(dim=-1).masked_fill(~kept, 0.0)


def _block_weights(weights: torch.Tensor, kept: torch.Tensor, rows: list[int], grid: Grid) -> torch.Tensor:
    """(heads, MB, NB) in float64, from the weights (heads, rows, N)."""
    sizes = grid.live.sizes
    columns = weights.sum(dim=1) / kept.sum(dim=1).clamp(min=1)
    diagonals = _diagonals((weights - columns[:, None]).clamp(min=0), kept, rows, sizes.queries)
    row_edges = _edges(sizes.queries, sizes.rows, weights.device)
    key_edges = _edges(sizes.keys, sizes.block, weights.device)
    summed = _running(columns.double())
    vertical = summed[:, key_edges[1:]] - summed[:, key_edges[:-1]]
    twice = _running(_running(diagonals.double()))
    corners = twice[:, row_edges[:, None] - key_edges[None] + sizes.keys]
    slanted = corners[:, 1:, :-1] - corners[:, :-1, :-1] - corners[:, 1:, 1:] + corners[:, :-1, 1:]
    return vertical[:, None] + (slanted / row_edges.diff()[:, None]).clamp(min=0)


def _diagonals(extra: torch.Tensor, kept: torch.Tensor, rows: list[int], queries: int) -> torch.Tensor:
    """The mean of `extra` (heads, rows, N) over the kept places of each diagonal: m - n is at m - n + N - 1."""
    heads, _, keys = extra.shape
    total = extra.new_zeros((heads, queries + keys - 1))
    count = extra.new_zeros((kept.shape[0], queries + keys - 1))
    for i, row in enumerate(rows):
        total[:, row : row + keys] += extra[:, i].flip(-1)
        count[:, row : row + keys] += kept[:, i].flip(-1)
    return total / count.clamp(min=1)


def _edges(length: int, size: int, device: torch.device) -> torch.Tensor:
    """Where blocks begin, and where the last one ends."""
    return torch.arange(0, length + size, size, device=device)[: -(-length // size) + 1].clamp(max=length)


def _running(x: torch.Tensor) -> torch.Tensor:
    """Σ of the elements in front of each place along the last axis, and of all."""
    return torch.nn.functional.pad(x.cumsum(dim=-1), (1, 0))
