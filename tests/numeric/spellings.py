"""Attention as people spell it: one function each, with what raising must make of it.

All take q (2, 4, 13, 16), k and v (2, 4, 17, 16), or fewer key heads where they say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Attention = Callable[..., Tensor]


def repeat_kv(x: Tensor, count: int) -> Tensor:
    """As transformers writes it."""
    batch, heads, length, width = x.shape
    return x[:, :, None, :, :].expand(batch, heads, count, length, width).reshape(batch, heads * count, length, width)


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * 0.25, dim=-1) @ v


def no_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.softmax(torch.matmul(q, k.mT), -1).matmul(v)


def scale_on_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax((q / 4.0) @ k.permute(0, 1, 3, 2), -1) @ v


def scale_on_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ (k * 0.3).transpose(2, 3), -1) @ v


def negative_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(2, 3) * -0.3, -1) @ v


def divided_by_tensor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(2, 3) / torch.tensor(3.0), -1) @ v


def half_rounding(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.softmax((q @ k.transpose(2, 3) * 0.25).float(), dim=-1, dtype=torch.float32).to(q.dtype)
    return functional.dropout(weights, 0.1, training=False) @ v


def flattened_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, m, d = q.shape
    n = k.shape[2]
    scores = torch.bmm(q.reshape(b * h, m, d), k.reshape(b * h, n, d).transpose(1, 2)) * 0.25
    return torch.bmm(scores.softmax(-1), v.reshape(b * h, n, d)).view(b, h, m, d)


def baddbmm_with_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, m, d = q.shape
    n = k.shape[2]
    flat = torch.baddbmm(
        torch.empty(b * h, m, n), q.reshape(b * h, m, d), k.reshape(b * h, n, d).transpose(1, 2), beta=0, alpha=0.25
    )
    mask = torch.triu(torch.ones(m, n, dtype=torch.bool), diagonal=n - m + 1)
    weights = flat.view(b, h, m, n).masked_fill(mask, -1e9).softmax(-1).view(b * h, m, n)
    return torch.bmm(weights, v.reshape(b * h, n, d)).view(b, h, m, d)


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhqk,bhkd->bqhd", scores.softmax(-1), v)


def einsum_from_positions_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bqhd,bkhd->bhqk", q.transpose(1, 2), k.transpose(1, 2))
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.transpose(1, 2))


def unbatched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q[0] @ k[0].transpose(1, 2), -1) @ v[0]


def one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q[0, 0] @ k[0, 0].t(), -1) @ v[0, 0]


def five_axes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.reshape(2, 2, 2, x.shape[2], 16) for x in (q, k, v))
    return torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v


def causal_where(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    m, n = positions(q, k)
    return torch.softmax(torch.where(m >= n, q @ k.mT * 0.25, float("-inf")), -1) @ v


def causal_tril(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.tril(torch.ones(q.shape[2], k.shape[2], dtype=torch.bool))
    return torch.softmax((q @ k.mT).masked_fill(~mask, float("-inf")), -1) @ v


def causal_tril_compared(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.tril(torch.ones(q.shape[2], k.shape[2]))
    return torch.softmax((q @ k.mT).masked_fill(mask == 0, float("-inf")), -1) @ v


def causal_triu_added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.triu(torch.full((q.shape[2], k.shape[2]), float("-inf")), diagonal=1)
    return torch.softmax(q @ k.mT * 0.25 + mask, -1) @ v


def causal_finite(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    m, n = positions(q, k)
    mask = torch.where(n <= m, 0.0, torch.finfo(torch.float32).min)
    return torch.softmax(q @ k.mT * 0.25 + mask[None, None], -1) @ v


def decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query: the axis of size 1 must not hide the product."""
    mask = torch.arange(k.shape[2])[None, :] <= 11
    return torch.softmax((q[:, :, :1] @ k.mT).masked_fill(~mask, float("-inf")), -1) @ v


