"""What is measured in a process of its own, started by `latency.child`; prints one line of JSON."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import attir
from attir.compiler.backend import Backend
from attir.compiler.kernels import Site
from attir.compiler.native_cache import load_kernels
from attir.compiler.options import Options
from benchmarks.cpu import rivals
from benchmarks.cpu.problems import Plain


def reload() -> dict[str, Any]:
    """Seconds of the first call of an attention whose kernel may lie in the cache on disk, and of loading it alone."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 512, 64, generator=generator) for _ in range(3))

    # Something else first: what is imported on first use is no part of it.
    attir.compile(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v), backend="native")(q, k, v)
    compiled = attir.compile(
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True), backend="native", strict=True
    )
    started = time.perf_counter()
    compiled(q, k, v)
    first = time.perf_counter() - started
    (site,) = attir.explain(compiled).sites
    return {"first_call": first, "origin": site.variants[0].origin, **_loading(site.kernel_source)}


def _loading(source: str) -> dict[str, float]:
    started = time.perf_counter()
    load_kernels(source)
    return {"kernel": time.perf_counter() - started, "object": 0.0}


def memory(kind: str, length: str, threads: str) -> dict[str, Any]:
    """Bytes that one call of attir and of SDPA takes at most beyond what it is given and gives."""
    torch.set_num_threads(int(threads))
    plain: Plain = _decode if kind == "decode" else _prefill
    backend = Backend(Options(backend="native", strict=True))
    compiled = rivals.torch_compile(plain, backend=backend, dynamic=True)
    # A shorter call first compiles, starts threads and touches their stacks.
    for size in (1024, int(length)):
        inputs = _inputs(kind, size)
        ours = _growth(lambda x=inputs: compiled(*x))
        theirs = _growth(lambda x=inputs: plain(*x))
    scratch = [s.kernel.native.scratch_bytes for s in backend.compiled.values() if isinstance(s, Site)]
    return {"attir": ours, "sdpa": theirs, "scratch": max(scratch)}


def _prefill(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def _inputs(kind: str, length: int) -> tuple[torch.Tensor, ...]:
    shapes = ((1, 8, 1, 64), (1, 1, length, 64)) if kind == "decode" else ((1, 2, length, 64), (1, 2, length, 64))
    return torch.randn(shapes[0]), torch.randn(shapes[1]), torch.randn(shapes[1])


def _growth(call: Callable[[], torch.Tensor]) -> int:
    """By how many bytes the peak of resident memory exceeds what lies there after the call."""
    call()
    _forget_peak()
    before = _peak()  # what is resident now, as nothing was since
    result = call()
    return max(0, _peak() - before - result.nbytes)


def _forget_peak() -> None:
    """Give back what is free, and count the peak of this process from now on; see proc(5), clear_refs."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def main(argv: list[str]) -> None:
    tasks: dict[str, Callable[..., dict[str, Any]]] = {"reload": reload, "memory": memory}
    with torch.no_grad():
        print(json.dumps(tasks[argv[0]](*argv[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])
