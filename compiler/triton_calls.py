"""One call of the Triton kernels of an attention: their order, the memory between them, and how each is started.

Some attention needs more than one kernel: `tables` and `list` tell the others what to skip, `main` and
`rest` compute, `merge` puts partial results together. What they take beyond the inputs of the call and its
results lies in memory of the call's own, which kernels know by the names of their arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from ..codegen.triton import OffsetBound, TritonKernel
from ..cost_model.schedule import Schedule
from ..ir.attributes import TensorType
from ..ir.core import Operation
from ..ir.diagnostics import error, op_error
from ..ir.dialects.tile import KernelOp
from ..passes.merge_splits import PARTS, gpu_split_count
from ..passes.tile_lists import ORDER as LIST_ORDER
from ..passes.tile_lists import WORK
from ..passes.tile_tables import TABLE
from .kernels import Kernel
from .layouts import Layout, Results, Sizes, Tensors, heaviest_first
from .runner_checks import torch_dtype
from .triton_launch import GpuKernel, Launch, Machine, StandIn
from .triton_workspace import workspace

Role = Literal["tables", "list", "main", "rest", "merge"]

ORDER: tuple[Role, ...] = ("tables", "list", "main", "rest", "merge")
"""Kernels of a call run in the order of what they are for."""

RESULTS = ("out", "lse")

BOUNDARY = 256
"""Bytes between whose multiples the tensors of a call's own memory begin."""


@dataclass(frozen=True)
class Step:
    """One kernel of a call: which of the program's, and the slots of the tensors it takes."""

    kernel: TritonKernel
    slots: tuple[int, ...]
    role: Role


@dataclass(frozen=True)
class Sorted:
    """After step number `step`, the slot `order` must hold the `programs` by the slot `work`, the largest first."""

    step: int
    work: int
    order: int
    programs: tuple[int, int, int]


