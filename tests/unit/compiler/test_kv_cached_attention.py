"""Attention over caches in few bits: compiled, it computes what plain attention over the numbers of the cache does."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from numeric.closeness import NATIVE
from torch.nn.functional import scaled_dot_product_attention

import attir
from attir import CompileError, kv
from attir.compiler.report import Variant

B, K, GROUP, D, E = 2, 2, 3, 64, 48
HEADS = K * GROUP
SELDOM = ["kv_fp8", "kv7", "kv6", "kv5", "kv3", "kv2", "kv1"]
BACKENDS = [pytest.param("native", marks=NATIVE), "interpret"]
Step: TypeAlias = Callable[..., torch.Tensor]


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tokens(
    count: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v of new tokens."""
    sizes = ((HEADS, D), (K, D), (K, E))
    q, k, v = (drawn(3 * seed + i, B, heads, count, width, dtype=dtype) for i, (heads, width) in enumerate(sizes))
    return q, k, v


def holding(count: int, name: str, seed: int = 0, **options: Any) -> kv.QuantizedCache:
    """A cache of so many tokens."""
    _, k, v = tokens(count, seed)
    return kv.quantize(k, v, name, **options)


def causal(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    rows, keys = q.shape[2], k.shape[2]
    return torch.arange(keys) <= torch.arange(rows)[:, None] + (keys - rows)


def decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cache: kv.QuantizedCache) -> torch.Tensor:
    k, v = cache.update(k, v)
    return scaled_dot_product_attention(q, k, v, enable_gqa=True)


def chunk(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cache: kv.QuantizedCache) -> torch.Tensor:
    k, v = cache.update(k, v)
    return scaled_dot_product_attention(q, k, v, attn_mask=causal(q, k), enable_gqa=True)


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """In float64."""
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * q.shape[3] ** -0.5
    return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -math.inf), -1) @ v


def compiled(step: Step, **options: Any) -> Any:
    torch._dynamo.reset()
    return attir.compile(step, strict=True, **options)


def variants(run: Any) -> list[Variant]:
    return [v for site in attir.explain(run).sites for v in site.variants]


def largest_error(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.double() - y).abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["kv8", "kv4", *(pytest.param(n, marks=pytest.mark.slow) for n in SELDOM)])
def test_decoding_reads_what_is_stored(name: str, backend: str) -> None:
    run = compiled(decode, backend=backend)
    _, k, v = tokens(200)
    cache = kv.quantize(k, v, name, sinks=3, recent=5)
    for position in range(3):
        q, k, v = tokens(1, position + 1)
        out = run(q, k, v, cache)
        assert largest_error(out, reference(q, cache.keys(), cache.values())) < 2e-6
    assert len(cache) == 203
    report = attir.explain(run)
    assert len(report.graphs) <= 2 and "read as they are stored" in str(report), str(report)
    assert not any("made as numbers" in v.origin for v in variants(run)), str(report)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_staircase_has_a_kernel_for_each_storage(backend: str) -> None:
    run = compiled(decode, backend=backend)
    _, k, v = tokens(400)
    cache = kv.quantize(k, v, "kv8", sinks=2, recent=4, ages={100: "kv4", 250: "kv2"})
    q, k, v = tokens(1, 1)
    out = run(q, k, v, cache)
    assert cache.store is not None and [s.length > 0 for s in cache.store.segments] == [True] * 5
    assert largest_error(out, reference(q, cache.keys(), cache.values())) < 2e-6
    told = str(attir.explain(run))
    assert all(f"keys {s}" in told for s in ("int8, ", "uint4 + zero", "uint2 + zero")), told


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["kv8", "kv3"])
def test_chunks_see_the_cache_and_themselves(name: str, backend: str) -> None:
    """The mask means positions in the cache; the first chunk, of an empty cache, attends to what it brings."""
    run = compiled(chunk, backend=backend)
    q, k, v = tokens(70)
    cache = kv.quantize(k[:, :, :0], v[:, :, :0], name, sinks=2)
    assert largest_error(run(q, k, v, cache), reference(q, k, v, causal(q, k))) < 2e-6
    for count in (5, 66, 7):
        q, k, v = tokens(count, count)
        out = run(q, k, v, cache)
        assert largest_error(out, reference(q, cache.keys(), cache.values(), causal(q, cache.keys()))) < 2e-6
    assert len(attir.explain(run).graphs) <= 4


