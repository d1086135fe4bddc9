"""Calls a compiled kernel on tensors: checks them, allocates results, handles empty ones, launches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch

from ..codegen.triton import OffsetBound, TritonKernel
from ..ir.attributes import TensorType, Type
from ..ir.diagnostics import error
from .kernel_cache import cache_directory, load_module
from .triton_interpreter import interpreted, language_lock

__all__ = ["KernelRunner", "cache_directory", "load_kernel"]

Where = Literal["interpret", "triton"]

_DTYPES: dict[str, torch.dtype] = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
    "i1": torch.bool, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64, "ui8": torch.uint8,
}  # fmt: skip


def torch_dtype(type_: Type) -> torch.dtype:
    """The dtype of tensors that hold `type_`; CompileError where kernels cannot read it."""
    if str(type_) not in _DTYPES:
        raise error(f"kernels cannot read tensors of {type_}")
    return _DTYPES[str(type_)]


def load_kernel(source: str, name: str, where: Where) -> Callable[..., None]:
    """The `launch` function of a generated module, for CPU tensors (`interpret`) or a GPU (`triton`)."""
    module = load_module(source, name)
    return (interpreted(module) if where == "interpret" else module).launch


@dataclass
class KernelRunner:
    """`runner(q, k, v, captures, want_lse) -> (out, lse)` for one site.

    Batch, heads and lengths may be anything; loads the kernel on the first call, as `launch`.
    """

    kernel: TritonKernel
    group: int
    has_lse: bool
    where: Where
    launch: Callable[..., None] | None = None
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.inputs = self.kernel.tensors[: -2 if self.has_lse else -1]

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if q.is_cuda:
            # PyTorch lets a number stay on the CPU beside tensors on a GPU; a kernel cannot read it there.
            captures = [c if c.dim() or c.is_cuda else c.to(q.device) for c in captures]
        tensors = (q, k, v, *captures)
        self._check(tensors)
        batch, heads, length = q.shape[:3]
        out = torch.empty((batch, heads, length, v.shape[3]), dtype=q.dtype, device=q.device)
        lse = torch.empty((batch, heads, length) if self.has_lse else (0,), dtype=torch.float32, device=q.device)
        if want_lse and not self.has_lse:
            raise error("this kernel was compiled without log-sum-exp, which is asked for")
        if k.shape[2] == 0:
            out.zero_()
            lse.fill_(float("-inf"))
        elif out.numel() > 0 or lse.numel() > 0:
            results = (out, lse) if self.has_lse else (out,)
            self._start((*tensors, *results))
        return out, lse if want_lse else lse.new_empty(0)

    def _start(self, tensors: Sequence[torch.Tensor]) -> None:
        for bound in self.kernel.bounds:
            check_offsets(bound, tensors[bound.argument])
        launch = self.launch or self._load()
        if self.where == "interpret":
            launch(*tensors)
            return
        with language_lock, _on_device(tensors[0].device):
            launch(*tensors)

    def _load(self) -> Callable[..., None]:
        with self._loading:
            if self.launch is None:
                self.launch = load_kernel(self.kernel.source, self.kernel.name, self.where)
            return self.launch

    def _check(self, tensors: Sequence[torch.Tensor]) -> None:
        """Refuse what the kernel would misread; sizes that agree with its types."""
        if len(tensors) != len(self.inputs):
            raise error(f"the kernel takes {len(self.inputs)} tensors, but got {len(tensors)}")
        for position, (tensor, type_) in enumerate(zip(tensors, self.inputs, strict=True)):
            problem = _mismatch(tensor, type_, tensors[0].device)
            if problem is not None:
                raise error(f"{self.kernel.parameters[position].value} {problem}")
        if (tensors[0].device.type == "cpu") != (self.where == "interpret"):
            raise error(f"the kernel is for backend '{self.where}', but the tensors are on {tensors[0].device}")
        problem = _size_problem(tensors[0], tensors[1], tensors[2], self.group)
        if problem is not None:
            raise error(problem)


def _mismatch(tensor: torch.Tensor, type_: TensorType, device: torch.device) -> str | None:
    if tensor.device != device:
        return f"is on {tensor.device}, but q is on {device}"
    if tensor.dtype != torch_dtype(type_.element):
        return f"must be {torch_dtype(type_.element)}, but is {tensor.dtype}"
    wanted = [d if isinstance(d, int) else None for d in type_.shape]
    if len(wanted) != tensor.dim() or any(w not in (None, a) for w, a in zip(wanted, tensor.shape, strict=True)):
        shape = ", ".join("any" if w is None else str(w) for w in wanted)
        return f"must have shape ({shape}), but has {tuple(tensor.shape)}"
    return None


def _size_problem(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: int) -> str | None:
    if k.shape[:3] != v.shape[:3]:
        return f"k and v must agree in batch, heads and length, but have {tuple(k.shape)} and {tuple(v.shape)}"
    if q.shape[0] != k.shape[0]:
        return f"q and k must have one batch size, but have {q.shape[0]} and {k.shape[0]}"
    if q.shape[1] != k.shape[1] * group:
        return f"q must have {group} heads for each of k's, but they have {q.shape[1]} and {k.shape[1]}"
    return None


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
