"""Kernels compiled for a device that need not be there, each once: machine code beside the tile IR it came from."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attir.codegen.triton import emit_kernel
from attir.compiler.attention_cases import Case
from attir.compiler.lowering import lower
from attir.compiler.offline import OfflineKernel, compile_offline
from attir.compiler.sass import Loop
from attir.cost_model.devices import device_named
from attir.cost_model.resources import WIDE_TENSOR_CORE_ROWS
from attir.ir.attributes import FloatType, IntegerType, TensorType, Type
from attir.ir.core import Operation
from attir.ir.dialects.scf import ForOp
from attir.ir.dialects.tile import DotOp, LoadOp

Wishes = tuple[tuple[str, int | str], ...]
MATRIX_BYTES = 32
"""Of the inner axis that one tensor core instruction takes: 16 elements of two bytes."""


@dataclass(frozen=True)
class Pair:
    """One loop over key tiles, as tile IR and as machine code."""

    written: Operation
    machine: Loop


@dataclass(frozen=True, eq=False)
class Compiled:
    """The kernels of one problem; `machine` and `written` have one entry for each of `roles`."""

    case: Case
    target: str
    plan: Mapping[str, Any]
    predicted: int | None
    roles: tuple[str, ...]
    written: tuple[Operation, ...]
    machine: tuple[OfflineKernel, ...]

    @property
    def title(self) -> str:
        name = f"{self.case.form} {self.case.dtype.name} D={self.case.width}"
        return f"{name}, {self.tile}" if not self.plan.get("split") else f"decode {name}, {self.tile}"

    @property
    def tile(self) -> str:
        return f"{self.plan['block_m']}x{self.plan['block_n']}, {self.plan['num_warps']} warps"

    @property
    def main(self) -> OfflineKernel:
        return self.machine[self.roles.index("main")]

    @property
    def machine_loops(self) -> tuple[Loop, ...]:
        """The loops of the main kernel that multiply matrices, in the order of their addresses."""
        assert self.main.sass is not None
        return tuple(loop for loop in self.main.sass.loops if loop.matrix_instructions)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The loops of the main kernel in IR and machine code, which have the same order; empty where some are lost."""
        written = [op for op in self.written[self.roles.index("main")].walk() if _is_product_loop(op)]
        machine = self.machine_loops
        return tuple(map(Pair, written, machine)) if len(written) == len(machine) else ()

    @property
    def full(self) -> Pair:
        """The loop over whole tiles: the one with the fewest operations, since masks only add some."""
        return min(self.pairs, key=lambda pair: sum(1 for _ in pair.written.walk()))

    @property
    def partial(self) -> tuple[Pair, ...]:
        """The loops over tiles that the mask or the end of the keys cuts."""
        full = self.full
        return tuple(pair for pair in self.pairs if pair is not full and pair.written is not full.written)

    @property
    def shared(self) -> int:
        """Bytes of shared memory of the kernel that needs most."""
        return max(kernel.shared for kernel in self.machine)


def _is_product_loop(op: Operation) -> bool:
    return ForOp.match(op) is not None and any(True for _ in products(op))


def products(loop: Operation) -> Iterator[DotOp]:
    """The matrix products of a loop."""
    return (dot for op in loop.walk() if (dot := DotOp.match(op)) is not None)


def bulk_loads(loop: Operation) -> int:
    """How many tiles a step reads through descriptors."""
    return sum(1 for op in loop.walk() if (load := LoadOp.match(op)) is not None and load.bulk is not None)


def matrix_instructions(compiled: Compiled, loop: Operation) -> int:
    """Tensor core instructions of one warp that the products of a step take, none twice.

    sm_90 multiplies 64 rows by up to 256 columns for four warps at once, from 64 rows on; else an
    instruction takes 16 rows and 8 columns for one warp. Either goes 32 bytes deep.
    """
    warps = compiled.plan["num_warps"] * (2 if compiled.plan.get("specialised") else 1)
    found = 0.0
    for dot in products(loop):
        (rows, depth), columns = _shape(dot.a.type), _shape(dot.b.type)[1]
        steps = depth * _element_bytes(dot.a.type) / MATRIX_BYTES
        if device_named(compiled.target).has_tma and rows >= WIDE_TENSOR_CORE_ROWS:
            found += rows / 64 * math.ceil(columns / 256) * steps * 4 / warps
        else:
            found += rows / 16 * columns / 8 * steps / warps
    return round(found)


def _shape(type_: Type) -> tuple[int, ...]:
    assert isinstance(type_, TensorType)
    return tuple(size for size in type_.shape if isinstance(size, int))


def _element_bytes(type_: Type) -> int:
    assert isinstance(type_, TensorType) and isinstance(type_.element, FloatType | IntegerType)
    return type_.element.width // 8


@functools.cache
def compiled(case: Case, target: str, rows: int = 0, wishes: Wishes = ()) -> Compiled:
    """All kernels of a problem; CompileError where the planner or the compiler refuses."""
    lowered = lower(case.module(), target, rows, wishes)
    machine = tuple(
        compile_offline(emit_kernel(kernel), target, lowered.shared_memory if role == "main" else None)
        for kernel, role in zip(lowered.kernels, lowered.roles, strict=True)
    )
    return Compiled(case, target, lowered.plan, lowered.shared_memory, lowered.roles, lowered.kernels, machine)
