"""Sections on what there is besides the kernel: compiling, loading, the cost of a call, memory."""

from __future__ import annotations

import functools
import itertools
import json
import operator
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx
from torch.nn import functional

from attir.compiler.backend import Backend
from attir.compiler.custom_op import attention_op
from attir.compiler.kernels import Site
from attir.compiler.options import Options
from benchmarks.compile_time import nothing_compiled

from . import rivals
from .measuring import Call, Settings, Times, interleaved, repeated
from .problems import CAP, DTYPES, Plain, check
from .results import Bar, Row, Section

ROOT = Path(__file__).resolve().parents[2]
CALLS = 500
LONG, SHORT = 32768, 8192
SLACK = 1 << 20
"""Bytes that a measurement of memory may be off by: pages that the system, the allocator and Python take meanwhile."""


@dataclass(frozen=True)
class Variant:
    """An attention that was never compiled before: its scale is a constant of the program and differs each time."""

    name: str
    dtype: str
    group: int
    queries: int
    plain: Callable[[float], Plain]
    flex: Callable[[float], Plain] | None

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = ((1, 4 * self.group, self.queries, 64), (1, 4, 512, 64), (1, 4, 512, 64))
        q, k, v = (torch.randn(shape, generator=generator).to(DTYPES[self.dtype]) for shape in shapes)
        return q, k, v


def _plain_sdpa(causal: bool, scale: float) -> Plain:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)

    return function


def _plain_grouped(scale: float) -> Plain:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)

    return function


