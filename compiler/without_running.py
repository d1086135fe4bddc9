"""Compiles attention for a device that is not here: the graph around it runs, its kernels do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..ir.core import Operation
from .kernels import Kernel, Site, build_kernel
from .options import Options
from .sites import CompiledSite, SiteCompiler

if TYPE_CHECKING:
    import torch

    from .backend import Backend


def kernels_for(device: str) -> SiteCompiler:
    """A compiler of sites for `device` whose runners return zeros: capture needs shapes, not values."""

    def compile_site(module: Operation, options: Options) -> CompiledSite:
        del options
        return Site(_zeros, build_kernel(module, device))

    return compile_site


def _zeros(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    del k, captures
    shape = q.shape[:3]
    return q.new_zeros((*shape, v.shape[3])), torch.zeros(shape if want_lse else (0,), device=q.device)


def distinct_kernels(backend: Backend) -> Mapping[str, Kernel]:
    """The kernels that a backend has compiled, each once, by the name of its first site."""
    found: dict[str, Kernel] = {}
    for name, site in backend.compiled.items():
        if isinstance(site, Site) and all(site.kernel.source != k.source for k in found.values()):
            found[name] = site.kernel
    return found
