"""The native kernels of one attention: which calls share one, and each compiled once, when a call asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..cost_model.cpus import CPUS
from ..cost_model.problem import Sizes
from ..cost_model.schedule import Schedule
from ..ir.core import Operation
from .host_cpu import host_has_byte_dots
from .layouts import Results
from .lowering import Lowered, lower
from .native_cache import COMPILED, DISK, MEMORY, load_kernels
from .native_compiler import BUILDING, compile_object
from .native_object import load_object
from .native_threads import NativeFunction
from .outlined import KernelWatcher, OutlinedAttention
from .report import Variant
from .serving import Serving, Workshop
from .site_plans import Calls, SitePlans
from .sites import canonical_text
from .tuning import OFF, Tuning

if TYPE_CHECKING:
    from ..codegen.mlir import NativeModule
    from .kernels import Wishes

DECODE_ROWS, FEW_ROWS, FEW_QUERIES = 8, 64, 32

ORIGINS: Mapping[str, str] = {DISK: "from the cache", MEMORY: "from an equal kernel"}
"""Where object code came from, in words."""


@dataclass(frozen=True)
class Choice:
    """What distinguishes the kernels of one attention.

    `rows` is for how many pairs of query and head of a group the kernel is made, 0 for any number;
    `unit_strides` says that neighbours along the head dimension lie beside each other in memory.
    """

    rows: int = 0
    unit_strides: bool = True

    @property
    def name(self) -> str:
        """The choice as a part of a file's name."""
        return f"{f'rows-{self.rows}' if self.rows else 'any-rows'}{'' if self.unit_strides else '-any-strides'}"


