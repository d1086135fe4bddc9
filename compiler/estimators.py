"""What blocks of keys weigh for blocks of queries, estimated from a summary of the keys.

An importance stands for the logarithm of a block's weight: the largest scale * q·k of the block, or the
logarithm of the sum of their exponentials, but for a constant of each row of blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias, cast

import torch

from ..ir.diagnostics import error
from .block_scores import Factors, block_maxima, representatives, split_axis
from .live_blocks import Live

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]

FOUR_BITS = 7
"""The largest of the symmetric 4-bit numbers."""


@dataclass(frozen=True)
class Summary:
    """What is kept of `length` keys.

    `parts` are tensors (B, K, ceil(length / page), ...) with an entry for each page of keys, the last one maybe
    not full; `tail` (B, K, length % page, D) are the keys of a page that is not full. `learnt` does not grow.
    """

    length: int
    page: int
    parts: tuple[torch.Tensor, ...]
    tail: torch.Tensor
    learnt: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Grid:
    """The blocks of a call: `live` of them, in groups of `group` query heads for each key head; q·k times `scale`."""

    live: Live
    scale: float
    group: int

    @property
    def rows(self) -> int:
        return self.live.sizes.rows

    @property
    def block(self) -> int:
        return self.live.sizes.block


@dataclass(frozen=True)
class Estimator(ABC):
    """One way to estimate. Its fields are its parameters; what it learns from keys, it learns from the first ones."""

    name: ClassVar[str]

    def page_of(self, block: int) -> int:
        """How many keys an entry of the summary stands for, where blocks have `block` keys."""
        return 1

    def learn(self, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What follows from the first keys (B, K, N, D) and stays."""
        return ()

    @abstractmethod
    def describe(self, k: torch.Tensor, page: int, learnt: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The entries of pages of keys; the last page may lack some."""

    @abstractmethod
    def importance(self, q: torch.Tensor, summary: Summary, grid: Grid) -> torch.Tensor:
        """(B, H, MB, NB) in float32; what it is for blocks that are not live means nothing."""

    def summarise(self, k: torch.Tensor, block: int) -> Summary:
        """The summary of all keys (B, K, N, D)."""
        return self.append(self.start(k, block), k)

    def start(self, k: torch.Tensor, block: int) -> Summary:
        """The summary of no keys, with what there is to learn from k."""
        page, learnt = self.page_of(block), self.learn(k)
        return Summary(0, page, self.describe(k[:, :, :0], page, learnt), k[:, :, :0], learnt)

    def append(self, summary: Summary, k: torch.Tensor) -> Summary:
        """The summary with more keys (B, K, new, D) behind the others."""
        keys, parts, tail = self.extended(summary, k)
        whole = summary.length // summary.page
        joined = tuple(
            new if whole == 0 else torch.cat([old[:, :, :whole], new], dim=2)
            for old, new in zip(summary.parts, parts, strict=True)
        )
        return replace(summary, length=summary.length + keys, parts=joined, tail=tail)

    def extended(self, summary: Summary, k: torch.Tensor) -> tuple[int, tuple[torch.Tensor, ...], torch.Tensor]:
        """How many keys come, the entries from the last page that was not full on, and what is left of that page."""
        keys = torch.cat([summary.tail, k], dim=2) if summary.tail.shape[2] else k
        left = keys.shape[2] % summary.page
        return k.shape[2], self.describe(keys, summary.page, summary.learnt), keys[:, :, keys.shape[2] - left :]


def _pages(k: torch.Tensor, page: int) -> torch.Tensor:
    """(B, K, N, D) as (B, K, P, page, D); a last page that is not full repeats its last key."""
    if missing := -k.shape[2] % page:
        k = torch.cat([k, k[:, :, -1:].expand(-1, -1, missing, -1)], dim=2)
    return split_axis(k, 2, (k.shape[2] // page, page))


@dataclass(frozen=True)
class Quest(Estimator):
    """The least and the greatest of each channel in each page of `page` keys (0: a block) bound q·k from above.

    Σ_d max(q_d min_d, q_d max_d), the largest over the pages of a block and the rows of a block of queries.
    Quest, arXiv 2406.10774.
    """

    name: ClassVar[str] = "quest"
    page: int = 0

    def page_of(self, block: int) -> int:
        return self.page or block

    def describe(self, k: torch.Tensor, page: int, learnt: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        pages = _pages(k, page)
        return (torch.cat([pages.amax(dim=3), pages.amin(dim=3)], dim=-1),)

    def importance(self, q: torch.Tensor, summary: Summary, grid: Grid) -> torch.Tensor:
        rows = representatives(q, grid.rows, 0) * grid.scale
        signed = torch.cat([rows.clamp(min=0), rows.clamp(max=0)], dim=-1)
        pages = grid.block // summary.page
        return block_maxima(signed, summary.parts[0].float(), pages, grid.group, grid.live.reach)


@dataclass(frozen=True)
class Pooled(Estimator):
    """Mean queries times the mean keys of each block, as NSA, MoBA and MInference have it.

    With `gate_q` and `gate_k` (D, R), means are multiplied with these first; `gate` (B, K or H, MB, NB) takes the
    place of the estimate altogether (SeerAttention, arXiv 2410.13276). `queries` means stand for a block.
    """

    name: ClassVar[str] = "pooled"
    queries: int = 1
    gate_q: torch.Tensor | None = None
    gate_k: torch.Tensor | None = None
    gate: torch.Tensor | None = None

    def page_of(self, block: int) -> int:
        return block

    def describe(self, k: torch.Tensor, page: int, learnt: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        whole, left = divmod(k.shape[2], page)
        means = [split_axis(k[:, :, : whole * page].float(), 2, (whole, page)).mean(dim=3)]
        if left:
            means.append(k[:, :, whole * page :].float().mean(dim=2, keepdim=True))
        return (torch.cat(means, dim=2),)

    def importance(self, q: torch.Tensor, summary: Summary, grid: Grid) -> torch.Tensor:
        if self.gate is not None:
            return self._given(self.gate, grid)
        rows, (keys,) = representatives(q, grid.rows, self.queries), summary.parts
        if self.gate_q is not None and self.gate_k is not None:
            rows, keys = rows @ self.gate_q.float(), keys @ self.gate_k.float()
        return block_maxima(rows * grid.scale, keys, 1, grid.group, grid.live.reach)

    def _given(self, gate: torch.Tensor, grid: Grid) -> torch.Tensor:
        sizes = grid.live.sizes
        heads = (sizes.heads, sizes.heads // grid.group)
        wanted = (sizes.batch, sizes.query_blocks, sizes.key_blocks)
        if gate.ndim != 4 or gate.shape[1] not in heads or (gate.shape[0], *gate.shape[2:]) != wanted:
            raise error(
                f"'gate' must be {sizes.batch} x {heads[1]} or {heads[0]} x {wanted[1]} x {wanted[2]} "
                f"(batch, heads, blocks of queries, blocks of keys), but is {tuple(gate.shape)}"
            )
        gate = gate.float()
        return gate if gate.shape[1] == sizes.heads else gate.repeat_interleave(grid.group, dim=1)


@dataclass(frozen=True)
class LowRank(Estimator):
    """q·k in the `rank` directions (0: half of them) in which the keys of a head are largest; the largest of a block.

    `basis` (K, D, rank) has orthonormal columns, from calibration; without it, they are the eigenvectors of Σ k kᵀ
    over the first keys. `queries` means stand for a block of queries (0: every row).
    Loki, arXiv 2406.02542.
    """

    name: ClassVar[str] = "low_rank"
    rank: int = 0
    queries: int = 4
    basis: torch.Tensor | None = None

    def learn(self, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.basis is None:
            return (main_directions(k, self.rank or k.shape[3] // 2),)
        if self.basis.ndim != 3 or self.basis.shape[:2] != (k.shape[1], k.shape[3]):
            raise error(
                f"'basis' must be {k.shape[1]} x {k.shape[3]} x rank (key heads, head dimension, rank), "
                f"but is {tuple(self.basis.shape)}"
            )
        return (self.basis.float(),)

    def describe(self, k: torch.Tensor, page: int, learnt: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return (k.float() @ learnt[0],)

    def importance(self, q: torch.Tensor, summary: Summary, grid: Grid) -> torch.Tensor:
        basis = summary.learnt[0].repeat_interleave(grid.group, dim=0)
        rows = representatives(q, grid.rows, self.queries) @ basis[:, None]
        return block_maxima(rows * grid.scale, summary.parts[0], grid.block, grid.group, grid.live.reach)


def main_directions(k: torch.Tensor, rank: int) -> torch.Tensor:
    """(K, D, min(rank, D)): the orthonormal directions in which the keys (B, K, N, D) of each head are largest."""
    keys = k.float().transpose(0, 1).flatten(1, 2)
    _, directions = cast("Pair", torch.linalg.eigh(keys.transpose(1, 2) @ keys))  # pyright: ignore[reportUnknownMemberType]
    return directions.flip(-1)[..., :rank].contiguous()


@dataclass(frozen=True)
class Int4(Estimator):
    """q·k of queries and keys in 4 bits; the largest of a block. Each row of queries and block of keys has a scale.

    `queries` means stand for a block of queries (0: every row). SALE, arXiv 2505.24179.
    """

    name: ClassVar[str] = "int4"
    queries: int = 8

    def page_of(self, block: int) -> int:
        return block

    def describe(self, k: torch.Tensor, page: int, learnt: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        numbers, scales = in_four_bits(_pages(k, page).flatten(3).float())
        return numbers, scales

    def importance(self, q: torch.Tensor, summary: Summary, grid: Grid) -> torch.Tensor:
        rows, row_scales = in_four_bits(representatives(q, grid.rows, self.queries))
        numbers, scales = summary.parts
        keys = split_axis(numbers, 3, (summary.page, q.shape[3])).flatten(2, 3)
        factors = Factors(row_scales * grid.scale, scales)
        return block_maxima(rows, keys, summary.page, grid.group, grid.live.reach, factors)


def in_four_bits(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers from -7 to 7 as int8, and the factor of each row (...); ties go to even numbers."""
    scales = x.abs().amax(dim=-1) / FOUR_BITS
    return (x / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round().to(torch.int8), scales
