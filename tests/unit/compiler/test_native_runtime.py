"""Native kernels are called with the right block, chosen by size, compiled once each, and checked like any other.

Kernels are stood in for by functions that read the same block of arguments and compute with PyTorch,
so that these tests need no compiler.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from attir.codegen.mlir import NativeModule
from attir.compiler import native_calls, native_kernels
from attir.compiler.attention_cases import Case
from attir.compiler.lowering import Lowered
from attir.compiler.native_kernels import Choice, CpuKernel, LoadedKernel, NativeKernels, rows_for
from attir.compiler.native_runtime import NativeRunner
from attir.compiler.site_plans import Calls, Wishes
from attir.cost_model.problem import Sizes
from attir.ir.attributes import f32
from attir.ir.diagnostics import CompileError

Run = Callable[[list[torch.Tensor]], None]
INPUTS = (4, 4, 4)
PARTS, RESULTS = (5, 4), (4, 3)


@dataclass
class FakeFunction:
    """Machine code in PyTorch: `compute` gets the tensors of `ranks` that a block describes."""

    ranks: Sequence[int]
    compute: Run
    threads: list[int] = field(default_factory=list[int])

    def run(self, block: int, threads: int) -> None:
        assert ctypes.c_int64.from_address(block).value == 0, "the counter of programs starts at 0"
        self.threads.append(threads)
        self.compute(self._tensors(block + 8))

    def _tensors(self, place: int) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for rank in self.ranks:
            address, *rest = (ctypes.c_int64 * (1 + 2 * rank)).from_address(place)
            place += 8 * (1 + 2 * rank)
            sizes, strides = rest[:rank], rest[rank:]
            reach = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
            memory = (ctypes.c_float * reach).from_address(address)
            found.append(torch.frombuffer(memory, dtype=torch.float32).as_strided(sizes, strides))
        return found


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)


def whole(tensors: list[torch.Tensor]) -> None:
    q, k, v, *rest = tensors
    results = attention(q, k, v)
    for target, value in zip(rest[-2:], results, strict=True):
        target.copy_(value)


def without_lse(tensors: list[torch.Tensor]) -> None:
    tensors[-1].copy_(attention(*tensors[:3])[0])


def split(tensors: list[torch.Tensor]) -> None:
    q, k, v, *_, part_out, part_lse = tensors
    for part, (some_k, some_v) in enumerate(zip(k.chunk(len(part_out), 2), v.chunk(len(part_out), 2), strict=True)):
        out, lse = attention(q, some_k, some_v)
        part_out[part].copy_(out)
        part_lse[part].copy_(lse)


def merge(tensors: list[torch.Tensor]) -> None:
    part_out, part_lse, out, lse = tensors
    weights = torch.softmax(part_lse, 0)
    out.copy_((weights[..., None] * part_out).sum(0))
    lse.copy_(torch.logsumexp(part_lse, 0))


class FakeKernels(NativeKernels):
    """Kernels that compile in no time to the functions above, one for each choice; the slow way is counted."""

    def __init__(self, case: Case, captures: Sequence[int] = (), seconds: float = 0.0) -> None:
        super().__init__(case.module(), "avx512", cache=False)
        self.compiled: list[Choice] = []
        self.functions: dict[Choice, list[FakeFunction]] = {}
        self.seconds, self.ranks = seconds, (*INPUTS, *captures)

    def for_call(self, choice: Choice, sizes: Sizes, call: object) -> LoadedKernel:
        return self.get(choice, sizes.queries)

    def _build(self, choice: Choice, wishes: Wishes, calls: Calls | None) -> tuple[LoadedKernel, str]:
        time.sleep(self.seconds)
        self.compiled.append(choice)
        parts = 0 < choice.rows <= 8
        folded = {"lanes": 16, "folded": int(choice.rows > 0), "split": int(parts)}
        plan = {"block_m": 8, "block_n": 4, "num_warps": 1, "num_stages": 1, **folded}
        lowered = Lowered("avx512", (), plan, {}, (), self.group, self.has_lse)
        if parts:
            functions = [FakeFunction((*self.ranks, *PARTS), split), FakeFunction((*PARTS, *RESULTS), merge)]
        elif self.has_lse:
            functions = [FakeFunction((*self.ranks, *RESULTS), whole)]
        else:
            functions = [FakeFunction((*self.ranks, 4), without_lse)]
        self.functions[choice] = functions
        native = NativeModule("", (), 0)
        return LoadedKernel(CpuKernel(lowered, native, choice), tuple(functions), self.out_dtype), "fake"


def tensors(
    queries: int, keys: int, heads: int = 4, key_heads: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    k, v = (torch.randn(2, key_heads, keys, 16) for _ in range(2))
    return torch.randn(2, heads, queries, 16), k, v


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that split keys make three parts."""

    def three(*_: object) -> int:
        return 3

    monkeypatch.setattr(native_calls, "split_count", three)


