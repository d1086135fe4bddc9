"""Key-value caches with fewer tokens, or in fewer bits.

Statistics of attention, policies that rank by them, caches cut to a budget:

seen = attir.kv.statistics(q, k, causal=True, last=32)
cache = attir.kv.compact(k, v, attir.kv.SnapKV(budget=0.2), seen)
out = scaled_dot_product_attention(q_next, cache.k, cache.v, attn_mask=cache.bias(heads), enable_gqa=True)

Caches that keep tokens in few bits, and are attended to as they are stored:

cache = attir.kv.quantize(k, v, "kv4", sinks=4, recent=64)
k, v = cache.update(k_new, v_new)
model.generate(tokens, past_key_values=attir.kv.Cache("kv4"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from attir.compiler.kv_update import QuantizedCache, quantize
from attir.compiler.side_outputs import Statistics

if TYPE_CHECKING:
    from attir.compiler.kv_transformers import Cache

__all__ = [
    "H2O",
    "Cache",
    "Cake",
    "Choice",
    "Compacted",
    "GrowingCache",
    "KeyDiff",
    "Policy",
    "QuantizedCache",
    "RazorAttention",
    "SnapKV",
    "Statistics",
    "StreamingLLM",
    "cake_budgets",
    "compact",
    "observe",
    "quantize",
    "sage_kv",
    "statistics",
]


def __getattr__(name: str) -> Any:
    """`Cache`, which needs transformers, when it is asked for."""
    if name == "Cache":
        from attir.compiler.kv_transformers import Cache

        return Cache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
