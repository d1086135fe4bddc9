"""Compiles attention for a device that is not here: the graph around it runs, its kernels do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..cost_model.cpus import CPUS
from ..cost_model.problem import Sizes
from ..ir.core import Operation
from ..ir.diagnostics import error
from .kernels import Kernel, Site, build_kernel
from .native_kernels import CpuKernel, NativeKernels, calls_in_words, emit_native
from .options import Options
from .outlined import OutlinedAttention
from .report import Variant
from .sites import CompiledSite, SiteCompiler

if TYPE_CHECKING:
    import torch

    from .backend import Backend
    from .custom_op import Runner
    from .native_offline import OfflineNative
    from .offline import OfflineKernel


def kernels_for(device: str) -> SiteCompiler:
    """A compiler of sites for `device` whose runners return zeros: capture needs shapes, not values."""

    def compile_site(module: Operation, options: Options, call: Sizes | int | None = None) -> CompiledSite:
        sizes = call if isinstance(call, Sizes) else None
        queries = call.queries if isinstance(call, Sizes) else call
        if device not in CPUS:
            if options.gluon:
                raise error("kernels in Gluon are made where they run: compile without --target, on a GPU of sm_90")
            return Site(_zeros(module), build_kernel(module, device, wishes=options.wishes, sizes=sizes))
        if options.backend_options:
            raise error(f"backend_options are for kernels on GPUs, which '{device}' is not; expected none")
        kernels = NativeKernels(module, device)
        choice = kernels.choice(queries)
        kernel = emit_native(module, device, choice, sizes=sizes)
        calls = calls_in_words(choice, queries, kernels.group)
        return Site(_zeros(module), kernel, [Variant(calls, "not run", kernel.lowered.decisions, kernel.source)])

    return compile_site


def _zeros(module: Operation) -> Runner:
    """What gives results of the right sizes and type for an outlined attention."""
    kernels = OutlinedAttention(module)

    def run(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        del k, v, captures
        shape = q.shape[:3]
        out = q.new_zeros((*shape, kernels.value_width), dtype=kernels.out_dtype)
        return out, torch.zeros(shape if want_lse else (0,), device=q.device)

    return run


def distinct_kernels(backend: Backend) -> Mapping[str, Kernel | CpuKernel]:
    """The kernels that a backend has compiled, each once, by the name of its first site."""
    found: dict[str, Kernel | CpuKernel] = {}
    for name, site in backend.compiled.items():
        if isinstance(site, Site) and all(site.kernel.source != k.source for k in found.values()):
            found[name] = site.kernel
    return found


def compile_without_running(kernel: Kernel | CpuKernel, device: str) -> dict[str, OfflineKernel | OfflineNative]:
    """The machine code of a kernel and of those that run before and after it, with what the compiler reports.

    By what each is for; the main one by nothing.
    """
    if isinstance(kernel, CpuKernel):
        from .native_offline import compile_native

        return {"": compile_native(kernel)}
    from .offline import compile_offline

    modules = zip(kernel.lowered.roles, kernel.modules, strict=True)
    return {"" if role == "main" else f" {role}": compile_offline(module, device) for role, module in modules}