@NATIVE
def test_lengths_bring_no_new_graphs_or_kernels() -> None:
    run = compiled(decode)
    _, k, v = tokens(100)
    cache = kv.quantize(k, v, "kv4")
    counts = list[tuple[int, int]]()
    for position in range(140):
        run(*tokens(1, position), cache)
        counts.append((len(attir.explain(run).graphs), len(variants(run))))
    assert counts[3] == counts[-1] and counts[0][0] == 1 and counts[-1][0] == 2


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    run = compiled(decode)
    _, k, v = tokens(200, dtype=dtype)
    cache = kv.quantize(k, v, "kv4", recent=5)
    q, k, v = tokens(1, 1, dtype)
    out, roundoff = run(q, k, v, cache), torch.finfo(dtype).eps / 2
    exact = reference(q, cache.keys(), cache.values())
    plain = largest_error(scaled_dot_product_attention(q, cache.keys(), cache.values(), enable_gqa=True), exact)
    assert out.dtype == dtype and largest_error(out, exact) <= 2 * plain + 3 * roundoff * float(v.abs().max())


@NATIVE
def test_caches_are_told_apart_and_change_between_calls() -> None:
    run = compiled(decode)
    first, second = (holding(150, "kv8", seed=seed, recent=4) for seed in (1, 2))
    for cache in (first, second, first):
        q, k, v = tokens(1, 9)
        assert largest_error(run(q, k, v, cache), reference(q, cache.keys(), cache.values())) < 2e-6
    first.crop(90)
    first.select([1, 0])
    out = run(q, k, v, first)
    assert first.keys().shape[2] == 91 and largest_error(out, reference(q, first.keys(), first.values())) < 2e-6


@NATIVE
def test_a_score_that_depends_on_the_key_position() -> None:
    """A captured tensor over all keys and a slope: positions in a segment would read the wrong ones."""

    def biased(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, cache: Any) -> torch.Tensor:
        k, v = cache.update(k, v)
        distance = torch.arange(k.shape[2])
        scores = q @ k.repeat_interleave(GROUP, 1).transpose(-1, -2) * D**-0.5 + bias - 0.01 * distance
        return torch.softmax(scores, -1) @ v.repeat_interleave(GROUP, 1)

    run = compiled(biased)
    cache = holding(150, "kv4", sinks=3)
    for count in (1, 4):
        q, k, v = tokens(count, count)
        bias = drawn(count, B, 1, count, len(cache) + count)
        out = run(q, k, v, bias, cache)
        keys, values = (x.double().repeat_interleave(GROUP, 1) for x in (cache.keys(), cache.values()))
        scores = q.double() @ keys.transpose(-1, -2) * D**-0.5 + bias - 0.01 * torch.arange(keys.shape[2])
        assert largest_error(out, torch.softmax(scores, -1) @ values) < 3e-6
    assert "read as they are stored" in str(attir.explain(run))


