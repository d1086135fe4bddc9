"""From one outlined attention to a kernel that can be called: native, Triton, or interpreted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..codegen.triton import TritonKernel, emit_kernel
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.printer import print_operation
from .lowering import Lowered, lower
from .options import Options
from .report import Variant
from .sites import CompiledSite, Runner, Watcher

if TYPE_CHECKING:
    from .native_kernels import CpuKernel

INTERPRETER = "interpret"


@dataclass(frozen=True)
class Kernel:
    """One attention as a Triton module, and how it came to be; `tables` is the kernel that runs before it."""

    lowered: Lowered
    triton: TritonKernel
    tables: TritonKernel | None = None
    language = "triton"

    @property
    def source(self) -> str:
        return self.triton.source if self.tables is None else f"{self.triton.source}\n\n{self.tables.source}"

    @property
    def plan(self) -> Mapping[str, Any]:
        return self.lowered.plan


@dataclass(frozen=True)
class Site:
    """A kernel that can be called, in the form the backend asks for.

    Where kernels are compiled as sizes ask for them, `kernel` is the one for the first call,
    `variants` lists all so far, and `watchers` hear of those to come.
    """

    runner: Runner
    kernel: Kernel | CpuKernel
    variants: Sequence[Variant] = ()
    watchers: list[Callable[[CpuKernel], None]] = field(default_factory=list["Callable[[CpuKernel], None]"])

    @property
    def plan(self) -> Mapping[str, Any]:
        return self.kernel.lowered.decisions

    @property
    def kernel_source(self) -> str:
        return self.kernel.source

    @property
    def language(self) -> str:
        return self.kernel.language

    @property
    def steps(self) -> Sequence[tuple[str, str]]:
        """The IR after each pass since outlining; each text can be read again."""
        return self.kernel.lowered.steps

    def watch(self, watcher: Watcher) -> None:
        self.watchers.append(lambda kernel: watcher(kernel.choice.name, kernel.lowered.steps, kernel.source))


_kernels: dict[tuple[str, str], Kernel] = {}
_lock = threading.Lock()


def build_kernel(module: Operation, target: str) -> Kernel:
    """The Triton kernel for an outlined attention (see `sites.outline`) on `target`; equal modules share one.

    `target` is a GPU such as "sm_90", or "interpret". `module` is left as it is. Raises
    CompileError where no kernel exists.
    """
    key = (print_operation(module, locations=True), target)
    with _lock:
        if key not in _kernels:
            _kernels[key] = _build(module, target)
        return _kernels[key]


def _build(module: Operation, target: str) -> Kernel:
    lowered = lower(module, target)
    tables = emit_kernel(lowered.kernels[-1]) if lowered.tables is not None else None
    return Kernel(lowered, emit_kernel(lowered.kernels[0]), tables)


def compile_site(module: Operation, options: Options, queries: int | None = None) -> CompiledSite:
    """A kernel for an outlined attention that can be called on tensors, for the backend in `options`.

    `queries` is how many queries the first call brings, where that is known.
    """
    if options.backend == "auto":
        raise error("a backend must be chosen before a site is compiled; expected 'native', 'triton' or 'interpret'")
    if options.backend == "native":
        from .native_runtime import native_site

        return native_site(module, queries, cache=options.cache)
    from .triton_runtime import KernelRunner, TablesRunner

    where = "interpret" if options.backend == INTERPRETER else "triton"
    target = INTERPRETER if where == "interpret" else current_gpu()
    kernel = build_kernel(module, target) if options.cache else _build(module, target)
    lowered, before = kernel.lowered, None
    if kernel.tables is not None and lowered.tables is not None:
        before = TablesRunner(kernel.tables, lowered.tables, where)
    runner = KernelRunner(
        kernel.triton, lowered.group, lowered.has_lse, where, has_output=lowered.has_output, tables=before
    )  # fmt: skip
    return Site(runner, kernel)


def current_gpu() -> str:
    """The architecture of the current GPU; CompileError without one."""
    import torch

    from .triton_runtime import gpu_target

    if not torch.cuda.is_available():
        raise error("backend 'triton' needs a GPU, and PyTorch sees none; use backend 'native' on the CPU")
    return gpu_target(torch.device("cuda", torch.cuda.current_device()))
