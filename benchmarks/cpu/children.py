"""What is measured in a process of its own, started by `latency.child`; prints one line of JSON."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import functional

import attir
from attir.compiler.backend import Backend
from attir.compiler.kernels import Site
from attir.compiler.native_cache import DISK, forget_kernels, load_kernels
from attir.compiler.options import Options
from benchmarks.cpu import rivals
from benchmarks.cpu.problems import Plain


def reload() -> dict[str, Any]:
    """Seconds of the first call of an attention whose kernel may lie in the cache on disk, and of loading it alone."""
    inputs = _inputs("prefill", 512)
    # Something else first: what is imported on first use is no part of it.
    rivals.attir_compiled(_full, *inputs)
    compiled = attir.compile(_causal, backend="native", strict=True)
    started = time.perf_counter()
    compiled(*inputs)
    first = time.perf_counter() - started
    (site,) = attir.explain(compiled).sites
    forget_kernels()
    started = time.perf_counter()
    loaded = load_kernels(site.kernel_source)
    again = time.perf_counter() - started
    if loaded.origin != DISK:
        raise SystemExit(f"a kernel that was compiled is not loaded from disk but {loaded.origin}")
    return {"first_call": first, "origin": site.variants[0].origin, "object": again}


def memory(kind: str, length: str, threads: str) -> dict[str, Any]:
    """Bytes that one call of attir and of SDPA takes at most beyond what it is given and gives."""
    torch.set_num_threads(int(threads))
    plain: Plain = _decode if kind == "decode" else _causal
    backend = Backend(Options(backend="native", strict=True))
    compiled = rivals.torch_compile(plain, backend=backend, dynamic=True)
    # A shorter call first compiles, starts threads and touches their stacks.
    compiled(*_inputs(kind, 1024))
    inputs = _inputs(kind, int(length))
    ours, theirs = _growth(lambda: compiled(*inputs)), _growth(lambda: plain(*inputs))
    (site,) = backend.compiled.values()
    assert isinstance(site, Site)
    return {"attir": ours, "sdpa": theirs, "scratch": cast(Any, site.kernel).native.scratch_bytes}


def _full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, v)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
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
