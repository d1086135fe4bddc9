"""What caches in few bits take: the formula, beside the bytes of what really lies in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import attir
from benchmarks.grouped import Row, Settings

HEADS, WIDTH = 8, 128
BF16_BYTES = 2


def size(settings: Settings) -> Iterator[Row]:
    """Every scheme, with tokens that fill their groups and tokens that do not."""
    for scheme in ("kv8", "kv4", "kv2", *(() if settings.quick else ("kv7", "kv6", "kv5", "kv3", "kv1", "kv_fp8"))):
        for tokens in settings.chosen((4096, 4133), (4096, 4133)):
            yield _size(scheme, tokens)


def _size(scheme: str, tokens: int) -> Row:
    made = torch.Generator().manual_seed(0)
    k, v = (torch.randn(1, HEADS, tokens, WIDTH, generator=made).bfloat16() for _ in range(2))
    cache = attir.kv.quantize(k, v, scheme)
    expected = _formula(scheme, tokens)
    plain = 2 * HEADS * tokens * WIDTH * BF16_BYTES
    figures = {"bytes": float(cache.bytes), "formula": float(expected), "of bf16": cache.bytes / plain}
    return Row(f"{scheme}, {tokens} tokens", figures, "the formula, exactly", cache.bytes == expected)


def _formula(scheme: str, tokens: int) -> int:
    """Codes, scales of 16 bits, zeros of 16 bits, and a tail in bf16 that fills no group; counted by hand."""
    if scheme in ("kv8", "kv_fp8"):
        return 2 * HEADS * tokens * (WIDTH + 2)
    bits, whole = int(scheme.removeprefix("kv")), tokens // 64 * 64
    codes = 2 * HEADS * whole * WIDTH * bits // 8
    scales = HEADS * (whole // 64 * WIDTH + whole * (WIDTH // 64)) * 2 * 2
    return codes + scales + 2 * HEADS * (tokens - whole) * WIDTH * BF16_BYTES