def one_batch_flattened(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads as the only axis of the product, a batch of 1 around the mask."""
    m, n = positions(q, k)
    scores = torch.bmm(q[0], k[0].transpose(1, 2)).view(1, 4, q.shape[2], k.shape[2])
    weights = torch.where(n <= m, scores, float("-inf")).softmax(-1)
    return torch.bmm(weights.view(4, q.shape[2], k.shape[2]), v[0])


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    m, n = positions(q, k)
    visible = (n <= m) & (m - n < 5)
    return torch.softmax(torch.where(visible, q @ k.mT, float("-inf")), -1) @ v


def padding_finite(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """`keep` is (batch, key) of i1, with a row that keeps nothing: it must average all values."""
    mask = (1.0 - keep[:, None, None, :].to(q.dtype)) * torch.finfo(q.dtype).min
    return torch.softmax(q @ k.mT * 0.25 + mask, -1) @ v


def padding_where(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    mask = torch.where(keep[:, None, None, :], 0.0, torch.finfo(torch.float32).min)
    return torch.softmax(q @ k.mT * 0.25 + mask, -1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    m, n = positions(q, k)
    return torch.softmax(q @ k.mT * 0.25 - slopes[:, None, None] * (m - n).abs(), -1) @ v


def softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(torch.tanh(q @ k.mT * 0.25 / 5.0) * 5.0, -1) @ v


def table_bias(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """`table` is (bucket, head); buckets as T5 clips them, without the logarithm."""
    m, n = positions(q, k)
    bucket = (n - m).clamp(-4, 4) + 4
    bias = functional.embedding(bucket, table).permute(2, 0, 1)
    return torch.softmax(q @ k.mT + bias, -1) @ v


def opaque_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT + bias, -1) @ v


def segments(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
    """`ids` is (batch, position) of packed sequences; keys are cut to the queries' length."""
    length = q.shape[2]
    same = ids[:, :, None] == ids[:, None, :]
    m, n = torch.arange(length)[:, None], torch.arange(length)[None]
    mask = torch.where((same & (n <= m))[:, None], 0.0, torch.finfo(torch.float32).min)
    return torch.softmax(q @ k[:, :, :length].mT * 0.25 + mask, -1) @ v[:, :, :length]


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = repeat_kv(k[:, :2], 2), repeat_kv(v[:, :2], 2)
    return torch.softmax(q @ k.transpose(2, 3), -1) @ v


def interleaved(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = k[:, :1].repeat_interleave(4, dim=1), v[:, :1].repeat_interleave(4, dim=1)
    return torch.softmax(q @ k.transpose(2, 3), -1) @ v


def one_key_head_broadcast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k[:, :1].transpose(2, 3), -1) @ v[:, :1]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v)


def sdpa_causal_scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)


def sdpa_mask(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """A row that keeps nothing is 0 here."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None, :])


def sdpa_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def sdpa_grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)


def sdpa_three_axes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q[0], k[0], v[0], is_causal=True)


@dataclass(frozen=True)
class Spelling:
    """`mask` and `score` say whether raising must leave such a region, `group` the head grouping."""

    function: Attention
    extra: str = ""
    mask: bool = False
    score: bool = False
    group: int = 1


SPELLINGS = (
    Spelling(plain),
    Spelling(no_scale),
    Spelling(scale_on_query),
    Spelling(scale_on_key),
    Spelling(negative_scale),
    Spelling(divided_by_tensor),
    Spelling(half_rounding),
    Spelling(flattened_heads),
    Spelling(baddbmm_with_mask, mask=True),
    Spelling(einsum),
    Spelling(einsum_from_positions_first),
    Spelling(unbatched),
    Spelling(one_head),
    Spelling(five_axes),
    Spelling(causal_where, mask=True),
    Spelling(causal_tril, mask=True),
    Spelling(causal_tril_compared, mask=True),
    Spelling(causal_triu_added, mask=True),
    Spelling(causal_finite, mask=True),
    Spelling(window, mask=True),
    Spelling(decode, mask=True),
    Spelling(one_batch_flattened, mask=True),
    Spelling(padding_finite, "keep", mask=True),
    Spelling(padding_where, "keep", mask=True),
    Spelling(alibi, "slopes", score=True),
    Spelling(softcap, score=True),
    Spelling(table_bias, "table", score=True),
    Spelling(opaque_bias, "bias", score=True),
    Spelling(segments, "ids", mask=True),
    Spelling(grouped, group=2),
    Spelling(interleaved, group=4),
    Spelling(one_key_head_broadcast, group=4),
    Spelling(sdpa),
    Spelling(sdpa_causal_scaled, mask=True),
    Spelling(sdpa_mask, "keep", mask=True),
    Spelling(sdpa_bias, "bias", score=True),
    Spelling(sdpa_grouped, group=2),
    Spelling(sdpa_three_axes, mask=True),
)


def extra_input(name: str, generator: torch.Generator) -> Tensor:
    """The fifth argument some spellings take."""
    if name == "keep":
        keep = torch.rand(2, 17, generator=generator) < 0.6
        keep[1] = False
        return keep
    if name == "ids":
        return torch.sort(torch.randint(0, 3, (2, 13), generator=generator), dim=-1).values
    shapes = {"slopes": (4,), "table": (9, 4), "bias": (1, 4, 13, 17)}
    return torch.randn(*shapes[name], generator=generator)


def inputs_for(spelling: Spelling, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 4, length, 16, generator=generator).to(dtype) for length in (13, 17, 17))
    return [q, k, v, *([extra_input(spelling.extra, generator)] if spelling.extra else [])]
