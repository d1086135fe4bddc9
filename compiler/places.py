"""Where the fused attention of a graph runs, and why: on which tensors it was called, and what is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..cost_model.devices import INTERPRETER
from ..ir.diagnostics import error
from .host_cpu import host_target
from .native_support import native_problem


@dataclass(frozen=True)
class Place:
    """A backend, why it was chosen in words, and what to warn of."""

    backend: str
    why: str
    warning: str = ""


def place_for(wanted: str, examples: Sequence[Any]) -> Place:
    """Where to run on tensors like `examples`; CompileError where the backend `wanted` cannot run them."""
    kinds = {e.device.type for e in examples if isinstance(e, torch.Tensor)} or {"cpu"}
    kind = "cuda" if "cuda" in kinds else min(kinds)
    if kind not in ("cpu", "cuda"):
        raise error(f"there are no kernels for tensors on '{kind}'; expected cpu or cuda")
    if wanted == "triton" and kind == "cpu":
        raise error("backend 'triton' needs tensors on a GPU, but they are on the cpu; expected backend 'native'")
    if wanted == "native" and kind == "cuda":
        raise error("backend 'native' needs tensors on the cpu, but they are on a GPU; expected backend 'triton'")
    if wanted != "auto":
        return Place(wanted, f"{wanted}, as asked")
    if kind == "cuda":
        return Place("triton", "triton, because tensors are on a GPU")
    return _on_cpu()


def target_of(backend: str) -> str:
    """The device that a backend makes kernels for here; CompileError where there is none."""
    if backend == "native":
        return host_target()
    if backend != "triton":
        return INTERPRETER
    from .kernels import current_gpu

    return current_gpu()


def _on_cpu() -> Place:
    if problem := native_problem():
        why = "interpret: Triton's interpreter, for correctness only, because native code cannot run here"
        return Place("interpret", why, f"attention runs in Triton's interpreter, which is SLOW: {problem}")
    return Place("native", "native: machine code, because tensors are on the cpu")
