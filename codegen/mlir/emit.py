"""Writes scheduled kernels (`tile.kernel`) as one module of MLIR's builtin dialects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.attributes import TensorType
from ...ir.core import Operation
from ...ir.diagnostics import op_error
from ...ir.dialects.tile import KernelOp
from .byte_dots import takes_bytes
from .kernel import grid_state, program_state
from .state import State

ATTRIBUTES = {
    16: '[["prefer-vector-width", "512"], ["min-legal-vector-width", "512"], "nounwind"]',
    8: '[["target-cpu", "x86-64-v3"], ["prefer-vector-width", "256"], "nounwind"]',
}
"""What LLVM must know of a function, by the f32 lanes of a vector."""


@dataclass(frozen=True)
class NativeKernel:
    """One entry of a module: `void name(int64_t *arguments)`.

    `arguments` holds the work counter, which starts at 0, then for each of `tensors` (results last)
    its address, its sizes and its strides in elements. Any number of threads may call it with the
    same arguments; each returns when no program is left.
    """

    name: str
    tensors: tuple[TensorType, ...]


@dataclass(frozen=True)
class NativeModule:
    """The text of one or more kernels; `scratch_bytes` is what a thread takes of its stack at most."""

    text: str
    kernels: tuple[NativeKernel, ...]
    scratch_bytes: int


def emit_module(kernels: Sequence[Operation], *, unit_strides: bool = True, byte_dots: bool = False) -> NativeModule:
    """One module with an entry for each kernel. Raises CompileError for ops CPUs have no form for.

    With `unit_strides` the last axis of every tensor that is read or written in tiles has stride 1; with `byte_dots`
    the CPU has VNNI's products of bytes, for vectors of the kernels' length.
    """
    texts: list[str] = []
    entries: list[NativeKernel] = []
    scratch = 0
    for kernel in kernels:
        view = KernelOp.match(kernel)
        if view is None:
            op_error(kernel, "is not a kernel: only 'tile.kernel' can be written for CPUs")
        text, words = _functions(view, unit_strides, byte_dots)
        texts.append(text)
        scratch = max(scratch, 4 * words)
        types = tuple(t for t in view.function_type.inputs if isinstance(t, TensorType))
        entries.append(NativeKernel(view.sym_name.value, types))
    return NativeModule("".join(texts), tuple(entries), scratch)


def _functions(view: KernelOp, unit_strides: bool, byte_dots: bool) -> tuple[str, int]:
    name = view.sym_name.value
    state = program_state(view, unit_strides, byte_dots)
    grid, programs = grid_state(view)
    attributes = f"attributes {{passthrough = {_attributes(state, view)}}}"
    words = max(16, state.scratch.peak)
    origin = f", from {view.source.value}" if view.source is not None else ""
    lines = [
        f"// One program of '{name}'{origin}. Written by attir.",
        f"func.func private @{name}_program(%arguments: !llvm.ptr, %program: i64, %scratch: !llvm.ptr) {attributes} {{",
        *state.w.head,
        *state.w.lines,
        "    return",
        "}",
        f"// All programs of '{name}': any number of threads take them from one counter.",
        f"func.func @{name}(%arguments: !llvm.ptr) {attributes} {{",
        *grid.head,
        *grid.lines,
        "    %one = arith.constant 1 : i64",
        f"    %scratch_bytes = arith.constant {4 * words} : i64",
        "    %scratch = llvm.alloca %scratch_bytes x i8 {alignment = 64 : i64} : (i64) -> !llvm.ptr",
        "    scf.while : () -> () {",
        "      %program = llvm.atomicrmw add %arguments, %one monotonic : !llvm.ptr, i64",
        f"      %left = arith.cmpi slt, %program, {programs.name} : i64",
        "      scf.if %left {",
        f"        func.call @{name}_program(%arguments, %program, %scratch) : (!llvm.ptr, i64, !llvm.ptr) -> ()",
        "      }",
        "      scf.condition(%left)",
        "    } do {",
        "      scf.yield",
        "    }",
        "    return",
        "}",
    ]
    return "\n".join([*lines, ""]), words


def _attributes(state: State, view: KernelOp) -> str:
    """Kernels for AVX2 are compiled for any such CPU, so that what they use beyond that must be told."""
    named, dots = ATTRIBUTES[state.lanes], (op for op in view.operation.walk() if op.name == "tile.dot")
    if state.lanes == 8 and any(takes_bytes(state, dot) for dot in dots):
        return named.replace('"nounwind"', '["target-features", "+avxvnni"], "nounwind"')
    return named
