"""Compiles attention without running its kernels, as for a device that is not here; the graph around it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ..cost_model.cpus import CPUS
from ..cost_model.problem import Sizes
from ..cost_model.schedule import Schedule
from ..ir.core import Operation
from ..ir.diagnostics import error
from .calibrate_cpu import use_kept_rates
from .kernels import Kernel, Site, build_kernel
from .native_kernels import CpuKernel, NativeKernels, calls_in_words, emit_native
from .options import Options
from .outlined import OutlinedAttention
from .report import Variant
from .site_plans import Calls, Chosen, SitePlans, same, wishes_of
from .sites import CompiledSite, SiteCompiler
from .triton_kernels import TritonKernels

if TYPE_CHECKING:
    import torch

    from .backend import Backend
    from .custom_op import Runner
    from .native_offline import OfflineNative
    from .offline import OfflineKernel


AnyKernel = TypeVar("AnyKernel", Kernel, CpuKernel)


def kernels_for(device: str, *, kept: bool = False) -> SiteCompiler:
    """A compiler of sites for `device` whose runners return zeros: capture needs shapes, not values.

    Plans that earlier calls kept are followed if `kept`; else kernels depend on nothing but the program.
    """

    def compile_site(module: Operation, options: Options, call: Sizes | int | None = None) -> CompiledSite:
        sizes = call if isinstance(call, Sizes) else None
        queries = call.queries if isinstance(call, Sizes) else call
        if device not in CPUS:
            if options.gluon:
                raise error("kernels in Gluon are made where they run: compile without --target, on a GPU of sm_90")
            return Site(_zeros(module), _for_gpu(module, options, sizes))
        if options.backend_options:
            raise error(f"backend_options are for kernels on GPUs, which '{device}' is not; expected none")
        use_kept_rates()
        kernels = NativeKernels(module, device)
        choice = kernels.choice(queries)
        chosen = _kept(module, kernels.calls(choice, sizes)) if sizes else None
        wishes = () if chosen is None else wishes_of(chosen.schedule)
        kernel = _told(emit_native(module, device, choice, wishes, sizes), chosen)
        calls = calls_in_words(choice, queries, kernels.group)
        return Site(_zeros(module), kernel, [Variant(calls, "not run", kernel.lowered.decisions, kernel.source)])

    def _for_gpu(module: Operation, options: Options, sizes: Sizes | None) -> Kernel:
        kernels = TritonKernels(module, device, options.wishes)
        if sizes is not None and kept:
            choice = kernels.choice(sizes.queries)
            if (chosen := _kept(module, kernels.calls(choice, sizes))) is not None:
                kernel = build_kernel(module, device, choice.rows, wishes_of(chosen.schedule), sizes)
                return _told(kernel, chosen)
        return build_kernel(module, device, wishes=options.wishes, sizes=sizes)

    def _kept(module: Operation, calls: Calls) -> Chosen | None:
        return SitePlans(module, device).find(calls).chosen if kept else None

    return compile_site


def _told(kernel: AnyKernel, chosen: Chosen | None) -> AnyKernel:
    """The kernel, which says of its decision what a kept one does."""
    if chosen is None:
        return kernel
    if same(Schedule(**kernel.plan)) != same(chosen.schedule):
        raise error(f"asked for {chosen.schedule}, the planner made {kernel.plan} of it")
    return replace(kernel, lowered=replace(kernel.lowered, decision=dict(chosen.decision)))


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
