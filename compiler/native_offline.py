"""Compiles a native kernel to be looked at: its object code, disassembled, and what is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..ir.diagnostics import CompileError, error
from .host_cpu import host_target
from .native_kernels import CpuKernel

_FMA = re.compile(r"^\s+vfn?m(?:add|sub)\w*", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s+\w", re.MULTILINE)


@dataclass(frozen=True)
class OfflineNative:
    """A native kernel as `text` of MLIR and as `assembly`; the latter is empty where this CPU is of another kind."""

    target: str
    text: str = field(repr=False)
    assembly: str = field(repr=False)
    problem: str = ""

    def emit(self, stage: str) -> str:
        """The text of one stage; CompileError where there is none."""
        texts = {"mlir": self.text, "asm": self.assembly}
        if stage not in texts:
            raise error(f"{self.target} has no stage '{stage}'; expected {', '.join(texts)}")
        if not texts[stage]:
            raise error(f"there is no {stage} for {self.target} here: {self.problem}; --emit mlir needs no such CPU")
        return texts[stage]

    @property
    def summary(self) -> str:
        """One line for people."""
        lines = f"{self.target}: {len(self.text.splitlines())} lines of MLIR"
        if not self.assembly:
            return f"{lines}, not compiled: {self.problem}"
        count = len(_INSTRUCTION.findall(self.assembly))
        return f"{lines}, {count} instructions, {len(_FMA.findall(self.assembly))} of them multiply-adds"


def compile_native(kernel: CpuKernel) -> OfflineNative:
    """The machine code of a kernel, where this CPU is of the kind that it was made for."""
    target = kernel.lowered.target
    if problem := _elsewhere(target):
        return OfflineNative(target, kernel.source, "", problem)
    from .native_compiler import compile_object, disassemble

    return OfflineNative(target, kernel.source, disassemble(compile_object(kernel.source)))


def _elsewhere(target: str) -> str:
    """Why code for `target` cannot be made on this machine."""
    try:
        here = host_target()
    except CompileError as problem:
        return problem.diagnostics[0].message
    return "" if here == target else f"LLVM in torch-mlir compiles for the CPU it runs on, which is {here}"
