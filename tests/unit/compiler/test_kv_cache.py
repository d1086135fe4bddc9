"""Policies for key-value caches against brute force, and what attention over a compacted cache computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any, cast

import pytest
import torch
from numeric.closeness import NATIVE
from torch.nn.functional import scaled_dot_product_attention

import attir
from attir import CompileError, kv

B, K, GROUP, N, D, E = 2, 3, 2, 40, 16, 24
HEADS = K * GROUP


def numbers(x: torch.Tensor) -> list[Any]:
    """The elements as nested lists."""
    return cast(Any, x).tolist()


def tensors(length: int = N, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(B, HEADS, 5, D, generator=generator)
    k, v = (torch.randn(B, K, length, width, generator=generator) for width in (D, E))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def known(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None) -> kv.Statistics:
    """Statistics from all weights in float64."""
    group = q.shape[1] // k.shape[1]
    scores = q.double() @ k.double().repeat_interleave(group, 1).transpose(-1, -2) * q.shape[3] ** -0.5
    scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
    p = torch.softmax(scores, -1)
    by_key = p.reshape(p.shape[0], k.shape[1], -1, p.shape[3])
    return kv.Statistics(
        torch.logsumexp(scores, -1), group, by_key.sum(2), by_key.square().sum(2),
        -torch.xlogy(p, p).sum(-1),
    )  # fmt: skip


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Plainly, in float64."""
    k, v = (x.double().repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * q.shape[3] ** -0.5
    return torch.softmax(scores if bias is None else scores + bias, -1) @ v


def positions(cache: kv.Compacted, b: int = 0, h: int = 0) -> list[int]:
    return [int(p) for p in cache.positions[b, h] if p >= 0]


POLICIES: list[tuple[str, Any]] = [
    ("h2o", kv.H2O(10)),
    ("h2o with few recent", kv.H2O(0.25, recent=2)),
    ("snapkv", kv.SnapKV(12, recent=4, pool=5)),
    ("sage", kv.sage_kv(12, sinks=2, recent=3)),
    ("keydiff", kv.KeyDiff(9)),
    ("streaming", kv.StreamingLLM(recent=6, sinks=3)),
    ("cake", kv.Cake(11, recent=5)),
    ("razor", kv.RazorAttention(retrieval=(1,), recent=6, sinks=2)),
]
named = pytest.mark.parametrize("policy", [p for _, p in POLICIES], ids=[name for name, _ in POLICIES])


@named
def test_a_policy_keeps_what_its_budget_says_and_the_same_each_time(policy: kv.Policy) -> None:
    q, k, v = tensors()
    cache, again = (kv.compact(k, v, policy, known(q, k)) for _ in range(2))
    assert torch.equal(cache.positions, again.positions)
    ascending = cache.positions.where(cache.positions >= 0, N + torch.arange(cache.positions.shape[2]))
    assert (ascending.diff(dim=2) > 0).all()
    expected = {"H2O": 10, "SnapKV": 12, "KeyDiff": 9, "StreamingLLM": 9, "Cake": 11}.get(type(policy).__name__)
    if expected is not None:
        assert cache.lengths.eq(expected).all() and cache.log_weight.eq(0.0).all()


@named
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_over_what_is_kept_is_attention_with_the_rest_masked(policy: kv.Policy, dtype: torch.dtype) -> None:
    """A token for others counts as copies of their mean."""
    q, k, v = tensors(dtype=dtype)
    cache = kv.compact(k, v, policy, known(q, k))
    kept = torch.zeros(B, K, N + 1, dtype=torch.bool).scatter(2, cache.positions.where(cache.positions >= 0, N), True)
    mask, full_k, full_v = kept[:, :, :N], k.clone(), v.clone()
    compensated = cache.log_weight.gt(0).any(2)
    for b, h in numbers(compensated.nonzero()):
        dropped = ~mask[b, h]
        for x in (full_k, full_v):
            x[b, h, dropped] = x[b, h, dropped].mean(0)
        mask[b, h] = True
    bias = torch.zeros(mask.shape).masked_fill(~mask, -math.inf).repeat_interleave(GROUP, 1)[:, :, None]
    expected = attention(q, full_k, full_v, bias)
    found = attention(q, cache.k, cache.v, cache.bias(HEADS, torch.float32))
    assert (found - expected).abs().max() < 1e-6


@NATIVE
def test_a_compiled_attention_reads_a_compacted_cache() -> None:
    q, k, v = tensors()
    cache = kv.compact(k, v, kv.RazorAttention((0, 2), recent=6, sinks=2))
    assert numbers(cache.lengths) == [[N, 9, N]] * B and cache.k.shape[2] == N

    def decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)

    run = attir.compile(decode, backend="native", strict=True)
    found = run(q, cache.k, cache.v, cache.bias(HEADS))
    assert (found - attention(q, cache.k, cache.v, cache.bias(HEADS))).abs().max() < 1e-5


