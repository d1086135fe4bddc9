"""Starts compiled Triton kernels: all that depends on sizes and strides is worked out once, then only addresses change.

How a kernel is started is what the generated function `launch` does. It is called once for tensors of
new sizes or strides, on stand-ins for them and for the kernel: that gives the grid and the arguments.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import FunctionType
from typing import Any, cast

import torch

from ..codegen.triton import TritonKernel
from ..ir.diagnostics import error
from .kernel_cache import load_module
from .layouts import Layout
from .triton_compile import LARGEST_32, TensorForm, compile_kernel, said
from .triton_workspace import descriptor_memory, is_capturing, workspace

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class StandIn:
    """Takes the place of tensor number `slot` of a call: all of it but the address."""

    slot: int
    layout: Layout
    dtype: torch.dtype
    address: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.sizes

    def stride(self, axis: int | None = None) -> Any:
        return self.layout.strides if axis is None else self.layout.strides[axis]

    def data_ptr(self) -> int:
        return self.address

    def transpose(self, *axes: int) -> StandIn:
        """The same tensor with its last two axes swapped, as descriptors of values by column take it."""
        assert axes == (-2, -1), f"stand-ins swap their last two axes alone, not {axes}"
        return replace(self, layout=self.layout.transposed)


@dataclass
class Recorder:
    """Takes the place of a kernel, and keeps what it would have been started with."""

    grid: tuple[int, ...] = ()
    arguments: tuple[Any, ...] = ()

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def record(*arguments: Any, **options: object) -> None:
            del options
            self.grid, self.arguments = grid, arguments

        return record


def recorded(launch: Callable[..., None], name: str, tensors: Sequence[StandIn]) -> tuple[Grid, tuple[Any, ...]]:
    """The grid and the arguments with which `launch` would start the kernel `name` on such tensors."""
    function, recorder = cast(FunctionType, launch), Recorder()
    names = {**function.__globals__, name: recorder}
    FunctionType(function.__code__, names, function.__name__, function.__defaults__)(*tensors)
    first, second, third = (*recorder.grid, 1, 1)[:3]
    return (first, second, third), recorder.arguments


class Machine:
    """The GPUs of this machine, as far as starting kernels must know them."""

    def __init__(self) -> None:
        driver: Any = importlib.import_module("triton.runtime").driver
        self.driver = driver.active
        self.stream: Callable[[int], int] = self.driver.get_current_stream
        self.hooks: Any = importlib.import_module("triton").knobs.runtime

    def device(self, number: int) -> torch.device:
        return torch.device("cuda", number)

    def current(self) -> int:
        """The device that is in use on this thread."""
        return torch.cuda.current_device()

    def using(self, device: int) -> AbstractContextManager[object]:
        """Makes a device the one in use."""
        return torch.cuda.device(device)

    def is_capturing(self) -> bool:
        return is_capturing()

    def target(self) -> tuple[str, int | str, int]:
        """What Triton compiles for: backend, architecture and warp size of the device in use."""
        target = self.driver.get_current_target()
        return target.backend, target.arch, target.warp_size


@dataclass(eq=False)
class GpuKernel:
    """A generated kernel, compiled for each device and each form of tensors that calls bring."""

    kernel: TritonKernel
    machine: Machine
    compiled: dict[tuple[int, tuple[TensorForm, ...]], Any] = field(default_factory=dict[Any, Any])
    _launch: Callable[..., None] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, tensors: Sequence[StandIn], aligned: Sequence[bool], device: int) -> Launch:
        """How to start the kernel on tensors like these; `device` is in use.

        `aligned` says by slot which inputs of the call have multiples of 16 bytes as addresses; the
        tensors behind them are the call's own. Raises CompileError where Triton cannot compile the
        kernel or load it.
        """
        forms = tuple(self._form(i, t, aligned) for i, t in enumerate(tensors))
        with self._lock:
            launch = self._launch = self._launch or load_module(self.kernel.source, self.kernel.name).launch
            if (device, forms) not in self.compiled:
                self.compiled[device, forms] = self._compile(forms)
        grid, arguments = recorded(launch, self.kernel.name, tensors)
        return Launch(self.compiled[device, forms], self.machine, device, grid, arguments)

    def _form(self, position: int, tensor: StandIn, aligned: Sequence[bool]) -> TensorForm:
        if tensor.slot < len(aligned):
            return TensorForm.of(tensor.layout, aligned_address=aligned[tensor.slot])
        # Own tensors come from PyTorch's allocator, aligned more than anyone needs. Some of their strides
        # are lengths, from which nothing may follow.
        own = self._own_forms[position]
        wide = max(tensor.layout.strides, default=0) > LARGEST_32
        return replace(own, wide=True) if wide else own

    @cached_property
    def _own_forms(self) -> tuple[TensorForm, ...]:
        return tuple(map(TensorForm.contiguous, self.kernel.tensors))

    def _compile(self, forms: tuple[TensorForm, ...]) -> Any:
        compiled = compile_kernel(self.kernel, forms, self.machine.target())
        try:
            assert compiled.run is not None
        except Exception as problem:  # whatever Triton or the driver raise
            raise error(f"kernel '{self.kernel.name}' cannot be loaded: {said(problem)}") from problem
        return compiled


class Launch:
    """A compiled kernel with its grid and all of its arguments but the addresses of tensors."""

    __slots__ = (
        "_arguments", "_compiled", "_descriptors", "_device", "_grid", "_hooks", "_machine", "_pointers",
        "_scratch", "_start", "run",
    )  # fmt: skip

    def __init__(self, compiled: Any, machine: Machine, device: int, grid: Grid, arguments: Sequence[Any]) -> None:
        self._compiled, self._machine, self._device, self._grid = compiled, machine, device, grid
        self.run, self._hooks = compiled.run, machine.hooks
        self._start = (*grid, compiled.function, compiled.packed_metadata)
        self._arguments = list(arguments)
        self._pointers = [(i, a.slot) for i, a in enumerate(arguments) if isinstance(a, StandIn)]
        self._descriptors = [(i, Descriptors(a)) for i, a in enumerate(arguments) if is_descriptor(a)]
        self._scratch = compiled.metadata.global_scratch_size > 0

    def __call__(self, addresses: Sequence[int], stream: int) -> None:
        """Start the kernel on `stream`; `addresses` are those of all tensors of the call, by their slots."""
        arguments = self._arguments[:]
        for position, slot in self._pointers:
            arguments[position] = addresses[slot]
        for position, descriptors in self._descriptors:
            arguments[position] = descriptors.at(addresses[descriptors.slot])
        if self._scratch:
            with descriptor_memory(self._allocate):
                self._go(stream, arguments)
        else:
            self._go(stream, arguments)

    def _go(self, stream: int, arguments: list[Any]) -> None:
        first, second, third, function, metadata = self._start
        enter, leave = self._hooks.launch_enter_hook, self._hooks.launch_exit_hook
        if _is_idle(enter) and _is_idle(leave):
            self.run(first, second, third, stream, function, metadata, None, None, None, *arguments)
            return
        told = self._compiled.launch_metadata(self._grid, stream, *arguments)
        self.run(first, second, third, stream, function, metadata, told, enter, leave, *arguments)

    def _allocate(self, size: int, alignment: int, stream: int | None) -> torch.Tensor:
        """Memory for the descriptors that the programs make; PyTorch aligns more than any descriptor needs."""
        del alignment
        device = self._machine.device(self._device)
        if stream is None or self._machine.is_capturing():
            return torch.empty(size, dtype=torch.uint8, device=device)
        kept = workspace(self._device, stream, "descriptors")
        with kept.lock:
            return kept.take(size, device)


MOST_DESCRIPTORS = 64
"""Descriptors that are kept of one tensor of a call, by address: caches and weights lie where they lay."""


class Descriptors:
    """Triton's descriptors of a tensor, by its address; they hold no memory, and say nothing else that may change."""

    __slots__ = ("_known", "_like", "slot")

    def __init__(self, like: Any) -> None:
        self._like = like
        self.slot: int = like.base.slot
        self._known: dict[int, Any] = {}

    def at(self, address: int) -> Any:
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= MOST_DESCRIPTORS:
                self._known.clear()
            # A copy, since the template was checked when it was made.
            found = self._known[address] = copy(self._like)
            found.base = replace(self._like.base, address=address)
        return found


def is_descriptor(argument: object) -> bool:
    return isinstance(getattr(argument, "base", None), StandIn)


def _is_idle(hook: Any) -> bool:
    """Whether nobody listens: a chain without a call, or no hook at all."""
    return hook is None or getattr(hook, "calls", True) == []