@NATIVE
def test_a_sink_counts_once() -> None:
    def with_sink(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sink: torch.Tensor, cache: Any) -> torch.Tensor:
        k, v = cache.update(k, v)
        scores = q @ k.repeat_interleave(GROUP, 1).transpose(-1, -2) * D**-0.5
        more = sink.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], -1)
        weights = torch.softmax(torch.cat([scores, more], -1), -1)[..., :-1]
        return weights @ v.repeat_interleave(GROUP, 1)

    run, sink = compiled(with_sink), drawn(7, HEADS) + 3
    given: list[dict[str, int]] = [{"sinks": 2, "recent": 3}, {}]
    for options in given:
        cache = holding(150, "kv8", **options)
        q, k, v = tokens(1, 1)
        out = run(q, k, v, sink, cache)
        keys, values = (x.double().repeat_interleave(GROUP, 1) for x in (cache.keys(), cache.values()))
        scores = q.double() @ keys.transpose(-1, -2) * D**-0.5
        weights = scores.exp() / (scores.exp().sum(-1, keepdim=True) + sink.double().exp().reshape(1, -1, 1, 1))
        assert largest_error(out, weights @ values) < 2e-6
    assert "read as they are stored" in str(attir.explain(run))


@NATIVE
@pytest.mark.parametrize("lowest", [-math.inf, torch.finfo(torch.float32).min])
def test_rows_without_keys(lowest: float) -> None:
    """Rows whose keys are all masked, in one segment or in all; a finite number makes such a row average all values."""

    def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: torch.Tensor, cache: Any) -> torch.Tensor:
        k, v = cache.update(k, v)
        scores = q @ k.repeat_interleave(GROUP, 1).transpose(-1, -2) * D**-0.5
        scores = scores + torch.where(kept[:, None, None], 0.0, lowest)
        return torch.softmax(scores, -1) @ v.repeat_interleave(GROUP, 1)

    run = compiled(padded)
    cache = holding(150, "kv4", sinks=3)
    q, k, v = tokens(2, 1)
    kept = torch.ones(B, 152, dtype=torch.bool)
    kept[0, :140], kept[1] = False, False
    out = run(q, k, v, kept, cache)
    keys, values = (x.double().repeat_interleave(GROUP, 1) for x in (cache.keys(), cache.values()))
    assert largest_error(out[0], reference(q, cache.keys(), cache.values(), kept[:, None, None])[0]) < 2e-6
    del keys
    if math.isfinite(lowest):
        assert largest_error(out[1], values[1].mean(1, keepdim=True).expand(-1, 2, -1)) < 2e-6
    assert "read as they are stored" in str(attir.explain(run))


def test_what_else_reads_the_keys_is_reported() -> None:
    def reading(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cache: Any) -> torch.Tensor:
        k, v = cache.update(k, v)
        return scaled_dot_product_attention(q, k, v, enable_gqa=True) + k.sum()

    run = compiled(reading)
    cache = holding(100, "kv4")
    q, k, v = tokens(1, 1)
    out = run(q, k, v, cache)
    assert largest_error(out, reference(q, cache.keys(), cache.values()) + cache.keys().double().sum()) < 1e-3
    assert "are made as numbers: something else reads them too" in str(attir.explain(run))


def test_a_mask_of_sparsity_is_for_keys_in_one_tensor() -> None:
    run = compiled(decode, sparsity=attir.masks.causal())
    cache = holding(100, "kv4")
    run(*tokens(1, 1), cache)
    assert "sparsity= is about keys that lie in one tensor" in str(attir.explain(run))


def test_a_nan_is_refused_and_the_cache_goes_on() -> None:
    run = compiled(decode)
    cache = holding(100, "kv4")
    q, k, v = tokens(1, 1)
    with pytest.raises(CompileError, match="numbers of k must be finite"):
        run(q, k * math.nan, v, cache)
    assert largest_error(run(q, k, v, cache), reference(q, cache.keys(), cache.values())) < 2e-6
    assert len(cache) == 101


def test_the_scheme_of_a_call_leaves_caches_alone() -> None:
    """quantize= is for q, k and v that a call brings; a cache has a scheme of its own."""
    run = compiled(decode, quantize="int8")
    cache = holding(100, "kv4")
    q, k, v = tokens(1, 1)
    assert largest_error(run(q, k, v, cache), reference(q, cache.keys(), cache.values())) < 2e-6