# --- each policy against its definition


def test_h2o_keeps_the_heaviest_and_the_most_recent() -> None:
    q, k, v = tensors()
    seen = known(q, k)
    assert seen.column_mass is not None
    cache = kv.compact(k, v, kv.H2O(9, recent=3), seen)
    for b, h in product(range(B), range(K)):
        mass = numbers(seen.column_mass[b, h, : N - 3])
        heaviest = sorted(range(N - 3), key=lambda n: (-mass[n], n))[:6]
        assert positions(cache, b, h) == sorted([*heaviest, N - 3, N - 2, N - 1])
        assert torch.equal(cache.k[b, h], k[b, h, positions(cache, b, h)])
        assert torch.equal(cache.v[b, h], v[b, h, positions(cache, b, h)])


def test_ties_go_to_the_earlier_token() -> None:
    _, k, v = tensors()
    seen = kv.Statistics(torch.zeros(B, HEADS, 5), GROUP, torch.ones(B, K, N))
    assert positions(kv.compact(k, v, kv.H2O(6, recent=2), seen)) == [0, 1, 2, 3, N - 2, N - 1]


def test_snapkv_pools_over_neighbours() -> None:
    _, k, v = tensors()
    mass = torch.zeros(B, K, N)
    mass[:, :, 12], mass[:, :, 30] = 3.0, 2.0
    seen = kv.Statistics(torch.zeros(B, HEADS, 5), GROUP, mass)
    assert positions(kv.compact(k, v, kv.SnapKV(5, recent=2, pool=3), seen)) == [11, 12, 13, N - 2, N - 1]
    assert positions(kv.compact(k, v, kv.SnapKV(4, recent=1, sinks=1), seen)) == [0, 12, 30, N - 1]


def test_keydiff_drops_the_keys_most_like_the_mean() -> None:
    """Of few keys, those kept have the least sum of likeness of all sets, in any order."""
    _, k, v = tensors(length=8)
    keys = k[0, 0].double()
    keys = keys / keys.square().sum(-1, keepdim=True).sqrt()
    likeness = torch.cosine_similarity(keys, keys.mean(0, keepdim=True), dim=-1)
    wanted = min(combinations(range(8), 3), key=lambda some: likeness[list(some)].sum().item())
    assert positions(kv.compact(k, v, kv.KeyDiff(3))) == list(wanted)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    moved = positions(kv.compact(k[:, :, order], v[:, :, order], kv.KeyDiff(3)))
    assert sorted(numbers(order[moved])) == list(wanted)


def test_streaming_keeps_both_ends() -> None:
    _, k, v = tensors()
    cache = kv.compact(k, v, kv.StreamingLLM(recent=3, sinks=2))
    assert positions(cache, 1, 2) == [0, 1, N - 3, N - 2, N - 1]


def test_razor_puts_one_token_in_the_place_of_the_rest() -> None:
    _, k, v = tensors()
    cache = kv.compact(k, v, kv.RazorAttention(retrieval=(), recent=3, sinks=2))
    assert cache.k.shape == (B, K, 6, D) and cache.v.shape == (B, K, 6, E)
    assert positions(cache) == [0, 1, N - 3, N - 2, N - 1] and int(cache.positions[0, 0, 5]) == -1
    torch.testing.assert_close(cache.k[:, :, 5], k[:, :, 2 : N - 3].mean(2))
    torch.testing.assert_close(cache.v[:, :, 5], v[:, :, 2 : N - 3].mean(2))
    torch.testing.assert_close(cache.log_weight[0, 0], torch.tensor([0.0] * 5 + [math.log(N - 5)]))


def test_razor_with_nothing_to_drop_keeps_all_and_adds_nothing() -> None:
    _, k, v = tensors(length=6)
    cache = kv.compact(k, v, kv.RazorAttention(retrieval=(), recent=4, sinks=2))
    assert torch.equal(cache.k, k) and cache.lengths.eq(6).all() and cache.log_weight.eq(0.0).all()


