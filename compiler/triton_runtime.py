"""Calls a compiled kernel on tensors: checks them, allocates results, handles empty ones, launches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch

from ..codegen.triton import OffsetBound, TritonKernel
from ..ir.diagnostics import error
from ..passes.tile_tables import TileTables
from .kernel_cache import cache_directory, load_module
from .runner_checks import Inputs
from .triton_interpreter import interpreted, language_lock

__all__ = ["KernelRunner", "cache_directory", "load_kernel"]

Where = Literal["interpret", "triton"]


def load_kernel(source: str, name: str, where: Where) -> Callable[..., None]:
    """The `launch` function of a generated module, for CPU tensors (`interpret`) or a GPU (`triton`)."""
    module = load_module(source, name)
    return (interpreted(module) if where == "interpret" else module).launch


@dataclass
class TablesRunner:
    """Calls the kernel that finds the extremes of captured tensors over tiles: O(tiles) memory, anew for each call."""

    kernel: TritonKernel
    tables: TileTables
    where: Where
    _launch: Callable[..., None] | None = None

    def __call__(self, q: torch.Tensor, k: torch.Tensor, captures: Sequence[torch.Tensor]) -> torch.Tensor:
        sizes = self.tables.sizes(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        found = torch.empty(sizes, dtype=torch.int32, device=q.device)
        if self._launch is None:
            self._launch = load_kernel(self.kernel.source, self.kernel.name, self.where)
        run(self._launch, (q, k, *captures, found), self.where)
        return found


@dataclass
class KernelRunner:
    """`runner(q, k, v, captures, want_lse) -> (out, lse)` for one site.

    Batch, heads and lengths may be anything; loads the kernel on the first call, as `launch`. With
    `has_output` a region changes the output, also of rows without any key.
    """

    kernel: TritonKernel
    group: int
    has_lse: bool
    where: Where
    launch: Callable[..., None] | None = None
    positions_first: bool = False
    has_output: bool = False
    tables: TablesRunner | None = None
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        types = self.kernel.tensors[: -1 - self.has_lse - (self.tables is not None)]
        self.inputs = Inputs(tuple(p.value for p in self.kernel.parameters[: len(types)]), types, self.group)

    def with_positions_first(self) -> KernelRunner:
        """The same kernel with out in memory as (B, M, H, E)."""
        return replace(self, positions_first=True, _loading=threading.Lock())

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if q.is_cuda:
            # PyTorch lets a number stay on the CPU beside tensors on a GPU; a kernel cannot read it there.
            captures = [c if c.dim() or c.is_cuda else c.to(q.device) for c in captures]
        tensors = (q, k, v, *captures)
        self._check(tensors)
        batch, heads, length = q.shape[:3]
        sizes = (batch, length, heads, v.shape[3]) if self.positions_first else (batch, heads, length, v.shape[3])
        out = torch.empty(sizes, dtype=q.dtype, device=q.device)
        if self.positions_first:
            out = out.transpose(1, 2)
        lse = torch.empty((batch, heads, length) if self.has_lse else (0,), dtype=torch.float32, device=q.device)
        if want_lse and not self.has_lse:
            raise error("this kernel was compiled without log-sum-exp, which is asked for")
        if k.shape[2] == 0 and not self.has_output:
            out.zero_()
            lse.fill_(float("-inf"))
        elif out.numel() > 0 or lse.numel() > 0:
            results = (out, lse) if self.has_lse else (out,)
            found = () if self.tables is None else (self.tables(q, k, captures),)
            self._start((*tensors, *found, *results))
        return out, lse if want_lse else lse.new_empty(0)

    def _start(self, tensors: Sequence[torch.Tensor]) -> None:
        for bound in self.kernel.bounds:
            check_offsets(bound, tensors[bound.argument])
        run(self.launch or self._load(), tensors, self.where)

    def _load(self) -> Callable[..., None]:
        with self._loading:
            if self.launch is None:
                self.launch = load_kernel(self.kernel.source, self.kernel.name, self.where)
            return self.launch

    def _check(self, tensors: Sequence[torch.Tensor]) -> None:
        self.inputs.check(tensors)
        if (tensors[0].device.type == "cpu") != (self.where == "interpret"):
            raise error(f"the kernel is for backend '{self.where}', but the tensors are on {tensors[0].device}")
        self.inputs.check_sizes(*tensors[:3])


def run(launch: Callable[..., None], tensors: Sequence[torch.Tensor], where: Where) -> None:
    """Start a kernel on tensors of one device."""
    if where == "interpret":
        launch(*tensors)
        return
    with language_lock, _on_device(tensors[0].device):
        launch(*tensors)


def check_offsets(bound: OffsetBound, tensor: torch.Tensor) -> None:
    """Offsets inside a tile are 32-bit; fail where strides are so large that they would wrap."""
    sizes, strides = tensor.shape, tensor.stride()
    reach = sum((min(extent or sizes[axis], sizes[axis]) - 1) * abs(strides[axis]) for axis, extent in bound.extents)
    if reach >= 2**31:
        raise error(
            f"strides {tuple(strides)} of a tensor of shape {tuple(sizes)} make one tile reach over {reach} elements, "
            "but 32-bit offsets reach 2147483647; make the tensor contiguous"
        )


def _on_device(device: torch.device) -> Any:
    return torch.cuda.device(device)


def gpu_target(device: torch.device) -> str:
    """The name of the architecture of a GPU: `sm_90`, `gfx942`."""
    properties = cast(Any, torch.cuda).get_device_properties(device)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"
