"""Key-value caches cut to a budget: what each policy keeps of a prompt, and what the next token's attention loses.

The prompt has a few keys that later queries look for and a first token that all of them lean on; the statistics come
from kernels that never hold queries times keys.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

import attir
from attir import kv

HEADS, KEY_HEADS, LENGTH, WIDTH = 8, 2, 1024, 64
NEEDLES = (100, 350, 351, 700)
BUDGET = 128


def prompt() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v of random tokens, a sink and needles."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, HEADS, LENGTH + 1, WIDTH, generator=generator)
    k, v = (torch.randn(1, KEY_HEADS, LENGTH, WIDTH, generator=generator) for _ in range(2))
    wanted = torch.randn(1, KEY_HEADS, 1, WIDTH, generator=generator)
    q += wanted.repeat_interleave(HEADS // KEY_HEADS, 1)
    k[:, :, [0, *NEEDLES]] += wanted
    return q, k, v


@attir.compile
def decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)


def main() -> None:
    q, k, v = prompt()
    q, step = q[:, :, :LENGTH], q[:, :, LENGTH:]
    all_rows = kv.statistics(q, k, causal=True)
    last_rows = kv.statistics(q, k, causal=True, last=32, column_square=True, entropy=True)
    last_row = kv.statistics(q, k, causal=True, last=1)
    policies: list[tuple[kv.Policy, kv.Statistics | None]] = [
        (kv.H2O(BUDGET), all_rows),
        (kv.SnapKV(BUDGET, recent=32, pool=5), last_rows),
        (kv.sage_kv(BUDGET), last_row),
        (kv.Cake(BUDGET), last_rows),
        (kv.KeyDiff(BUDGET), None),
        (kv.StreamingLLM(recent=BUDGET - 4), None),
        (kv.RazorAttention(retrieval=(0,), recent=BUDGET - 5), None),
    ]
    exact = scaled_dot_product_attention(step, k, v, enable_gqa=True)
    print("policy          tokens of each head  error")
    for policy, seen in policies:
        cache = kv.compact(k, v, policy, seen)
        out = decode(step, cache.k, cache.v, cache.bias(HEADS))
        error = ((out - exact).square().sum() / exact.square().sum()).sqrt()
        lengths = ", ".join(str(int(n)) for n in cache.lengths[0])
        print(f"{type(policy).__name__:15} {lengths:20} {float(error):.2f}")


if __name__ == "__main__":
    main()
