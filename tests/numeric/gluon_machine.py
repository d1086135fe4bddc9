"""Runs a generated Gluon module on CPU tensors, one program after the other, to see whether its warps agree.

Stands in for the few names of Gluon that such modules import. Every group of warps is a task; a random but
repeatable choice says who goes on at each operation on shared memory, and when copies and products that
were started are done. Whatever a GPU would get wrong silently is an `AssertionError` here: waiting for ever,
reading a slot that was not filled, filling one that is still read, using a product that was not waited for.

A warpgroup counts as one thread, and layouts over threads do not matter.
"""

from __future__ import annotations

import builtins
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch


@dataclass(eq=False)
class Barrier:
    """`phase` counts how often all `count` arrivals and all announced bytes have come."""

    count: int = 0
    missing: int = 0
    bytes: int = 0
    phase: int = 0

    def arrive(self, announced: int = 0, copied: int = 0, arrivals: int = 1) -> None:
        assert self.count, "a barrier is used before it is initialised"
        self.missing -= arrivals
        self.bytes += announced - copied
        assert self.missing >= 0, "more arrive at a barrier than it was initialised for"
        assert self.bytes >= 0, "more bytes are copied than a barrier expects"
        if self.missing == 0 and self.bytes == 0:
            self.missing, self.phase = self.count, self.phase + 1

    def is_over(self, parity: int) -> bool:
        """Whether the phase of this parity is over, as far as one bit can say."""
        return self.phase % 2 != parity


@dataclass(eq=False)
class Slot:
    """One tile of shared memory, and who is at it."""

    data: torch.Tensor
    filled: bool = False
    filling: bool = False
    readers: int = 0

    def read(self) -> None:
        assert self.filled and not self.filling, "a product reads a slot that is not filled"
        self.readers += 1


@dataclass(frozen=True)
class Shared:
    """A view of slots: all of an allocation, or one as a matrix."""

    slots: Sequence[Any]
    matrix: Callable[[torch.Tensor], torch.Tensor] = lambda data: data

    def index(self, position: int) -> Shared:
        assert 0 <= position < len(self.slots), f"slot {position} of {len(self.slots)}"
        return Shared(self.slots[position : position + 1])

    @property
    def only(self) -> Any:
        (slot,) = self.slots
        return slot

    def store(self, tile: torch.Tensor) -> None:
        assert self.only.data.shape == tile.shape, f"a slot of {self.only.data.shape} is filled with {tile.shape}"
        self.only.data = tile

    def reshape(self, sizes: Sequence[int]) -> Shared:
        return Shared(self.slots, lambda data: data.reshape(*sizes))

    def permute(self, order: Sequence[int]) -> Shared:
        return Shared(self.slots, lambda data: self.matrix(data).permute(*order))


@dataclass(eq=False)
class Product:
    """A product that was issued; it reads its operands when it is done, some time later."""

    left: Any
    right: Shared
    acc: torch.Tensor
    result: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for slot in self.slots:
            slot.read()

    @property
    def slots(self) -> list[Slot]:
        return [x.only for x in (self.left, self.right) if isinstance(x, Shared)]

    def finish(self) -> None:
        for slot in self.slots:
            slot.readers -= 1
        left = self.left.matrix(self.left.only.data) if isinstance(self.left, Shared) else self.left
        self.result = self.acc + left.float() @ self.right.matrix(self.right.only.data).float()


@dataclass(eq=False)
class Task:
    """One group of warps; `ready` says whether what it waits for has happened."""

    run: Callable[[], object]
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ready: Callable[[], bool] = lambda: True
    done: bool = False
    problem: BaseException | None = None
    products: list[Product] = field(default_factory=list[Product])


class Stop(BaseException):
    """Ends the other tasks when one has failed."""


class Machine:
    """One program: tasks that take turns, and copies on their way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        # Now one kind of event is slow, now another.
        self.copying, self.multiplying = (self.random.choice((0.03, 1.0)) for _ in range(2))
        self.tasks: list[Task] = []
        self.copies: list[Callable[[], None]] = []
        self.back, self.here = threading.Semaphore(0), threading.local()
        self.stopped = False

    @property
    def task(self) -> Task:
        return self.here.task

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Let others go on, at least until `ready`."""
        task = self.task
        task.ready = ready
        self.back.release()
        task.go.acquire()
        if self.stopped:
            raise Stop

    def specialise(self, functions: Sequence[tuple[Callable[..., object], tuple[Any, ...]]], *_: object) -> None:
        """Run all functions at the same time, to the end."""
        self.tasks = [Task(lambda f=function, a=arguments: f(*a)) for function, arguments in functions]
        threads = [threading.Thread(target=self._start, args=(task,), daemon=True) for task in self.tasks]
        for thread in threads:
            thread.start()
        try:
            while not all(task.done for task in self.tasks):
                self._one_step()
        finally:
            self.stopped = True
            for task in self.tasks:
                task.go.release()
        assert not self.copies, "a program ends while copies are on their way"

    def _start(self, task: Task) -> None:
        self.here.task = task
        task.go.acquire()
        try:
            if not self.stopped:
                task.run()
        except BaseException as problem:
            task.problem = problem
        task.done = True
        self.back.release()

    def _one_step(self) -> None:
        steps: list[Callable[[], None]] = [lambda c=copy: self._copy(c) for copy in self.copies]
        likely = [self.copying] * len(steps)
        for task in self.tasks:
            if task.products:
                steps.append(lambda t=task: t.products.pop(0).finish())
                likely.append(self.multiplying)
            if not task.done and task.ready():
                steps.append(lambda t=task: self._continue(t))
                likely.append(self.random.random())
        assert steps, "all warps wait for each other"
        self.random.choices(steps, likely)[0]()

    def _copy(self, copy: Callable[[], None]) -> None:
        self.copies.remove(copy)
        copy()

    def _continue(self, task: Task) -> None:
        task.go.release()
        self.back.acquire()
        if task.problem is not None:
            raise task.problem


