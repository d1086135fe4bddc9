"""Key-value caches with fewer tokens: statistics of attention, policies that rank by them, caches cut to a budget.

seen = attir.kv.statistics(q, k, causal=True, last=32)
cache = attir.kv.compact(k, v, attir.kv.SnapKV(budget=0.2), seen)
out = scaled_dot_product_attention(q_next, cache.k, cache.v, attn_mask=cache.bias(heads), enable_gqa=True)
"""

from __future__ import annotations

from attir.compiler.kv_cache import Choice, Compacted, GrowingCache, Policy, compact
from attir.compiler.kv_policies import (
    H2O,
    Cake,
    KeyDiff,
    RazorAttention,
    SnapKV,
    StreamingLLM,
    cake_budgets,
    sage_kv,
)
from attir.compiler.kv_statistics import observe, statistics
from attir.compiler.side_outputs import Statistics

__all__ = [
    "H2O",
    "Cake",
    "Choice",
    "Compacted",
    "GrowingCache",
    "KeyDiff",
    "Policy",
    "RazorAttention",
    "SnapKV",
    "Statistics",
    "StreamingLLM",
    "cake_budgets",
    "compact",
    "observe",
    "sage_kv",
    "statistics",
]