def test_cake_ranks_by_mean_and_variance() -> None:
    q, k, v = tensors()
    seen = known(q, k)
    cache = kv.compact(k, v, kv.Cake(8, recent=2, gamma=50.0), seen)
    scores = q.double() @ k.double().repeat_interleave(GROUP, 1).transpose(-1, -2) * D**-0.5
    p = torch.softmax(scores, -1).reshape(B, K, -1, N)
    indicator = (p.mean(2) + 50.0 * p.var(2, correction=0))[0, 0, : N - 2]
    assert positions(cache) == sorted([*numbers(indicator.argsort(descending=True)[:6]), N - 2, N - 1])


def test_budgets_of_layers_follow_entropy_and_variance_and_sum_to_the_total() -> None:
    layers = [known(tensors(seed=i)[0] * scale, tensors(seed=i)[1]) for i, scale in enumerate((0.1, 1.0, 3.0, 6.0))]
    for total in (4, 5, 97, 1000):
        assert sum(kv.cake_budgets(layers, total)) == total
    budgets = kv.cake_budgets(layers, 1000, least=10, spread=0.5, shift=2.0)
    wide = [layer.entropy.mean().item() for layer in layers if layer.entropy is not None]
    moving = [layer.column_variance.sum(-1).mean().item() for layer in layers]
    preferences = [h**2 * m**0.5 for h, m in zip(wide, moving, strict=True)]
    for budget, preference in zip(budgets, preferences, strict=True):
        assert abs(budget - 10 - 960 * preference / sum(preferences)) < 1.0
    rows, keys = torch.zeros(1, 2, 1), torch.zeros(1, 1, 4)
    nothing = [kv.Statistics(rows, 2, keys, keys, rows)] * 3
    assert kv.cake_budgets(nothing, 8) == [3, 3, 2]


# --- budgets, and what is refused


@pytest.mark.parametrize(("budget", "length"), [(1, 1), (1000, N), (1.0, N), (0.5, 20), (0.26, 11), (0.001, 1)])
def test_budgets_are_numbers_or_fractions(budget: float, length: int) -> None:
    _, k, v = tensors()
    assert kv.compact(k, v, kv.KeyDiff(budget)).k.shape[2] == length


def keep_half(k: torch.Tensor, v: torch.Tensor) -> kv.Compacted:
    return kv.compact(k, v, kv.H2O(20))


REFUSED: list[tuple[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]]] = [
    ("a budget must be at least one token, but is 0", lambda q, k, v: kv.compact(k, v, kv.KeyDiff(0))),
    ("a budget must be at least one token, but is -3", lambda q, k, v: kv.compact(k, v, kv.KeyDiff(-3))),
    ("a fraction must be above 0 and at most 1, but is 1.5", lambda q, k, v: kv.compact(k, v, kv.KeyDiff(1.5))),
    ("a number of tokens or a fraction, but is True", lambda q, k, v: kv.compact(k, v, kv.KeyDiff(True))),
    ("at least one token, but is 0", lambda q, k, v: kv.compact(k, v, kv.StreamingLLM(0, sinks=0))),
    ("recent must be a number of tokens, but is -1", lambda q, k, v: kv.compact(k, v, kv.StreamingLLM(-1))),
    ("H2O ranks tokens by their mass: give statistics", lambda q, k, v: keep_half(k, v)),
    (
        "H2O always keeps 9 tokens, but its budget is 4 of 40",
        lambda q, k, v: kv.compact(k, v, kv.H2O(4, recent=9), known(q, k)),
    ),
    ("pool must be a positive odd number, but is 4", lambda q, k, v: kv.compact(k, v, kv.SnapKV(9, pool=4))),
    ("from 0 to 2, but 3 is among them", lambda q, k, v: kv.compact(k, v, kv.RazorAttention((3,), 4))),
    ("k and v must have four axes and agree", lambda q, k, v: kv.compact(k, v[:, :, 1:], kv.KeyDiff(4))),
    (
        r"statistics of keys \(2, 3, 40\) are not those of k",
        lambda q, k, v: kv.compact(k[:, :, 1:], v[:, :, 1:], kv.H2O(4), known(q, k)),
    ),
    ("must be a multiple of 3 key heads, but there are 4", lambda q, k, v: kv.compact(k, v, kv.KeyDiff(4)).bias(4)),
    ("3 tokens cannot be shared out among 4 layers", lambda q, k, v: kv.cake_budgets([known(q, k)] * 4, 3)),
    (
        "need statistics with entropy=True",
        lambda q, k, v: kv.cake_budgets([kv.Statistics(torch.zeros(1, 1, 1), 1)], 3),
    ),
    (
        "hold no column_square",
        lambda q, k, v: kv.compact(
            k, v, kv.Cake(9, recent=2), kv.Statistics(torch.zeros(B, HEADS, 5), GROUP, torch.ones(B, K, N))
        ),
    ),
]


