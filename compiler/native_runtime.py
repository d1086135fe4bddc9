"""Calls native kernels on CPU tensors; a call with sizes seen before costs a few microseconds of Python.

What a call needs besides addresses (which kernel, sizes, strides, how many threads) depends only on
the shapes, strides and dtypes of its tensors. It is checked and worked out once for each such
signature and kept as a plan, which nothing changes, so that any number of threads may call at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..cost_model.problem import Sizes
from ..ir.core import Operation
from ..ir.diagnostics import error
from .calibrate_cpu import use_kept_rates
from .host_cpu import host_target
from .kernels import Site
from .layouts import Layout, Nothing, Plan, Results, Tensors
from .native_calls import plan_call
from .native_kernels import LoadedKernel, NativeKernels, native_kernels
from .tuning import OFF, Tuning

MOST_PLANS = 4096
"""Signatures that are remembered; a decoder that lengthens its keys brings a new one with each token."""

LARGEST_SIZE = 2**31 - 1


def native_site(
    module: Operation, call: Sizes | int | None = None, *, cache: bool = True, tuning: Tuning = OFF
) -> Site:
    """A callable attention for this CPU; compiles the kernel for a first call.

    Of that are known all sizes, the number of queries, or nothing: then it is the kernel for any number.
    """
    target = host_target()
    use_kept_rates()
    kernels = native_kernels(module, target, tuning) if cache else NativeKernels(module.clone(), target, False, tuning)
    first = kernels.first(call)
    return Site(NativeRunner(kernels), first.kernel, kernels.variants, kernels.watchers)


class NativeRunner:
    """`runner(q, k, v, captures, want_lse) -> (out, lse)` for one site; sizes and strides may be anything."""

    def __init__(self, kernels: NativeKernels, *, positions_first: bool = False) -> None:
        self.kernels, self._positions_first = kernels, positions_first
        self._has_lse = kernels.has_lse
        self._inputs = kernels.inputs
        self._plans: dict[Any, Plan] = {}
        kernels.serving.runners.add(self)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> Results:
        signature: Any = (
            q.shape, q.stride(), q.dtype, q.is_cpu, k.shape, k.stride(), k.dtype, k.is_cpu,
            v.shape, v.stride(), v.dtype, v.is_cpu,
        )  # fmt: skip
        for c in captures:
            signature = (signature, c.shape, c.stride(), c.dtype, c.is_cpu)
        plan = self._plans.get(signature) or self._make_plan(signature, (q, k, v, *captures))
        if want_lse == self._has_lse:
            return plan(q, k, v, captures)
        if want_lse:
            raise error("this kernel was compiled without log-sum-exp, which is asked for")
        out, lse = plan(q, k, v, captures)
        return out, lse.new_empty(0)

    def with_positions_first(self) -> NativeRunner:
        """The same kernels with out in memory as (B, M, H, E)."""
        return NativeRunner(self.kernels, positions_first=True)

    def forget(self) -> None:
        """Let each call be worked out anew, also what is being worked out now."""
        self._plans = {}

    def _make_plan(self, signature: Any, tensors: Tensors) -> Plan:
        """Check tensors and work out how to call a kernel on them, and on all that are alike."""
        self._check(tensors)
        plans, (q, k, v) = self._plans, tensors[:3]
        out = Layout.contiguous((*q.shape[:3], self.kernels.value_width))
        if self._positions_first:
            out = out.with_positions_first()
        lse = Layout.contiguous(q.shape[:3] if self._has_lse else (0,))
        plan: Plan
        if (k.shape[2] == 0 and not self.kernels.has_output) or 0 in q.shape[:3]:
            plan = Nothing(out, lse, self.kernels.out_dtype)
        else:
            unit_strides = all(t.stride(3) == 1 or t.shape[3] == 1 for t in (q, k, v))
            choice = self.kernels.choice(q.shape[2], unit_strides)
            sizes = Sizes(q.shape[0], q.shape[1], k.shape[1], q.shape[2], max(1, k.shape[2]))
            kernel = self.kernels.for_call(choice, sizes, lambda kernel: _called(kernel, tensors, out, lse))
            plan = plan_call(kernel, tensors, out, lse)
        if len(plans) >= MOST_PLANS:
            plans.clear()
        plans[signature] = plan
        return plan

    def _check(self, tensors: Tensors) -> None:
        self._inputs.check(tensors)
        if not tensors[0].is_cpu:
            raise error(f"the kernel is for backend 'native', but the tensors are on {tensors[0].device}")
        self._inputs.check_sizes(*tensors[:3])
        for name, tensor in zip(self._inputs.names, tensors, strict=True):
            if max(tensor.shape, default=0) > LARGEST_SIZE:
                raise error(
                    f"{name} has shape {tuple(tensor.shape)}, but kernels count positions in 32 bits: "
                    f"at most {LARGEST_SIZE} along an axis"
                )


def _called(kernel: LoadedKernel, tensors: Tensors, out: Layout, lse: Layout) -> Callable[[], Results]:
    """How a kernel is called on these tensors, over and over."""
    plan, (q, k, v, *captures) = plan_call(kernel, tensors, out, lse), tensors
    return lambda: plan(q, k, v, captures)
