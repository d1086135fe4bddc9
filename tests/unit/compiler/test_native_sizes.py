"""A few native kernels serve all sizes: none is compiled twice, Dynamo captures seldom, memory stays small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own abbreviation
from numeric.closeness import NATIVE, assert_agrees, error
from torch import nn

import attir
from attir.compiler import native_cache, native_kernels
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.compiler.report import Report
from attir.ir.attributes import f16, f32

pytestmark = NATIVE

QUERIES = (40, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 48, 63, 64, 65, 97, 127, 128, 129, 144, 192, 211, 255, 257, 300)
KEYS = (53, 300, 2, 64, 17, 15, 16, 128, 9, 3, 31, 250, 48, 7, 96, 65, 33, 211, 129, 299, 5, 80, 192, 4, 127, 63)
"""Ordinary lengths, primes, multiples of tiles and their neighbours; which meet which differs by round."""
ROUNDS = (0, 7)


@pytest.fixture(autouse=True)
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from other tests: neither to Dynamo nor in a cache."""
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))
    native_cache.forget_kernels()
    cast(Any, torch)._dynamo.reset()


@pytest.fixture
def compiled_texts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each MLIR text was compiled."""
    texts: Counter[str] = Counter()

    def counted(compile_object: Callable[[str], bytes]) -> Callable[[str], bytes]:
        def count(text: str) -> bytes:
            texts[text] += 1
            return compile_object(text)

        return count

    for module in (native_cache, native_kernels):
        monkeypatch.setattr(module, "compile_object", counted(module.compile_object), raising=False)
    return texts


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention, every query at the end of a longer text."""
    m = torch.arange(q.shape[2], device=q.device)[:, None]
    n = torch.arange(k.shape[2], device=q.device)[None, :]
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(n > m + 40, float("-inf"))
    return torch.softmax(scores, -1) @ v


def shapes() -> Iterator[tuple[int, int]]:
    for turn in ROUNDS:
        yield from ((m, KEYS[(i + turn) % len(KEYS)]) for i, m in enumerate(QUERIES))


def tensors(queries: int, keys: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(2, 3, n, 24) for n in (queries, keys, keys))


def check(compiled: Callable[..., Any], plain: Callable[..., Any], exact: Callable[..., Any], *inputs: Any) -> None:
    expected = exact(*(x.double() for x in inputs))
    bound = 2 * error(plain(*inputs), expected) + 64 * 2.0**-24
    assert error(compiled(*inputs), expected) <= bound, [tuple(x.shape) for x in inputs]


def kinds(report: Report) -> Sequence[str]:
    """What the kernels of the one attention in a report are for, in the order they were compiled."""
    return [variant.calls.partition(":")[0] for variant in report.sites[-1].variants]


def test_a_function_over_many_lengths(compiled_texts: Counter[str]) -> None:
    """Captured once for the first sizes and once for all: what is compiled then serves more than fifty shapes."""
    compiled = attir.compile(by_hand, strict=True)
    with torch.no_grad():
        assert len(set(shapes())) >= 50
        for queries, keys in shapes():
            check(compiled, by_hand, by_hand, *tensors(queries, keys))
        report = attir.explain(compiled)
        assert len(report.graphs) == 2, str(report)
        assert sorted(kinds(report)) == ["decode, 2 rows", "decode, 4 rows", "decode, 8 rows", "prefill, any rows"]
        assert len(compiled_texts) == 4 and set(compiled_texts.values()) == {1}
        for queries, keys in ((1, 50), (1, 300), (7, 1), (1, 1), (64, 1), (1, 17), (300, 1), (1, 1)):
            check(compiled, by_hand, by_hand, *tensors(queries, keys))
    # Dynamo makes a graph of its own wherever a size is 1, and there the mask is a simpler one.
    assert len(report.graphs) <= 5, str(report)
    assert len(compiled_texts) <= 8 and set(compiled_texts.values()) == {1}


