"""How kernels are started on a real GPU: CUDA graphs, streams, changing lengths, and only results allocated."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn

import attir
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.compiler.triton_runtime import OnGpu, TritonRunner
from attir.ir.attributes import f16

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

cuda: Any = cast(Any, torch).cuda


class Block(nn.Module):
    """Attention with grouped heads over a cache of keys and values, between projections."""

    def __init__(self, cached: int, heads: int = 8, key_heads: int = 2, width: int = 64) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.project, self.back = nn.Linear(256, heads * width), nn.Linear(heads * width, 256)
        shape = (2, key_heads, cached, width)
        self.register_buffer("keys", torch.randn(shape))
        self.register_buffer("values", torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.project(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
        keys, values = cast(torch.Tensor, self.keys), cast(torch.Tensor, self.values)
        out = nn.functional.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
        return self.back(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("queries", "keys"), [(1, 4096), (1, 100), (5, 2000), (300, 300)])
def test_a_captured_graph_of_a_whole_model_replays_with_other_inputs(queries: int, keys: int) -> None:
    """Also after larger calls made the memory between kernels grow."""
    model = Block(keys).cuda().half().requires_grad_(False)
    exact = Block(keys).cuda().double().requires_grad_(False)
    exact.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    compiled: Any = attir.compile(model, strict=True)
    static = torch.randn(2, queries, 256, device="cuda", dtype=torch.float16)
    graph = cuda.CUDAGraph()
    with torch.no_grad():
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(3):
                compiled(static)
        cuda.current_stream().wait_stream(side)
        with cuda.graph(graph):
            captured = compiled(static)
        for seed in range(3):
            grow = Case(f16, 64, group=4)
            q, k, v, captures = grow.tensors(Shape(1, 8, 2, 1, 8192 * (seed + 1)), device="cuda")
            compile_site(grow.module(), Options(backend="triton")).runner(q, k, v, captures, True)
            x = torch.randn(2, queries, 256, device="cuda", dtype=torch.float16, generator=generator(seed))
            static.copy_(x)
            graph.replay()
            wanted, eager = exact(x.double()), model(x).double()
            bound = 2 * (eager - wanted).abs().max().item() + 1e-3 * wanted.abs().max().item()
            assert (captured.double() - wanted).abs().max().item() <= bound


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cuda").manual_seed(seed)


def runner_of(case: Case) -> TritonRunner:
    runner = compile_site(case.module(), Options(backend="triton", cache=False)).runner
    assert isinstance(runner, TritonRunner)
    return runner


def compiled_kernels(runner: TritonRunner) -> int:
    assert isinstance(runner.where, OnGpu)
    return sum(len(kernel.compiled) for kernel in runner.where.loaded.known.values())


@pytest.mark.parametrize(("queries", "first"), [(1, 4000), (1, 10), (300, 300)])
def test_no_length_makes_a_kernel_be_compiled_anew(queries: int, first: int) -> None:
    case = Case(f16, 64, group=4)
    runner, counts = runner_of(case), list[int]()
    for keys in range(first, first + 20):
        q, k, v, captures = case.tensors(Shape(1, 8, 2, queries, keys), device="cuda")
        out, _ = runner(q, k, v, captures, False)
        exact, plain = (
            case.reference(q.double(), k.double(), v.double(), captures)[0],
            case.reference(q, k, v, captures),
        )
        bound = 2 * (plain[0].double() - exact).abs().max().item() + 2 * 2.0**-11 * v.abs().max().item()
        assert (out.double() - exact).abs().max().item() <= bound
        counts.append(compiled_kernels(runner))
    assert len(set(counts)) == 1


@pytest.mark.parametrize(("queries", "keys"), [(1, 4096), (300, 300)])
def test_a_call_allocates_its_results_and_waits_for_nothing(queries: int, keys: int) -> None:
    case = Case(f16, 64, group=4)
    runner = runner_of(case)
    q, k, v, captures = case.tensors(Shape(1, 8, 2, queries, keys), device="cuda")
    for _ in range(3):
        runner(q, k, v, captures, True)
    before = cuda.memory_stats()["allocation.all.allocated"]
    cuda.set_sync_debug_mode("error")
    try:
        runner(q, k, v, captures, True)
    finally:
        cuda.set_sync_debug_mode("default")
    assert cuda.memory_stats()["allocation.all.allocated"] - before == 2


def test_streams_do_not_share_the_memory_between_kernels() -> None:
    case = Case(f16, 64, group=4)
    runner = runner_of(case)
    problems = [case.tensors(Shape(1, 8, 2, 1, 16_384), seed=seed, device="cuda") for seed in range(4)]
    wanted = [runner(q, k, v, captures, False)[0] for q, k, v, captures in problems]
    streams = [cuda.Stream() for _ in problems]
    for stream in streams:
        stream.wait_stream(cuda.current_stream())
    found: list[list[torch.Tensor]] = [[] for _ in problems]
    for _ in range(20):
        for (q, k, v, captures), stream, results in zip(problems, streams, found, strict=True):
            with cuda.stream(stream):
                results.append(runner(q, k, v, captures, False)[0])
    cuda.synchronize()
    for expected, results in zip(wanted, found, strict=True):
        assert all(torch.equal(out, expected) for out in results)
