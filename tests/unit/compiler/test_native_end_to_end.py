"""Compiled functions run native kernels that fit the sizes of each call, and report every one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own abbreviation

import attir
from attir.compiler.native_support import native_problem

pytestmark = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """Dynamo forgets other tests."""
    cast(Any, torch)._dynamo.reset()


def grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def tensors(queries: int, keys: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    heads = (4, 2, 2)
    return tuple(torch.randn(2, h, n, 32).to(dtype) for h, n in zip(heads, (queries, keys, keys), strict=True))


def agrees(compiled: Any, *inputs: torch.Tensor) -> bool:
    exact = grouped(*(x.double() for x in inputs))
    eager = (grouped(*inputs).double() - exact).abs().max().item()
    roundoff = torch.finfo(inputs[0].dtype).eps
    return (compiled(*inputs).double() - exact).abs().max().item() <= 2 * eager + roundoff


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_decoder_gets_a_kernel_for_each_kind_of_call(dtype: torch.dtype) -> None:
    compiled = attir.compile(grouped, strict=True, dynamic=True, cache=False)
    with torch.no_grad():
        for queries, keys in ((40, 40), (1, 41), (1, 42), (12, 60), (1, 1300), (3, 1303)):
            assert agrees(compiled, *tensors(queries, keys, dtype)), (queries, keys)
    report = attir.explain(compiled)
    calls = [v.calls for site in report.sites for v in site.variants]
    assert "prefill, any rows: 40 queries x group 2" in calls
    assert "decode, 2 rows: 1 query x group 2" in calls
    assert "few queries, 32 rows: 12 queries x group 2" in calls
    assert all(any(f"      variant   {c} (" in line for line in str(report).splitlines()) for c in calls)


def test_the_first_kernel_is_the_one_that_the_first_call_needs() -> None:
    compiled = attir.compile(grouped, strict=True, cache=False)
    with torch.no_grad():
        assert agrees(compiled, *tensors(1, 50))
    (site,) = attir.explain(compiled).sites
    assert [v.calls for v in site.variants] == ["decode, 2 rows: 1 query x group 2"]
    assert site.backend == "native: machine code, because tensors are on the cpu"


def test_kernels_of_later_calls_are_dumped_too(tmp_path: Path) -> None:
    compiled = attir.compile(grouped, strict=True, dynamic=True, cache=False, dump=tmp_path)
    with torch.no_grad():
        for queries in (40, 3):
            assert agrees(compiled, *tensors(queries, 50))
    names = {p.name.partition("-")[2] for p in (tmp_path / "graph-0").iterdir()}
    assert {"attention_0_0.kernel.mlir", "attention_0_0.rows-8.kernel.mlir", "attention_0_0.rows-8.plan.mlir"} <= names


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    compiled = attir.compile(grouped, strict=True, dynamic=False)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            for sizes in ((70, 70), (1, 4000)):
                inputs, results = tensors(*sizes), list[torch.Tensor]()
                for threads in (1, 2, 3):
                    torch.set_num_threads(threads)
                    results.append(compiled(*inputs))
                assert all(torch.equal(results[0], other) for other in results[1:])
    finally:
        torch.set_num_threads(before)


def test_calls_from_many_threads_do_not_disturb_each_other() -> None:
    compiled = attir.compile(grouped, strict=True, dynamic=False)
    inputs = [tensors(64, 64) for _ in range(8)]
    with torch.no_grad():
        expected = [compiled(*x) for x in inputs]
    wrong: list[int] = []

    def call(number: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(compiled(*inputs[number]), expected[number]):
                    wrong.append(number)

    workers = [threading.Thread(target=call, args=(number,)) for number in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_inference_mode_and_parameters() -> None:
    compiled = attir.compile(grouped, strict=True)
    q, k, v = tensors(20, 20)
    with torch.inference_mode():
        assert agrees(compiled, q, k, v)
    with torch.no_grad():
        assert torch.equal(compiled(torch.nn.Parameter(q), k, v), compiled(q, k, v))
    assert not compiled(q, k, v).requires_grad


def test_one_tensor_may_be_everything() -> None:
    compiled = attir.compile(F.scaled_dot_product_attention, strict=True)
    x = torch.randn(2, 4, 40, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, x, x), F.scaled_dot_product_attention(x, x, x))


def test_captured_numbers_and_booleans() -> None:
    keep = torch.rand(2, 1, 1, 40) > 0.3
    scale = torch.tensor(0.5)

    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~keep, float("-inf"))
        return torch.softmax(scores, -1) @ v

    q, k, v = (torch.randn(2, 4, 40, 32) for _ in range(3))
    compiled = attir.compile(masked, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(q, k, v), masked(q, k, v))