@pytest.mark.parametrize(("message", "call"), REFUSED, ids=[message for message, _ in REFUSED])
def test_refusals(message: str, call: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]) -> None:
    q, k, v = tensors()
    with pytest.raises(CompileError, match=message):
        call(q, k, v)


# --- caches that grow


@NATIVE
def test_a_growing_cache_keeps_its_budget_and_replays_h2o() -> None:
    """Token by token, with statistics from kernels; the same choices as greedy H2O by lists, in float64."""
    _, k, v = tensors(length=30)
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(30, B, HEADS, 1, D, generator=generator)
    budget, recent = 8, 3
    cache = kv.GrowingCache.of(kv.H2O(budget, recent), k[:, :, :1], v[:, :, :1])
    mass: dict[tuple[int, int], dict[int, float]] = {(b, h): {} for b in range(B) for h in range(K)}
    for t in range(1, 30):
        cache.append(k[:, :, t : t + 1], v[:, :, t : t + 1])
        cache.cut(kv.statistics(queries[t], cache.k, backend="native"))
        assert cache.length == min(t + 1, budget) and cache.seen == t + 1
        for (b, h), kept in mass.items():
            _replay(kept, queries[t, b, GROUP * h : GROUP * (h + 1), 0], k[b, h], t, budget, recent)
            assert numbers(cache.positions[b, h]) == sorted(kept)
            assert torch.equal(cache.k[b, h], k[b, h, sorted(kept)])
            found, wanted = cache.mass[b, h].double(), torch.tensor([kept[n] for n in sorted(kept)])
            assert (found - wanted).abs().max() < 1e-5


def _replay(kept: dict[int, float], q: torch.Tensor, k: torch.Tensor, t: int, budget: int, recent: int) -> None:
    """One step of H2O: the newest token comes, masses grow, the lightest token that is not recent goes."""
    for n in range(t + 1) if t == 1 else [t]:
        kept[n] = 0.0
    held = sorted(kept)
    weights = numbers(torch.softmax(q.double() @ k[held].double().T * D**-0.5, -1).sum(0))
    for n, weight in zip(held, weights, strict=True):
        kept[n] += weight
    if len(kept) > budget:
        del kept[min(held[:-recent], key=lambda n: (kept[n], -n))]


@pytest.mark.parametrize("policy", [kv.StreamingLLM(recent=5, sinks=2), kv.KeyDiff(7)], ids=["streaming", "keydiff"])
def test_policies_without_statistics_hold_their_budget(policy: kv.Policy) -> None:
    _, k, v = tensors()
    cache = kv.GrowingCache.of(policy, k[:, :, :4], v[:, :, :4])
    for t in range(4, N, 3):
        cache.append(k[:, :, t : t + 3], v[:, :, t : t + 3])
        cache.cut()
        assert cache.length == 7
    if isinstance(policy, kv.StreamingLLM):
        assert numbers(cache.positions[0, 0]) == [0, 1, *range(N - 5, N)]


def test_a_cache_of_ragged_heads_does_not_grow() -> None:
    _, k, v = tensors()
    cache = kv.GrowingCache.of(kv.RazorAttention((0,), recent=4), k, v)
    with pytest.raises(CompileError, match="RazorAttention leaves heads of different lengths"):
        cache.cut()


@NATIVE
def test_statistics_over_a_ragged_cache_count_no_padding() -> None:
    q, k, v = tensors()
    choice = torch.arange(N) < torch.tensor([[40, 7, 12], [3, 40, 1]])[..., None]

    class Given:
        def choose(self, k: torch.Tensor, v: torch.Tensor, statistics: kv.Statistics | None) -> kv.Choice:
            return kv.Choice(choice)

    cache = kv.compact(k, v, Given())
    found = kv.statistics(q, cache.k, mask=cache.mask(HEADS), backend="native").column_mass
    wanted = known(q, k, choice.repeat_interleave(GROUP, 1)[:, :, None]).column_mass
    assert found is not None and wanted is not None
    assert (found - wanted).abs().max() < 1e-5