# --- which kernel


@pytest.mark.parametrize(
    ("queries", "group", "rows"),
    [(1, 1, 1), (1, 8, 8), (3, 1, 4), (5, 1, 8), (2, 4, 8), (9, 1, 0), (3, 3, 16), (8, 8, 64), (9, 8, 0), (32, 2, 0)],
)
def test_rows_are_rounded_up_so_that_few_kernels_serve_many_sizes(queries: int, group: int, rows: int) -> None:
    assert rows_for(queries, group, "avx512") == rows


def test_few_rows_fill_vectors_of_the_target() -> None:
    assert (rows_for(9, 2, "avx512"), rows_for(9, 2, "avx2")) == (32, 24)


@pytest.mark.usefixtures("parts")
def test_each_kernel_is_compiled_once_and_recorded_with_its_reason() -> None:
    kernels = FakeKernels(Case(f32, 16, group=2))
    runner = NativeRunner(kernels)
    for queries in (1, 64, 2, 1, 65, 12):
        q, k, v = tensors(queries, 9, key_heads=2)
        for expected, actual in zip(attention(q, k, v), runner(q, k, v, (), True), strict=True):
            torch.testing.assert_close(actual, expected)
    assert [v.calls for v in kernels.variants] == [
        "decode, 2 rows: 1 query x group 2",
        "prefill, any rows: 64 queries x group 2",
        "decode, 4 rows: 2 queries x group 2",
        "few queries, 32 rows: 12 queries x group 2",
    ]


@pytest.mark.parametrize("lse", [False, True])
def test_keys_too_few_to_split_make_one_part_that_is_the_result(lse: bool) -> None:
    kernels = FakeKernels(Case(f32, 16))
    (q, k, v), runner = tensors(1, 9), NativeRunner(kernels)
    out, found = runner(q, k, v, (), lse)
    torch.testing.assert_close(out, attention(q, k, v)[0])
    assert found.shape == ((2, 4, 1) if lse else (0,))
    first, merging = kernels.functions[Choice(1, True)]
    assert (len(first.threads), len(merging.threads)) == (1, 0)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("heads", [2, 40])
@pytest.mark.parametrize("captured", [False, True])
def test_parts_are_merged_wherever_they_lie(heads: int, captured: bool) -> None:
    """Few lie behind the block of arguments, many in memory of their own."""
    kernels = FakeKernels(Case(f32, 16), captures=(1,) if captured else ())
    if captured:
        kernels.inputs = FakeKernels(Case(f32, 16, form="alibi")).inputs
    (q, k, v), runner = tensors(5, 9, heads, heads), NativeRunner(kernels)
    captures = [torch.rand(heads)] if captured else []
    for expected, actual in zip(attention(q, k, v), runner(q, k, v, captures, True), strict=True):
        torch.testing.assert_close(actual, expected)
    assert [len(f.threads) for f in kernels.functions[Choice(8, True)]] == [1, 1]


def test_threads_that_call_at_once_compile_once() -> None:
    kernels = FakeKernels(Case(f32, 16), seconds=0.2)
    runner, (q, k, v) = NativeRunner(kernels), tensors(32, 8)
    expected = attention(q, k, v)[0]
    results: list[torch.Tensor] = []
    workers = [threading.Thread(target=lambda: results.append(runner(q, k, v, (), True)[0])) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(kernels.compiled) == 1 and len(results) == 4
    for result in results:
        torch.testing.assert_close(result, expected)


def test_equal_programs_share_their_kernels() -> None:
    first, second = Case(f32, 16, form="causal").module("one"), Case(f32, 16, form="causal").module("two")
    assert native_kernels.native_kernels(first, "avx2") is native_kernels.native_kernels(second, "avx2")
    assert native_kernels.native_kernels(first, "avx2") is not native_kernels.native_kernels(first, "avx512")


# --- strides, sizes, results


def test_neighbours_that_are_apart_get_a_kernel_of_their_own() -> None:
    kernels = FakeKernels(Case(f32, 16))
    runner, (q, k, v) = NativeRunner(kernels), tensors(24, 8)
    apart = k.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(runner(q, apart, v, (), True)[0], runner(q, k, v, (), True)[0])
    assert kernels.compiled == [Choice(0, False), Choice(0, True)]
    assert [v.calls.endswith(", any strides") for v in kernels.variants] == [True, False]


def test_results_are_contiguous_whatever_the_inputs() -> None:
    runner = NativeRunner(FakeKernels(Case(f32, 16)))
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors(24, 8))
    out, lse = runner(q, k, v, (), True)
    assert out.is_contiguous() and lse.is_contiguous() and not q.is_contiguous()
    torch.testing.assert_close(out, attention(q, k, v)[0])


