"""What the groups of `benchmarks/sparsity.py` share: how kernels of a case are made."""

from __future__ import annotations

import importlib.metadata
from typing import cast

import torch

from attir.compiler.attention_cases import Captures, Case
from attir.compiler.kernels import compile_site
from attir.compiler.native_runtime import NativeRunner
from attir.compiler.options import Options
from benchmarks.cpu.measuring import Call
from benchmarks.grouped import Row, Settings

__all__ = ["Row", "Settings", "heads_of", "native_call", "runner", "versions"]


def heads_of(length: int) -> int:
    """Heads of a problem: as many as models have where that does not take long, and never one alone."""
    return max(2, min(8, 32768 // length))


def runner(case: Case) -> NativeRunner:
    """The native kernels of a case."""
    return cast("NativeRunner", compile_site(case.module(), Options(backend="native")).runner)


def native_call(run: NativeRunner, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Captures) -> Call:
    return lambda: run(q, k, v, captures, False)[0]


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "triton")}