class Block(nn.Module):
    """A transformer's attention with grouped heads."""

    def __init__(self, heads: int, key_heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        self.inwards = nn.Linear(heads * width, (heads + 2 * key_heads) * width)
        self.outwards = nn.Linear(heads * width, heads * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        all_heads = self.inwards(x).unflatten(-1, (self.heads + 2 * self.key_heads, -1)).transpose(1, 2)
        q, k, v = all_heads.split((self.heads, self.key_heads, self.key_heads), 1)
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return x + self.outwards(found.transpose(1, 2).flatten(2))


def test_a_model_over_many_lengths(compiled_texts: Counter[str]) -> None:
    # No other test has such heads, whose kernels would be there already.
    plain = nn.Sequential(Block(4, 2, 18), Block(4, 2, 18)).requires_grad_(False)
    exact = nn.Sequential(Block(4, 2, 18), Block(4, 2, 18)).double()
    exact.load_state_dict(plain.state_dict())
    compiled = attir.compile(plain, strict=True)
    with torch.no_grad():
        for length in dict.fromkeys((*QUERIES, *KEYS, *range(200, 226))):
            check(compiled, plain, exact, torch.randn(2, length, 72))
        report = attir.explain(compiled)
        assert len(report.graphs) == 2, str(report)
        for _ in range(2):
            check(compiled, plain, exact, torch.randn(2, 1, 72))
        assert len(report.graphs) <= 3, str(report)
    # Both layers compute the same, and kernels for few rows may have equal schedules.
    assert len(set(kinds(report))) == 8 and len(compiled_texts) <= 8 and set(compiled_texts.values()) == {1}


@pytest.mark.parametrize(
    "case", [Case(f32, 16, form="causal"), Case(f16, 24, 40, 4, "window")], ids=["f32", "grouped f16"]
)
def test_one_site_over_batches_heads_and_lengths(case: Case, compiled_texts: Counter[str]) -> None:
    site = compile_site(case.module(), Options(backend="native", cache=False))
    for seed, (queries, keys) in enumerate((*shapes(), (1, 1), (1, 97), (33, 1))):
        shape = Shape(1 + seed % 3, case.group * (1 + seed % 2), 1 + seed % 2, queries, keys)
        assert_agrees(case, site.runner, *case.tensors(shape, seed))
    calls = [variant.calls.partition(":")[0] for variant in site.variants]
    # Kernels for some numbers of rows may have equal schedules, and nothing is shared without a cache.
    assert len(calls) == len(set(calls)) == sum(compiled_texts.values())


# --- memory


def memory(field: str) -> int:
    """Bytes that this process has in memory (VmRSS) or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def most_added(run: Callable[[], object]) -> int:
    """By how much memory grew at most while `run` ran, its result included."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten
    except OSError as problem:
        pytest.skip(f"cannot measure memory: {problem.strerror}")
    before = memory("VmRSS")
    run()
    return memory("VmHWM") - before


@pytest.mark.parametrize(("queries", "keys"), [(8192, 8192), (1, 1 << 18)])
def test_no_memory_grows_with_queries_times_keys(queries: int, keys: int) -> None:
    """In prefill the scores would take 256 MiB; in decoding the parts of split keys take little."""
    case = Case(f32, 8, form="causal" if queries > 1 else "none", lse=False)
    run = compile_site(case.module(), Options(backend="native"), queries).runner
    run(*case.tensors(Shape(1, 1, 1, min(queries, 100), 100))[:3], (), False)
    q, k, v, _ = case.tensors(Shape(1, 1, 1, queries, keys))
    # 64 MiB: malloc asks the kernel for so much anew, however much of its own is free.
    assert most_added(lambda: torch.ones(1 << 24)) >= 1 << 25, "memory is measured"
    assert most_added(lambda: run(q, k, v, (), False)) <= 4 * q.numel() + (2 << 20)
