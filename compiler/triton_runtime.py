"""Calls Triton kernels on tensors, on a GPU or in the interpreter; a call like one before costs little Python.

What a call needs besides addresses (which kernels, their grids and other arguments, how much memory)
depends only on the shapes, strides and dtypes of its tensors, and on whether 16 divides their addresses.
It is checked and worked out once for each such signature and kept as a plan, which nothing changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, cast

import torch

from ..codegen.triton import TritonKernel
from ..cost_model.problem import Sizes
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..passes.stored_tiles import values_by_column
from .kernel_cache import cache_directory, load_module
from .kernels import INTERPRETER, Site, Wishes
from .layouts import Layout, Nothing, Plan, Results, Tensors
from .outlined import OutlinedAttention
from .triton_calls import Call, GpuPlan, InterpretedPlan, Steps, check_offsets
from .triton_interpreter import interpreted
from .triton_kernels import TritonKernels, is_regular, triton_kernels
from .triton_launch import GpuKernel, Machine
from .tuning import OFF, Tuning
from .verified import require, worthwhile

__all__ = ["TritonRunner", "cache_directory", "check_offsets", "load_interpreted", "triton_site"]

MOST_PLANS = 4096
"""Signatures that are remembered; a decoder that lengthens its keys brings a new one with each token."""

LARGEST_SIZE = 2**31 - 1


def triton_site(
    module: Operation,
    target: str,
    call: Sizes | int | None = None,
    wishes: Wishes = (),
    *,
    cache: bool = True,
    verified: bool = False,
    tuning: Tuning = OFF,
) -> Site:
    """A callable attention for a GPU such as "sm_90" or for "interpret".

    Makes the kernel for a first `call`, of which are known all sizes, the number of queries, or nothing: then it is
    the kernel for any number. `wishes` are those of `lower`. On a GPU what must have proved itself there is taken only
    then, unless the caller is about to see to it (`verified`).
    """
    if target != INTERPRETER and not verified:
        wishes = _proved(module, wishes)
    if cache:
        kernels = triton_kernels(module, target, wishes, tuning)
    else:
        kernels = TritonKernels(module.clone(), target, wishes, False, tuning=tuning)
    first = kernels.first(call)
    place = Interpreted() if target == INTERPRETER else OnGpu(machine())
    return Site(TritonRunner(kernels, place), first.kernel, kernels.variants, kernels.watchers)


def _proved(module: Operation, wishes: Wishes) -> Wishes:
    """The wishes, with specialised warps added where this device's record says that they pay.

    Where they are wished for, they are checked first; CompileError where they do not pass.
    """
    asked = dict(wishes).get("specialised")
    if asked:
        require("triton")
    elif asked is None and worthwhile(OutlinedAttention(module).attention, "triton"):
        return (*wishes, ("specialised", 1))
    return wishes


class Where(Protocol):
    """What runs kernels: it takes tensors of its own kind of device, and works out how to call kernels on them."""

    @property
    def backend(self) -> str: ...
    def takes(self, device: torch.device) -> bool: ...
    def plan(self, call: Call, tensors: Tensors, aligned: Sequence[bool]) -> Plan: ...


@dataclass
class Loaded:
    """Kernels that were loaded, by their texts: once each, also where several threads ask at once."""

    known: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, kernel: TritonKernel, load: Callable[[TritonKernel], Any]) -> Any:
        key = (kernel.name, kernel.source)
        with self.lock:
            if key not in self.known:
                self.known[key] = load(kernel)
            return self.known[key]


@dataclass
class Interpreted:
    """Runs kernels on CPU tensors, in Triton's interpreter."""

    loaded: Loaded = field(default_factory=Loaded)
    backend = INTERPRETER

    def takes(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def plan(self, call: Call, tensors: Tensors, aligned: Sequence[bool]) -> Plan:
        del tensors, aligned
        return InterpretedPlan(call, tuple(self.loaded.get(s.kernel, load_interpreted) for s in call.steps.steps))


@dataclass
class OnGpu:
    """Runs kernels on tensors of a GPU of this machine."""

    machine: Machine
    loaded: Loaded = field(default_factory=Loaded)
    backend = "triton"

    def takes(self, device: torch.device) -> bool:
        return device.type != "cpu"

    def plan(self, call: Call, tensors: Tensors, aligned: Sequence[bool]) -> Plan:
        kernels = [self.loaded.get(step.kernel, self._load) for step in call.steps.steps]
        return GpuPlan(call, kernels, aligned, self.machine, tensors[0])

    def _load(self, kernel: TritonKernel) -> GpuKernel:
        return GpuKernel(kernel, self.machine)


@cache
def machine() -> Machine:
    """The GPUs of this machine."""
    return Machine()


def load_interpreted(kernel: TritonKernel) -> Callable[..., None]:
    """The function `launch` of a generated module, for CPU tensors."""
    return interpreted(load_module(kernel.source, kernel.name)).launch


class TritonRunner:
    """`runner(q, k, v, captures, want_lse) -> (out, lse)` for one site; sizes and strides may be anything."""

    def __init__(self, kernels: TritonKernels, where: Where, *, positions_first: bool = False) -> None:
        self.kernels, self.where, self._positions_first = kernels, where, positions_first
        self._has_lse = kernels.has_lse
        self._by_column = values_by_column(kernels.attention)
        self.plans: dict[Any, Plan] = {}
        kernels.serving.runners.add(self)

    def with_positions_first(self) -> TritonRunner:
        """The same kernels with out in memory as (B, M, H, E)."""
        return TritonRunner(self.kernels, self.where, positions_first=True)

    def forget(self) -> None:
        """Let each call be worked out anew, also what is being worked out now."""
        self.plans = {}

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> Results:
        if captures and q.is_cuda:
            # PyTorch lets a number stay on the CPU beside tensors on a GPU; a kernel cannot read it there.
            captures = [c if c.dim() or c.is_cuda else c.to(q.device) for c in captures]
        if self._by_column and v.stride(2) != 1:
            # Tensor cores take 8-bit values by column alone: one copy costs less than transposing tile by tile.
            v = v.transpose(-2, -1).contiguous().transpose(-2, -1)
        signature: Any = (
            (q.data_ptr() | k.data_ptr() | v.data_ptr()) & 15,
            q.shape, q.stride(), q.dtype, q.device, k.shape, k.stride(), k.dtype, k.device,
            v.shape, v.stride(), v.dtype, v.device,
        )  # fmt: skip
        for c in captures:
            signature = (signature, c.shape, c.stride(), c.dtype, c.device, c.data_ptr() & 15)
        plan = self.plans.get(signature) or self._make_plan(signature, (q, k, v, *captures))
        if want_lse == self._has_lse:
            return plan(q, k, v, captures)
        if want_lse:
            raise error("this kernel was compiled without log-sum-exp, which is asked for")
        out, lse = plan(q, k, v, captures)
        return out, lse.new_empty(0)

    def _make_plan(self, signature: Any, tensors: Tensors) -> Plan:
        """Check tensors and work out how to call kernels on them, and on all that are alike."""
        self.check(tensors)
        plans, (q, k) = self.plans, tensors[:2]
        out = Layout.contiguous((*q.shape[:3], self.kernels.value_width))
        if self._positions_first:
            out = out.with_positions_first()
        lse = Layout.contiguous(q.shape[:3] if self._has_lse else (0,))
        plan: Plan
        if (k.shape[2] == 0 and not self.kernels.has_output) or 0 in q.shape[:3]:
            plan = Nothing(out, lse, self.kernels.out_dtype)
        else:
            # Nothing of a tensor but its address may differ between the calls of a plan.
            aligned = [t.data_ptr() % 16 == 0 for t in tensors]
            near = all(aligned[:3])
            aligned[:3] = [near] * 3

            def planned(steps: Steps) -> Plan:
                return self.where.plan(Call.of(steps, tensors, out, lse), tensors, aligned)

            plan = planned(self._steps(tensors, near, planned))
        if len(plans) >= MOST_PLANS:
            plans.clear()
        plans[signature] = plan
        return plan

    def _steps(self, tensors: Tensors, near: bool, planned: Callable[[Steps], Plan]) -> Steps:
        layouts = [Layout.of(t) for t in tensors[:3]]
        if self._by_column:
            layouts[2] = layouts[2].transposed
        layouts = [layout.regular for layout in layouts]
        read = layouts if layouts[2].sizes[-1] else layouts[:2]  # values without a width have no bytes
        sized = zip(read, tensors, strict=False)
        regular = all(is_regular(x, t.itemsize, aligned_address=near) for x, t in sized)
        q, k, v, *captures = tensors

        def call(steps: Steps) -> Callable[[], Results]:
            plan = planned(steps)
            return lambda: plan(q, k, v, captures)

        return self.kernels.for_call(*layouts[:2], regular=regular, call=call)

    def check(self, tensors: Tensors) -> None:
        """Fail on tensors that no kernel of the site takes."""
        inputs, device = self.kernels.inputs, tensors[0].device
        inputs.check(tensors)
        if not self.where.takes(device):
            raise error(f"the kernel is for backend '{self.where.backend}', but the tensors are on {device}")
        inputs.check_sizes(*tensors[:3])
        for name, tensor in zip(inputs.names, tensors, strict=True):
            if max(tensor.shape, default=0) > LARGEST_SIZE:
                raise error(
                    f"{name} has shape {tuple(tensor.shape)}, but kernels count positions in 32 bits: "
                    f"at most {LARGEST_SIZE} along an axis"
                )


def gpu_target(device: torch.device) -> str:
    """The name of the architecture of a GPU: `sm_90`, `gfx942`."""
    properties = cast(Any, torch.cuda).get_device_properties(device)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"