def rows_for(queries: int, group: int, target: str) -> int:
    """For how many rows a kernel is made that serves `queries` queries and `group` heads for each key head.

    Powers of two up to 8; multiples of the lanes of a vector for somewhat more, if heads share keys;
    0, a kernel for any number, else.
    """
    rows = queries * group
    if rows <= DECODE_ROWS:
        return 1 << max(rows - 1, 0).bit_length()
    if group > 1 and queries < FEW_QUERIES and rows <= FEW_ROWS:
        lanes = CPUS[target].lanes
        return -(-rows // lanes) * lanes
    return 0


def calls_in_words(choice: Choice, queries: int | None, group: int) -> str:
    """Which calls a kernel is for, and the one it was made for."""
    first = (
        "before any call" if queries is None else f"{queries} {'query' if queries == 1 else 'queries'} x group {group}"
    )
    if choice.rows == 0:
        kind = "prefill, any rows"
    else:
        kind = (
            f"{'decode' if choice.rows <= DECODE_ROWS else 'few queries'}, {choice.rows} row{'s' * (choice.rows > 1)}"
        )
    return f"{kind}: {first}{'' if choice.unit_strides else ', any strides'}"


@dataclass(frozen=True)
class CpuKernel:
    """One attention as MLIR of the builtin dialects for a kind of CPU, and how it came to be."""

    lowered: Lowered
    native: NativeModule
    choice: Choice
    language = "mlir"

    @property
    def source(self) -> str:
        return self.native.text

    @property
    def plan(self) -> Mapping[str, Any]:
        return self.lowered.plan


def emit_native(
    module: Operation,
    target: str,
    choice: Choice,
    wishes: Wishes = (),
    sizes: Sizes | None = None,
    threads: int = 1,
) -> CpuKernel:
    """The kernel of an outlined attention for "avx512" or "avx2"; needs no such CPU and no LLVM.

    `wishes` are fields of the schedule, with values, that must be followed; `sizes` are those of a call to plan for,
    which runs on up to `threads` cores.
    """
    from ..codegen.mlir import emit_module

    lowered = lower(module, target, choice.rows, wishes, sizes, threads)
    native = emit_module(lowered.kernels, unit_strides=choice.unit_strides, byte_dots=host_has_byte_dots(target))
    return CpuKernel(lowered, native, choice)


class Function(Protocol):
    """Machine code that takes the address of a block of arguments, on as many threads as it is given."""

    def run(self, block: int, threads: int) -> None: ...


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel whose code lies in memory: functions of its tile kernels, in order; `dtype` is that of the result."""

    kernel: CpuKernel
    functions: tuple[Function, ...]
    dtype: torch.dtype

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule(**self.kernel.plan)


@dataclass(eq=False)
class NativeKernels(OutlinedAttention):
    """All kernels of one outlined attention on this CPU; safe to use from several threads.

    `variants` tells of those compiled so far, and for which calls; `watchers` hear of what is compiled from now on.
    Without `cache` no object code and no plan is kept or reused. `tuning` says what is measured.
    """

    target: str
    cache: bool = True
    tuning: Tuning = OFF
    variants: list[Variant] = field(default_factory=list[Variant])
    watchers: list[KernelWatcher] = field(default_factory=list["KernelWatcher"])

    @cached_property
    def serving(self) -> Serving[Choice, LoadedKernel]:
        """What decides which kernel serves which calls."""
        shop = Workshop(self._build, _kernel, lambda c, queries: calls_in_words(c, queries, self.group), _name)
        plans = SitePlans(self.module, self.target, self.cache)
        return Serving(plans, shop, self.tuning, self.variants, self.watchers)

    def choice(self, queries: int | None, unit_strides: bool = True) -> Choice:
        """The kernel for so many queries; where that is not known, the one for any number."""
        rows = 0 if queries is None else rows_for(queries, self.group, self.target)
        return Choice(rows, unit_strides)

    def first(self, call: Sizes | int | None) -> LoadedKernel:
        """The kernel for the first call, of which its sizes are known, its queries, or nothing.

        Raises CompileError where there is none.
        """
        if isinstance(call, Sizes):
            choice = self.choice(call.queries)
            return self.serving.make_first(choice, call.queries, self.calls(choice, call))
        return self.get(self.choice(call), call)

    def get(self, choice: Choice, queries: int | None) -> LoadedKernel:
        """The first kernel for `choice`, compiled now if there is none; CompileError where it cannot be.

        `queries` are those of the call that needs it, for the record.
        """
        return self.serving.make_first(choice, queries)

    def for_call(
        self, choice: Choice, sizes: Sizes, call: Callable[[LoadedKernel], Callable[[], Results]]
    ) -> LoadedKernel:
        """The kernel for a call of `sizes`; `call` says how one is called on its tensors."""
        return self.serving.for_call(choice, self.calls(choice, sizes), call)

    def calls(self, choice: Choice, sizes: Sizes) -> Calls:
        """What decisions for calls of such sizes are made and kept for."""
        return Calls(sizes, choice.rows, choice.name, threads=torch.get_num_threads())

    def _build(self, choice: Choice, wishes: Wishes, calls: Calls | None) -> tuple[LoadedKernel, str]:
        started = time.perf_counter()
        sizes, threads = (None, 1) if calls is None else (calls.sizes, calls.threads)
        kernel = emit_native(self.module, self.target, choice, wishes, sizes, threads)
        with BUILDING:
            functions, origin = self._load(kernel)
        told = f"{ORIGINS.get(origin, origin)} in {1e3 * (time.perf_counter() - started):.0f} ms"
        return LoadedKernel(kernel, functions, self.out_dtype), told

    def _load(self, kernel: CpuKernel) -> tuple[tuple[Function, ...], str]:
        """The functions of a kernel, and where they came from."""
        names = [k.name for k in kernel.native.kernels]
        if self.cache:
            found = load_kernels(kernel.source)
            return tuple(found.functions[name] for name in names), found.origin
        code = load_object(compile_object(kernel.source))
        return tuple(NativeFunction(code.address(name), code) for name in names), COMPILED


def _kernel(loaded: LoadedKernel) -> CpuKernel:
    return loaded.kernel


def _name(choice: Choice) -> str:
    return choice.name


_kernels: dict[tuple[str, str, Tuning], NativeKernels] = {}


def native_kernels(module: Operation, target: str, tuning: Tuning = OFF) -> NativeKernels:
    """The kernels of an outlined attention on `target`, none compiled yet if it is new; equal programs share them."""
    key = (canonical_text(module), target, replace(tuning, shown=None))
    with BUILDING:
        if key not in _kernels:
            _kernels[key] = NativeKernels(module.clone(), target, tuning=tuning)
        return _kernels[key]
