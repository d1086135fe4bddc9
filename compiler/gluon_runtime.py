"""Calls Gluon kernels on a GPU, for those who ask for them, where they can be; else the Triton kernels run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..cost_model.problem import Sizes
from ..ir.core import Operation
from ..ir.diagnostics import error
from .gluon import TARGET, WISHES, gluon_kernel, load_gluon
from .kernels import Site, Wishes
from .layouts import Layout, Results
from .lowering import lower
from .triton_kernels import FEW_QUERIES, is_regular
from .triton_runtime import TritonRunner, triton_site


def gluon_site(
    module: Operation, target: str, call: Sizes | int | None = None, wishes: Wishes = (), *, cache: bool = True
) -> Site:
    """As `triton_site`, with a kernel in Gluon for many queries; CompileError where there is none."""
    if target != TARGET:
        raise error(f"Gluon kernels are for {TARGET}, but this one is for '{target}'")
    kernel = gluon_kernel(lower(module, target, wishes=WISHES))
    if isinstance(kernel, str):
        raise error(f"there is no Gluon kernel for this attention: {kernel}")
    site = triton_site(module, target, call, wishes, cache=cache)
    assert isinstance(site.runner, TritonRunner)
    return replace(site, runner=GluonRunner(site.runner, load_gluon(kernel)))


class GluonRunner:
    """`runner(q, k, v, captures, want_lse) -> (out, lse)`: Gluon for tensors that tiles can be copied of."""

    def __init__(self, runner: TritonRunner, launch: Callable[..., None], *, positions_first: bool = False) -> None:
        self.runner, self.launch, self._positions_first = runner, launch, positions_first

    def with_positions_first(self) -> GluonRunner:
        """The same kernels with out in memory as (B, M, H, E)."""
        return GluonRunner(self.runner.with_positions_first(), self.launch, positions_first=True)

    def suits(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether a call is one for the kernel in Gluon: many queries, at least one key, tensors for descriptors."""
        q, k = tensors[:2]
        return (
            q.shape[2] > FEW_QUERIES
            and k.shape[2] > 0
            and all(
                is_regular(Layout.of(t).regular, t.itemsize, aligned_address=t.data_ptr() % 16 == 0) for t in tensors
            )
        )

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> Results:
        if not self.suits((q, k, v)):
            return self.runner(q, k, v, captures, want_lse)
        self.runner.check((q, k, v, *captures))
        has_lse = self.runner.kernels.has_lse
        if want_lse and not has_lse:
            raise error("this kernel was compiled without log-sum-exp, which is asked for")
        batch, heads, length, width = (*q.shape[:3], v.shape[3])
        out = q.new_empty((batch, length, heads, width) if self._positions_first else (batch, heads, length, width))
        out = out.transpose(1, 2) if self._positions_first else out
        lse = q.new_empty((batch, heads, length) if has_lse else (0,), dtype=torch.float32)
        self.launch(q, k, v, out, *([lse] if has_lse else []))
        return out, lse if want_lse else lse.new_empty(0)