@dataclass(frozen=True)
class Descriptor:
    """A tensor that tiles are copied from; what lies outside is zero."""

    tensor: torch.Tensor
    block: tuple[int, ...]

    @staticmethod
    def from_tensor(tensor: torch.Tensor, block: Sequence[int], layout: object) -> Descriptor:
        del layout
        size = tensor.element_size()
        assert tensor.data_ptr() % 16 == 0 and tensor.stride(-1) == 1 and min(tensor.shape) > 0
        assert all(stride * size % 16 == 0 for stride in tensor.stride()[:-1])
        return Descriptor(tensor, tuple(block))

    def tile(self, start: Sequence[int]) -> torch.Tensor:
        tile = torch.zeros(self.block, dtype=self.tensor.dtype)
        ends = [min(s + n, size) for s, n, size in zip(start, self.block, self.tensor.shape, strict=True)]
        inside = tuple(slice(s, max(e, s)) for s, e in zip(start, ends, strict=True))
        part = self.tensor[inside]
        tile[tuple(slice(0, n) for n in part.shape)] = part
        return tile


@dataclass(frozen=True)
class Pointer:
    """Addresses in a tensor's storage, which holds nan where nothing was stored."""

    tensor: torch.Tensor
    offset: int | torch.Tensor = 0

    def __add__(self, other: int | torch.Tensor) -> Pointer:
        return Pointer(self.tensor, self.offset + other)

    def store(self, value: torch.Tensor, mask: torch.Tensor) -> None:
        elements = self.tensor.untyped_storage().nbytes() // self.tensor.itemsize
        storage = torch.as_strided(self.tensor, (elements,), (1,), 0)
        places = torch.as_tensor(self.offset) + int(self.tensor.storage_offset())
        mask = mask.expand(places.shape)
        assert torch.isnan(storage[places[mask]]).all(), "an element is stored twice, or lies outside the results"
        storage[places[mask]] = value.expand(places.shape)[mask].to(self.tensor.dtype)


