"""From one outlined attention to a kernel that can be called: native, Triton, or interpreted."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ..codegen.triton import TritonKernel, emit_kernel
from ..cost_model.problem import Sizes
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.printer import print_operation
from .lowering import Lowered, lower
from .options import Options
from .outlined import KernelWatcher
from .report import Variant
from .sites import CompiledSite, Runner, Watcher

if TYPE_CHECKING:
    from .native_kernels import CpuKernel

INTERPRETER = "interpret"

Wishes: TypeAlias = tuple[tuple[str, int | str], ...]
"""Fields of the schedule, with values, that the planner must follow or refuse."""


@dataclass(frozen=True)
class Kernel:
    """One attention as Triton modules, one for each of its tile kernels, and how it came to be."""

    lowered: Lowered
    modules: tuple[TritonKernel, ...]
    language = "triton"

    @property
    def triton(self) -> TritonKernel:
        """The module that computes; the others prepare for it, or finish."""
        return self.modules[self.lowered.roles.index("main")]

    @property
    def source(self) -> str:
        return "\n\n".join(module.source for module in self.modules)

    @property
    def plan(self) -> Mapping[str, Any]:
        return self.lowered.plan


@dataclass(frozen=True)
class Site:
    """A kernel that can be called, in the form the backend asks for.

    Kernels are compiled as calls ask for them: `kernel` is the one for the first call, `variants`
    lists all so far, and `watchers` hear of those to come, each with the name of what it is for.
    """

    runner: Runner
    kernel: Kernel | CpuKernel
    variants: Sequence[Variant] = ()
    watchers: list[KernelWatcher] = field(default_factory=list["KernelWatcher"])

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
        self.watchers.append(lambda name, kernel: watcher(name, kernel.lowered.steps, kernel.source))


_kernels: dict[tuple[str, str, int, Wishes, Sizes | None], Kernel] = {}
_lock = threading.Lock()


def build_kernel(
    module: Operation, target: str, rows: int = 0, wishes: Wishes = (), sizes: Sizes | None = None
) -> Kernel:
    """The Triton kernel for an outlined attention (see `sites.outline`) on `target`; equal modules share one.

    `target` is a GPU such as "sm_90", or "interpret". `rows`, `wishes` and `sizes` are those of `lower`.
    `module` is left as it is. Raises CompileError where no kernel exists.
    """
    key = (print_operation(module, locations=True), target, rows, wishes, sizes)
    with _lock:
        if key not in _kernels:
            _kernels[key] = emit_kernels(module, target, rows, wishes, sizes)
        return _kernels[key]


def emit_kernels(
    module: Operation, target: str, rows: int = 0, wishes: Wishes = (), sizes: Sizes | None = None
) -> Kernel:
    """As `build_kernel`, anew for each call."""
    lowered = lower(module, target, rows, wishes, sizes)
    return Kernel(lowered, tuple(map(emit_kernel, lowered.kernels)))


def compile_site(module: Operation, options: Options, call: Sizes | int | None = None) -> CompiledSite:
    """A kernel for an outlined attention that can be called on tensors, for the backend in `options`.

    `call` is what is known of the first call: all its sizes, how many queries it brings, or nothing.
    """
    if options.backend == "auto":
        raise error("a backend must be chosen before a site is compiled; expected 'native', 'triton' or 'interpret'")
    if options.backend == "native":
        if options.backend_options:
            raise error("backend_options are for kernels on GPUs, but this one is native; expected none")
        from .native_runtime import native_site

        return native_site(module, call, cache=options.cache, tuning=options.tuning)
    from .gluon_runtime import gluon_site
    from .triton_runtime import triton_site

    target = INTERPRETER if options.backend == INTERPRETER else current_gpu()
    if options.gluon:
        return gluon_site(module, target, call, options.wishes, cache=options.cache)
    return triton_site(module, target, call, options.wishes, cache=options.cache, tuning=options.tuning)


def current_gpu() -> str:
    """The architecture of the current GPU; CompileError without one."""
    import torch

    from .triton_runtime import gpu_target

    if not torch.cuda.is_available():
        raise error("backend 'triton' needs a GPU, and PyTorch sees none; use backend 'native' on the CPU")
    return gpu_target(torch.device("cuda", torch.cuda.current_device()))