def _scores(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    return (q @ k.transpose(-1, -2)).float() * scale


def _plain_softcap(scale: float) -> Plain:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(CAP * torch.tanh(_scores(q, k, scale) / CAP), dim=-1).to(v.dtype) @ v

    return function


def _plain_alibi(scale: float) -> Plain:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(q.shape[-2], device=q.device)
        distance = positions[:, None] - positions[None, :]
        scores = (_scores(q, k, scale) - 0.25 * distance).masked_fill(distance < 0, float("-inf"))
        return torch.softmax(scores, dim=-1).to(v.dtype) @ v

    return function


def _past(b: torch.Tensor, h: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return n <= m


def _sloped(s: torch.Tensor, b: torch.Tensor, h: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return s - 0.25 * (m - n)


def _capped(s: torch.Tensor, b: torch.Tensor, h: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return CAP * torch.tanh(s / CAP)


def _flex(score: Any, masked: bool, scale: float) -> Plain:
    mask = rivals.flex.create_block_mask(_past, None, None, 512, 512, device="cpu") if masked else None

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        result = rivals.flex.flex_attention(q, k, v, score_mod=score, block_mask=mask, scale=scale)
        assert isinstance(result, torch.Tensor)
        return result

    return function


VARIANTS = (
    Variant("causal", "f32", 1, 512, functools.partial(_plain_sdpa, True), functools.partial(_flex, None, True)),
    Variant("softcap", "f32", 1, 512, _plain_softcap, functools.partial(_flex, _capped, False)),
    Variant("ALiBi, causal", "bf16", 1, 512, _plain_alibi, functools.partial(_flex, _sloped, True)),
    Variant("full", "f16", 1, 512, functools.partial(_plain_sdpa, False), functools.partial(_flex, None, False)),
    Variant("decode, 8 heads a key head", "bf16", 8, 1, _plain_grouped, None),
)


def first_call(compile_it: Callable[[], Plain], inputs: tuple[torch.Tensor, ...]) -> tuple[float, torch.Tensor]:
    """Seconds from compiling to the first result, from nothing, and the result."""
    with nothing_compiled():
        started = time.perf_counter()
        result = compile_it()(*inputs)
        return time.perf_counter() - started, result


def compiling(settings: Settings) -> Section:
    """Seconds to the first result of attentions that no cache holds."""
    ours, part = "attir s", "attir / Flex"
    title = "first call of a new variant, all imported, no cache in memory or on disk (wall time, all threads)"
    section = Section("compile", title, (Bar(ours, 0.5, at_least=False), Bar(part, 0.1, at_least=False)))
    rounds, variants = (1, VARIANTS[:1]) if settings.quick else (3, VARIANTS)
    taken: dict[str, dict[str, list[float]]] = {v.name: {"attir": [], "Flex": []} for v in variants}
    for number in range(rounds + 1):
        # The first round imports what is imported on first use, and does not count.
        for variant in variants if number else variants[:1]:
            print(f"compile: {variant.name}, round {number} of {rounds}", file=sys.stderr, flush=True)
            scale = 0.125 * (1 + (number + 1) / 1024)
            for name, seconds in first_calls(variant, scale).items():
                if number:
                    taken[variant.name][name].append(seconds)
    for variant in variants:
        times = Times({name: seconds for name, seconds in taken[variant.name].items() if seconds})
        figures = {f"{name} s": times.median(name) for name in times.seconds}
        if "Flex" in times.seconds:
            figures[part] = times.median("attir") / times.median("Flex")
        labels = {"attention": variant.name, "dtype": variant.dtype}
        section.rows.append(Row(labels, figures, "" if variant.flex else "not asked of Flex", times.seconds))
    return section


def first_calls(variant: Variant, scale: float) -> dict[str, float]:
    """Seconds of attir's first call and, where it is asked, of Flex's, both sure to be what they say."""
    inputs = variant.inputs()
    plain = variant.plain(scale)
    compiled = functools.partial(rivals.attir.compile, plain, backend="native", strict=True)
    ours, result = first_call(compiled, inputs)
    seconds = {"attir": ours}
    with torch.no_grad():
        expected = plain(*(t.double() for t in inputs))
    check(result, expected, variant.dtype, f"attir on {variant.name}")
    if variant.flex is not None:
        function = variant.flex(scale)
        rivals.counters.clear()
        seconds["Flex"], _ = first_call(lambda: rivals.torch_compile(function, dynamic=False, fullgraph=True), inputs)
        rivals.require_flex_kernel()
    return seconds


def reload(settings: Settings) -> Section:
    """A kernel that another process compiled."""
    held = "object ms"
    title = "a kernel from the cache on disk in a new process: the first call there, and loading the object alone"
    section = Section("reload", title, (Bar(held, 5, at_least=False),))
    with tempfile.TemporaryDirectory(prefix="attir-") as folder:
        for process in ("first", "second"):
            found = child("reload", folder)
            figures = {"first call ms": 1e3 * found["first_call"], held: 1e3 * found["object"]}
            section.rows.append(Row({"process": process}, figures, f"kernel {found['origin']}"))
    return section


def memory(settings: Settings) -> Section:
    """Memory of a call beyond its inputs and outputs, in a process of its own."""
    held = "of threads × scratch + 1 MiB"
    title = "growth of the peak resident memory in a call beyond inputs and outputs; scratch is that of a thread"
    section = Section("memory", title, (Bar(held, 1, at_least=False),))
    lengths, counts = (
        ((LONG,), settings.thread_counts[-1:]) if settings.quick else ((SHORT, LONG), settings.thread_counts)
    )
    for kind, length, threads in itertools.product(("prefill", "decode"), lengths, counts):
        print(f"memory: {kind} {length}, threads {threads}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="attir-") as folder:
            found = child("memory", folder, kind, str(length), str(threads))
        scratch = found["scratch"] * threads
        figures = {
            "attir KiB": found["attir"] / 1024,
            "SDPA KiB": found["sdpa"] / 1024,
            "threads × scratch KiB": scratch / 1024,
            held: found["attir"] / (scratch + SLACK),
        }
        section.rows.append(Row({"threads": str(threads), "attention": kind, "N": str(length)}, figures))
    return section


def child(*arguments: str, module: str = "benchmarks.cpu.children") -> dict[str, Any]:
    """What a module such as `children.py` prints, in a process of its own whose cache is the second argument."""
    environment = {**os.environ, "ATTIR_CACHE_DIR": arguments[1]}
    command = [sys.executable, "-m", module, arguments[0], *arguments[2:]]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def overhead(settings: Settings) -> Section:
    """Microseconds a call where there is almost nothing to compute."""
    title = (
        "1x2x8x16 f32: what a compiled graph calls beside F.scaled_dot_product_attention; for information "
        "PyTorch's dispatcher above it, the runner below it, and whole compiled functions"
    )
    section = Section("overhead", title, (Bar(f"{GRAPH} / SDPA", 1, at_least=False),))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 8, 16, generator=generator) for _ in range(3))
    for threads in settings.thread_counts:
        called, calls = overhead_calls(q, k, v)
        check(calls[GRAPH]()[0], functional.scaled_dot_product_attention(q, k, v).double(), "f32", called)
        times = interleaved({name: repeated(call, CALLS) for name, call in calls.items()}, threads, settings.seconds)
        figures = {f"{name} µs": 1e6 * times.median(name) / CALLS for name in times.seconds}
        figures |= {f"{name} / SDPA": times.median(name) / times.median("SDPA") for name in (OP, RUNNER, GRAPH)}
        labels = {"threads": str(threads), "the graph calls": called}
        section.rows.append(Row(labels, figures, times.note, times.seconds))
    return section


GRAPH, OP, RUNNER = "graph's call", "dispatcher's op", "runner"


def overhead_calls(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[str, dict[str, Call]]:
    """The name of what a graph calls for an attention; that call, others around it, SDPA, both compiled."""

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v)

    rivals.forget_everything()
    backend, graphs = Backend(Options(backend="native", strict=True)), list[fx.Graph]()

    def watched(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        run = backend(gm, inputs)
        graphs.append(cast(Any, run).__self__.graph)
        return run

    ours, theirs = rivals.torch_compile(plain, backend=watched), rivals.torch_compile(plain, backend="inductor")
    ours(q, k, v)
    theirs(q, k, v)
    (graph,), (site,) = graphs, backend.compiled.values()
    assert isinstance(site, Site)
    function, number = graph_call(graph)
    runner, op = site.runner, attention_op()
    return function.__name__, {
        GRAPH: lambda: function(q, k, v, [], number, False),
        OP: lambda: op(q, k, v, [], number, False),
        RUNNER: lambda: runner(q, k, v, (), False),
        "SDPA": lambda: functional.scaled_dot_product_attention(q, k, v),
        "attir.compile": lambda: ours(q, k, v),
        "torch.compile": lambda: theirs(q, k, v),
    }


def graph_call(graph: fx.Graph) -> tuple[Any, int]:
    """The function that a graph of one plain attention calls for it, and the number of the site."""
    calls = [n for n in graph.nodes if n.op == "call_function" and n.target is not operator.getitem]
    if len(calls) != 1 or len(calls[0].args) != 6 or calls[0].args[3] != [] or calls[0].args[5] is not False:
        raise SystemExit(f"a graph of one attention calls something else:\n{graph}")
    return calls[0].target, cast(int, calls[0].args[4])
