"""The largest product of each block of queries with each block of keys, in pieces that fit into a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn.functional import pad

SCORES_AT_ONCE = {"cpu": 1 << 18}
"""How many products are held at a time by device type; bounds memory, never the result."""

MANY_SCORES = 1 << 26
"""On devices that are not listed: few launches count for more than small pieces."""

KEYS_AT_ONCE = 4096

SHORTEST_INT8 = 16
"""Channels from which on products of int8 are made as such."""


def split_axis(x: torch.Tensor, axis: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """x with one axis as several."""
    return cast("torch.Tensor", x.unflatten(axis, sizes))


def representatives(q: torch.Tensor, rows: int, queries: int) -> torch.Tensor:
    """What stands for the rows of each block of `rows` queries: (..., M, D) becomes (..., MB, Q, D) in float32.

    0 `queries` stand for every row. Else a block is cut into so many runs of rows, of which the means are taken.
    Blocks are not longer than M; behind the last row it is repeated.
    """
    length = q.shape[-2]
    if length == 0:
        return q.new_zeros((*q.shape[:-2], 0, 1, q.shape[-1]), dtype=torch.float32)
    if length == 1:
        return q.float().unsqueeze(-2)
    size = min(rows, length)
    run = -(-size // queries) if queries else 1
    parts = -(-size // run)
    q = q.float()
    if size % run or length % size:
        q = q[..., _row_numbers(length, size, parts * run, q.device), :]
    blocks = split_axis(q, -2, (-1, parts, run))
    return blocks.mean(dim=-2) if run > 1 else blocks.squeeze(-2)


def _row_numbers(length: int, size: int, padded: int, device: torch.device) -> torch.Tensor:
    """The rows of each block, of `padded` rows each; what lies behind a block or the last row is a repetition."""
    first = torch.arange(0, length, size, device=device)[:, None]
    inside = torch.arange(padded, device=device).clamp(max=size - 1)
    return (first + inside).clamp(max=length - 1).flatten()


@dataclass(frozen=True)
class Factors:
    """What whole-number products are multiplied with: for each row (B, H, MB, Q) and each block of keys (B, K, NB)."""

    rows: torch.Tensor
    blocks: torch.Tensor


def block_maxima(
    queries: torch.Tensor,
    keys: torch.Tensor,
    per_block: int,
    group: int,
    reach: Sequence[int] | None,
    factors: Factors | None = None,
) -> torch.Tensor:
    """max q·k over the queries (B, H, MB, Q, E) and the keys (B, K, P, E) of a block: (B, H, MB, ceil(P / per_block)).

    Blocks of keys from `reach` on, given for each block of queries, may be left out: they are -inf. Of int8
    tensors, the products are exact, and multiplied with `factors`, which are not negative.
    """
    batch, heads, query_blocks = queries.shape[:3]
    key_blocks = -(-keys.shape[2] // per_block)
    if factors is None and 0 < queries[..., 0].numel() * keys.shape[2] <= _at_once(queries.device):
        return _all_at_once(queries, keys, per_block, group)
    out = queries.new_full((batch, heads, query_blocks, key_blocks), -torch.inf, dtype=torch.float32)
    for b in range(batch):
        for k in range(keys.shape[1]):
            of_group = slice(k * group, (k + 1) * group)
            own = None if factors is None else Factors(factors.rows[b, of_group], factors.blocks[b, k])
            piece = _KeyHead(queries[b, of_group], keys[b, k], per_block, own)
            piece.fill(out[b, of_group], reach)
    return out


def _at_once(device: torch.device) -> int:
    return SCORES_AT_ONCE.get(device.type, MANY_SCORES)


def _all_at_once(queries: torch.Tensor, keys: torch.Tensor, per_block: int, group: int) -> torch.Tensor:
    """What `block_maxima` gives where there is little to do, as for decoding: few operations."""
    rows = split_axis(queries, 1, (-1, group)).flatten(2, 4)
    scores = rows @ keys.transpose(2, 3)
    if missing := -keys.shape[2] % per_block:
        scores = pad(scores, (0, missing), value=-torch.inf)
    if per_block > 1:
        scores = split_axis(scores, 3, (-1, per_block)).amax(dim=4)
    scores = scores.view(*queries.shape[:4], scores.shape[3])
    return scores.amax(dim=3) if scores.shape[3] > 1 else scores.squeeze(3)


@dataclass(frozen=True)
class _KeyHead:
    """The queries (G, MB, Q, E) that read the keys (P, E) of one head."""

    queries: torch.Tensor
    keys: torch.Tensor
    per_block: int
    factors: Factors | None

    def fill(self, out: torch.Tensor, reach: Sequence[int] | None) -> None:
        """Write into (G, MB, NB), piece by piece."""
        heads, query_blocks, rows, _ = self.queries.shape
        most = _at_once(out.device)
        wide = max(1, min(KEYS_AT_ONCE, self.keys.shape[0]) // self.per_block)
        scores_of_block = max(1, rows * wide * self.per_block)
        tall = max(1, min(most // scores_of_block, query_blocks))
        deep = max(1, most // (scores_of_block * tall)) if tall == query_blocks else 1
        for h in range(0, heads, deep):
            for m in range(0, query_blocks, tall):
                limit = out.shape[2] if reach is None else max(reach[m : m + tall])
                for n in range(0, limit, wide):
                    place = (slice(h, h + deep), slice(m, m + tall), slice(n, min(n + wide, limit)))
                    out[place] = self._maxima(*place)

    def _maxima(self, heads: slice, query_blocks: slice, key_blocks: slice) -> torch.Tensor:
        queries = self.queries[heads, query_blocks]
        keys = self.keys[key_blocks.start * self.per_block : key_blocks.stop * self.per_block]
        scores = _product(queries.flatten(0, 2), keys)
        count = key_blocks.stop - key_blocks.start
        if missing := count * self.per_block - keys.shape[0]:
            scores = pad(scores, (0, missing), value=-torch.inf)
        scores = scores.view(*queries.shape[:3], count, self.per_block)
        if self.factors is None:
            return scores.amax(dim=(2, 4))
        largest = scores.amax(dim=4) * self.factors.rows[heads, query_blocks, :, None]
        return largest.amax(dim=2) * self.factors.blocks[key_blocks]


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x yᵀ; of int8, exactly, while sums stay below 2**24.

    PyTorch's product of int8 is wrong for a single column, and needs sizes that fit on other devices.
    """
    if x.dtype != torch.int8:
        return x @ y.T
    if x.is_cpu and x.shape[1] >= SHORTEST_INT8:
        return torch._int_mm(x, y.T)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return x.float() @ y.float().T