class Gluon:
    """What a generated module imports, for programs that run one after the other.

    `issued` are the products of the last program: by which task, and whether both operands are in shared memory.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.program, self.machine = seed, 0, Machine(seed)
        self.issued: list[tuple[int, bool]] = []

    def load(self, source: str) -> dict[str, Any]:
        """The names of a generated module."""
        loaded: dict[str, Any] = {"__builtins__": {**vars(builtins), "__import__": self._import}}
        exec(compile(source, "generated", "exec", dont_inherit=True), loaded)
        return loaded

    def _import(self, name: str, _globals: object, _locals: object, names: Sequence[str] | None, _level: int) -> Any:
        hopper = {
            "fence_async_shared": lambda: None, "mbarrier": self._barriers(), "warpgroup_mma": self._mma,
            "warpgroup_mma_wait": self._mma_wait, "tma": SimpleNamespace(async_load=self._load),
        }  # fmt: skip
        modules: Mapping[str, Any] = {
            "triton.language": SimpleNamespace(language=SimpleNamespace(PropagateNan=SimpleNamespace(ALL=None))),
            "triton.experimental": SimpleNamespace(gluon=SimpleNamespace(jit=self._jit)),
            "triton.experimental.gluon": SimpleNamespace(language=Language(self)),
            "triton.experimental.gluon.language.nvidia.hopper": SimpleNamespace(**hopper),
            "triton.experimental.gluon.nvidia.hopper": SimpleNamespace(TensorDescriptor=Descriptor),
        }
        return modules[name]

    def _jit(self, function: Callable[..., Any] | None = None, **_: object) -> Any:
        if function is None:
            return self._jit
        return _Function(function, self)

    def start(self, function: Callable[..., Any], grid: Sequence[int], arguments: Sequence[Any]) -> None:
        (programs,) = grid
        taken = [Pointer(a) if isinstance(a, torch.Tensor) else a for a in arguments]
        for self.program in range(programs):
            self.machine, self.issued = Machine(self.seed + self.program), []
            function(*taken)

    def _load(self, descriptor: Descriptor, start: Sequence[int], barrier: Shared, result: Shared) -> None:
        slot, tile = result.only, descriptor.tile(start)
        assert slot.data.shape == tile.shape, f"a slot of {slot.data.shape} is filled with {tile.shape}"
        assert not slot.readers and not slot.filling, "a slot is filled while others are at it"
        slot.filling = True
        slot.data = torch.full_like(slot.data, float("nan"))

        def arrive() -> None:
            slot.data, slot.filled, slot.filling = tile, True, False
            barrier.only.arrive(copied=tile.numel() * tile.itemsize, arrivals=0)

        self.machine.copies.append(arrive)
        self.machine.pause()

    def _mma(self, left: Any, right: Shared, acc: torch.Tensor, *, use_acc: bool = True, is_async: bool) -> Product:
        assert is_async
        assert isinstance(acc, torch.Tensor), "a product is added to one that was not waited for"
        product = Product(left, right, acc if use_acc else torch.zeros_like(acc))
        task = self.machine.task
        task.products.append(product)
        self.issued.append((self.machine.tasks.index(task), isinstance(left, Shared)))
        self.machine.pause()
        return product

    def _mma_wait(self, outstanding: int, deps: Sequence[Product]) -> torch.Tensor:
        products = self.machine.task.products
        self.machine.pause(lambda: len(products) <= outstanding)
        (product,) = deps
        assert product.result is not None, "a product is used that was not waited for"
        return product.result

    def _barriers(self) -> Any:
        def init(barrier: Shared, count: int) -> None:
            barrier.only.count = barrier.only.missing = count

        def expect(barrier: Shared, size: int) -> None:
            barrier.only.arrive(announced=size)
            self.machine.pause()

        def arrive(barrier: Shared, count: int) -> None:
            barrier.only.arrive(arrivals=count)
            self.machine.pause()

        def wait(barrier: Shared, phase: int) -> None:
            self.machine.pause(lambda: barrier.only.is_over(phase))

        def layout() -> None:
            return None

        return SimpleNamespace(MBarrierLayout=layout, init=init, expect=expect, arrive=arrive, wait=wait)


class Language:
    """Operations on tiles, which are tensors here, on numbers, and on pointers."""

    float16, bfloat16, float32, int64 = torch.float16, torch.bfloat16, torch.float32, torch.int64
    exp2, log2, where = staticmethod(torch.exp2), staticmethod(torch.log2), staticmethod(torch.where)
    static_range = range

    def __init__(self, gluon: Gluon) -> None:
        self.gluon = gluon

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A layout."""
        if not name.endswith("Layout"):
            raise AttributeError(f"the stand-in for Gluon has no '{name}'")
        return lambda *_: None

    def constexpr(self, value: Any) -> Any:
        return value

    def program_id(self, axis: int) -> int:
        assert axis == 0
        return self.gluon.program

    def warp_specialize(self, functions: Any, warps: Sequence[int], registers: Sequence[int]) -> None:
        assert len(functions) == len(warps) + 1 == len(registers) + 1
        self.gluon.machine.specialise(functions)

    def allocate_shared_memory(self, element: torch.dtype, sizes: Sequence[int], layout: object) -> Shared:
        if element == torch.int64:
            return Shared([Barrier() for _ in range(sizes[0])])
        return Shared([Slot(torch.full(tuple(sizes[1:]), float("nan"), dtype=element)) for _ in range(sizes[0])])

    def store(self, pointer: Pointer, value: torch.Tensor, mask: torch.Tensor) -> None:
        pointer.store(value, mask)

    def convert_layout(self, x: torch.Tensor, layout: object) -> torch.Tensor:
        return x

    def arange(self, first: int, end: int, layout: object) -> torch.Tensor:
        return torch.arange(first, end)

    def full(self, sizes: Sequence[int], value: float, dtype: torch.dtype, layout: object) -> torch.Tensor:
        return torch.full(tuple(sizes), value, dtype=dtype)

    def zeros(self, sizes: Sequence[int], dtype: torch.dtype, layout: object) -> torch.Tensor:
        return torch.zeros(tuple(sizes), dtype=dtype)

    def cast(self, x: int, dtype: torch.dtype) -> int:
        assert dtype == torch.int64
        return x

    def max(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.amax(axis)

    def sum(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.sum(axis)

    def maximum(self, x: Any, y: Any, propagate_nan: object = None) -> Any:
        return max(x, y) if isinstance(x, int) else torch.maximum(x, torch.as_tensor(y))

    def minimum(self, x: Any, y: Any, propagate_nan: object = None) -> Any:
        return min(x, y) if isinstance(x, int) else torch.minimum(x, torch.as_tensor(y))


class _Function:
    """A function of the device, called by another or started for a grid of programs."""

    def __init__(self, function: Callable[..., Any], gluon: Gluon) -> None:
        self.function, self.gluon = function, gluon

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __getitem__(self, grid: Sequence[int]) -> Callable[..., None]:
        return lambda *arguments, **_: self.gluon.start(self.function, grid, arguments)