@dataclass(frozen=True)
class Steps:
    """The kernels of one attention in the order of running, and where each finds its tensors.

    The tensors of a call have slots: its inputs first, then out and lse, then what is in `own`, the
    tensors between kernels, by name.
    """

    kernel: Kernel
    steps: tuple[Step, ...]
    own: Mapping[str, TensorType]
    inputs: int

    @staticmethod
    def of(kernel: Kernel) -> Steps:
        """Find the place of every argument; CompileError where nothing provides one."""
        lowered = kernel.lowered
        names = {role: argument_names(op) for role, op in zip(lowered.roles, lowered.kernels, strict=True)}
        tables = (TABLE,) if "tables" in names else ()
        lists = lowered.lists
        # Lists take the place of what they are made of.
        written, read = ((), tables) if lists is None else (tuple(lists.written), tuple(lists.read))
        partial = set(PARTS) if "merge" in names else set[str]()
        results = {"out", "lse"} if lowered.has_lse else {"out"}
        inputs = len(names["main"]) - len(read) - len(partial or results)
        own: dict[str, TensorType] = {}
        steps: list[Step] = []
        for role in ORDER:
            if role not in names:
                continue
            # Exactly what this kernel makes or gets from others: a captured tensor may have any of these names.
            exact = {"tables": {TABLE}, "list": {*tables, *written}, "merge": results}
            made = exact.get(role, {*read, *(partial or results)})
            number = lowered.roles.index(role)
            module = kernel.modules[number]
            places = _places(lowered.kernels[number], names[role], made, inputs, merges=role == "merge")
            for place, type_ in zip(places, module.tensors, strict=True):
                if isinstance(place, str) and place not in RESULTS:
                    own.setdefault(place, type_)
            known = {name: inputs + i for i, name in enumerate((*RESULTS, *own))}
            steps.append(Step(module, tuple(p if isinstance(p, int) else known[p] for p in places), role))
        return Steps(kernel, tuple(steps), own, inputs)

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule(**self.kernel.plan)

    @cached_property
    def result_dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """Those of out and lse."""
        written = (zip(step.slots, step.kernel.tensors, strict=True) for step in self.steps)
        types = [type_ for pairs in written for slot, type_ in pairs if slot == self.inputs]
        return torch_dtype(types[0].element), torch.float32

    @cached_property
    def extra_parts(self) -> int:
        """Parts that a kernel beside the main one leaves."""
        return int("rest" in self.kernel.lowered.roles)

    def split_count(self, batch: int, heads: int, queries: int, keys: int) -> int:
        """Into how many parts a call splits its keys; `heads` are those of q."""
        schedule, group = self.schedule, self.kernel.lowered.group
        if schedule.folded:
            heads, queries = heads // group, queries * group
        return gpu_split_count(batch * heads * -(-queries // schedule.block_m), keys, schedule)

    def sorted(self, q: Sizes) -> Sorted | None:
        """What must be sorted between two kernels for queries of these sizes; None for nothing."""
        lists = self.kernel.lowered.lists
        if lists is None or not lists.ordered:
            return None
        names = (*self.own,)
        work, order = (self.inputs + len(RESULTS) + names.index(name) for name in (WORK, LIST_ORDER))
        return Sorted([step.role for step in self.steps].index("list"), work, order, lists.programs(*q[:3]))

    def own_sizes(self, name: str, q: Sizes, k: Sizes, out: Sizes) -> Sizes:
        """The sizes of a tensor between kernels for a call."""
        batch, heads, queries, keys = q[0], q[1], q[2], k[2]
        if name in PARTS:
            parts = self.split_count(batch, heads, queries, keys) + self.extra_parts
            return (parts, *out) if name == PARTS[0] else (parts, *out[:3])
        if name == TABLE and (tables := self.kernel.lowered.tables) is not None:
            return tables.sizes(batch, heads, queries, keys)
        if (lists := self.kernel.lowered.lists) is not None:
            return lists.own_sizes(name, batch, heads, queries, keys)
        raise error(f"a kernel takes '{name}', whose size nothing tells")


def argument_names(kernel: Operation) -> tuple[str | None, ...]:
    """What the arguments of a `tile.kernel` are called; a model may call a captured tensor by the same name."""
    return tuple(value.name_hint for value in KernelOp(kernel).body.block.arguments)


def _places(
    kernel: Operation, names: Sequence[str | None], made: set[str], inputs: int, *, merges: bool
) -> list[str | int]:
    """Each argument as the number of an input of the call, or as the name of what kernels make.

    Partial results come first in the kernel that merges them; else what is `made` comes last.
    """
    before: list[str] = list(PARTS) if merges else []
    given, after = list(names[len(before) :]), list[str]()
    while given and (name := given[-1]) is not None and name in made and name not in after:
        after.insert(0, name)
        given.pop()
    captured = inputs - 3
    taken = {
        inputs: range(inputs),
        inputs - 1: [0, 1, *range(3, inputs)],
        captured: range(3, inputs),
        0: range(0),
    }.get(len(given))
    if taken is None or (merges and tuple(names[:2]) != PARTS):
        op_error(kernel, f"takes arguments that no call provides: {', '.join(map(str, names))}")
    return [*before, *taken, *after]


# --- what a call needs


@dataclass(frozen=True)
class Call:
    """The tensors of calls of one set of sizes and strides, by slot.

    The call's own, which lie between kernels, are at `offsets` in a memory of `size` bytes.
    """

    steps: Steps
    tensors: tuple[StandIn, ...]
    out: Layout
    lse: Layout
    offsets: tuple[int, ...]
    size: int

    @staticmethod
    def of(steps: Steps, tensors: Tensors, out: Layout, lse: Layout) -> Call:
        """Raises CompileError where offsets inside a tile would not fit their type."""
        by_column = {step.slots[argument] for step in steps.steps for argument in step.kernel.by_column}
        standing = [
            StandIn(i, (layout.transposed.regular.transposed if i in by_column else layout.regular), t.dtype)
            for i, (t, layout) in enumerate((t, Layout.of(t)) for t in tensors)
        ]
        dtypes = steps.result_dtypes
        standing += [StandIn(len(standing) + i, layout, dtypes[i]) for i, layout in enumerate((out, lse))]
        offsets, size = list[int](), 0
        for name, type_ in steps.own.items():
            layout = Layout.contiguous(steps.own_sizes(name, tensors[0].shape, tensors[1].shape, out.sizes))
            standing.append(StandIn(len(standing), layout, torch_dtype(type_.element)))
            offsets.append(size)
            used = layout.elements * standing[-1].dtype.itemsize
            size += -(-used // BOUNDARY) * BOUNDARY
        for step in steps.steps:
            for bound in step.kernel.bounds:
                check_offsets(bound, standing[step.slots[bound.argument]].layout)
        return Call(steps, tuple(standing), out, lse, tuple(offsets), size)


def check_offsets(bound: OffsetBound, tensor: Layout) -> None:
    """Offsets inside a tile are 32-bit; fail where strides are so large that they would wrap."""
    sizes, strides = tensor.sizes, tensor.strides
    reach = sum((min(extent or sizes[axis], sizes[axis]) - 1) * abs(strides[axis]) for axis, extent in bound.extents)
    if reach >= 2**31:
        raise error(
            f"strides {strides} of a tensor of shape {sizes} make one tile reach over {reach} elements, "
            "but 32-bit offsets reach 2147483647; make the tensor contiguous"
        )


# --- plans: what is done for each call


@dataclass(frozen=True)
class InterpretedPlan:
    """Calls in Triton's interpreter, by the generated functions themselves, with new memory each."""

    call: Call
    launches: tuple[Callable[..., None], ...]

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]) -> Results:
        call = self.call
        out = q.new_empty(call.out.memory, dtype=call.tensors[call.steps.inputs].dtype)
        out = out.transpose(1, 2) if call.out.positions_first else out
        lse = q.new_empty(call.lse.sizes, dtype=torch.float32)
        inputs = [
            t if t.stride() == s.layout.strides else t.as_strided(s.layout.sizes, s.layout.strides)
            for t, s in zip((q, k, v, *captures), call.tensors, strict=False)
        ]
        own = [q.new_empty(s.shape, dtype=s.dtype) for s in call.tensors[len(inputs) + 2 :]]
        tensors = [*inputs, out, lse, *own]
        ordered = call.steps.sorted(q.shape)
        for number, (step, launch) in enumerate(zip(call.steps.steps, self.launches, strict=True)):
            launch(*(tensors[slot] for slot in step.slots))
            if ordered is not None and number == ordered.step:
                tensors[ordered.order].copy_(heaviest_first(tensors[ordered.work], ordered.programs))
        return out, lse


class GpuPlan:
    """Calls on a GPU: allocates the results, looks up addresses, starts each kernel; waits for nothing."""

    __slots__ = (
        "_device", "_dtype", "_listed", "_lse", "_machine", "_memory_of_out", "_no_lse", "_offsets", "_size", "_swap",
        "launches",
    )  # fmt: skip

    def __init__(
        self, call: Call, kernels: Sequence[GpuKernel], aligned: Sequence[bool], machine: Machine, q: torch.Tensor
    ) -> None:
        self._machine, self._device = machine, q.get_device()
        self._memory_of_out, self._swap = call.out.memory, call.out.positions_first
        self._dtype = call.tensors[call.steps.inputs].dtype
        has_lse = call.steps.kernel.lowered.has_lse
        self._lse, self._no_lse = call.lse.sizes, None if has_lse else q.new_empty(0, dtype=torch.float32)
        self._offsets, self._size = call.offsets, call.size
        self._listed = _Listing.of(call)
        launches: list[Launch] = []
        with machine.using(self._device):
            for step, kernel in zip(call.steps.steps, kernels, strict=True):
                launches.append(kernel.prepare([call.tensors[s] for s in step.slots], aligned, self._device))
        self.launches = tuple(launches)

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]) -> Results:
        out = q.new_empty(self._memory_of_out, dtype=self._dtype)
        lse = q.new_empty(self._lse, dtype=torch.float32) if self._no_lse is None else self._no_lse
        addresses = [q.data_ptr(), k.data_ptr(), v.data_ptr(), *[c.data_ptr() for c in captures]]
        addresses += (out.data_ptr(), lse.data_ptr())
        machine = self._machine
        if machine.current() == self._device:
            self._start(addresses)
        else:
            with machine.using(self._device):
                self._start(addresses)
        return out.transpose(1, 2) if self._swap else out, lse

    def _start(self, addresses: list[int]) -> None:
        stream = self._machine.stream(self._device)
        if not self._size:
            for launch in self.launches:
                launch(addresses, stream)
        elif self._machine.is_capturing():
            memory = torch.empty(self._size, dtype=torch.uint8, device=self._machine.device(self._device))
            self._start_with(memory, addresses, stream)
        else:
            kept = workspace(self._device, stream, "parts")
            with kept.lock:
                memory = kept.take(self._size, self._machine.device(self._device))
                self._start_with(memory, addresses, stream)

    def _start_with(self, memory: torch.Tensor, addresses: list[int], stream: int) -> None:
        first = memory.data_ptr()
        addresses += [first + offset for offset in self._offsets]
        if self._listed is None:
            for launch in self.launches:
                launch(addresses, stream)
            return
        for number, launch in enumerate(self.launches):
            launch(addresses, stream)
            if number == self._listed.step:
                self._listed.sort(memory)


@dataclass(frozen=True)
class _Listing:
    """Where in the memory of a call lie the numbers to sort after step `step`, and where their order goes."""

    step: int
    sizes: Sizes
    programs: tuple[int, int, int]
    work: slice
    order: slice

    @staticmethod
    def of(call: Call) -> _Listing | None:
        if (found := call.steps.sorted(call.tensors[0].shape)) is None:
            return None
        first = call.steps.inputs + len(RESULTS)
        places: list[slice] = []
        for slot in (found.work, found.order):
            begin, tensor = call.offsets[slot - first], call.tensors[slot]
            places.append(slice(begin, begin + tensor.layout.elements * tensor.dtype.itemsize))
        return _Listing(found.step, call.tensors[found.work].shape, found.programs, *places)

    def sort(self, memory: torch.Tensor) -> None:
        """Sort on the stream that the kernels are started on, PyTorch's current one."""
        work, order = memory[self.work].view(torch.int32).view(self.sizes), memory[self.order].view(torch.int64)
        order.copy_(heaviest_first(work, self.programs))
