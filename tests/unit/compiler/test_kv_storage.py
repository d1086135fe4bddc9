"""Caches in few bits: what is kept how, where tokens move, and what is refused before anything has changed."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from numeric.simulated_cache import SimulatedCache

from attir import CompileError, kv
from attir.compiler.kv_storage import Segment
from attir.compiler.schemes import Scheme
from attir.ir.storage import Storage

B, K, E = 2, 3, 48
SCHEMES = [*(f"kv{bits}" for bits in range(1, 9)), "kv_fp8"]
STEPS = (70, 1, 1, 3, 60, 1, 64, 130, 1, 1)
"""Tokens of appends: groups of 64 fill at once, across appends, and several in one."""


def tensors(length: int, width: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, K, length, size, generator=generator).to(dtype) for size in (width, E)]


def filled(name: str, k: torch.Tensor, v: torch.Tensor, **options: Any) -> kv.QuantizedCache:
    """A cache that got its tokens in several steps, and the rest in single ones."""
    cache = kv.quantize(k[:, :, :0], v[:, :, :0], name, **options)
    steps = [n for n in STEPS if n < k.shape[2]]
    start = 0
    while start < k.shape[2]:
        count = steps.pop(0) if steps else 1
        cache.append(k[:, :, start : start + count], v[:, :, start : start + count])
        start = min(k.shape[2], start + count)
        assert len(cache) == start
    return cache


def simulated(name: str, k: torch.Tensor, v: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    cache = SimulatedCache(name, **options)
    for token in range(k.shape[2]):
        cache.append(k[:, :, token : token + 1], v[:, :, token : token + 1])
    return cache.tensors


def difference(x: torch.Tensor, y: torch.Tensor) -> float:
    """Relative, in L2."""
    error, whole = (z.double().square().sum() for z in (x.double() - y.double(), y))
    return float((error / whole).sqrt())


def segments(cache: kv.QuantizedCache) -> list[Segment]:
    assert cache.store is not None
    return cache.store.segments


@pytest.mark.parametrize("width", [64, 80, 128])
@pytest.mark.parametrize("name", SCHEMES)
def test_numbers_are_as_near_as_those_of_a_simulation(name: str, width: int) -> None:
    k, v = tensors(200, width)
    cache = filled(name, k, v, sinks=3, recent=10)
    for found, expected, given in zip((cache.keys(), cache.values()), simulated(name, k, v, sinks=3, recent=10),
                                      (k, v), strict=True):  # fmt: skip
        assert found.dtype == given.dtype
        assert 0 < difference(found, given) <= 1.2 * difference(expected, given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_of_numbers_and_scales(dtype: torch.dtype) -> None:
    """16-bit numbers have scales in float16: bfloat16 would round them to 8 bits."""
    k, v = tensors(130, dtype=dtype)
    cache = filled("kv4", k, v)
    assert cache.keys().dtype == cache.values().dtype == dtype
    scale = segments(cache)[1].keys.tensors[1]
    assert scale.dtype == (torch.float32 if dtype.itemsize > 2 else torch.float16)
    exact = [x.double() for x in (k, v)]
    assert difference(cache.keys(), exact[0]) <= 1.2 * difference(simulated("kv4", *exact)[0], exact[0])


def test_the_first_and_the_newest_tokens_stay_as_they_are() -> None:
    k, v = tensors(200)
    cache = filled("kv2", k, v, sinks=5, recent=30)
    assert [s.length for s in segments(cache)] == [5, 128, 67]
    for found, given in ((cache.keys(), k), (cache.values(), v)):
        assert torch.equal(found[:, :, :5], given[:, :, :5]) and torch.equal(found[:, :, 133:], given[:, :, 133:])
        assert not torch.equal(found[:, :, 5:133], given[:, :, 5:133])


def test_tokens_get_into_fewer_bits_with_age() -> None:
    k, v = tensors(500)
    options: dict[str, Any] = {"sinks": 2, "recent": 8, "ages": {100: "kv4", 300: "kv2"}}
    cache = filled("kv8", k, v, **options)
    # Behind the sinks 498 tokens: the oldest 128 are all more than 300 behind, the next 256 more than 100.
    assert [s.length for s in segments(cache)] == [2, 192, 192, 64, 50]
    for found, expected, given in zip((cache.keys(), cache.values()), simulated("kv8", k, v, **options), (k, v),
                                      strict=True):  # fmt: skip
        for part in (slice(2, 194), slice(194, 386), slice(386, 450)):
            x, y, z = found[:, :, part], expected[:, :, part], given[:, :, part]
            assert 0 < difference(x, z) <= 1.2 * difference(y, z)


def test_many_tokens_at_once_lie_as_if_they_had_come_one_by_one() -> None:
    k, v = tensors(500)
    options: dict[str, Any] = {"sinks": 2, "recent": 8, "ages": {100: "kv4", 300: "kv2"}}
    at_once, step_by_step = kv.quantize(k, v, "kv8", **options), filled("kv8", k, v, **options)
    assert [s.length for s in segments(at_once)] == [s.length for s in segments(step_by_step)]
    # What gets old at once is quantised from what was given.
    assert difference(at_once.keys(), k) <= difference(step_by_step.keys(), k)


@pytest.mark.parametrize("name", SCHEMES)
def test_bytes_are_the_formula(name: str) -> None:
    k, v = tensors(200, 80, dtype=torch.float16)
    cache = filled(name, k, v, sinks=4, recent=20)
    bits = 8 if name == "kv_fp8" else int(name[2:])
    grouped = name not in ("kv8", "kv_fp8")
    stored = 128 if grouped else 176
    codes = stored * sum(-(-width * part // 8) for width in (80, E) for part in (8, 4, 2, 1) if bits & part)
    # Keys: scale and zero of each channel for 64 tokens; values: of each token for 64 channels, of which there are 48.
    scales = 2 * (stored // 64) * 80 + 2 * stored if grouped else 2 * stored
    assert cache.bytes == B * K * (codes + 2 * scales + 2 * (200 - stored) * (80 + E))
    assert cache.bytes <= cache.allocated_bytes


def test_tokens_are_added_in_place() -> None:
    """Memory is taken anew only when it is full, and what was stored is not touched."""
    k, v = tensors(700)
    cache = kv.quantize(k[:, :, :64], v[:, :, :64], "kv4")
    places, codes = set[int](), segments(cache)[1].keys.tensors[0].clone()
    for token in range(64, 700):
        cache.append(k[:, :, token : token + 1], v[:, :, token : token + 1])
        places.add(segments(cache)[1].keys.tensors[0].data_ptr())
    assert len(places) <= 4
    assert torch.equal(segments(cache)[1].keys.tensors[0][:, :, :64], codes)


@pytest.mark.parametrize("length", [0, 3, 5, 6, 68, 69, 100, 133, 150, 199, 200, 300])
@pytest.mark.parametrize("name", ["kv4", "kv8"])
def test_a_crop_leaves_the_numbers_of_what_is_kept(name: str, length: int) -> None:
    k, v = tensors(200)
    cache = filled(name, k, v, sinks=5, recent=3)
    before = cache.keys(), cache.values()
    cache.crop(length)
    assert len(cache) == min(length, 200)
    assert torch.equal(cache.keys(), before[0][:, :, :length]) and torch.equal(cache.values(), before[1][:, :, :length])
    cache.append(k, v)
    assert len(cache) == min(length, 200) + 200
    assert torch.equal(cache.keys()[:, :, -3:], k[:, :, -3:])


def test_a_crop_counts_from_the_end_too() -> None:
    cache = filled("kv4", *tensors(100))
    cache.crop(-30)
    assert len(cache) == 70
    with pytest.raises(CompileError, match="there are 70 tokens, of which 71 cannot be dropped"):
        cache.crop(-71)


def test_batches_are_reordered() -> None:
    k, v = tensors(200)
    cache = filled("kv3", k, v, recent=4)
    before = cache.keys()
    cache.select(torch.tensor([1, 1, 0]))
    assert torch.equal(cache.keys(), before[[1, 1, 0]])
    cache.append(k[[0, 1, 1], :, :70], v[[0, 1, 1], :, :70])
    assert cache.values().shape == (3, K, 270, E)
    cache.select(torch.tensor([True, False, True]))
    assert torch.equal(cache.keys()[:, :, :128], before[[1, 0], :, :128])
    with pytest.raises(CompileError, match="whole numbers below the batch size 2"):
        cache.select([2])


def test_a_cache_without_tokens() -> None:
    k, v = tensors(0)
    cache = kv.quantize(k, v, "kv4")
    assert len(cache) == 0 and cache.bytes == 0 and cache.keys().shape == (B, K, 0, 64)
    new_k, new_v = tensors(5)
    with pytest.raises(CompileError, match="as the cache is"):
        cache.append(new_k[:1], new_v[:1])
    cache.append(new_k, new_v)
    cache.reset()
    assert len(cache) == 0
    with pytest.raises(CompileError, match="the cache is empty, and knows no sizes"):
        cache.keys()
    cache.append(new_k[:1], new_v[:1])
    assert cache.keys().shape == (1, K, 5, 64)


def test_update_adds_and_gives_numbers() -> None:
    k, v = tensors(100)
    cache = kv.quantize(k[:, :, :0], v[:, :, :0], "kv4")
    found = cache.update(k[:, :, :70], v[:, :, :70])
    assert torch.equal(found[0], k[:, :, :70]) and found[0].data_ptr() != k.data_ptr()
    keys, values = cache.update(k[:, :, 70:], v[:, :, 70:])
    assert torch.equal(keys, cache.keys()) and torch.equal(values, cache.values())
    assert not torch.equal(keys, k) and torch.equal(keys[:, :, 64:], k[:, :, 64:])


def replaced(x: torch.Tensor, number: float) -> torch.Tensor:
    x = x.clone()
    x[1, 2, 3, 4] = number
    return x


Change: TypeAlias = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
REFUSED: list[tuple[str, Change, str]] = [
    ("a nan", lambda k, v: (replaced(k, float("nan")), v), "numbers of k must be finite .* but the largest is nan"),
    ("infinity", lambda k, v: (k, replaced(v, float("-inf"))), "numbers of v must be finite .* but the largest is inf"),
    ("too large for scales", lambda k, v: (replaced(k, 60000.0), v), "at most 32752, for scales in torch.float16"),
    ("another batch", lambda k, v: (k[:1], v[:1]), r"k must be \(2, 3, tokens, 64\) as the cache is, but is \(1, 3"),
    ("other heads", lambda k, v: (k[:, :1], v[:, :1]), r"but is \(2, 1, 70, 64\)"),
    ("another width", lambda k, v: (k, v[..., :9]), r"v must be \(2, 3, tokens, 48\)"),
    ("other lengths", lambda k, v: (k, v[:, :, 1:]), "as many tokens, but have 70 and 69"),
    ("another dtype", lambda k, v: (k, v.float()), "v must be torch.float16 on cpu as the cache is, but is"),
    ("no axes", lambda k, v: (k[0], v[0]), r"k must be \(2, 3, tokens, 64\)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_what_cannot_be_added_changes_nothing(change: Change, reason: str) -> None:
    k, v = tensors(100, dtype=torch.float16)
    cache = filled("kv4", k, v, sinks=2)
    before = cache.keys(), cache.values()
    for add in (cache.append, cache.update):
        with pytest.raises(CompileError, match=reason):
            add(*change(*tensors(70, seed=1, dtype=torch.float16)))
    assert len(cache) == 100 and torch.equal(cache.keys(), before[0]) and torch.equal(cache.values(), before[1])
    cache.append(*tensors(70, seed=1, dtype=torch.float16))
    assert len(cache) == 170


def test_without_a_check_a_nan_makes_nan_of_what_shares_its_scale() -> None:
    k, v = tensors(128)
    cache = kv.quantize(replaced(k, float("nan")), v, "kv4", check=False)
    lost = torch.isnan(cache.keys())
    assert lost[1, 2, :64, 4].all() and int(lost.sum()) == 64 and not torch.isnan(cache.values()).any()


def test_constant_channels_are_exact() -> None:
    k, v = (torch.full((1, 1, 128, 16), number) for number in (3.0, 0.0))
    cache = kv.quantize(k, v, "kv1")
    assert torch.equal(cache.keys(), k) and torch.equal(cache.values(), v)


BAD_PLANS: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown scheme", {"scheme": "kv9"}, "kv9"),
    ("an unknown older scheme", {"ages": {10: "kv0"}}, "kv0"),
    ("products", {"scheme": "int8"}, "scheme 'int8' has query, smooth"),
    ("nothing stored", {"scheme": Scheme("none")}, "stores neither keys nor values"),
    ("one scale for all", {"scheme": Scheme("x", key=Storage(tokens=0))}, "tokens cannot be added where all"),
    ("heads share", {"scheme": Scheme("x", value=Storage(heads=False))}, "each head of a cache must have its own"),
    ("sinks", {"sinks": -1}, "sinks must be a whole number of at least 0, but is -1"),
    ("recent", {"recent": 1.5}, "recent must be a whole number"),
    ("ages", {"ages": {0: "kv2"}}, "an age must be a whole number of at least 1, but is 0"),
    ("scales", {"scale_dtype": torch.int8}, "scale_dtype must be"),
]


@pytest.mark.parametrize(("options", "reason"), [c[1:] for c in BAD_PLANS], ids=[c[0] for c in BAD_PLANS])
def test_what_no_cache_can_be(options: dict[str, Any], reason: str) -> None:
    k, v = tensors(10)
    with pytest.raises(CompileError, match=reason):
        kv.quantize(k, v, **options)


@pytest.mark.parametrize(
    ("k", "v", "reason"),
    [
        (torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 4, 4), "agree in batch, heads and length"),
        (torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4).half(), "of one dtype"),
        (torch.zeros(1, 2, 3, 4).int(), torch.zeros(1, 2, 3, 4).int(), "of one dtype of 16, 32 or 64 bits"),
        (torch.zeros(1, 0, 3, 4), torch.zeros(1, 0, 3, 4), "must have a batch, heads and dimensions"),
    ],
)
def test_what_no_cache_can_begin_with(k: torch.Tensor, v: torch.Tensor, reason: str) -> None:
    with pytest.raises(CompileError, match=reason):
        kv.quantize(k, v)


def test_one_of_keys_and_values_may_stay_as_it_is() -> None:
    k, v = tensors(100)
    cache = kv.quantize(k, v, Scheme("values", value=Storage(bits=4)))
    assert torch.equal(cache.keys(), k) and not torch.equal(cache.values(), v)


def test_values_may_be_packed_along_tokens() -> None:
    """Blocks of tokens that share bytes come and go together, as those that share a scale do."""
    k, v = tensors(200)
    along = Storage(bits=3, signed=False, zero=True, tokens=16, channels=1, axis="tokens", block=32)
    cache = filled("kv4", k, v, ages={50: Scheme("along", key=Storage(bits=4), value=along)})
    assert [s.length for s in segments(cache)] == [0, 128, 64, 8]
    assert difference(cache.values(), v) < 0.2


def test_gradients_are_refused() -> None:
    k, v = tensors(10)
    cache = kv.quantize(k, v, "kv8")
    with pytest.raises(CompileError, match="have no gradient, but k or v requires one"):
        cache.update(k.requires_grad_(), v)
    with torch.no_grad():
        cache.update(k, v)
    assert len(cache) == 20


def test_a_call_that_reckons_with_other_tokens_is_refused() -> None:
    """As where one graph updates a layer twice: sizes would be wrong."""
    k, v = tensors(10)
    cache = kv.quantize(k, v, "kv8")
    stale = cache.tokens
    cache.append(k, v)
    with pytest.raises(CompileError, match="holds 20 tokens, but 10 are reckoned with"):
        torch.ops.attir.kv_update(k, v, cache.handle, stale)


def test_a_cache_that_is_gone_is_refused() -> None:
    k, v = tensors(10)
    cache = kv.quantize(k, v, "kv8")
    handle, count = cache.handle, cache.tokens
    del cache
    gc.collect()
    with pytest.raises(CompileError, match="the cache of this call is gone"):
        torch.ops.attir.kv_update(k, v, handle, count)


def test_transformers_is_imported_when_its_cache_is_asked_for() -> None:
    code = (
        "import sys, attir, attir.kv; assert 'transformers' not in sys.modules; assert not hasattr(attir.kv, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
