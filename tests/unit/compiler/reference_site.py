"""Runs a site in the reference interpreter, for tests of everything around kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from attir.compiler.custom_op import Runner
from attir.compiler.options import Options
from attir.compiler.report import Variant
from attir.compiler.sites import Watcher
from attir.cost_model.problem import Sizes
from attir.ir.core import Operation
from attir.ir.dialects.func import FuncOp
from attir.ir.interpreter import interpret
from attir.ir.printer import print_operation


@dataclass(frozen=True)
class ReferenceSite:
    """A compiled site without a kernel."""

    runner: Runner
    kernel_source: str
    plan: Mapping[str, Any] = field(default_factory=lambda: {"block_m": 64})
    steps: Sequence[tuple[str, str]] = ()
    language: str = "mlir"
    variants: Sequence[Variant] = ()

    def watch(self, watcher: Watcher) -> None:
        """There will never be another kernel."""


def reference_site(module: Operation, options: Options, call: Sizes | int | None = None) -> ReferenceSite:
    """The site compiler: numpy instead of a kernel."""
    name = next(FuncOp(op).sym_name.value for op in module.walk() if op.name == "func.func")

    def run(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        arrays: list[Any] = [np.asarray(t.detach()) for t in (q, k, v, *captures)]
        out, *lse = interpret(module, name, *arrays)
        assert bool(lse) == want_lse
        return torch.as_tensor(out).to(q.dtype), torch.as_tensor(lse[0]) if want_lse else torch.empty(0)

    queries = call.queries if isinstance(call, Sizes) else call
    source = f"{print_operation(module)}// {options.backend} for {queries} queries\n"
    return ReferenceSite(run, source)
