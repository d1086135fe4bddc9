"""`attir.kv.statistics` and `attir.kv.observe`: what users call, on masks of all kinds, on models, and on bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numeric.closeness import NATIVE
from torch.nn.functional import scaled_dot_product_attention

import attir
from attir import CompileError, kv, masks
from attir.compiler.side_outputs import SideOutputs

B, H, K, M, N, D = 2, 4, 2, 37, 53, 16
DOCUMENTS = torch.arange(N).div(17, rounding_mode="floor").expand(B, N).contiguous()


def tensors(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, M, D), (B, K, N, D))
    q, k = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return q, k


def weights(q: torch.Tensor, k: torch.Tensor, keep: torch.Tensor | None = None, scale: float = 0.25) -> torch.Tensor:
    scores = q.double() @ k.double().repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2) * scale
    scores = scores if keep is None else scores.masked_fill(~keep, -torch.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0)


def by_key_head(p: torch.Tensor) -> torch.Tensor:
    """Rows of all heads of a group, (B, K, rows, N)."""
    return p.reshape(p.shape[0], K, -1, p.shape[3])


def mass(p: torch.Tensor) -> torch.Tensor:
    return by_key_head(p).sum(2)


def largest_error(found: torch.Tensor | None, exact: torch.Tensor) -> float:
    assert found is not None and found.shape == exact.shape
    return (found.double() - exact).abs().max().item()


def document_mask() -> Callable[[Any, Any, Any, Any], Any]:
    ids = DOCUMENTS
    return lambda b, h, m, n: (ids[b, m] == ids[b, n]) & (n <= m + 3)


def too_short() -> Callable[[Any, Any, Any, Any], Any]:
    kept = torch.ones(40, dtype=torch.bool)
    return lambda b, h, m, n: kept[n]


def of_global(b: Any, h: Any, m: Any, n: Any) -> Any:
    return DOCUMENTS[b, m] == DOCUMENTS[b, n]


def by_head(b: Any, h: Any, m: Any, n: Any) -> Any:
    return n % 3 != h % 3


MASKS: list[tuple[str, Any]] = [
    ("none", None),
    ("window", masks.window(9)),
    ("document", masks.document(DOCUMENTS)),
    ("sinks and global", masks.sink_window(2, 8) | masks.global_window(4, 9)),
    ("closure", document_mask()),
    ("global", of_global),
    ("by head", by_head),
]


@NATIVE
@pytest.mark.parametrize("mask", [m for _, m in MASKS], ids=[name for name, _ in MASKS])
@pytest.mark.parametrize("causal", [False, True])
def test_masks(mask: Any, causal: bool) -> None:
    q, k = tensors()
    found = kv.statistics(q, k, mask=mask, causal=causal, backend="native")
    b, h = torch.arange(B).view(-1, 1, 1, 1), torch.arange(H).view(-1, 1, 1)
    m, n = torch.arange(M).view(-1, 1), torch.arange(N)
    keep = torch.ones(B, H, M, N, dtype=torch.bool) if mask is None else mask(b, h, m, n).expand(B, H, M, N)
    exact = weights(q, k, keep & (m >= n) if causal else keep)
    assert largest_error(found.column_mass, mass(exact)) < 1e-5
    assert found.rows == M and found.entropy is None and found.block_max is None


@pytest.mark.parametrize("backend", [pytest.param("native", marks=NATIVE), "interpret"])
def test_everything_of_the_last_rows(backend: str) -> None:
    q, k = tensors()
    found = kv.statistics(
        q, k, k, scale=0.5, causal=True, column_square=True, entropy=True, block_max=(4, 8), last=6, backend=backend
    )
    p = weights(q, k, torch.ones(M, N, dtype=torch.bool).tril(), scale=0.5)[:, :, -6:]
    assert found.rows == 6 and found.group == H // K
    assert largest_error(found.column_mass, mass(p)) < 1e-5
    assert largest_error(found.entropy, -torch.xlogy(p, p).sum(-1)) < 1e-5
    by_key = by_key_head(p)
    assert largest_error(found.column_mean, by_key.mean(2)) < 1e-6
    assert largest_error(found.column_variance, by_key.var(2, correction=0)) < 1e-6
    blocks = torch.nn.functional.pad(p, (0, -N % 8, 0, 2)).reshape(B, H, 2, 4, -1, 8).amax((3, 5))
    assert largest_error(found.block_max, blocks) < 1e-6


@NATIVE
def test_other_tensors_in_the_same_mask_are_read_anew() -> None:
    q, k = tensors()
    ids = DOCUMENTS.clone()
    mask = masks.document(ids)
    before = kv.statistics(q, k, mask=mask, backend="native").column_mass
    ids.copy_(ids.flip(1))
    after = kv.statistics(q, k, mask=mask, backend="native").column_mass
    keep = (ids[:, :M, None] == ids[:, None])[:, None]
    assert largest_error(after, mass(weights(q, k, keep))) < 1e-5
    assert before is not None and after is not None and not torch.allclose(before, after)


@NATIVE
def test_any_strides_and_gradients() -> None:
    """Positions before heads in memory, a head dimension that is not contiguous, and inputs that want gradients."""
    q, k = tensors()
    exact = mass(weights(q, k))
    turned = q.transpose(1, 2).contiguous().transpose(1, 2)
    apart = k.transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    assert largest_error(kv.statistics(turned, apart, backend="native").column_mass, exact) < 1e-5


def test_memory_does_not_grow_with_queries_times_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that is handed to kernels and taken from them, nothing has more numbers than rows or keys have."""
    seen: list[int] = []

    def run(self: SideOutputs, wanted: Any, tensors: Any, captures: Any) -> torch.Tensor:
        queries, keys = tensors
        seen.extend(t.untyped_storage().nbytes() // t.itemsize for t in (*tensors, *captures))
        del self, wanted, keys
        seen.append(queries.shape[:3].numel())
        return torch.zeros(queries.shape[:3])

    monkeypatch.setattr(SideOutputs, "run", run)
    monkeypatch.setattr("attir.compiler.side_outputs.AT_ONCE", 1)
    q, k = torch.zeros(1, 2, 4096, 16), torch.zeros(1, 2, 4096, 16)
    kv.statistics(q, k, causal=True, column_square=True, entropy=True, block_max=(64, 64), backend="interpret")
    assert max(seen) <= q.numel() < 4096 * 4096 // 64


# --- models


class Model(torch.nn.Module):
    """Two layers of one form of attention, one with a bias by head and softcapped scores."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        x = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = scaled_dot_product_attention(x, k, v, is_causal=True)
        scores = 10 * torch.tanh((x @ k.transpose(-1, -2)) / 40)
        distance = torch.arange(k.shape[2]) - torch.arange(q.shape[2])[:, None]
        return torch.softmax(scores + slopes[:, None, None] * distance, -1) @ v


def model_inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(1, 2, n, D, generator=generator) for n in (19, 23, 23))
    return q, k, v, torch.tensor([0.5, 0.1])


@NATIVE
def test_observe_tells_of_every_site_with_its_own_scores() -> None:
    q, k, v, slopes = model_inputs()
    compiled = attir.compile(Model(), backend="native", strict=True)
    found = kv.observe(compiled, (q, k, v, slopes), entropy=True)
    assert list(found) == ["attention_0_0", "attention_0_1", "attention_0_2"]
    keep = torch.ones(19, 23, dtype=torch.bool).tril()
    first = weights(q, k, keep)
    x = first @ v.double()
    second = weights(x, k, keep)
    x = second @ v.double()
    scores = 10 * torch.tanh(x @ k.double().transpose(-1, -2) / 40)
    distance = torch.arange(23) - torch.arange(19)[:, None]
    third = torch.softmax(scores + slopes.double()[:, None, None] * distance, -1)
    for statistics, p in zip(found.values(), (first, second, third), strict=True):
        assert largest_error(statistics.column_mass, p.sum(2)) < 2e-5
        assert largest_error(statistics.entropy, -torch.xlogy(p, p).sum(-1)) < 2e-5


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v)


def no_attention(x: torch.Tensor) -> torch.Tensor:
    return x + 1


@NATIVE
def test_inputs_are_given_by_name_too() -> None:
    q, k, v, _ = model_inputs()
    layer = attir.compile(plain, backend="native")
    found = kv.observe(layer, {"q": q, "k": k, "v": v}, last=2)
    assert list(found) == ["attention_0_0"] and found["attention_0_0"].rows == 2


@NATIVE
def test_a_mask_given_as_sparsity_counts() -> None:
    q, k, v, _ = model_inputs()
    compiled = attir.compile(plain, backend="native", sparsity=masks.window(5))
    found = kv.observe(compiled, (q, k, v))["attention_0_0"]
    m, n = torch.arange(19)[:, None], torch.arange(23)
    # There the last of 19 queries stands at the last of 23 keys.
    assert largest_error(found.column_mass, weights(q, k, masks.window(5)(0, 0, m + 4, n)).sum(2)) < 1e-5


@NATIVE
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_what_a_selection_leaves_out_has_no_weight(keep: float) -> None:
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(1, 2, 256, D, generator=generator) for _ in range(3))
    choice = attir.sparsity.select("quest", keep=keep, block=32, rows=32, sinks=1, local=1)
    found = kv.observe(attir.compile(plain, backend="native", sparsity=choice), (q, k, v), block_max=(32, 32))
    (statistics,) = found.values()
    assert statistics.block_max is not None
    exact = weights(q, k)
    kept = statistics.block_max > 0
    assert int(kept.sum()) == 2 * 8 * 8 * keep
    p = torch.softmax(
        (q.double() @ k.double().transpose(-1, -2) * 0.25).masked_fill(
            ~kept.repeat_interleave(32, 2).repeat_interleave(32, 3), -torch.inf
        ),
        -1,
    )
    assert largest_error(statistics.column_mass, p.sum(2)) < 2e-5
    assert keep < 1.0 or largest_error(statistics.column_mass, exact.sum(2)) < 2e-5


# --- what is refused


REFUSED: list[tuple[str, Callable[[torch.Tensor, torch.Tensor], object]]] = [
    ("q must have four axes", lambda q, k: kv.statistics(q[0], k)),
    ("are torch.float32 and torch.float16", lambda q, k: kv.statistics(q, k.half())),
    ("must both be float16, bfloat16 or float32", lambda q, k: kv.statistics(q.double(), k.double())),
    ("agree in batch and in a head dimension", lambda q, k: kv.statistics(q[:1], k)),
    ("must be a multiple of those of k, but they have 3 and 2", lambda q, k: kv.statistics(q[:, :3], k)),
    ("k and v must agree", lambda q, k: kv.statistics(q, k, k[:, :, 1:])),
    ("last must be a positive number of queries, but is 0", lambda q, k: kv.statistics(q, k, last=0)),
    (r"two positive sizes, of rows and of keys, but is \(0, 4\)", lambda q, k: kv.statistics(q, k, block_max=(0, 4))),
    ("block_max gives no sizes", lambda q, k: kv.statistics(q, k, block_scores=True)),
    ("function of b, h, m and n, but is 'causal'", lambda q, k: kv.statistics(q, k, mask="causal")),  # type: ignore[arg-type]
    ("unknown backend 'cuda'", lambda q, k: kv.statistics(q, k, backend="cuda")),
    ("needs tensors on a GPU", lambda q, k: kv.statistics(q, k, backend="triton")),
    ("cannot be traced", lambda q, k: kv.statistics(q, k, mask=lambda b, h, m, n: n <= m if m > 3 else n == n)),
    ("is for .* 9 .*, but there are", lambda q, k: kv.statistics(q, k, mask=masks.document(DOCUMENTS[:, :9]))),
    (r"cannot be read at \(1, 3, 36, 52\): .*out of bounds", lambda q, k: kv.statistics(q, k, mask=too_short())),
    ("not the result of attir.compile", lambda q, k: kv.observe(print, ())),
    ("hold no column_mass", lambda q, k: kv.statistics(q, k, column_mass=False, backend="native").column_mean),
]


@NATIVE
@pytest.mark.parametrize(("message", "call"), REFUSED, ids=[message for message, _ in REFUSED])
def test_refusals(message: str, call: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
    q, k = tensors()
    with pytest.raises(CompileError, match=message):
        call(q, k)


@NATIVE
def test_nothing_to_observe() -> None:
    with pytest.raises(CompileError, match="no attention of the model was fused"):
        kv.observe(attir.compile(no_attention), (torch.ones(3),))


def test_it_is_found_without_waiting_for_pytorch() -> None:
    code = "import sys, attir; assert 'torch' not in sys.modules; attir.kv.H2O(4); assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
