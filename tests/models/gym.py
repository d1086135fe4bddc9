"""Mask and score families of attention, each as raw PyTorch and as the mods that flex_attention takes.

The ideas are those that attention-gym collects, from the papers named beside them; raw forms and
mods are written apart from each other, so that each checks the other.
"""

# Mods are called with whatever integers flex_attention or vmap bring.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Mod = Callable[..., Any]
Raw = Callable[[Tensor, Tensor, Tensor], Tensor]
NEVER = float("-inf")
HEADS = 4


@dataclass(frozen=True)
class Family:
    """One family with everything it needs closed over; `keys` are as many as `queries` where 0.

    `per_batch` says that the mask differs between batches. Scores are scaled by 1 / sqrt(width).
    """

    name: str
    raw: Raw
    queries: int
    mask_mod: Mod | None = None
    score_mod: Mod | None = None
    keys: int = 0
    key_heads: int = HEADS
    batch: int = 2
    width: int = 16
    value_width: int = 16
    scale: float | None = None
    per_batch: bool = False

    @property
    def key_length(self) -> int:
        return self.keys or self.queries

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, M, D), k (B, K, N, D), v (B, K, N, E), drawn always alike."""
        draw = torch.Generator().manual_seed(len(self.name))
        sizes = ((HEADS, self.queries, self.width), (self.key_heads, self.key_length, self.width))
        shapes = (*sizes, (self.key_heads, self.key_length, self.value_width))
        q, k, v = (torch.randn(self.batch, *shape, generator=draw).to(dtype) for shape in shapes)
        return q, k, v

    def block_mask(self, block: int = 128) -> BlockMask | None:
        """What create_block_mask makes of the mask; None without one."""
        if self.mask_mod is None:
            return None
        batch = self.batch if self.per_batch else None
        return create_block_mask(self.mask_mod, batch, None, self.queries, self.key_length, "cpu", BLOCK_SIZE=block)

    def flex(self, q: Tensor, k: Tensor, v: Tensor, block_mask: BlockMask | None) -> Any:
        return flex_attention(
            q, k, v, self.score_mod, block_mask, self.scale, enable_gqa=self.key_heads != HEADS
        )  # fmt: skip

    def kept(self) -> Tensor:
        """The mask as (batch, head, query, key), brute force."""
        shape = (self.batch, HEADS, self.queries, self.key_length)
        if self.mask_mod is None:
            return torch.ones(shape, dtype=torch.bool)
        return torch.as_tensor(self.mask_mod(*_positions(shape))).expand(shape)

    def expected(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The result and the log-sum-exp by the mods, in the dtype of the inputs; 0 in rows without keys."""
        k, v = (x.repeat_interleave(HEADS // self.key_heads, 1) for x in (k, v))
        scores = q @ k.mT * (self.scale or 1 / math.sqrt(q.shape[-1]))
        if self.score_mod is not None:
            scores = self.score_mod(scores, *_positions(scores.shape))
        scores = scores.masked_fill(~self.kept(), NEVER)
        weights = torch.softmax(scores, -1).nan_to_num(0.0)
        return weights.to(v.dtype) @ v, scores.logsumexp(-1)


def _positions(shape: Sequence[int]) -> list[Tensor]:
    """b, h, m and n, each along an axis of its own."""
    return [torch.arange(size).view([-1 if i == axis else 1 for i in range(4)]) for axis, size in enumerate(shape)]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    scores = q @ k.mT * (1 / math.sqrt(q.shape[-1])) + bias
    return torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype) @ v


def masked(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    return torch.matmul(scores.masked_fill(~keep, NEVER).softmax(-1), v)


def rows_and_columns(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]


# --- masks along a sequence ------------------------------------------------------------------


def causal() -> Family:
    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keep = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)

    return Family("causal", raw, 77, lambda b, h, m, n: m >= n)


def sliding() -> Family:
    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        m, n = rows_and_columns(q, k)
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        bias = torch.where((n <= m) & (n > m - 9), 0.0, NEVER)
        return attend(q, k, v, bias)

    return Family("sliding", raw, 131, lambda b, h, m, n: (m >= n) & (m - n < 9), key_heads=2)


def dilated() -> Family:
    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        m, n = rows_and_columns(q, k)
        distance = m - n
        return masked(q, k, v, (distance >= 0) & (distance <= 24) & (distance.remainder(4) == 0))

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        return (m >= n) & (m - n <= 24) & ((m - n) % 4 == 0)

    return Family("dilated", raw, 83, mask)


def global_and_sliding() -> Family:
    """Longformer (Beltagy et al., 2020): the first 3 tokens see and are seen by all."""

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        m, n = rows_and_columns(q, k)
        return masked(q, k, v, ((m - n).abs() <= 7) | (torch.minimum(m, n) < 3))

    return Family("global_and_sliding", raw, 90, lambda b, h, m, n: (m < 3) | (n < 3) | ((m - n <= 7) & (n - m <= 7)))


def prefix_lm() -> Family:
    """A prefix of its own length in each batch is seen in full (Raffel et al., 2020)."""
    lengths = torch.tensor([13, 40])

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        m, n = rows_and_columns(q, k)
        keep = (n < lengths.view(-1, 1, 1, 1)).logical_or(n <= m)
        return functional.scaled_dot_product_attention(q, k, v, keep)

    return Family("prefix_lm", raw, 71, lambda b, h, m, n: (n < lengths[b]) | (m >= n), per_batch=True)


def document() -> Family:
    numbers = torch.repeat_interleave(torch.arange(4), torch.tensor([10, 33, 1, 25]))

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return masked(q, k, v, numbers[:, None].eq(numbers[None]))

    return Family("document", raw, 69, lambda b, h, m, n: numbers[m] == numbers[n])


def packed_causal_documents() -> Family:
    """Positions start again at 0 with every document, at other places in each batch."""
    lengths = ([20, 5, 41], [1, 50, 15])
    position_ids = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    numbers = (position_ids == 0).cumsum(-1)

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        documents = torch.cumsum(position_ids == 0, dim=-1)
        same = documents[:, None, :, None] == documents[:, None, None, :]
        m, n = rows_and_columns(q, k)
        return attend(q, k, v, torch.zeros(()).masked_fill(~(same & (n <= m)), NEVER))

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        return (numbers[b, m] == numbers[b, n]) & (m >= n)

    return Family("packed_causal_documents", raw, 66, mask, per_batch=True)


def shared_prefix() -> Family:
    """Several answers of 9 tokens after one prompt of 11; each sees the prompt and itself."""

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        answer = torch.div(torch.arange(q.shape[2]) - 11, 9, rounding_mode="floor")
        m, n = rows_and_columns(q, k)
        keep = (n <= m) & ((n < 11) | (answer[:, None] == answer))
        return functional.scaled_dot_product_attention(q, k, v, torch.where(keep, 0.0, NEVER))

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        return (m >= n) & ((n < 11) | ((m - 11) // 9 == (n - 11) // 9))

    return Family("shared_prefix", raw, 38, mask)


def block_diffusion() -> Family:
    """Noisy tokens beside clean ones, in blocks (Arriola et al., 2025)."""
    half, block = 25, 5

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        number = torch.arange(half).repeat(2) // block
        clean = torch.arange(2 * half) >= half
        m, n = number[:, None], number[None]
        own = (m == n) & (clean[:, None] == clean)
        past = (m > n) & clean & ~clean[:, None]
        return masked(q, k, v, own | past | ((m >= n) & clean & clean[:, None]))

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        clean_m, clean_n = m >= half, n >= half
        block_m = torch.where(clean_m, m - half, m) // block
        block_n = torch.where(clean_n, n - half, n) // block
        own = (block_m == block_n) & (clean_m == clean_n)
        earlier = torch.where(clean_m, block_m >= block_n, block_m > block_n)
        return own | (clean_n & earlier)

    return Family("block_diffusion", raw, 2 * half, mask)


def tree() -> Family:
    """A token sees its ancestors in a tree of drafts (SpecInfer, Miao et al., 2024), found by their intervals."""
    parents = [0, 0, 0, 1, 1, 2, 3, 3, 5, 5, 5, 8, 0, 12, 12, 13, 15, 15, 6]
    last = list(range(len(parents)))
    order: list[int] = []

    def visit(node: int) -> None:
        order.append(node)
        for child in (c for c in range(1, len(parents)) if parents[c] == node):
            visit(child)
        last[node] = len(order) - 1

    visit(0)
    first = torch.empty(len(parents), dtype=torch.int64).index_put((torch.tensor(order),), torch.arange(len(order)))
    end = torch.tensor(last)

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keep = first[:, None].ge(first) & first[:, None].le(end)
        return masked(q, k, v, keep)

    return Family("tree", raw, len(parents), lambda b, h, m, n: (first[n] <= first[m]) & (end[m] <= end[n]))


def log_sparse() -> Family:
    """Keys at distance 0 and at powers of two (LogSparse, Li et al., 2019)."""

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        m, n = rows_and_columns(q, k)
        keep = m == n
        for power in range(7):
            keep = keep | (m - n == 2**power)
        return masked(q, k, v, keep)

    return Family("log_sparse", raw, 75, lambda b, h, m, n: (m >= n) & (((m - n) & (m - n - 1)) == 0))


def batchify() -> Family:
    """Three sequences of 21 tokens behind each other as if in one batch; the mask inside is prefix_lm's."""
    size = 21
    lengths = torch.tensor([4, 0, 17])

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        inner = torch.arange(size)
        keep = (inner < lengths[:, None, None]) | (inner <= inner[:, None])
        whole = torch.zeros(3, size, 3, size, dtype=torch.bool)
        same = torch.eye(3, dtype=torch.bool)[:, None, :, None]
        keep = torch.where(same, keep[:, :, None, :], whole).reshape(3 * size, 3 * size)
        return masked(q, k, v, keep)

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        inner_m, inner_n = m % size, n % size
        return (m // size == n // size) & ((inner_n < lengths[m // size]) | (inner_m >= inner_n))

    return Family("batchify", raw, 3 * size, mask)


def flamingo_cross() -> Family:
    """Text sees the 4 tokens of the last image before it (Alayrac et al., 2022); text before any image sees none."""
    images = torch.zeros(2, 29, dtype=torch.int64)
    images[0, [3, 11, 20]] = 1
    images[1, [0, 1]] = 1
    last = images.cumsum(-1)

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        time = images.cumsum(dim=-1)
        image = torch.arange(3).repeat_interleave(4) + 1
        keep = time[:, None, :, None] == image
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)

    return Family("flamingo_cross", raw, 29, lambda b, h, m, n: last[b, m] == n // 4 + 1, keys=12, per_batch=True)


# --- neighbourhoods on a grid ----------------------------------------------------------------


def near(x: Any, y: Any, size: int, reach: int) -> Any:
    """Whether y is within `reach` of x, whose window is moved inside the grid at its ends."""
    return (x.clamp(reach, size - 1 - reach) - y).abs() <= reach


def natten_2d() -> Family:
    """Neighbourhood attention (Hassani et al., 2023), 5 x 5 on a grid of 7 x 9."""
    height, width = 7, 9

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = torch.arange(height)[:, None].expand(height, width).reshape(-1)
        x = torch.arange(width).expand(height, width).reshape(-1)
        keep = near(y[:, None], y, height, 2).logical_and(near(x[:, None], x, width, 2))
        return masked(q, k, v, keep)

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        return near(m // width, n // width, height, 2) & near(m % width, n % width, width, 2)

    return Family("natten_2d", raw, height * width, mask)


def natten_tiled() -> Family:
    """Neighbourhoods where the grid of 8 x 12 is stored in tiles of 4 x 4."""
    height, width, tile = 8, 12, 4

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        grid = torch.arange(height * width).view(height // tile, tile, width // tile, tile)
        place = grid.permute(0, 2, 1, 3).reshape(-1)
        y, x = place // width, place % width
        return masked(q, k, v, near(y[:, None], y, height, 2) & near(x[:, None], x, width, 2))

    def place(i: Any) -> tuple[Any, Any]:
        number, inner = i // tile**2, i % tile**2
        across = width // tile
        return (number // across) * tile + inner // tile, (number % across) * tile + inner % tile

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        (y, x), (key_y, key_x) = place(m), place(n)
        return near(y, key_y, height, 2) & near(x, key_x, width, 2)

    return Family("natten_tiled", raw, height * width, mask)


def natten_morton() -> Family:
    """Neighbourhoods where the grid of 8 x 8 is stored along a Z-order curve."""

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(64)
        x = (i & 1) | ((i >> 1) & 2) | ((i >> 2) & 4)
        y = ((i >> 1) & 1) | ((i >> 2) & 2) | ((i >> 3) & 4)
        return masked(q, k, v, near(y[:, None], y, 8, 1) & near(x[:, None], x, 8, 1))

    def every_second_bit(i: Any) -> Any:
        i = i & 0x15
        i = (i | (i >> 1)) & 0x33
        return (i | (i >> 2)) & 0x0F

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        rows = near(every_second_bit(m >> 1), every_second_bit(n >> 1), 8, 1)
        return rows & near(every_second_bit(m), every_second_bit(n), 8, 1)

    return Family("natten_morton", raw, 64, mask)


def sliding_tiles(name: str, tiles: Sequence[int], volume: int, window: int) -> Family:
    """Sliding tile attention (Zhang et al., 2025): whole tiles in a window of tiles, stored tile by tile."""

    def coordinates(tile: Any) -> list[Any]:
        found: list[Any] = []
        for size in reversed(tiles):
            found.insert(0, tile % size)
            tile = tile // size
        return found

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keep = torch.ones((), dtype=torch.bool)
        for axis, size in enumerate(tiles):
            shape = [1] * len(tiles)
            shape[axis] = size
            place = torch.arange(size).view(shape).expand(*tiles).unsqueeze(-1)
            place = place.expand(*tiles, volume).flatten()
            keep = keep & near(place[:, None], place, size, window // 2)
        return masked(q, k, v, keep)

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        kept = m >= 0
        for x, y, size in zip(coordinates(m // volume), coordinates(n // volume), tiles, strict=True):
            kept = kept & near(x, y, size, window // 2)
        return kept

    return Family(name, raw, math.prod(tiles) * volume, mask)


def sta_2d() -> Family:
    return sliding_tiles("sta_2d", (5, 4), 6, 3)


def sta_3d() -> Family:
    return sliding_tiles("sta_3d", (3, 4, 5), 2, 3)


# --- scores ----------------------------------------------------------------------------------


def alibi() -> Family:
    """Press et al., 2022."""

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        slopes = torch.tensor([2.0 ** (-8 * (h + 1) / HEADS) for h in range(HEADS)], dtype=q.dtype)
        m, n = rows_and_columns(q, k)
        k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for x in (k, v))
        return attend(q, k, v, slopes.view(HEADS, 1, 1) * (n - m))

    def score(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
        return s + (n - m) * torch.exp2(-((h + 1) * 8.0 / HEADS))

    return Family("alibi", raw, 45, score_mod=score, key_heads=2)


def softcap() -> Family:
    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(2, 3) * 0.25
        return functional.softmax(torch.tanh(scores / 3.0) * 3.0, dim=-1) @ v

    return Family("softcap", raw, 53, score_mod=lambda s, b, h, m, n: 3.0 * torch.tanh(s / 3.0))


def sandwich() -> Family:
    """A sum of cosines of the distance (Chi et al., 2023), with a factor for each head."""
    rates = [1.0 / 10000 ** (2 * i / 8) for i in range(4)]
    frequencies = torch.tensor(rates)
    factors = torch.arange(1, HEADS + 1) / HEADS

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        m, n = rows_and_columns(q, k)
        waves = torch.cos((m - n).unsqueeze(-1) * frequencies.to(q.dtype)).sum(-1)
        return attend(q, k, v, waves * factors.to(q.dtype)[:, None, None])

    def score(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
        return s + sum(torch.cos((m - n) * rate) for rate in rates) * ((h + 1) / HEADS)

    return Family("sandwich", raw, 41, score_mod=score)


def graph() -> tuple[Tensor, Tensor]:
    """Distances in a graph of 27 nodes, and the kinds of the first two edges on each path."""
    draw = torch.Generator().manual_seed(3)
    distance = torch.randint(0, 6, (2, 27, 27), generator=draw)
    return distance, torch.randint(0, 4, (2, 27, 27, 2), generator=draw)


def graphormer_spatial() -> Family:
    """A learned bias for each distance in the graph and head (Ying et al., 2021)."""
    distance, _ = graph()
    table = torch.randn(6, HEADS, generator=torch.Generator().manual_seed(4))

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = functional.embedding(distance, table.to(q.dtype)).permute(0, 3, 1, 2)
        return attend(q, k, v, bias)

    return Family("graphormer_spatial", raw, 27, score_mod=lambda s, b, h, m, n: s + table[distance[b, m, n], h])


def graphormer_edge() -> Family:
    """The mean of learned weights of the edges on the path between two nodes."""
    distance, edges = graph()
    weights = torch.randn(2, 4, HEADS, generator=torch.Generator().manual_seed(5))

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        table = weights.to(q.dtype)
        along = table[0][edges[..., 0]] + table[1][edges[..., 1]]
        bias = along.permute(0, 3, 1, 2) / distance.clamp(min=1)[:, None]
        return attend(q, k, v, bias)

    def score(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
        path = weights[0, edges[b, m, n, 0], h] + weights[1, edges[b, m, n, 1], h]
        return s + path / torch.clamp(distance[b, m, n], min=1)

    return Family("graphormer_edge", raw, 27, score_mod=score)


def log_space() -> Family:
    """A bias in the logarithm of the distance (KERPLE, Chi et al., 2022)."""
    slope = torch.tensor([0.5, 1.0, 0.25, 2.0])

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        m, n = rows_and_columns(q, k)
        return attend(q, k, v, -slope.to(q.dtype).view(-1, 1, 1) * torch.log1p((m - n).abs().to(q.dtype)))

    def score(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
        return s - slope[h] * torch.log(torch.abs(m - n) + 1.0)

    return Family("log_space", raw, 39, score_mod=score)


def log_length() -> Family:
    """Scores grow with the logarithm of how many keys a causal query has (Su, 2021)."""

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        m, n = rows_and_columns(q, k)
        scores = q @ k.mT * (torch.log(m + 2.0).to(q.dtype) / math.sqrt(q.shape[-1]))
        return scores.masked_fill(n > m, NEVER).softmax(-1) @ v

    return Family("log_length", raw, 61, lambda b, h, m, n: n <= m, lambda s, b, h, m, n: s * torch.log(m + 2.0))


def latent() -> Family:
    """Multi-head latent attention (DeepSeek-V2, 2024): one key with positions, shared by all heads, beside the latent.

    As mods the part with positions is a product of captured rows in the score.
    """
    draw = torch.Generator().manual_seed(6)
    rope_q = torch.randn(2, HEADS, 35, 8, generator=draw)
    rope_k = torch.randn(2, 35, 8, generator=draw)

    def raw(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shared = rope_k.to(q.dtype)[:, None].expand(-1, HEADS, -1, -1)
        scores = torch.cat((q, rope_q.to(q.dtype)), -1) @ torch.cat((k.expand(-1, HEADS, -1, -1), shared), -1).mT
        return torch.softmax(scores * 0.25, -1) @ v

    def score(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
        return s + 0.25 * (rope_q[b, h, m] * rope_k[b, n]).sum(-1)

    return Family("latent", raw, 35, score_mod=score, key_heads=1, value_width=24, scale=0.25)


FAMILIES: tuple[Family, ...] = (
    causal(), sliding(), dilated(), global_and_sliding(), prefix_lm(), document(), packed_causal_documents(),
    shared_prefix(), block_diffusion(), tree(), log_sparse(), batchify(), flamingo_cross(),
    natten_2d(), natten_tiled(), natten_morton(), sta_2d(), sta_3d(),
    alibi(), softcap(), sandwich(), graphormer_spatial(), graphormer_edge(), log_space(), log_length(), latent(),
)  # fmt: skip


def named(name: str, **changed: Any) -> Family:
    """The family of that name, with other sizes where given."""
    (found,) = (f for f in FAMILIES if f.name == name)
    return replace(found, **changed)
