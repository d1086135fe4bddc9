"""From one outlined attention to a kernel: analyse, plan, lower, emit; once for equal programs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..codegen.triton import TritonKernel, emit_kernel
from ..ir.attributes import Attribute, DictAttr, FloatAttr, IntegerAttr, StringAttr
from ..ir.core import Operation
from ..ir.diagnostics import error, op_error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tile import KernelOp
from ..ir.printer import print_operation
from ..passes.manager import Pass, PassContext
from ..passes.pipeline import PassPipeline, RunSettings
from .options import Options
from .pipelines import LOWER, schedule
from .sites import CompiledSite, Runner

INTERPRETER = "interpret"


@dataclass(frozen=True)
class Kernel:
    """One attention as a Triton module for `target`, with every decision on the way.

    `plan` is the schedule, `structure` what is known of the mask, `steps` the IR after every
    pass, `group` the query heads for each key head.
    """

    target: str
    triton: TritonKernel
    plan: Mapping[str, Any]
    structure: Mapping[str, Any]
    steps: tuple[tuple[str, str], ...]
    group: int
    has_lse: bool

    @property
    def source(self) -> str:
        return self.triton.source


@dataclass(frozen=True)
class Site:
    """A kernel that can be called, in the form the backend asks for."""

    runner: Runner
    kernel: Kernel

    @property
    def plan(self) -> Mapping[str, Any]:
        return {**self.kernel.plan, "mask": dict(self.kernel.structure)}

    @property
    def kernel_source(self) -> str:
        return self.kernel.source

    @property
    def steps(self) -> Sequence[tuple[str, str]]:
        """The IR after each pass since outlining; each text can be read again."""
        return self.kernel.steps


_kernels: dict[tuple[str, str], Kernel] = {}
_lock = threading.Lock()


def build_kernel(module: Operation, target: str) -> Kernel:
    """The kernel for an outlined attention (see `sites.outline`) on `target`; equal modules share one.

    `target` is a device such as "sm_90", or "interpret". `module` is left as it is. Raises
    CompileError where no kernel exists.
    """
    key = (print_operation(module, locations=True), target)
    with _lock:
        if key not in _kernels:
            _kernels[key] = _build(module.clone(), target)
        return _kernels[key]


def _build(module: Operation, target: str) -> Kernel:
    context, steps = PassContext(), list[tuple[str, str]]()

    def observe(moment: str, step: Pass, result: Operation) -> None:
        if moment == "after":
            steps.append((step.name, print_operation(result, locations=True)))

    settings = RunSettings(observe=observe)
    PassPipeline(schedule(target)).run(module, context, settings)
    attention = next((AttentionOp(op) for op in module.walk() if AttentionOp.match(op)), None)
    if attention is None:
        op_error(module, "holds no attention to make a kernel of")
    group, has_lse = attention.group.value, bool(attention.lse.uses)
    plan, structure = readable(attention.schedule), readable(attention.structure)
    PassPipeline(LOWER).run(module, context, settings)
    lowered = next(op for op in module.walk() if KernelOp.match(op))
    return Kernel(target, emit_kernel(lowered), plan, structure, tuple(steps), group, has_lse)


def readable(hint: DictAttr | None) -> dict[str, Any]:
    """A hint as plain Python values."""
    return {key: _plain(value) for key, value in (hint.items if hint else ())}


def _plain(value: Attribute) -> Any:
    return value.value if isinstance(value, IntegerAttr | FloatAttr | StringAttr) else str(value)


def compile_site(module: Operation, options: Options) -> CompiledSite:
    """A kernel for an outlined attention that can be called on tensors, for the backend in `options`."""
    from .triton_runtime import KernelRunner

    if options.backend == "auto":
        raise error("a backend must be chosen before a site is compiled; expected 'interpret' or 'triton'")
    where = "interpret" if options.backend == INTERPRETER else "triton"
    target = INTERPRETER if where == "interpret" else current_gpu()
    kernel = build_kernel(module, target) if options.cache else _build(module.clone(), target)
    return Site(KernelRunner(kernel.triton, kernel.group, kernel.has_lse, where), kernel)


def current_gpu() -> str:
    """The architecture of the current GPU; CompileError without one."""
    import torch

    from .triton_runtime import gpu_target

    if not torch.cuda.is_available():
        raise error("backend 'triton' needs a GPU, and PyTorch sees none; use backend 'interpret' on the CPU")
    return gpu_target(torch.device("cuda", torch.cuda.current_device()))
