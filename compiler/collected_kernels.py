"""The kernels whose times are collected: which schedules of a program, and each as a call that can be timed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..cost_model.cpus import CPUS
from ..cost_model.dataset import CPU_TIMES, GPU_TIMES, CaseFields
from ..cost_model.problem import Sizes
from ..cost_model.schedule import Schedule
from ..ir.core import Operation
from ..ir.diagnostics import error
from .attention_cases import Captures
from .host_cpu import host_model, host_name, host_target
from .lowering import lower
from .measuring import Call
from .native_cache import load_kernels
from .native_kernels import Choice, LoadedKernel, NativeKernels, emit_native, rows_for
from .native_runtime import NativeRunner
from .site_plans import Calls, SitePlans, Wishes, wishes_of
from .tuning_problems import Scale, case_of, tensors_of

BEST_SHARE = 3
"""A half of the candidates are from so good a part of all, by the cost model: a third."""

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Captures]
Runner = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[torch.Tensor], bool], tuple[torch.Tensor, Any]]


@dataclass(frozen=True)
class TimedKernel:
    """One kernel of a program: the schedule that it has, and how to call it."""

    schedule: Schedule
    runner: Runner

    def call(self, tensors: Tensors) -> Call:
        """A call on the same tensors each time."""
        q, k, v, captures = tensors
        return lambda: self.runner(q, k, v, captures, False)


class Place(Protocol):
    """Where kernels run: `kind` of the records, `device` of the tensors, and what is written of the `machine`."""

    kind: str
    device: str
    scale: Scale

    @property
    def target(self) -> str: ...
    @property
    def machine(self) -> str: ...

    def rows(self, queries: int, group: int) -> int:
        """For how many rows kernels of such calls are made."""
        ...

    def kernel(self, module: Operation, rows: int, schedule: Schedule) -> TimedKernel:
        """The kernel with a schedule; CompileError where there is none."""
        ...

    def machine_call(self) -> Call:
        """What is the same in all records and shows how fast the machine is: bound by arithmetic, in a small cache."""
        ...


class OneKernel(NativeKernels):
    """A kernel that follows wishes and serves all calls, whatever the planner thinks of it; compiled at once."""

    def __init__(self, module: Operation, target: str, rows: int, wishes: Wishes) -> None:
        super().__init__(module, target, cache=False)
        made = emit_native(module, target, Choice(rows), wishes)
        functions = load_kernels(made.source).functions
        self.only = LoadedKernel(made, tuple(functions[k.name] for k in made.native.kernels), self.out_dtype)

    def for_call(self, choice: Choice, sizes: Sizes, call: object) -> LoadedKernel:
        return self.only


@dataclass(frozen=True)
class CpuPlace:
    """One thread of this machine."""

    kind = CPU_TIMES
    device = "cpu"
    scale = Scale()

    @property
    def target(self) -> str:
        return host_target()

    @property
    def machine(self) -> str:
        return f"{host_name()} ({host_model()}), {self.target}"

    def rows(self, queries: int, group: int) -> int:
        return rows_for(queries, group, self.target)

    def kernel(self, module: Operation, rows: int, schedule: Schedule) -> TimedKernel:
        kernels = OneKernel(module, self.target, rows, wishes_of(schedule))
        return TimedKernel(kernels.only.schedule, NativeRunner(kernels))

    def machine_call(self) -> Call:
        fields = CaseFields("f32", 64, 64, 1, "none")
        tiles = replace(_PLAIN, target=self.target, lanes=CPUS[self.target].lanes)
        kernel = self.kernel(case_of(fields).module(), 0, replace(tiles, block_m=4 * tiles.lanes))
        return kernel.call(tensors_of(fields, Sizes(1, 1, 1, 256, 256)))


_PLAIN = Schedule(64, 64, 1, 1, columns=4, edge_n=16)


@dataclass(frozen=True)
class GpuPlace:
    """The CUDA device that PyTorch works on."""

    kind = GPU_TIMES
    device = "cuda"
    scale = Scale(1000.0, 8)

    def __post_init__(self) -> None:
        if not torch.cuda.is_available():
            raise error("times of a GPU need one, but PyTorch finds no CUDA device")

    @property
    def target(self) -> str:
        from .kernels import current_gpu

        return current_gpu()

    @property
    def machine(self) -> str:
        return f"{torch.cuda.get_device_name()}, {self.target}"

    def rows(self, queries: int, group: int) -> int:
        from .triton_kernels import rows_for as rows_on_gpu

        return rows_on_gpu(queries, group)

    def kernel(self, module: Operation, rows: int, schedule: Schedule) -> TimedKernel:
        from .triton_kernels import TritonKernels
        from .triton_runtime import OnGpu, TritonRunner, machine

        wishes = wishes_of(schedule)
        kernels = TritonKernels(module, self.target, wishes, cache=False)
        planned = lower(module, self.target, rows, wishes).plan
        return TimedKernel(Schedule(**planned), TritonRunner(kernels, OnGpu(machine())))

    def machine_call(self) -> Call:
        a, b = (torch.randn(2048, 2048, dtype=torch.float16, device="cuda") for _ in range(2))
        return lambda: a @ b


PLACES: Mapping[str, Callable[[], Place]] = {"cpu": CpuPlace, "gpu": GpuPlace}


def candidates(place: Place, module: Operation, rows: int, sizes: Sizes) -> list[Schedule]:
    """Every schedule that fits, the best first by the cost model, for a call of `sizes`."""
    calls = Calls(sizes, rows)
    ranking = SitePlans(module, place.target, kept=False).ranking(calls)
    return [replace(candidate.schedule, reason="") for candidate in ranking.candidates]


def chosen(ranked: Sequence[Schedule], count: int, seed: str) -> list[Schedule]:
    """So many of the `ranked`: the first two, as many good ones as any others, in an order that the seed decides."""
    draw, kept = random.Random(seed), list(ranked[:2])
    good, others = list(ranked[: max(1, len(ranked) // BEST_SHARE)]), list(ranked)
    draw.shuffle(good)
    draw.shuffle(others)
    kept += [*good[: (count - len(kept)) // 2], *others]
    return list(dict.fromkeys(kept))[:count]