def test_captures_go_between_inputs_and_results() -> None:
    kernels = FakeKernels(Case(f32, 16, form="alibi"), captures=(1,))
    q, k, v = tensors(24, 8)
    slopes = torch.rand(8)[::2]
    runner = NativeRunner(kernels)
    for _ in range(2):
        out, _ = runner(q, k, v, [slopes], True)
        torch.testing.assert_close(out, attention(q, k, v)[0])


def test_without_keys_a_row_is_zero_and_without_results_nothing_is_called() -> None:
    kernels = FakeKernels(Case(f32, 16))
    runner = NativeRunner(kernels)
    q, k, v = tensors(24, 0)
    out, lse = runner(q, k, v, (), True)
    assert not out.any() and out.shape == q.shape and torch.equal(lse, torch.full((2, 4, 24), float("-inf")))
    q, k, v = tensors(0, 5)
    assert runner(q, k, v, (), True)[0].shape == (2, 4, 0, 16)
    assert kernels.compiled == []


def test_the_log_sum_exp_is_returned_only_where_it_is_wanted_and_there() -> None:
    q, k, v = tensors(24, 8)
    assert NativeRunner(FakeKernels(Case(f32, 16)))(q, k, v, (), False)[1].shape == (0,)
    runner = NativeRunner(FakeKernels(Case(f32, 16, lse=False)))
    assert runner(q, k, v, (), False)[1].shape == (0,)
    with pytest.raises(CompileError, match="compiled without log-sum-exp"):
        runner(q, k, v, (), True)


# --- threads


def threads_used(queries: int, keys: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    kernels = FakeKernels(Case(f32, 16))
    q, k, v = tensors(queries, keys)
    NativeRunner(kernels)(q, k, v, (), True)
    (function,) = kernels.functions[Choice(0, True)]
    (threads,) = function.threads
    return threads


def test_threads_are_woken_only_for_enough_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_used(16, 16, monkeypatch) == 1
    assert threads_used(64, 256, monkeypatch) == 6


# --- what is refused


Q, K, V = tensors(24, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((Q.half(), K, V, ()), "q must be torch.float32, but is torch.float16"),
        ((Q, K[..., :8], V, ()), r"k must have shape \(any, any, any, 16\), but has \(2, 4, 8, 8\)"),
        ((Q, K, V[:, :, :5], ()), "k and v must agree in batch, heads and length"),
        ((Q, K[:, :2], V[:, :2], ()), "q must have 1 heads for each of k's, but they have 4 and 2"),
        ((Q, K, V, (Q,)), "the kernel takes 3 tensors, but got 4"),
        ((Q[0], K, V, ()), "q must have shape"),
        ((Q.to("meta"), K, V, ()), "k is on cpu, but q is on meta"),
        ((Q.to("meta"), K.to("meta"), V.to("meta"), ()), "for backend 'native', but the tensors are on meta"),
        ((Q[:, :, :1].expand(-1, -1, 2**31, -1), K, V, ()), "kernels count positions in 32 bits: at most 2147483647"),
    ],
)
def test_what_a_kernel_would_misread_is_refused(call: Any, message: str) -> None:
    runner = NativeRunner(FakeKernels(Case(f32, 16)))
    q, k, v, captures = call
    for _ in range(2):
        with pytest.raises(CompileError, match=message):
            runner(q, k, v, captures, True)


def test_tensors_that_only_look_like_those_before_are_checked() -> None:
    runner = NativeRunner(FakeKernels(Case(f32, 16)))
    runner(Q, K, V, (), True)
    with pytest.raises(CompileError, match="q must be"):
        runner(Q.to(torch.int32), K, V, (), True)
    with pytest.raises(CompileError, match="k is on meta"):
        runner(Q, K.to("meta"), V, (), True)


def test_so_many_signatures_may_come_that_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from attir.compiler import native_runtime

    monkeypatch.setattr(native_runtime, "MOST_PLANS", 4)
    kernels = FakeKernels(Case(f32, 16))
    runner = NativeRunner(kernels)
    for keys in (*range(5, 15), 5):
        q, k, v = tensors(24, keys)
        torch.testing.assert_close(runner(q, k, v, (), True)[0], attention(q, k, v)[0])
    assert len(kernels.compiled) == 1
